"""Puts this folder on the import path, so that tests find ``methods_table``, and the cache into a folder of its own."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

if "METAPL_TEST_CACHE" not in os.environ:  # a test's own processes go on with their parent's
    os.environ["METAPL_TEST_CACHE"] = os.environ["METAPL_CACHE"] = tempfile.mkdtemp(prefix="metapl-cache-")
    atexit.register(shutil.rmtree, os.environ["METAPL_CACHE"], ignore_errors=True)

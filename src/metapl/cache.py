"""What was computed once and can be computed again: a folder outside the user's data, which may be deleted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """``$METAPL_CACHE``, else ``$XDG_CACHE_HOME/metapl``, else ``~/.cache/metapl``; it need not exist."""
    if own := os.environ.get("METAPL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metapl"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Wait until no other process is at work in ``folder``; where it cannot be made or locked, go on without.

    The lock is the system's and ends with its holder, however that ends.
    """
    handle = None
    if sys.platform != "win32":
        import fcntl

        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = open(folder / ".lock", "a", encoding="utf-8")  # noqa: SIM115 (closed below)
            fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if handle is not None:
            handle.close()

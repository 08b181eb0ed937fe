"""Locks: one holder at a time, named to whoever comes second, and free again after a kill."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from metapl.errors import UserError
from metapl.utils.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from metapl.utils.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_holder_is_refused_and_the_lock_is_free_afterwards(tmp_path: Path) -> None:
    with locked(tmp_path / "l"), pytest.raises(UserError, match="at work"), locked(tmp_path / "l"):
        pass
    with locked(tmp_path / "l"):
        pass
    assert not (tmp_path / "l.holder").exists()


def test_another_process_is_named_and_its_kill_frees_the_lock(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "l")], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid} on "), locked(tmp_path / "l"):
            pass
    finally:
        holder.kill()
        holder.communicate()
    began = time.monotonic()
    with locked(tmp_path / "l", patient=True):
        assert time.monotonic() - began < 30

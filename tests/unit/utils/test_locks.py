"""Locks: one holder at a time, named to whoever comes second, and free again after a kill."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from metapl.errors import UserError
from metapl.utils import locks
from metapl.utils.locks import locked

HOLD = """
import sys, time
from pathlib import Path
from metapl.utils import locks
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


def test_a_holder_that_writes_its_name_late_is_named(tmp_path: Path) -> None:
    with FileLock(tmp_path / "l"):
        write = threading.Timer(0.3, (tmp_path / "l.holder").write_text, ["process 7 on here: metapl"])
        write.start()
        with pytest.raises(UserError, match=r"\(process 7 on here: metapl\)"), locked(tmp_path / "l"):
            pass
        write.join()


def test_a_lock_without_a_name_is_refused_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "NAME_WAIT", 0.1)
    with (
        FileLock(tmp_path / "l"),
        pytest.raises(UserError, match=r"at work in this folder\. Wait"),
        locked(tmp_path / "l"),
    ):
        pass

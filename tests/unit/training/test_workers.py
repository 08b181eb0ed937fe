"""Jobs side by side: order, failures of every kind, memory of their own, stop, and a parent that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from metapl.errors import UserError
from metapl.hardware.device import peak_memory
from metapl.training.workers import JobsStopped, Outcome, default_workers, run_jobs


def work(what: str, value: Any = None) -> Any:
    """What the processes do; they import it by name from this file."""
    if what == "refuse":
        raise UserError("this is wrong", "Do that.", "here")
    if what == "crash":
        raise ZeroDivisionError("oh")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "warn":
        warnings.warn("mind this", stacklevel=1)
        warnings.warn("mind this", stacklevel=1)
    if what == "hold":
        block = bytearray(value << 20)
        block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
    if what in ("hold", "peak"):
        return os.getpid(), peak_memory(torch.device("cpu"))
    if what == "stop":
        os.kill(value, signal.SIGTERM)
    if what in ("stop", "wait"):
        time.sleep(60)
    if what == "threads":
        return torch.get_num_threads()
    return os.getpid() if value is None else value


def collect(jobs: list[tuple[Any, ...]], workers: int = 2) -> list[Outcome]:
    found: dict[int, Outcome] = {}

    def done(position: int, outcome: Outcome) -> None:
        assert position not in found
        found[position] = outcome

    run_jobs(work, jobs, workers, done)
    return [found[k] for k in range(len(jobs))]


def test_every_end_is_told_apart_and_the_others_go_on() -> None:
    good, refused, crashed, killed, warned, last = collect(
        [("give", {"a": [1, 2]}), ("refuse",), ("crash",), ("die",), ("warn", 1), ("threads",)]
    )
    assert (good.end, good.value, good.error, good.notes) == ("done", {"a": [1, 2]}, "", ())
    assert (refused.end, refused.error) == ("refused", "here: this is wrong. Do that.")
    with pytest.raises(UserError, match=r"^here: this is wrong\. Do that\.$"):
        refused.result()
    assert (crashed.end, crashed.error) == ("crashed", "ZeroDivisionError: oh")
    with pytest.raises(RuntimeError, match="Traceback"):
        crashed.result()
    assert killed.end == "killed"
    assert "SIGKILL" in killed.error
    assert warned.notes == ("mind this",)
    assert last.result() == 1, "one thread each"


def test_each_job_has_a_fresh_process_whose_memory_is_its_own() -> None:
    small, large, after = [outcome.result() for outcome in collect([("peak",), ("hold", 300), ("peak",)], workers=1)]
    assert len({small[0], large[0], after[0], os.getpid()}) == 4
    assert large[1] - small[1] > 250 << 20
    assert abs(after[1] - small[1]) < 50 << 20, "what another job held is not counted"


def test_an_error_in_the_callback_ends_the_processes() -> None:
    def done(position: int, outcome: Outcome) -> None:
        raise KeyError(outcome.value)

    began = time.monotonic()
    with pytest.raises(KeyError):
        run_jobs(work, [("give", 1), ("wait",)], 2, done)
    assert time.monotonic() - began < 50


def test_a_signal_ends_the_running_jobs_and_starts_no_more() -> None:
    told: list[int] = []
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(JobsStopped) as caught:
        run_jobs(work, [("stop", os.getpid()), ("give", 1)], 1, lambda position, _: told.append(position))
    assert caught.value.signal_number == signal.SIGTERM
    assert told == []
    assert signal.getsignal(signal.SIGTERM) is before


SCRIPT = """
import sys, os, time
sys.path.insert(0, {folder!r})
import test_workers
from metapl.training.workers import run_jobs
print("started", flush=True)
run_jobs(test_workers.wait_for, [({mark!r},)], 1, lambda k, outcome: print(outcome.end, outcome.value, flush=True))
"""


def wait_for(mark: str) -> str:
    print("a word aside", flush=True)
    Path(mark).write_text(str(os.getpid()))
    time.sleep(100)
    return "over"


def test_a_script_without_a_guard_is_not_run_twice_and_a_killed_parent_ends_its_jobs(tmp_path: Path) -> None:
    mark, script = tmp_path / "mark", tmp_path / "script.py"
    script.write_text(SCRIPT.format(folder=str(Path(__file__).parent), mark=str(mark)))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        deadline = time.monotonic() + 120
        while not (mark.exists() and mark.read_text()) and time.monotonic() < deadline:
            time.sleep(0.05)
        parent.kill()
        assert parent.stdout is not None
        assert parent.stdout.read().split() == ["started"]
    child = int(mark.read_text())
    deadline = time.monotonic() + 60
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(child)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_by_default() -> None:
    assert default_workers(1) == 1
    assert 1 <= default_workers(1000) <= (os.cpu_count() or 1)
    assert default_workers(8, "cuda") == 1


HALF_A_REQUEST = """
import socket
from multiprocessing import forkserver
from metapl.training.workers import run_jobs
run_jobs(abs, [(-1,)], 1, lambda *_: None)
with socket.socket(socket.AF_UNIX) as request:
    request.connect(forkserver._forkserver._forkserver_address)
"""


def test_a_server_whose_program_was_killed_in_a_request_ends_without_a_word() -> None:
    done = subprocess.run([sys.executable, "-c", HALF_A_REQUEST], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")

"""What joblib keeps of the promises of training/workers.py: three small trials, printed (docs/notes/workers.md).

    python benchmarks/workers_joblib.py

1. peak memory per job: a job that holds 300 MB, then one that holds nothing, one worker.
2. a killed job: one of four jobs kills its process; which of the others are answered.
3. a stop: SIGINT while a job runs that writes a file when it is asked to stop; whether the file is there.

Each trial is made with joblib (loky) and with ``metapl.training.workers``.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from metapl.training.workers import JobsStopped, Outcome, peak_memory, run_jobs


def hold(megabytes: int) -> float:
    """Hold memory for a moment and return the peak of the process, in MB."""
    block = bytearray(megabytes * 2**20)
    block[::4096] = b"x" * len(block[::4096])
    return peak_memory() / 2**20


def work_or_die(number: int) -> int:
    """Kill the own process for number 1, else return the number after a second."""
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(1.0)
    return number


def save_when_stopped(folder: str) -> None:
    """Run for 20 seconds; write ``saved`` when SIGTERM comes, as a training does."""

    def stop(*_: Any) -> None:
        (Path(folder) / "saved").touch()
        raise SystemExit

    signal.signal(signal.SIGTERM, stop)
    (Path(folder) / "begun").touch()
    time.sleep(20.0)


def by_workers(work: Any, jobs: list[Any], workers: int) -> list[str]:
    """The ends of the jobs with ``run_jobs``."""
    ends: dict[int, Outcome] = {}
    run_jobs(work, ((job,) for job in jobs), workers, ends.__setitem__)
    return [f"{ends[k].value:.0f}" if ends[k].end == "done" else ends[k].end for k in sorted(ends)]


def by_joblib(work: Any, jobs: list[Any], workers: int) -> list[str]:
    """The ends of the jobs with joblib, as they come; the error that ends them all, last."""
    from joblib import Parallel, delayed

    ends: list[str] = []
    try:
        found: Iterator[Any] = Parallel(workers, return_as="generator_unordered")(delayed(work)(job) for job in jobs)
        for value in found:
            ends.append(f"{value:.0f}")
    except Exception as error:
        ends.append(type(error).__name__)
    return ends


def stopped(way: str) -> bool:
    """Whether a running job saved its state when its program got Ctrl-C."""
    with tempfile.TemporaryDirectory() as folder:
        program = subprocess.Popen([sys.executable, __file__, way, folder], start_new_session=True)
        try:
            while not (Path(folder) / "begun").exists() and program.poll() is None:
                time.sleep(0.1)
            os.killpg(program.pid, signal.SIGINT)
            program.wait(60)
        finally:
            program.kill()
        return (Path(folder) / "saved").exists()


def main() -> None:
    jobs = importlib.import_module(Path(__file__).stem)  # ``run_jobs`` takes work that can be imported by name
    ways = {"workers": by_workers, "joblib": by_joblib}
    if len(sys.argv) > 1:
        with suppress(JobsStopped, KeyboardInterrupt):
            ways[sys.argv[1]](jobs.save_when_stopped, [sys.argv[2]], 1)
        return
    for way, run in ways.items():
        peaks, ends = run(jobs.hold, [300, 0], 1), run(jobs.work_or_die, [0, 1, 2, 3], 2)
        print(f"{way}: peak memory in MB of two jobs, 300 MB and none: {', '.join(peaks)}")
        print(f"{way}: ends of four jobs, the second kills its process: {', '.join(ends)}")
        print(f"{way}: a running job saved its state on Ctrl-C: {'yes' if stopped(way) else 'no'}", flush=True)


if __name__ == "__main__":
    main()

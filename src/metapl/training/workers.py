"""Run jobs side by side: one fresh process per job, one thread each, and the outcome of every job.

Small nets gain more from running side by side than from several threads each. A fresh process per job makes its peak
memory its own; torch is imported once, in a server process of which the others are copies (``forkserver``), so a start
costs little.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from types import ModuleType
from typing import Any, Literal

from metapl.data.modalities import own_modalities, register_modality
from metapl.errors import UserError
from metapl.utils.signals import stop_signals

# What the server process imports once for all; torch loads the last at the first step of an optimiser.
PRELOAD = ("metapl.training.orphans", "metapl.training.loop", "metapl.runs.model_folder", "torch._dynamo")
POLL = 0.2  # seconds between two looks at whether a signal came

End = Literal["done", "refused", "stopped", "crashed", "killed"]


class JobsStopped(Exception):
    """SIGINT or SIGTERM came; every process has ended, having saved what it could."""

    def __init__(self, signal_number: int) -> None:
        self.signal_number = signal_number
        super().__init__(f"stopped by signal {signal_number}")


@dataclass(frozen=True)
class Outcome:
    """The end of one job.

    Attributes:
        end: done; refused (a ``UserError``); stopped (it saved its state); crashed (any other exception); killed (the
            process ended without a word, as when memory runs out).
        value: what the job returned, if it is done.
        error: one sentence, if it is not.
        details: the traceback of a crash.
        notes: warnings that came up.
    """

    end: End
    value: Any = None
    error: str = ""
    refusal: tuple[str, str, str] = ("", "", "")  # the parts of the UserError
    details: str = ""
    notes: tuple[str, ...] = ()

    def result(self) -> Any:
        """Return the value.

        Raises:
            UserError: the job was refused.
            RuntimeError: it ended otherwise.
        """
        if self.end == "refused":
            raise UserError(*self.refusal)
        if self.end != "done":
            raise RuntimeError(self.details or self.error)
        return self.value


def default_workers(jobs: int, device: str = "cpu") -> int:
    """Return as many processes as there are cores for us, at most one per job; one on a GPU."""
    if device != "cpu":
        return 1
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(jobs, cores))


def run_jobs(
    work: Callable[..., Any],
    jobs: Iterable[tuple[Any, ...]],
    workers: int,
    done: Callable[[int, Outcome], None],
    *,
    threads: int = 1,
    preload: Sequence[str] = (),
) -> None:
    """Call ``work(*job)`` for each job, ``workers`` at a time, in order.

    The program that calls this is not imported in the processes, so it needs no ``if __name__ == "__main__"``.

    Args:
        work: importable by name; jobs and results must be picklable.
        jobs: the arguments of each call. One is taken when a process is free for it.
        workers: processes at a time.
        done: called with position and outcome when a job has ended. If it raises, the processes are ended.
        threads: of each process.
        preload: more modules that the work needs; they count at the first call in a program.

    Raises:
        JobsStopped: after SIGINT or SIGTERM, when the running jobs have saved and ended; a second Ctrl-C kills them.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*PRELOAD, *preload])
    waiting, running, asked = enumerate(jobs), dict[Connection, tuple[int, Any]](), False
    with stop_signals() as stop:
        try:
            while True:
                while not stop and len(running) < workers and (following := next(waiting, None)):
                    position, job = following
                    pipe, process = _start(context, work, job, threads)
                    running[pipe] = position, process
                if not running:
                    break
                if stop and not asked:
                    asked = True
                    for _, process in running.values():
                        process.terminate()
                for ready in wait(list(running), timeout=POLL):
                    assert isinstance(ready, Connection)
                    position, process = running.pop(ready)
                    outcome = _receive(ready, process)
                    if not stop or outcome.end == "done":
                        done(position, outcome)
        finally:
            for pipe, (_, process) in running.items():
                process.kill()
                process.join()
                pipe.close()
    if stop:
        raise JobsStopped(stop[0])


def _start(context: Any, work: Any, job: tuple[Any, ...], threads: int) -> tuple[Connection, Any]:
    pipe, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, threads), daemon=True)
    with _main_hidden():
        process.start()
    other.close()
    with suppress(OSError):  # it has ended already: ``_receive`` says so
        # Pickled here and by plain means: on torch's own way between processes tensors would move to shared memory.
        # Sent once it runs, so that it ends without a word where this process is killed in the middle.
        pipe.send_bytes(pickle.dumps((own_modalities(), work, job)))
    return pipe, process


def _receive(pipe: Connection, process: Any) -> Outcome:
    try:
        outcome: Outcome = pipe.recv()
    except (EOFError, ConnectionError):
        process.join()
        code = process.exitcode
        how = f"by signal {-code} ({signal.Signals(-code).name})" if code is not None and code < 0 else f"(code {code})"
        outcome = Outcome("killed", error=f"the process was ended {how}; memory may have run out")
    process.join()
    pipe.close()
    return outcome


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Hide the program's main file: a starting process imports it, and would run a script without a guard again."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(pipe: Connection, threads: int) -> None:
    """Do the job that comes through ``pipe``, and send the outcome."""
    import torch

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent passes it on
    os.dup2(2, 1)  # what a network prints does not mix with the results
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    try:
        packed = pipe.recv_bytes()
    except (EOFError, OSError):  # the parent was killed
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        outcome = _outcome(packed)
    notes = tuple(dict.fromkeys(str(w.message) for w in caught))
    with suppress(OSError):  # nobody reads any more
        pipe.send(replace(outcome, notes=notes))


def _outcome(packed: bytes) -> Outcome:
    from metapl.training.loop import Stopped

    try:
        modalities, work, job = pickle.loads(packed)
        for modality in modalities:
            register_modality(modality)
        return Outcome("done", work(*job))
    except UserError as error:
        return Outcome("refused", error=str(error), refusal=(error.what, error.remedy, error.where))
    except (Stopped, KeyboardInterrupt) as stopped:
        return Outcome("stopped", error=str(stopped))
    except Exception as error:
        return Outcome("crashed", error=f"{type(error).__name__}: {error}", details=traceback.format_exc())


def _end_with_parent() -> None:
    """Wait for the end of the parent, then stop as if asked to: a training saves its state."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

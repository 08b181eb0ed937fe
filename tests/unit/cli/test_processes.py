"""``--procs``: when processes are started, with which command, and how the command then ends."""

from __future__ import annotations

import ctypes
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch.distributed.launcher.api as launcher
import typer
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from metapl.cli import processes
from metapl.cli.options import State
from metapl.errors import UserError
from metapl.utils.progress import Notes, Silent


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is started in place of processes; its first entry, if any, is raised."""
    calls: list[Any] = []

    def elastic_launch(config: Any, program: str) -> Any:
        def start(*words: str) -> None:
            error = calls.pop(0) if calls and isinstance(calls[0], Exception) else None
            calls.append((config.max_nodes, config.nproc_per_node, config.max_restarts, program, words))
            if error is not None:
                raise error

        return start

    monkeypatch.setattr(launcher, "elastic_launch", elastic_launch)
    monkeypatch.setattr(State, "argv", ["train", "digits", "--procs", "2"])
    for name in ("OMP_NUM_THREADS", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        monkeypatch.setenv(name, "1")
    return calls


def exit_code(count: int, restarts: int = 0) -> int:
    with pytest.raises(typer.Exit) as end:
        processes.start_processes(count, restarts)
    return end.value.exit_code


def test_the_same_command_runs_in_each_process(launched: list[Any]) -> None:
    assert exit_code(2, 3) == 0
    assert launched == [(1, 2, 3, sys.executable, ("-m", "metapl", "train", "digits", "--procs", "2"))]


@pytest.mark.parametrize(("code", "wanted"), [(2, 2), (-9, 9)])
def test_the_command_ends_as_the_first_process_that_failed(launched: list[Any], code: int, wanted: int) -> None:
    failure = ProcessFailure(local_rank=1, pid=7, exitcode=code, error_file="<N/A>")
    launched.append(ChildFailedError("metapl", {1: failure}))
    assert exit_code(2) == wanted


def test_a_signal_ends_it_as_a_shell_shows_it(launched: list[Any]) -> None:
    launched.append(SignalException("stopped", sigval=15))  # type: ignore[arg-type]
    assert exit_code(2) == 128 + 15


def test_one_process_starts_nothing(launched: list[Any]) -> None:
    processes.start_processes(1, 0)
    assert not launched
    with pytest.raises(UserError, match="--max-restarts is for several processes"):
        processes.start_processes(1, 2)


def test_a_process_of_several_starts_no_others(launched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    library = type("Library", (), {"prctl": lambda self, what, signal: asked.append((what, signal))})
    monkeypatch.setattr(ctypes, "CDLL", lambda name: library())
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not processes.started_together(), "other launchers set it, too"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    processes.start_processes(2, 0)
    assert not launched
    assert asked == ([(1, 15)] if sys.platform == "linux" else [])
    with pytest.raises(UserError, match="torchrun and --procs start different numbers"):
        processes.start_processes(3, 0)


def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(processes.joined(), nullcontext)
    assert isinstance(processes.own_progress(quiet=True), Notes)
    monkeypatch.setattr("metapl.hardware.ranks.rank", lambda: 1)
    assert type(processes.own_progress(quiet=True)) is Silent

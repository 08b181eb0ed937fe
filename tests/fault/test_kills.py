"""Runs killed anywhere or stopped at any step, then resumed: the unbroken run bit for bit, for every method."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_checkpoint import Disk, needs_proc
from test_nan import config_of, of_the_run

from metapl.config.settings import RunConfig
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.runs import checkpoint
from metapl.training.job import Job
from metapl.training.loop import Stopped, resume, train
from methods_table import BY_NAME, ROWS, Row, noisy_net

ONE_EACH = [next(row.name for row in ROWS if row.method == method) for method in METHODS if method != "linear"]
QUICK = ("mpl-exact",)
ROUNDS = 10  # of the full count: so many runs of each method, each killed twice
Work = Callable[[], object]
pytestmark = [
    needs_proc,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]


@cache
def few() -> MemorySource:
    """600 of the digits: a start of a run hashes all of its rows."""
    d = open_digits()
    return MemorySource("few", "image", d.data[:600], d.labels[:600], d.class_names)


def network(**_: Any) -> torch.nn.Module:
    return noisy_net()


def begin(row: Row, folder: Path) -> Work:
    config: RunConfig = config_of(row, model="own")
    return lambda: train(config, folder, source=few(), network=network)


def go_on(folder: Path) -> Work:
    return lambda: resume(folder, source=few(), network=network)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Row], list[Any]]:
    """What the unbroken run of a row leaves behind."""
    known: dict[str, list[Any]] = {}

    def of(row: Row) -> list[Any]:
        if row.name not in known:
            folder = tmp_path_factory.mktemp("whole") / "run"
            begin(row, folder)()
            known[row.name] = of_the_run(folder)
        return known[row.name]

    return of


def in_a_child(work: Work, patch: Callable[[pytest.MonkeyPatch], object]) -> int:
    """Do the work in a copy of this process, and give its status."""
    child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            patch(pytest.MonkeyPatch())
            work()
        finally:
            os._exit(7)
    return os.waitpid(child, 0)[1]


def die_at_step(t: int) -> Callable[[pytest.MonkeyPatch], object]:
    def patch(context: pytest.MonkeyPatch) -> None:
        original = Job.step

        def step(job: Job, now: int) -> Any:
            if now == t:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(job, now)

        context.setattr(Job, "step", step)

    return patch


def die_at_call(number: int) -> Callable[[pytest.MonkeyPatch], object]:
    """At the n-th write, flush, rename or removal: from the first state on nearly all of them belong to saves."""
    return lambda context: Disk(context, number, die=True)


def die_after(seconds: float) -> Callable[[pytest.MonkeyPatch], object]:
    """Wherever the run is then: a run takes about half a second."""
    return lambda context: threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


def kills(name: str, count: int) -> Iterator[Callable[[pytest.MonkeyPatch], object]]:
    """Every second kill at a disk call, and between them one at a step and one at a random time in turn."""
    draw = random.Random(name)
    for k in range(count):
        if k % 2:
            yield die_at_call(draw.randrange(20, 70))
        else:
            yield die_after(draw.uniform(0, 0.5)) if k % 4 else die_at_step(draw.randrange(8))


def killed_and_resumed(name: str, rounds: int, unbroken: Callable[[Row], list[Any]], place: Path) -> tuple[int, int]:
    """Kill ``rounds`` runs twice each and let them end; return kills, and those that left a save half done."""
    row, struck, inside = BY_NAME[name], 0, 0
    ways = kills(name, 2 * rounds)
    for k in range(rounds):
        folder = place / f"{name}-{k}"
        work = begin(row, folder)
        for _ in range(2):
            status = in_a_child(work, next(ways))
            if os.WIFEXITED(status):  # it had ended before, or began in a folder that it died in
                assert os.WEXITSTATUS(status) == 7
            else:
                struck += 1
                inside += any((folder / "checkpoints").glob(".tmp-*"))
            if not (folder / "config.yaml").exists():
                work = begin(row, folder := place / f"{name}-{k}-again")  # killed before it was a run
            elif not (folder / "results.json").exists():
                work = go_on(folder)
            else:
                break
        if not (folder / "results.json").exists():
            work()
        assert of_the_run(folder) == unbroken(row), (name, k)
        assert not list((folder / "checkpoints").glob(".tmp-*"))
    return struck, inside


def test_killed_twice_and_resumed(unbroken: Callable[[Row], list[Any]], tmp_path: Path) -> None:
    struck, _ = killed_and_resumed("mpl-exact", 3, unbroken, tmp_path)
    assert struck >= 4


@pytest.mark.fault
@pytest.mark.timeout(3600)
def test_200_kills_of_every_method(unbroken: Callable[[Row], list[Any]], tmp_path: Path) -> None:
    found = [killed_and_resumed(name, ROUNDS, unbroken, tmp_path) for name in ONE_EACH]
    struck, inside = (sum(counts) for counts in zip(*found))
    print(f"{struck} kills, {inside} of them inside a save, {len(ONE_EACH)} methods: all resumed bit for bit")
    assert struck >= 200
    assert inside >= 50


def stopped_at(row: Row, t: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Job.step

    def step(job: Job, now: int) -> Any:
        if now == t:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(job, now)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", step)
        with pytest.raises(Stopped) as stopped:
            begin(row, folder)()
    assert stopped.value.step == t + 1
    assert checkpoint.steps(folder / "checkpoints")[-1] == t + 1


@pytest.mark.fault
@pytest.mark.timeout(3600)
def test_50_sigterms_at_exact_steps(
    unbroken: Callable[[Row], list[Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(0)
    for k in range(50):
        row, folder = BY_NAME[ONE_EACH[k % len(ONE_EACH)]], tmp_path / str(k)
        stopped_at(row, draw.randrange(7), folder, monkeypatch)
        go_on(folder)()
        assert of_the_run(folder) == unbroken(row), (row.name, k)


# ---- tiny sets -------------------------------------------------------------------------------------------------

SIZES = (0, 1, 7, 8, 9)  # around a batch of 8 labelled rows; unlabelled likewise


@pytest.mark.fault
@pytest.mark.parametrize("method", sorted(METHODS))
def test_25_tiny_sizes(method: str) -> None:
    """Each trains, or is refused with a message: none crashes, none makes a step without rows."""
    from metapl import fit

    draw = np.random.default_rng(0)
    for labeled in SIZES:
        for unlabeled in SIZES:
            x = draw.normal(size=(labeled + unlabeled, 3)).astype(np.float32)
            y = [k % 2 for k in range(labeled)] + [None] * unlabeled
            options = {"batch.labeled": 8, "batch.unlabeled": 8, "loop.log_every": 1}
            try:
                made = fit(x, y, method=method, steps=2, guard="off", options=options)
            except UserError as error:
                if labeled >= 2 and unlabeled:
                    pytest.fail(f"{method} refuses {labeled} labelled and {unlabeled} unlabelled rows: {error}")
                continue
            assert labeled >= 1
            assert all(np.isfinite(value) for line in made.history for value in line.values())

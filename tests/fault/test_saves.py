"""Checkpoints are written beside the steps; what goes wrong there is said, and room for two is checked first."""

from __future__ import annotations

import shutil
import threading
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_nan import Doomed, config_of

from metapl.config.settings import LoopConfig
from metapl.data.memory.digits import open_digits
from metapl.errors import UserError
from metapl.optim import OptimConfig
from metapl.runs import checkpoint, recorder
from metapl.training.job import Job
from metapl.training.loop import train
from methods_table import BY_NAME, assert_same, noisy_net

Usage = namedtuple("Usage", "total used free")
LOOP = LoopConfig(log_every=100, eval_every=100, save_every=3, keep=50)


def run(folder: Path, loop: LoopConfig = LOOP, **changes: Any) -> Any:
    config = replace(config_of(BY_NAME["fixmatch"], model="own"), loop=loop, **changes)
    return train(config, folder, source=open_digits(), network=lambda **_: noisy_net())


def test_steps_go_on_while_a_state_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The save of step 3 does not end before steps 4 and 5 have been made."""
    further, write, original = threading.Event(), checkpoint.write, Job.step
    made: list[int] = []

    def slow(folder: Path, step: int, *rest: Any) -> Path:
        if step == 3:
            assert further.wait(60), "the step waits for the save"
        return write(folder, step, *rest)

    def step(job: Job, t: int) -> Any:
        made.append(t)
        if t == 4:
            further.set()
        return original(job, t)

    monkeypatch.setattr(checkpoint, "write", slow)
    monkeypatch.setattr(Job, "step", step)
    plain = run(tmp_path / "run")
    assert made == list(range(8))
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0, 3, 6, 8]
    monkeypatch.undo()
    again = run(tmp_path / "again")
    assert_same(plain.predictor.model.state_dict(), again.predictor.model.state_dict())
    for name in ("step-00000003", "step-00000006"):  # later steps did not reach what was on its way
        states = [checkpoint.load(tmp_path / folder / "checkpoints" / name) for folder in ("run", "again")]
        assert_same(*states)


def test_a_full_disk_behind_a_step_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = checkpoint._write

    def full(folder: Path, step: int, *rest: Any) -> Path:
        if step == 6:
            raise OSError(28, "No space left on device", str(folder / "step-00000006"))
        return write(folder, step, *rest)

    monkeypatch.setattr(checkpoint, "_write", full)
    with pytest.raises(UserError, match=r"checkpoint of step 6 cannot be saved .*No space left.*metapl resume"):
        run(tmp_path / "run")
    assert not (tmp_path / "run" / "results.json").exists()
    assert checkpoint.load_latest(tmp_path / "run" / "checkpoints")[0] == 3


@pytest.mark.parametrize("share", [0.9, 1.1])
def test_room_for_two_checkpoints_is_checked_at_the_start(
    share: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Adam's state is the largest: what is asked for is no less than what two of its checkpoints hold."""
    optim = OptimConfig(name="adamw")
    run(tmp_path / "plain", optim=optim)
    sizes = [checkpoint.size(checkpoint.load(p)) for p in (tmp_path / "plain" / "checkpoints").iterdir()]
    needed = 2 * recorder.GROWTH * min(sizes)
    assert needed >= 2 * max(sizes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 0, int(share * needed)))
    if share > 1:
        run(tmp_path / "run", optim=optim)
        return
    with pytest.raises(UserError, match=r"two checkpoints take up to .* of the disk are free.*--out"):
        run(tmp_path / "run", optim=optim)
    assert [p for p in (tmp_path / "run").iterdir() if not p.name.startswith(".lock")] == []


def test_the_way_back_outlives_the_rotation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """States saved by the clock push older ones out, but not the one to go back to."""
    monkeypatch.setattr("metapl.training.steps.SAVE_SECONDS", -1.0)
    run(tmp_path / "run", loop=replace(LOOP, save_every=100, keep=1))
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [8]
    seen: list[list[int]] = []
    original = Job.step

    def step(job: Job, t: int) -> Any:
        seen.append(checkpoint.steps(tmp_path / "spared" / "checkpoints"))
        return original(job, t)

    monkeypatch.setattr(Job, "step", step)
    Doomed(monkeypatch, 7, 0.03)
    made = run(tmp_path / "spared", loop=replace(LOOP, save_every=5, keep=1))
    assert [(back["step"], back["to"]) for back in made.summary["rollbacks"]] == [(8, 5)]
    assert all(0 in steps for steps in seen[1:5])
    assert all(torch.isfinite(t).all() for t in made.predictor.model.state_dict().values())

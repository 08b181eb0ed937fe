"""A NaN in any term, gradient or buffer: noticed in its own step, at most three ways back, never stored."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metapl.config.settings import GuardConfig, LoopConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.batches.stream import BatchConfig
from metapl.data.memory.digits import open_digits
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.optim import EMA, Learner, OptimConfig
from metapl.runs import checkpoint
from metapl.runs.recorder import Recorder, RunFolder
from metapl.training import finite
from metapl.training.job import Job
from metapl.training.loop import Result, Stopped, resume, start, train
from metapl.utils.progress import Silent
from methods_table import BY_NAME, ROWS, Row, noisy_net, tensors

TERMS = ("cross_entropy", "soft_cross_entropy", "masked_cross_entropy", "consistency", "descend", "squared_distance")
TERMS += ("kl_divergence", "exact_loss", "sampled_loss", "official_loss")
STEPS = 8


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def config_of(row: Row, **changes: Any) -> RunConfig:
    return RunConfig(
        "digits",
        method=row.method,
        steps=STEPS,
        split=SplitConfig(labels=4),
        batch=BatchConfig(8, 12),
        loop=LoopConfig(log_every=1, eval_every=100, save_every=3),
        guard=GuardConfig("off"),
        optim=OptimConfig(**row.optim),
        settings=METHODS[row.method].Config(**row.settings),
        **changes,
    )


def trained(row: Row, progress: Silent | None = None, store: Recorder | None = None) -> Result:
    network = None if row.method == "linear" else lambda **_: noisy_net()
    source = open_digits()
    return start(config_of(row), lambda _: store or Recorder(), source, progress, network=network)


class Injector:
    """Multiplies what one function returns by NaN at its first call in step ``at``, once; ``seen``: calls by site."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.patch, self.t, self.at, self.site, self.done = patch, -1, -1, "", False
        self.seen: dict[str, list[int]] = {}
        original = Job.step

        def step(job: Job, t: int) -> Any:
            self.t = t
            return original(job, t)

        patch.setattr(Job, "step", step)
        for name in METHODS:
            METHODS[name]  # is imported now
        for name, module in list(sys.modules.items()):
            if name.startswith("metapl.methods.") or name in ("metapl.feedback", "metapl.optim"):
                for term in TERMS:
                    if callable(function := getattr(module, term, None)):
                        patch.setattr(module, term, self.wrapped(f"{name}.{term}", function))

    def wrapped(self, site: str, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*words: Any, **named: Any) -> Tensor:
            value = function(*words, **named)
            self.seen.setdefault(site, []).append(self.t)
            if site == self.site and self.t == self.at and not self.done:
                self.done = True
                return value * float("nan")
            return value

        return call


def assert_noticed(row: Row, patch: Callable[[], Any]) -> int:
    """Inject once at every site that a run of ``row`` passes; return how many there were."""
    with patch() as context:
        probe = Injector(context)
        trained(row)
    places = [(site, steps) for site, steps in probe.seen.items() if max(steps) >= 0]
    for number, (site, steps) in enumerate(places):
        with patch() as context:
            injector = Injector(context)
            injector.site, injector.at = site, sorted(set(steps))[number % len(set(steps))]
            progress = Notes()
            made = trained(row, progress)
        assert injector.done
        rolled = made.summary["rollbacks"]
        assert [back["step"] for back in rolled] == [injector.at + 1], (row.name, site)
        assert len([note for note in progress.notes if "is not finite; the run went back" in note]) == 1
        assert all(torch.isfinite(t).all() for t in made.predictor.model.state_dict().values())
        assert all(v == v and abs(v) < float("inf") for line in made.history for v in line.values())
    return len(places)


QUICK = ("mpl-exact", "fixmatch")
LATER = [row.name for row in ROWS if row.name not in QUICK]


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.fault) for name in LATER)])
def test_nan_in_each_term_is_noticed_in_its_step(name: str) -> None:
    assert assert_noticed(BY_NAME[name], pytest.MonkeyPatch.context) >= 1


@pytest.mark.parametrize("place", ["gradient", "buffer", "average"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_gradients_and_buffers(place: str, value: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of the step is finite, and no checkpoint is due at its end, which would be looked at too."""
    once, update, move = [3], Learner.update, EMA.update

    def step(self: Learner, loss: Tensor, t: int) -> None:
        if t in once and place == "gradient":
            once.remove(t)
            handle = next(self.model.parameters()).register_hook(lambda g: g * value)
            update(self, loss, t)
            return handle.remove()
        update(self, loss, t)
        if t in once and place == "buffer":
            once.remove(t)
            next(b for b in self.model.buffers() if b.is_floating_point())[0] = value

    def averaged(self: EMA, model: Any, t: int) -> None:
        move(self, model, t)
        if t in once and place == "average":
            once.remove(t)
            next(b for b in self.model.buffers() if b.is_floating_point())[0] = value

    monkeypatch.setattr(Learner, "update", step)
    monkeypatch.setattr(EMA, "update", averaged)
    made = trained(BY_NAME["fixmatch"])
    (back,) = made.summary["rollbacks"]
    assert (back["step"], back["to"]) == (4, 3)
    assert ("gradient" if place == "gradient" else "running_mean") in back["cause"]


class Doomed:
    """Ruins the loss of step ``at`` while the learning rate is above ``limit``: a function of the run's state alone."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, limit: float) -> None:
        update = Learner.update

        def step(learner: Learner, loss: Tensor, t: int) -> None:
            bad = t == at and learner.config.lr > limit
            update(learner, loss * float("nan") if bad else loss, t)

        patch.setattr(Learner, "update", step)


def test_a_run_that_stays_bad_stops_and_says_what_went_bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Doomed(monkeypatch, 4, 0.0)
    progress = Notes()
    with pytest.raises(UserError, match=r"by step 5: .* in net is not finite, as at step 5, 5, 5 before") as error:
        trained(BY_NAME["fixmatch"], progress, RunFolder(tmp_path))
    assert "metapl check" in str(error.value)
    rates = [note.rsplit(" ", 1)[1] for note in progress.notes if "went back to step 3" in note]
    assert rates == ["0.025", "0.0125", "0.00625"]
    assert checkpoint.steps(tmp_path / "checkpoints") == [0, 3]
    for step in (0, 3):
        state = checkpoint.load(tmp_path / "checkpoints" / f"step-{step:08d}")
        assert all(torch.isfinite(t).all() for t in tensors(state).values())


def of_the_run(folder: Path) -> list[Any]:
    """What a stop and a resume must not change."""
    found = json.loads((folder / "results.json").read_text())
    kept = {k: v for k, v in found.items() if k not in ("seconds", "peak_memory", "resumed_at")}
    weights = (folder / "model" / "weights.safetensors").read_bytes()
    return [kept, weights, (folder / "metrics.jsonl").read_text(), (folder / "snapshots.jsonl").read_text()]


@pytest.mark.parametrize("at", [3, 4, 5, 6])
@pytest.mark.parametrize("how", ["stop", "crash"])
def test_resume_through_a_rollback_is_bit_exact(
    at: int, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped or crashed at any step before, at or after the NaN of step 5, or in the steps that are made again."""
    Doomed(monkeypatch, 4, 0.02)
    row = BY_NAME["fixmatch"]
    config, network = config_of(row, model="own"), lambda **_: noisy_net()
    whole = train(config, tmp_path / "whole", source=open_digits(), network=network)
    assert [(back["step"], back["to"]) for back in whole.summary["rollbacks"]] == [(5, 3), (5, 3)]
    original, left = Job.step, [2 if at < 4 else 1]

    def broken(job: Job, t: int) -> Any:
        if t == at:
            left[0] -= 1
            if not left[0] and how == "crash":
                raise RuntimeError("crashed")
            if not left[0]:
                os.kill(os.getpid(), signal.SIGTERM)
        return original(job, t)

    with monkeypatch.context() as patch:
        patch.setattr(Job, "step", broken)
        with pytest.raises(RuntimeError if how == "crash" else Stopped):
            train(config, tmp_path / "run", source=open_digits(), network=network)
    resume(tmp_path / "run", source=open_digits(), network=network)
    assert of_the_run(tmp_path / "run") == of_the_run(tmp_path / "whole")


def test_metrics_and_results_know_the_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Doomed(monkeypatch, 4, 0.03)
    made = trained(BY_NAME["fixmatch"])
    lines = {line["step"]: line for line in made.history}
    assert list(lines) == list(range(1, 9))
    assert [lines[step].get("rollbacks", 0) for step in lines] == [0, 0, 0, 1, 1, 1, 1, 1]
    assert {lines[step]["learning_rate"] for step in (4, 8)} == {0.025}
    assert made.summary["rollbacks"][0]["learning_rate"] == 0.025


def test_the_check_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = trained(BY_NAME["mpl-exact"]).predictor.model.state_dict()
    monkeypatch.setattr("metapl.training.steps.is_finite", lambda method, values: True)
    plain = trained(BY_NAME["mpl-exact"]).predictor.model.state_dict()
    assert all(torch.equal(watched[name], plain[name]) for name in plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_sizes_are_finite_if_all_numbers_are(dtype: torch.dtype) -> None:
    good = torch.full((1000,), 6e4, dtype=dtype)
    for bad in (float("nan"), float("inf"), -float("inf")):
        damaged = good.clone()
        damaged[999] = bad
        found = [bool(torch.isfinite(size)) for size in finite._sizes([good, damaged])]
        assert found == [True, False]

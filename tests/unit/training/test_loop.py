"""The loop: what a run leaves behind, that it repeats and resumes bit for bit, and what it refuses to save."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from metapl.config.settings import GuardConfig, LoopConfig, RunConfig, load_config
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.batches.stream import BatchConfig, Stream
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.inference.evaluate import evaluate
from metapl.methods import METHODS, fits_once
from metapl.optim import OptimConfig
from metapl.runs import checkpoint
from metapl.runs.folder import Metrics
from metapl.runs.model_folder import load_model
from metapl.runs.recorder import RunFolder
from metapl.training import steps
from metapl.training.loop import Stopped, resume, train
from metapl.utils import printing
from metapl.utils.locks import locked
from metapl.utils.progress import Silent

BATCH = BatchConfig(labeled=8, unlabeled=12)
LOOP = LoopConfig(log_every=3, eval_every=4, save_every=5)
SMALL = f"{__name__}:small"


class Small(nn.Module):
    """BatchNorm and dropout, and little to compute."""

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(shape[0], 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.2), nn.Flatten()
        )
        self.head = nn.Linear(4 * 16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.body(x))
        return logits


def small(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return Small(shape, num_classes)


def config_of(method: str = "mpl", settings: dict[str, Any] | None = None, **changes: Any) -> RunConfig:
    made = RunConfig(
        "digits",
        method=method,
        model="auto" if fits_once(method) else SMALL,
        steps=12,
        split=SplitConfig(labels=3),
        batch=BATCH,
        loop=LOOP,
        guard=GuardConfig("off"),  # it trains more than once: tests/unit/training/test_guard.py
        settings=METHODS[method].Config(**{**({"finetune_steps": 5} if method == "mpl" else {}), **(settings or {})}),
    )
    return dataclasses.replace(made, **changes)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "weights.safetensors").read_bytes()


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def results(folder: Path) -> dict[str, Any]:
    """Without what may differ between an unbroken and a resumed run."""
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {k: v for k, v in found.items() if k not in ("seconds", "peak_memory", "resumed_at")}


def same_run(a: Path, b: Path) -> None:
    assert weights(a) == weights(b)
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()
    assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
    assert (a / "snapshots.jsonl").read_text() == (b / "snapshots.jsonl").read_text()
    assert results(a) == results(b)
    last = checkpoint.steps(a / "checkpoints")[-1]
    assert last == checkpoint.steps(b / "checkpoints")[-1]
    name = f"checkpoints/step-{last:08d}/tensors.safetensors"
    assert (a / name).read_bytes() == (b / name).read_bytes()


# ---- the folder ------------------------------------------------------------------------------------------------


def test_run_folder(tmp_path: Path) -> None:
    config = config_of()
    made = train(config, tmp_path / "run")
    folder = made.folder
    assert folder == tmp_path / "run"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.name != ".lock"}
    parts = {"manifest.json", "state.json", "tensors.safetensors"}
    assert names == {
        "config.yaml", "env.json", "split.json", "metrics.jsonl", "metrics.csv", "results.json", "snapshots.jsonl",
        "checkpoints",
        "model", "model/model.json", "model/weights.safetensors", "model/validation.safetensors",
        "model/README.md",
        *(f"checkpoints/step-{s:08d}" for s in (12, 15, 17)),
        *(f"checkpoints/step-{s:08d}/{p}" for s in (12, 15, 17) for p in parts),
    }  # fmt: skip
    assert load_config(folder / "config.yaml") == replace(
        config, optim=config.optim.resolved(), precision="fp32", norms="data"
    )
    assert [r["step"] for r in rows(folder)] == [3, 4, 5, 6, 8, 9, 10, 12, 15, 16, 17]
    judged = [r["step"] for r in rows(folder) if "validation_accuracy" in r]
    assert judged == [4, 8, 12, 16, 17]
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [int(r["step"]) for r in table] == [r["step"] for r in rows(folder)]
    for text, row in zip(table, rows(folder)):
        assert {k: float(v) for k, v in text.items() if v} == row
    summary = json.loads((folder / "results.json").read_text())
    assert summary["rows"] == {"labeled": 20, "unlabeled": len(made.split.unlabeled), "validation": 10, "test": 359}
    assert (summary["steps"], summary["extra_steps"], summary["resumed_at"]) == (12, 5, 0)
    assert set(summary["validation"]) == {"mean", "student_ema", "student_finetuned", "teacher_ema"}
    assert json.loads((folder / "split.json").read_text())["sha"] == made.split.sha
    assert "torch" in json.loads((folder / "env.json").read_text())
    raw = open_digits().rows(made.split.test[:9])
    loaded = load_model(folder / "model", torch.device("cpu"), trust_code=True)
    assert torch.equal(loaded.probabilities(raw), made.predictor.probabilities(raw))
    assert loaded.class_names == tuple("0123456789")


def test_the_folder_must_be_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        train(config_of(), tmp_path / "full")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine.txt"]
    monkeypatch.chdir(tmp_path)
    quick = config_of("supervised", steps=1)
    assert [train(quick).folder.name for _ in range(2)] == ["digits-supervised-0", "digits-supervised-0-2"]


def test_nothing_is_written_when_the_start_fails(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown model"):
        train(config_of(model="smal_cnn"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("method", METHODS)
def test_the_same_seed_gives_the_same_bytes(method: str, tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(len(name) + ord(name))  # what went before must not matter
        train(config_of(method), tmp_path / name)
    same_run(tmp_path / "a", tmp_path / "b")
    train(config_of(method, seed=1), tmp_path / "c")
    assert weights(tmp_path / "a") != weights(tmp_path / "c")


# ---- stop and resume -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(config_of(), tmp_path_factory.mktemp("unbroken") / "run").folder


def kill_at(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """The process gets the signal while the batch of ``step`` is made."""
    original = Stream.__call__

    def wrapped(self: Stream, t: int, needs: Any) -> Any:
        if t == step:
            os.kill(os.getpid(), number)
        return original(self, t, needs)

    monkeypatch.setattr(Stream, "__call__", wrapped)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("step", [0, 6, 11, 12, 14])
def test_stopped_and_resumed_equals_unbroken(
    step: int, number: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also off the grid of logs and saves, at the border of the fine-tuning and inside it."""
    with monkeypatch.context() as patch:
        kill_at(patch, step, number)
        with pytest.raises(Stopped) as stopped:
            train(config_of(), tmp_path / "run")
    assert (stopped.value.step, stopped.value.signal_number) == (step + 1, number)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == step + 1
    assert not (tmp_path / "run" / "results.json").exists()
    again = resume(tmp_path / "run")
    assert again.summary["resumed_at"] == step + 1
    same_run(unbroken, tmp_path / "run")


PARTS: dict[str, dict[str, Any]] = {  # methods whose networks, labels or updates are not the same all along
    "self_training": {"threshold": 0.1},
    "mpl_reduced": {"finetune_steps": 5},
    "co_training": {},
    "self_mpl": {},
}


@pytest.mark.parametrize(
    ("method", "step"),
    [
        ("self_training", 3),
        ("self_training", 9),
        ("mpl_reduced", 4),
        ("mpl_reduced", 8),
        ("mpl_reduced", 14),
        ("co_training", 6),
        ("self_mpl", 6),
    ],
)
def test_a_run_in_parts_stops_and_resumes(
    method: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right before a round or a phase begins, inside one, and in the fine-tuning."""
    train(config_of(method, PARTS[method]), tmp_path / "whole")
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        with pytest.raises(Stopped):
            train(config_of(method, PARTS[method]), tmp_path / "run")
    assert resume(tmp_path / "run").summary["resumed_at"] == step + 1
    same_run(tmp_path / "whole", tmp_path / "run")


def test_two_stops(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for step, go in ((3, lambda: train(config_of(), tmp_path / "run")), (8, lambda: resume(tmp_path / "run"))):
        with monkeypatch.context() as patch:
            kill_at(patch, step)
            with pytest.raises(Stopped):
                go()
    resume(tmp_path / "run")
    same_run(unbroken, tmp_path / "run")


class KillingProgress(Silent):
    """Sends the signal when step ``at`` is shown: after the loop has decided what to do in that step."""

    def __init__(self, at: int) -> None:
        self.at, self.notes, self.seen = at, list[str](), list[int]()

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, step: int, total: int, values: Any) -> None:
        self.seen.append(step)
        if step == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("at", [3, 5])
def test_a_signal_late_in_a_step_is_served_after_the_next(at: int, unbroken: Path, tmp_path: Path) -> None:
    """At step 3 nothing was to be saved: leaving at once would say "saved" without having saved."""
    with pytest.raises(Stopped) as stopped:
        train(config_of(), tmp_path / "run", progress=KillingProgress(at))
    assert stopped.value.step == at + 1
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == at + 1
    resume(tmp_path / "run")
    same_run(unbroken, tmp_path / "run")


def test_a_signal_in_the_last_step_lets_the_run_end(unbroken: Path, tmp_path: Path) -> None:
    train(config_of(), tmp_path / "run", progress=KillingProgress(17))
    same_run(unbroken, tmp_path / "run")


def test_signal_handlers_are_put_back(tmp_path: Path) -> None:
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    train(config_of("supervised", steps=1), tmp_path / "run")
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


def test_trains_outside_the_main_thread(tmp_path: Path) -> None:
    thread = threading.Thread(target=train, args=(config_of("supervised", steps=1), tmp_path / "run"))
    thread.start()
    thread.join()
    assert (tmp_path / "run" / "results.json").exists()


class Crash(Exception):
    pass


def crash_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    original = Stream.__call__

    def wrapped(self: Stream, t: int, needs: Any) -> Any:
        if t == step:
            raise Crash
        return original(self, t, needs)

    monkeypatch.setattr(Stream, "__call__", wrapped)


def test_after_a_crash_rows_are_not_doubled(unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Crashed in step 9 with a checkpoint at 5: rows 6, 8 and 9 are logged again, and the torn line goes."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_at(patch, 9)
        with pytest.raises(Crash):
            train(config_of(), folder)
    assert [r["step"] for r in rows(folder)] == [3, 4, 5, 6, 8, 9]
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 10, "lo')
    progress = KillingProgress(-1)
    summary = resume(folder, progress=progress).summary
    assert summary["resumed_at"] == 5
    assert "resuming at step 5" in progress.notes
    said = printing.training(folder, summary).splitlines()[0]
    took, memory = f"{summary['seconds']:.1f} s", f"{summary['peak_memory'] >> 20} MB"
    assert said.endswith(f"; resumed at step 5, the rest took {took}, with at most {memory} of memory")
    same_run(unbroken, folder)


def test_a_damaged_checkpoint_is_skipped_and_said(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        crash_at(patch, 11)
        with pytest.raises(Crash):
            train(config_of(), folder)
    broken = folder / "checkpoints" / "step-00000010" / "state.json"
    broken.write_bytes(broken.read_bytes()[:-9])
    progress = KillingProgress(-1)
    assert resume(folder, progress=progress).summary["resumed_at"] == 5
    assert any("skipped" in n and str(broken) in n for n in progress.notes)
    same_run(unbroken, folder)


def test_killed_between_the_last_checkpoint_and_the_results(unbroken: Path, tmp_path: Path) -> None:
    folder = train(config_of(), tmp_path / "run").folder
    with pytest.raises(UserError, match="has finished"):
        resume(folder)
    (folder / "results.json").unlink()
    (folder / "model" / "weights.safetensors").unlink()
    resume(folder)
    same_run(unbroken, folder)


def test_resume_refuses_what_it_cannot_go_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        resume(tmp_path)
    kill_at(monkeypatch, 2)
    with pytest.raises(Stopped):
        train(config_of(), tmp_path / "run")
    changed = open_digits()
    changed.data[5] = 255 - changed.data[5]
    with pytest.raises(UserError, match="data changed"):
        resume(tmp_path / "run", source=changed)
    for path in (tmp_path / "run" / "checkpoints").rglob("tensors.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"nothing to resume from .*tensors\.safetensors"):
        resume(tmp_path / "run")


# ---- divergence ------------------------------------------------------------------------------------------------

BAD: dict[str, int] = {"built": 0, "which": 0, "after": 0}


class Failing(Small):
    """Gives NaN from its n-th training forward on."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, after: int) -> None:
        super().__init__(shape, num_classes)
        self.left = after

    def forward(self, x: Tensor) -> Tensor:
        self.left -= self.training
        return super().forward(x) * (float("nan") if self.left < 0 else 1.0)


def failing(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """The network number ``BAD["which"]`` of a run fails after ``BAD["after"]`` forwards, the others do not."""
    BAD["built"] += 1
    return Failing(shape, num_classes, BAD["after"] if BAD["built"] - 1 == BAD["which"] else 10**9)


class SilentGradient(Small):
    """Finite logits, NaN gradient: the loss says nothing about the weights that follow."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0.0 * torch.sqrt(self.head.weight.sum() * 0.0)


def silent_gradient(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    return SilentGradient(shape, num_classes)


def assert_finite_checkpoints(folder: Path) -> list[int]:
    from methods_table import tensors

    saved = checkpoint.steps(folder / "checkpoints")
    for step in saved:
        state = checkpoint.load(folder / "checkpoints" / f"step-{step:08d}")
        assert all(torch.isfinite(t).all() for t in tensors(state).values())
    return saved


@pytest.mark.parametrize(
    ("method", "which", "after"),
    [
        ("supervised", 0, 6),
        ("fixmatch", 0, 6),
        ("mpl", 0, 6),
        ("mpl", 1, 20),
        ("mpl", 1, 0),
        ("uda", 0, 11),
        ("mean_teacher", 0, 6),
        ("self_training", 1, 2),
        ("co_training", 1, 6),
        ("self_mpl", 0, 8),
        ("mpl_reduced", 1, 3),
    ],
)
@pytest.mark.parametrize("log_every", [1, 1000])
def test_nan_is_told_and_never_saved(
    method: str, which: int, after: int, log_every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "ROLLBACKS", 0)
    BAD.update(built=0, which=which, after=after)
    loop = LoopConfig(log_every=log_every, eval_every=1000, save_every=2, keep=50)
    told = r"training diverged by step (\d+): .* not finite\. Lower optim\.lr"
    with pytest.raises(UserError, match=told) as error:
        train(config_of(method, model=f"{__name__}:failing", loop=loop), tmp_path / "run")
    log = rows(tmp_path / "run") if (tmp_path / "run" / "metrics.jsonl").exists() else []
    assert all(np.isfinite(v) for row in log for v in row.values())
    if log_every == 1:  # in the same step
        found = re.search(told, str(error.value))
        assert found is not None
        assert int(found[1]) == len(log) + 1
        assert "validation rows" not in str(error.value)
        assert method != "supervised" or len(log) == after
    saved = assert_finite_checkpoints(tmp_path / "run")
    assert saved == [0] if after == 0 else saved[1:]  # step 0 is the state before the first step
    assert not (tmp_path / "run" / "results.json").exists()
    assert not (tmp_path / "run" / "model").exists()


@pytest.mark.parametrize("method", ["supervised", "mpl"])
@pytest.mark.parametrize("every", [1, 2, 1000])
def test_nan_weights_behind_a_finite_loss_are_never_saved(method: str, every: int, tmp_path: Path) -> None:
    """The first update ruins the weights while all that was reported is finite."""
    steps = 1 if every == 1000 else 6
    loop = LoopConfig(log_every=1000, eval_every=1000, save_every=every)
    settings = {"finetune_steps": 0} if method == "mpl" else {}
    config = config_of(method, settings, model=f"{__name__}:silent_gradient", loop=loop, steps=steps)
    with pytest.raises(UserError, match="not finite"):
        train(config, tmp_path / "run")
    assert assert_finite_checkpoints(tmp_path / "run") == [0]
    assert not (tmp_path / "run" / "results.json").exists()


def test_too_large_a_rate_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="diverged"):
        train(config_of(optim=OptimConfig(lr=1e30, clip=0.0)), tmp_path / "run")
    assert_finite_checkpoints(tmp_path / "run")


# ---- test rows, choice, sizes ----------------------------------------------------------------------------------


class Guarded(MemorySource):
    """The digits, with some rows that must not be opened."""

    forbidden: frozenset[int] = frozenset()
    opened: set[int]
    held = None  # type: ignore[assignment]

    def rows(self, index: np.ndarray[Any, Any]) -> Tensor:
        asked = set(np.asarray(index).tolist())
        if asked & self.forbidden:
            raise AssertionError("a forbidden row was opened")
        self.opened = getattr(self, "opened", set()) | asked
        return super().rows(index)


def guarded() -> Guarded:
    d = open_digits()
    return Guarded(d.name, d.kind, d.data, d.labels, d.class_names)


@pytest.mark.parametrize(
    "method", [name for name in METHODS if not fits_once(name)]
)  # one step: no stop before its end
def test_test_rows_are_opened_by_evaluate_alone(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, config = guarded(), config_of(method)
    split = make_split(source, config.split, config.seed)
    source.forbidden = frozenset(split.test.tolist())
    with monkeypatch.context() as patch:
        kill_at(patch, 5)
        with pytest.raises(Stopped):
            train(config, tmp_path / "run", source=source)
    made = resume(tmp_path / "run", source=source)
    assert made.split.test.tolist() == split.test.tolist()
    assert set(split.validation.tolist()) <= source.opened
    with pytest.raises(AssertionError, match="forbidden"):
        evaluate(made.predictor, source, made.split.test)


def test_fine_tuning_that_nothing_could_choose_is_left_out(tmp_path: Path) -> None:
    made = train(config_of(split=SplitConfig(labels=3, validation="none")), tmp_path / "run")
    assert (made.summary["extra_steps"], made.summary["chosen"]) == (0, "mean")
    assert rows(made.folder)[-1]["step"] == made.summary["steps"]


def test_minutes_size_the_run_and_the_steps_are_stored(tmp_path: Path) -> None:
    progress = KillingProgress(-1)
    made = train(config_of(minutes=0.02, steps=7), tmp_path / "run", progress=progress)
    stored = load_config(made.folder / "config.yaml")
    assert stored.minutes == 0, "the stored settings make the same run again"
    assert stored.steps != 7
    assert (made.summary["steps"], made.summary["extra_steps"]) == (stored.steps, 5)
    assert any(f"{stored.steps} steps" in n for n in progress.notes)
    assert made.summary["seconds"] < 60  # asked for 1.2; a busy machine may be far slower than it was measured
    (made.folder / "results.json").unlink()
    resume(made.folder)  # is not sized again
    assert load_config(made.folder / "config.yaml") == stored
    again = train(stored, tmp_path / "again")
    assert weights(again.folder) == weights(made.folder), "sizing leaves no trace in the weights"


SPOILT = {"finetune_steps": 30, "finetune_lr": 30.0, "feedback": "none", "offer_teacher": False}
CHOICES = [
    (SPOILT, 80, "student_ema"),  # fine-tuning spoils it
    ({"finetune_steps": 80, "finetune_lr": 0.3}, 2, "student_finetuned"),  # two steps teach a student nothing
    ({"finetune_steps": 0, "student_wait": 0.95}, 60, "teacher_ema"),  # nor do three, after its teacher's sixty
]


@pytest.mark.parametrize(("settings", "steps", "chosen"), CHOICES)
def test_validation_rows_choose_the_network(settings: dict[str, Any], steps: int, chosen: str, tmp_path: Path) -> None:
    split, optim = SplitConfig(labels=6, validation=3), OptimConfig(lr=0.05)
    config = config_of("mpl", settings, steps=steps, split=split, optim=optim)
    made = train(config, tmp_path / "run")
    judged = made.summary["validation"]
    other = next(n for n in judged if n != chosen)
    assert judged[chosen]["accuracy"] > judged[other]["accuracy"]
    assert (made.summary["chosen"], made.summary["chosen_by"]) == (chosen, "validation rows")
    card = json.loads((made.folder / "model" / "model.json").read_text())
    assert card["network"] == chosen
    assert evaluate(made.predictor, made.source, made.split.validation)["accuracy"] == judged[chosen]["accuracy"]


def test_without_validation_rows_the_method_decides(tmp_path: Path) -> None:
    made = train(config_of(split=SplitConfig(labels=1)), tmp_path / "run")
    assert len(made.split.validation) == 0
    assert made.summary["chosen"] == "mean"
    assert made.summary["chosen_by"] == "default (no validation rows)"
    assert not any("validation_accuracy" in r for r in rows(made.folder))


def tiny(labeled: int, unlabeled: int) -> MemorySource:
    """Zeros and ones of the digits, alternating; the first ``labeled`` with their label."""
    digits = open_digits()
    picked = np.stack([np.flatnonzero(digits.labels == k)[:30] for k in (0, 1)], 1).ravel()[: labeled + unlabeled]
    labels = np.where(np.arange(len(picked)) < labeled, digits.labels[picked], -1)
    return MemorySource("tiny", "image", digits.data[torch.from_numpy(picked)], labels, ("zero", "one"))


B_L, B_U = 3, 4
SIZES = [(n, m) for n in (2, B_L, B_L + 1) for m in (1, B_U - 1, B_U, B_U + 1)]


@pytest.mark.parametrize("method", ["mpl", "fixmatch"])
@pytest.mark.parametrize(("labeled", "unlabeled"), SIZES)
def test_tiny_sets_train(labeled: int, unlabeled: int, method: str, tmp_path: Path) -> None:
    settings = {"finetune_steps": 1, "uda_threshold": 0.0} if method == "mpl" else {"threshold": 0.0}
    config = config_of(
        method,
        settings,
        steps=2,
        batch=BatchConfig(B_L, B_U),
        split=SplitConfig(include_labeled=False, validation="none"),
        loop=LoopConfig(log_every=1, save_every=100),
    )
    made = train(config, tmp_path / "run", source=tiny(labeled, unlabeled))
    assert made.summary["rows"]["labeled"] == labeled
    assert made.summary["rows"]["unlabeled"] == unlabeled
    assert all(np.isfinite(v) for r in rows(made.folder) for v in r.values())
    assert rows(made.folder)[0]["loss"] > 0


def test_no_unlabelled_rows(tmp_path: Path) -> None:
    split = SplitConfig(include_labeled=False, validation="none")
    with pytest.raises(UserError, match="no unlabelled rows"):
        train(config_of(split=split), tmp_path / "mpl", source=tiny(4, 0))
    train(config_of("supervised", split=split, steps=2), tmp_path / "supervised", source=tiny(4, 0))
    assert not (tmp_path / "mpl").exists()


def test_observe_joins_the_metrics(tmp_path: Path) -> None:
    seen: list[int] = []

    def observe(step: int, predictor: Any) -> dict[str, float]:
        seen.append(step)
        return {"seen": np.float32(predictor.probabilities(open_digits().rows(np.arange(2))).shape[0])}

    plain = train(config_of(), tmp_path / "plain")
    watched = train(config_of(), tmp_path / "watched", observe=observe)
    assert seen == [4, 8, 12, 16, 17]
    assert [r["step"] for r in rows(watched.folder) if r.get("seen") == 2] == seen
    assert weights(plain.folder) == weights(watched.folder)


@pytest.mark.parametrize("method", ["mpl", "self_training", "mpl_reduced"])
def test_a_run_killed_in_its_first_step_is_resumed_from_before_it(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(method)
    whole = train(config, tmp_path / "whole")

    def killed(self: Stream, t: int, needs: Any) -> Any:
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "__call__", killed)
        with pytest.raises(RuntimeError, match="killed"):
            train(config, tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [0]
    assert weights(resume(tmp_path / "run").folder) == weights(whole.folder)


def test_a_checkpoint_of_another_run_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = train(config_of(seed=1, loop=LoopConfig(save_every=15, keep=50)), tmp_path / "other")
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Stopped):
            train(config_of(), tmp_path / "run")
    foreign = "step-00000015"
    shutil.copytree(other.folder / "checkpoints" / foreign, tmp_path / "run" / "checkpoints" / foreign)
    _, _, damaged = RunFolder(tmp_path / "run").latest_state()
    assert [foreign in text and "another run" in text for text in damaged] == [True]
    assert weights(resume(tmp_path / "run").folder) == weights(train(config_of(), tmp_path / "whole").folder)


def test_two_processes_do_not_share_a_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        kill_at(patch, 6)
        with pytest.raises(Stopped):
            train(config_of(), tmp_path / "run")
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file() and p.name != ".lock"}
    with locked(tmp_path / "run" / ".lock"), pytest.raises(UserError, match="another program is at work"):
        resume(tmp_path / "run")
    assert {p: p.read_bytes() for p in before} == before
    with locked(tmp_path / "new" / ".lock"), pytest.raises(UserError, match="another program is at work"):
        train(config_of(), tmp_path / "new")


def test_states_are_saved_by_the_clock_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(loop=LoopConfig(log_every=3, eval_every=4, save_every=1000, keep=50))
    plain = train(config, tmp_path / "plain")
    assert checkpoint.steps(plain.folder / "checkpoints") == [0, 12, 17]  # the start, the main phase's end, the end
    monkeypatch.setattr(steps, "SAVE_SECONDS", -1.0)
    timed = train(config, tmp_path / "timed")
    assert checkpoint.steps(timed.folder / "checkpoints") == list(range(18))
    assert weights(timed.folder) == weights(plain.folder), "when a state is saved changes nothing"


def test_a_run_folder_reads_its_metrics_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = RunFolder(tmp_path)
    for step in (1, 2, 3):
        before.log(step, {"loss": 0.1 * step})
    assert [row["step"] for row in RunFolder(tmp_path).rows()] == [1, 2, 3]
    store = RunFolder(tmp_path)
    store.truncate(2)
    with monkeypatch.context() as patched:
        patched.setattr(Metrics, "read", lambda self: pytest.fail("the whole file is read again"))
        store.log(3, {"loss": 0.7})
        found = store.rows()
    assert found == [{"step": 1, "loss": 0.1}, {"step": 2, "loss": 0.2}, {"step": 3, "loss": 0.7}]
    assert found == RunFolder(tmp_path).rows(), "as a resumed run reads them"

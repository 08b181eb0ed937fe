"""Is the feedback worth having? Tasks x variants of mpl x seeds, paired by seed, one JSON line per run.

    python benchmarks/feedback_study.py run --tasks digits20 wine --variants none exact --seeds 0:20 --out study.jsonl
    python benchmarks/feedback_study.py table study.jsonl --seeds 0:20 --judge test

Runs that are in the file already are not made again. Every run is judged on its test rows and on its ``pool``: the
unlabelled rows of known classes, whose labels these data sets happen to know and training never sees. Settings were
chosen by the pool on seeds from 1000 on; the tables of docs/notes/feedback.md are test rows of seeds from 0 on.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl import feedback as fb
from metapl import open_source
from metapl.comparison.paired import estimate, holm
from metapl.config.settings import make_config
from metapl.data.batches.seeds import generator
from metapl.data.batches.split import make_split
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.inference.evaluate import evaluate
from metapl.methods import METHODS
from metapl.methods.mpl import MPL
from metapl.methods.parts import unlabeled_views
from metapl.training.in_memory import run_trial
from metapl.training.prepared import prepare
from metapl.types import SemiBatch, Source, Split

# ---- tasks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """A data set with few labels; ``wrong``: share of the labelled rows whose label is wrong; ``known``: classes that
    are labelled, the rows of the others staying in the pool (None = all)."""

    data: str
    labels: int  # per class
    wrong: float = 0.0
    known: int | None = None
    settings: tuple[tuple[str, Any], ...] = ()


DIGITS = (("steps", 600), ("batch.labeled", 20), ("batch.unlabeled", 64))
MILD = (("views.shift", 0.125), ("views.ops", 1), ("views.cutout", 0.25))
TABLE = (("steps", 600), ("batch.labeled", 10), ("batch.unlabeled", 64), ("split.test", 0.5), ("model", "mlp"))
FASHION = (("steps", 800), ("batch.labeled", 32), ("batch.unlabeled", 96), ("views.ops", 1), ("views.cutout", 0.25))
TASKS = {
    "digits20": Task("digits", 2, settings=DIGITS + MILD),
    "digits40": Task("digits", 4, settings=DIGITS + MILD),
    "digits20-wrong": Task("digits", 2, wrong=0.2, settings=DIGITS + MILD),
    "digits40-wrong": Task("digits", 4, wrong=0.2, settings=DIGITS + MILD),
    "digits20-polluted": Task("digits", 3, known=6, settings=DIGITS + MILD),
    "wine": Task("wine", 3, settings=TABLE),
    "wine-wrong": Task("wine", 5, wrong=0.2, settings=TABLE),
    "cancer": Task("breast_cancer", 5, settings=TABLE),
    "cancer-wrong": Task("breast_cancer", 5, wrong=0.2, settings=TABLE),
    "wine-polluted": Task("wine", 5, known=2, settings=TABLE),
    # Under the default views, batches and rate, on which feedback without a cap stops a student before it has begun.
    "pictures": Task("pictures", 5, settings=(("steps", 400), ("model", "small_cnn"))),
    "fashion": Task("fashion", 10, settings=FASHION),
    "fashion-wrong": Task("fashion", 10, wrong=0.2, settings=FASHION),
}


def open_task_source(data: str) -> Source:
    if data == "digits":
        return open_digits()
    if data == "pictures":
        return pictures()
    if data == "fashion":
        return open_source(f"idx:{os.environ.get('FASHION_MNIST', '/usr/share/datasets/fashion-mnist')}")
    from sklearn import datasets

    found = getattr(datasets, f"load_{data}")()
    rows = torch.from_numpy(found.data.astype(np.float32))
    return MemorySource(data, "table", rows, found.target.astype(np.int64), tuple(map(str, found.target_names)))


def pictures() -> MemorySource:
    """The digits 0 to 4 as grey images of 24 x 24."""
    from PIL import Image
    from sklearn.datasets import load_digits

    rows, y = load_digits(n_class=5, return_X_y=True)
    small = (rows.reshape(-1, 8, 8) * 15.9).astype(np.uint8)
    large = np.stack([np.asarray(Image.fromarray(image).resize((24, 24))) for image in small])
    names = tuple(str(k) for k in range(5))
    return MemorySource("pictures", "image", torch.from_numpy(large)[:, None].contiguous(), y.astype(np.int64), names)


def task_data(task: Task, seed: int, options: dict[str, Any]) -> tuple[Any, Source, Source, Split]:
    """Config, the source to train on (wrong or missing labels in it), the true source, and the split."""
    settings = {**dict(task.settings), "split.labels": task.labels, "split.validation": "none", **options}
    config = make_config("digits", options={**settings, "seed": seed, "device": "cpu"})
    truth = open_task_source(task.data)
    split = make_split(truth, config.split, seed)
    shown = truth
    if task.known is not None:
        known = truth.labels < task.known
        split = replace(split, labeled=split.labeled[known[split.labeled]], test=split.test[known[split.test]])
        # A labelled row of a class that is not known stays in the pool as one more polluting row.
        names = truth.class_names[: task.known]
        shown = truth = relabeled(truth, np.where(known, truth.labels, -1), names)
    if task.wrong:
        shown = relabeled(truth, with_wrong(truth.labels, split.labeled, task.wrong, len(truth.class_names), seed))
    return config, shown, truth, split


def relabeled(source: Source, labels: np.ndarray[Any, Any], names: tuple[str, ...] | None = None) -> MemorySource:
    rows = source.held() if isinstance(source, MemorySource) else source.rows(np.arange(len(source.ids)))
    return MemorySource(source.name, source.kind, rows, labels, names or source.class_names)


def with_wrong(labels: np.ndarray[Any, Any], rows: np.ndarray[Any, Any], share: float, classes: int, seed: int) -> Any:
    """``labels`` with ``share`` of ``rows`` moved to another class, drawn by the seed."""
    g, changed = generator("cpu", seed, "wrong labels"), labels.copy()
    chosen = rows[torch.randperm(len(rows), generator=g).numpy()[: round(share * len(rows))]]
    changed[chosen] = (labels[chosen] + torch.randint(1, classes, (len(chosen),), generator=g).numpy()) % classes
    return changed


# ---- variants --------------------------------------------------------------------------------------------------


class Study(MPL):
    """mpl with the E3 to E4 chain opened up; each subclass changes one thing."""

    def direction(self, before: fb.Before, batch: SemiBatch) -> tuple[Tensor, fb.Tensors]:
        student = self.student
        labeled, gradient = fb.labeled_gradient(student.model, before, batch.x_l, batch.y_l)
        return labeled, fb.step_adjoint(student.optimizer, student.model, gradient, unit_lr=True)

    def shaped(self, r: Tensor, batch: SemiBatch) -> Tensor:
        return r

    def _exact(
        self, before: fb.Before, batch: SemiBatch, p: Tensor, output: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        labeled, v = self.direction(before, batch)
        _, strong = unlabeled_views(batch)
        r = fb.log_prob_derivative(self.student.model, before, strong, v, self.config.derivative)
        return fb.exact_loss(p, self.shaped(r, batch)), {"student_labeled": labeled, "feedback_spread": r.std()}


class StepSize(Study):
    """Weight = 1 x eta / (1 - mu), following the schedule."""

    def shaped(self, r: Tensor, batch: SemiBatch) -> Tensor:
        group = self.student.optimizer.param_groups[0]
        return r * group["lr"] / (1 - group["momentum"])


class Cosine(Study):
    """r along the direction at unit length, times the student's gradient's: cos(g, .) as in the early paper."""

    def direction(self, before: fb.Before, batch: SemiBatch) -> tuple[Tensor, fb.Tensors]:
        labeled, v = super().direction(before, batch)
        length = torch.sqrt(sum((t**2).sum() for t in v.values()))  # type: ignore[arg-type]
        return labeled, {n: t / length.clamp_min(1e-12) for n, t in v.items()}


class UnitSpread(Study):
    """r scaled to a spread of 1 in every batch."""

    def shaped(self, r: Tensor, batch: SemiBatch) -> Tensor:
        return r / r.std().clamp_min(1e-12)


class RowMemory(Study):
    """The moving average of each row's r instead of the r of this step."""

    keep = 0.7

    def remember(self, r: Tensor, batch: SemiBatch) -> Tensor:
        if not hasattr(self, "memory"):
            self.memory = torch.zeros(100_000, r.shape[1])
            self.seen = torch.zeros(100_000)
        i = batch.u_index
        self.memory[i] = self.keep * self.memory[i] + (1 - self.keep) * r
        self.seen[i] = self.keep * self.seen[i] + (1 - self.keep)
        return self.memory[i] / self.seen[i, None]

    def shaped(self, r: Tensor, batch: SemiBatch) -> Tensor:
        return self.remember(r, batch)


class RowBaseline(RowMemory):
    """r minus the moving average of the row's r before this step."""

    def shaped(self, r: Tensor, batch: SemiBatch) -> Tensor:
        old = self.memory[batch.u_index].clone() if hasattr(self, "memory") else torch.zeros_like(r)
        self.remember(r, batch)
        return r - old


class HeldOut(Study):
    """Half of the labelled rows for the teacher's own loss, the other half for the feedback's gradient."""

    def step(self, batch: SemiBatch, t: int) -> Any:
        half = len(batch.y_l) // 2
        self.other = replace(batch, x_l=batch.x_l[half:], y_l=batch.y_l[half:])
        return super().step(replace(batch, x_l=batch.x_l[:half], y_l=batch.y_l[:half]), t)

    def direction(self, before: fb.Before, batch: SemiBatch) -> tuple[Tensor, fb.Tensors]:
        return super().direction(before, self.other)


class OnEMA(Study):
    """E3 at the student's moving average instead of at the student."""

    def direction(self, before: fb.Before, batch: SemiBatch) -> tuple[Tensor, fb.Tensors]:
        model = self.student.ema.model.requires_grad_(True)
        buffers = {n: b.detach().clone() for n, b in model.named_buffers()}
        labeled, gradient = fb.labeled_gradient(model, replace(before, buffers=buffers), batch.x_l, batch.y_l)
        model.requires_grad_(False)
        return labeled, fb.step_adjoint(self.student.optimizer, self.student.model, gradient, unit_lr=True)


class Robust(Study):
    """E3 of the bounded loss (1 - p_y^q) / q (Zhang & Sabuncu 2018): a row that the student contradicts says less."""

    q = 0.5

    def direction(self, before: fb.Before, batch: SemiBatch) -> tuple[Tensor, fb.Tensors]:
        model = self.student.model
        weights = {n: w for n, w in model.named_parameters() if w.requires_grad}
        buffers = {n: b.clone() for n, b in before.buffers.items()}
        with torch.enable_grad():
            logits = torch.func.functional_call(model, {**weights, **buffers}, (batch.x_l,))
            each = torch.nn.functional.cross_entropy(logits, batch.y_l, reduction="none")
            loss = ((1 - torch.exp(-self.q * each)) / self.q).mean()
            gradient = dict(zip(weights, torch.autograd.grad(loss, list(weights.values()))))
        return each.detach().mean(), fb.step_adjoint(self.student.optimizer, model, gradient, unit_lr=True)


class TrustedAll(MPL):
    """Trust also where a class has two rows in the batch."""

    def step(self, batch: SemiBatch, t: int) -> Any:
        usual, fb.MAJORITY = fb.MAJORITY, 2
        try:
            return super().step(batch, t)
        finally:
            fb.MAJORITY = usual


class Gated(MPL):
    """r counts only while the student knows more about the labelled rows than nothing: their loss is below ln C."""

    def _exact(
        self, before: fb.Before, batch: SemiBatch, p: Tensor, output: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        feedback, logged = super()._exact(before, batch, p, output)
        return feedback * (logged["student_labeled"] < math.log(p.shape[1])), logged


class EverySecond(MPL):
    """The feedback of every second step, at twice its weight."""

    def _teach_student(self, batch: SemiBatch, z: Tensor, t: int, use_feedback: bool) -> Any:
        feedback, logged = super()._teach_student(batch, z, t, use_feedback and t % 2 == 0)
        return None if feedback is None else 2 * feedback, logged


class Corrected(RowMemory):
    """The student's labels p' = p exp(-k r) / Z by the row's remembered r; no feedback to the teacher."""

    k = 1.0

    def _teach_student(self, batch: SemiBatch, z: Tensor, t: int, use_feedback: bool) -> Any:
        old = self.memory[batch.u_index] if hasattr(self, "memory") else torch.zeros_like(z)
        _, logged = super()._teach_student(batch, (z - self.k * old).detach(), t, use_feedback)
        return None, logged


UNCAPPED: dict[str, Any] = {"mpl.feedback": "exact", "mpl.feedback_cap": 0.0}
EXACT = UNCAPPED | {"mpl.feedback_rows": "even"}  # the screening's starting point
VARIANTS: dict[str, tuple[type[MPL], dict[str, Any]]] = {
    "none": (MPL, {"mpl.feedback": "none"}),
    "sampled": (MPL, {"mpl.feedback": "sampled"}),
    "official": (MPL, {"mpl.feedback": "official"}),
    "exact": (MPL, {"mpl.feedback": "exact"}),  # the default
    "uncapped": (MPL, UNCAPPED),  # the default before
    "even": (MPL, EXACT),
    "even-w0.1": (MPL, EXACT | {"mpl.feedback_weight": 0.1}),
    "even-w1": (MPL, EXACT | {"mpl.feedback_weight": 1.0}),
    "late": (MPL, UNCAPPED | {"mpl.feedback_start": 0.25}),
    "late-w1": (MPL, UNCAPPED | {"mpl.feedback_start": 0.25, "mpl.feedback_weight": 1.0}),
    "cap1-w1": (MPL, {"mpl.feedback": "exact", "mpl.feedback_cap": 1.0, "mpl.feedback_weight": 1.0}),
    "cap0.3": (MPL, {"mpl.feedback": "exact", "mpl.feedback_cap": 0.3}),
    "late-cap1": (MPL, {"mpl.feedback": "exact", "mpl.feedback_cap": 1.0, "mpl.feedback_start": 0.1}),
    "gated": (Gated, UNCAPPED),
    "gated-w1": (Gated, UNCAPPED | {"mpl.feedback_weight": 1.0}),
    "even-w3": (MPL, EXACT | {"mpl.feedback_weight": 3.0}),
    "eta": (StepSize, EXACT | {"mpl.feedback_weight": 1.0}),
    "cosine": (Cosine, EXACT | {"mpl.feedback_weight": 1.0}),
    "unit-spread": (UnitSpread, EXACT | {"mpl.feedback_weight": 0.3}),
    "row-memory": (RowMemory, EXACT),
    "row-baseline": (RowBaseline, EXACT),
    "warm-up": (Study, EXACT | {"mpl.feedback_start": 0.1, "mpl.feedback_ramp": 0.2}),
    "held-out": (HeldOut, EXACT),
    "on-ema": (OnEMA, EXACT),
    "corrected": (Corrected, EXACT),
    "robust": (Robust, EXACT),
    "one-sided": (MPL, {"mpl.feedback": "exact", "mpl.derivative": "one_sided"}),
    "forward": (MPL, {"mpl.feedback": "exact", "mpl.derivative": "forward"}),
    "every-second": (EverySecond, {"mpl.feedback": "exact", "mpl.derivative": "forward"}),
    "trusted-all": (TrustedAll, UNCAPPED),
}


# ---- runs ------------------------------------------------------------------------------------------------------


def one(task: str, variant: str, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    began, (method, changed) = time.monotonic(), VARIANTS[variant]
    METHODS["mpl"] = method
    settings = {"method": "mpl", "mpl.finetune_steps": 0, **changed, **options}
    config, shown, truth, split = task_data(TASKS[task], seed, settings)
    config = replace(config, model=config.model if config.model != "auto" else "small_cnn")
    predictor = next(iter(run_trial(config, prepare(shown, split, torch.device("cpu"))).values()))
    pool = np.setdiff1d(split.unlabeled, split.labeled)
    pool = pool[truth.labels[pool] >= 0]
    scores = {n: 100 * evaluate(predictor, truth, i)["accuracy"] for n, i in (("pool", pool), ("test", split.test))}
    seconds = round(time.monotonic() - began, 1)
    return {"task": task, "variant": variant, "options": options, "seed": seed, **scores, "seconds": seconds}


def run(
    tasks: list[str], variants: list[str], seeds: list[int], out: Path, options: dict[str, Any], workers: int
) -> None:
    have = {key(row) for row in read(out)}
    jobs = [(t, v, s, options) for t in tasks for s in seeds for v in variants]
    jobs = [job for job in jobs if key(dict(zip(("task", "variant", "seed", "options"), job))) not in have]
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        for future in as_completed([pool.submit(one, *job) for job in jobs]):
            row = future.result()
            with open(out, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(row, flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def key(row: dict[str, Any]) -> str:
    return json.dumps([row["task"], row["variant"], row["seed"], row["options"]], sort_keys=True)


def table(rows: Iterable[dict[str, Any]], judge: str, reference: str = "none") -> list[dict[str, Any]]:
    """Per task and variant: mean, sd, worst; difference to ``reference`` on the same seeds with a 95 % t interval,
    its p-value, and Holm's over all tasks of the variant."""
    by: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        name = row["variant"] + "".join(f" {k}={v}" for k, v in row["options"].items())
        by.setdefault((row["task"], name), {})[row["seed"]] = row[judge]
    made = []
    for (task, variant), scores in by.items():
        values = list(scores.values())
        both = [s for s in scores if s in by.get((task, reference), {})]
        gains = [scores[s] - by[task, reference][s] for s in both]
        line = {"task": task, "variant": variant, "seeds": len(values), "mean": statistics.mean(values)}
        line |= {"sd": statistics.stdev(values) if len(values) > 1 else math.nan, "worst": min(values)}
        if variant != reference and len(gains) > 1 and (e := estimate(gains)).p is not None:
            line |= {"paired": e.n, "gain": e.mean, "low": e.low, "high": e.high, "p": e.p}
        made.append(line)
    for variant in {m["variant"] for m in made}:
        tested = [m for m in made if m["variant"] == variant and "p" in m]
        for m, p in zip(tested, holm([m["p"] for m in tested])):
            m["p_holm"] = p
    return sorted(made, key=lambda m: (list(TASKS).index(m["task"]), m["variant"] != reference, m["variant"]))


def show(lines: list[dict[str, Any]]) -> str:
    head = "| task | variant | seeds | mean | sd | worst | gain over none | p | p, Holm |\n|" + "---|" * 9
    body = [
        f"| {m['task']} | {m['variant']} | {m['seeds']} | {m['mean']:.1f} | {m['sd']:.1f} | {m['worst']:.1f} | "
        + (
            f"{m['gain']:+.1f} [{m['low']:+.1f}, {m['high']:+.1f}] | {m['p']:.3f} | {m['p_holm']:.3f} |"
            if "gain" in m
            else "| | |"
        )
        for m in lines
    ]
    return "\n".join([head, *body])


def span(text: str) -> list[int]:
    first, _, last = text.partition(":")
    return list(range(int(first), int(last))) if last else [int(first)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    runs = commands.add_parser("run")
    runs.add_argument("--tasks", nargs="+", choices=TASKS, required=True)
    runs.add_argument("--variants", nargs="+", choices=VARIANTS, required=True)
    runs.add_argument("--seeds", type=span, required=True)
    runs.add_argument("--out", type=Path, required=True)
    runs.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    runs.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    shows = commands.add_parser("table")
    shows.add_argument("file", type=Path, nargs="+")
    shows.add_argument("--judge", choices=("pool", "test"), default="test")
    shows.add_argument("--seeds", type=span)
    shows.add_argument("--json", action="store_true")
    a = parser.parse_args()
    if a.command == "run":
        options = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in a.set)}
        run(a.tasks, a.variants, a.seeds, a.out, options, a.workers)
        return
    rows = [r for f in a.file for r in read(f) if a.seeds is None or r["seed"] in a.seeds]
    lines = table(rows, a.judge)
    print(json.dumps(lines, indent=2) if a.json else show(lines))


if __name__ == "__main__":
    main()

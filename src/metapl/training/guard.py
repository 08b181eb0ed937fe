"""A guard against harm: is a semi-supervised result better than supervised training on the same labels?

G1  baseline = supervised training under the run's own labels, views, network, optimiser, batches, seed and steps
G2  evidence = rows whose labels neither side was taught or chosen by, each judged by both: each half of the validation
    rows by the baseline and the candidate that the other half chooses; where these are fewer than ``min_validation``,
    also the labelled rows, fold by fold, by models trained on the other folds and the validation rows for ``share`` of
    the steps, or ``least_steps`` if that is more (the held-out rows are then unlabelled ones); of the method's
    candidates there the one that the validation rows choose in the run. Where a class has a single labelled row,
    labelled and validation rows are dealt out together
G3  keep the result if it is right on at least two more rows and by at least one standard error:
    wins - losses >= max(2, errors * sqrt(wins + losses)), errors = 1, or 3 where classes seem lost or the pool seems to
    have others (``alarms.doubt``); where no row tells them apart, the lower log loss
G4  interval of the difference of two paired shares: Newcombe (1998), method 10

``docs/guard.md`` has the reasons, the rule's error rates and what it costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metapl.config.settings import RunConfig
from metapl.data.batches.folds import fold_splits
from metapl.errors import UserError
from metapl.inference.evaluate import best_of, probabilities, wilson
from metapl.runs.model_folder import Predictor
from metapl.training.in_memory import run_trial
from metapl.training.job import Job, build_job
from metapl.training.prepared import Prepared
from metapl.training.timing import seconds_per_step
from metapl.types import Calibrated, Source, Split
from metapl.utils.progress import Progress, clock

Array = np.ndarray[Any, Any]
BASELINE = "supervised baseline"
ERRORS, DOUBTED = 1, 3  # standard errors to be ahead by, and in doubt
LEAST_ROWS = 10  # judged rows below which no verdict is given
PACE = 0.5  # seconds spent on timing each side's steps, for the announcement


@dataclass(frozen=True)
class Fold:
    """One part of the cross-fitting: the rows that both sides train on, and those that they then judge."""

    split: Split
    held: Array


@dataclass(frozen=True)
class Plan:
    """What will be compared.

    Attributes:
        validation: rows to be judged by the two results.
        folds: the cross-fitting; none where the validation rows are enough.
        none: why there is no guard; empty where there is one.
    """

    validation: Array
    folds: tuple[Fold, ...] = ()
    none: str = ""

    @property
    def rows(self) -> int:
        return len(self.validation) + sum(len(fold.held) for fold in self.folds)

    def steps(self, config: RunConfig, extra: int = 0) -> tuple[int, int]:
        """Steps of the method (each training with up to ``extra`` ones) and of supervised training, in all."""
        if self.none:
            return 0, 0
        each = fold_steps(config)
        return len(self.folds) * (each + extra), config.steps + len(self.folds) * each


@dataclass(frozen=True)
class Answers:
    """What a model says of some rows: the probability of the true class, and whether it was named; [n] each."""

    p: Array
    right: Array

    def at(self, rows: Array) -> Answers:
        """Those of some of the rows."""
        return Answers(self.p[rows], self.right[rows])

    @property
    def figures(self) -> tuple[float, float]:
        """Accuracy and log loss."""
        return float(self.right.mean()), log_loss(self.p)


@dataclass(frozen=True)
class Evidence:
    """Both sides' answers about the same rows."""

    method: Answers
    baseline: Answers

    @property
    def wins(self) -> int:
        return int((self.method.right & ~self.baseline.right).sum())

    @property
    def losses(self) -> int:
        return int((self.baseline.right & ~self.method.right).sum())


@dataclass(frozen=True)
class Verdict:
    """What the guard found; ``baseline`` is None where there was no comparison."""

    summary: dict[str, Any]
    baseline: Predictor | None = None

    @property
    def returned(self) -> bool:
        """Whether the baseline takes the result's place."""
        return self.summary.get("returned") == BASELINE


def make_plan(job: Job) -> Plan:
    """Which rows the guard will judge and how; ``Plan.none`` says why it cannot."""
    rows, g = job.split.validation, job.config.guard
    if g.mode == "off":
        return Plan(rows, none="guard.mode=off")
    if job.config.method == "supervised":
        return Plan(rows, none="the method is the baseline itself")
    if len(rows) >= g.min_validation:
        return Plan(rows)
    try:
        plan, why = _cross_fitting(job), ""
    except UserError as error:
        plan, why = Plan(rows), error.what
    if plan.rows < LEAST_ROWS:
        return Plan(rows, none=why or f"only {plan.rows} rows could be judged, fewer than {LEAST_ROWS}")
    return plan


def _cross_fitting(job: Job) -> Plan:
    """The folds, and the validation rows where they need not be dealt out too.

    Raises:
        UserError: too few rows for the folds.
    """
    source, split, none = job.source, job.split, job.split.validation[:0]
    fitted = isinstance(job.method, Calibrated) and job.method.needs_validation  # then they cannot teach as well
    single = np.bincount(source.labels[split.labeled], minlength=len(source.class_names)).min() < 2
    together = single and len(split.validation) > 0 and not fitted
    dealt = split if together else replace(split, validation=none)
    folds = []
    for fold in fold_splits(source, dealt, job.config.guard.folds, job.config.seed):
        taught = fold.labeled if together or fitted else np.union1d(fold.labeled, split.validation)
        # The run's own validation rows go along: a method may be fitted on them, and ends with as many candidates.
        folds.append(Fold(replace(fold, labeled=taught, validation=split.validation), fold.validation))
    return Plan(none if together else split.validation, tuple(folds))


def fold_steps(config: RunConfig) -> int:
    """Steps of each training of the cross-fitting."""
    return min(config.steps, max(config.guard.least_steps, round(config.guard.share * config.steps)))


def check(
    job: Job,
    candidates: Mapping[str, Predictor],
    progress: Progress,
    before_step: Callable[[], None] | None = None,
    pace: float | None = None,
    doubt: str = "",
) -> Verdict:
    """Train the baseline, gather the evidence and decide; the same again from the same job.

    Args:
        candidates: what the method ended with, preferred first.
        before_step: called before each step; what it raises ends the guard.
        pace: seconds per step of the method where they are known.
        doubt: why more than usual is asked for, if it is.
    """
    plan, mode = make_plan(job), job.config.guard.mode
    if plan.none:
        if mode != "off" and job.config.method != "supervised":
            progress.note(f"no guard: {plan.none}")
        return Verdict({"mode": mode, "way": "none", "text": f"no guard: {plan.none}"})
    _announce(job, plan, pace, progress)
    try:
        baseline = _train(_supervised(job.config), job.prepared, before_step)
        evidence = _evidence(job, plan, candidates, baseline, progress, before_step)
    except UserError as error:  # a training of the guard's that diverged
        progress.note(f"no guard: {error.what}")
        return Verdict({"mode": mode, "way": "none", "text": f"no guard: {error.what}"})
    summary = _summary(job, plan, evidence, doubt)
    progress.note(summary["text"].partition(". ")[0])  # the figures come with the run's end
    return Verdict(summary, baseline)


def _supervised(config: RunConfig) -> RunConfig:
    """The run as supervised training with its default settings (G1)."""
    return replace(config, method="supervised", settings=None)


def _train(
    config: RunConfig, prepared: Prepared, before_step: Callable[[], None] | None, wanted: str = ""
) -> Predictor:
    """Train and return the candidate ``wanted``, or the preferred one where there is none of that name."""
    trained = run_trial(config, prepared, before_step, wanted)
    return trained.get(wanted, next(iter(trained.values())))


def _evidence(
    job: Job,
    plan: Plan,
    candidates: Mapping[str, Predictor],
    baseline: Predictor,
    progress: Progress,
    before_step: Callable[[], None] | None,
) -> Evidence:
    """G2: both sides' answers about the validation rows, then about each fold."""
    source, rows, first = job.source, job.split.validation, next(iter(candidates))
    judged = {name: _answers(source, rows, model) for name, model in candidates.items()}
    sides = list[tuple[Answers, Answers]]()
    if len(plan.validation):  # all of the run's, or none: they are dealt into the folds
        sides.append((_answers(source, rows, baseline), crossed(judged, source.labels[rows])))
    for number, fold in enumerate(plan.folds, 1):
        others = np.flatnonzero(~np.isin(rows, fold.held))
        wanted = best_of({name: a.at(others).figures for name, a in judged.items()}) if len(others) else first
        shorter = [replace(c, steps=fold_steps(c)) for c in (_supervised(job.config), job.config)]
        rows_of_fold = job.prepared.with_split(fold.split)
        trained = [_train(config, rows_of_fold, before_step, wanted) for config in shorter]
        sides.append((_answers(source, fold.held, trained[0]), _answers(source, fold.held, trained[1])))
        progress.note(f"guard: fold {number} of {len(plan.folds)} is done")
    both = [Answers(np.concatenate([a.p for a in s]), np.concatenate([a.right for a in s])) for s in zip(*sides)]
    return Evidence(method=both[1], baseline=both[0])


def _answers(source: Source, rows: Array, model: Predictor) -> Answers:
    y, p = source.labels[rows], probabilities(model, source, rows).numpy()
    return Answers(p[np.arange(len(rows)), y], p.argmax(1) == y)


def crossed(candidates: Mapping[str, Answers], y: Array) -> Answers:
    """Each half of the rows as the candidate answers that is the best on the other half.

    The best of several on some rows looks better on them than it is. Both halves have the same classes.

    Args:
        candidates: answers of each about the same rows, preferred first.
        y: [n] the rows' classes.
    """
    order, first = np.argsort(y, kind="stable"), next(iter(candidates.values()))
    p, right = first.p.copy(), first.right.copy()
    for own, other in ((order[::2], order[1::2]), (order[1::2], order[::2])):
        if len(other):
            best = candidates[best_of({name: a.at(other).figures for name, a in candidates.items()})]
            p[own], right[own] = best.p[own], best.right[own]
    return Answers(p, right)


def better(e: Evidence, errors: float = ERRORS) -> bool:
    """G3: whether the method is to be kept; ``errors``: how many standard errors it must be ahead."""
    if not e.wins + e.losses:
        return log_loss(e.method.p) < log_loss(e.baseline.p)
    return e.wins - e.losses >= max(2.0, errors * math.sqrt(e.wins + e.losses))


def log_loss(p: Array) -> float:
    """Mean of -log of the true class' probabilities [n]."""
    return float(-np.log(np.clip(p, 1e-12, 1)).mean())


def paired_interval(wins: int, losses: int, both: int, count: int) -> tuple[float, float]:
    """95 % interval of the difference of two shares of the same ``count`` rows (G4).

    Args:
        wins, losses: rows on which only the first, only the second side is right.
        both: rows on which both are.
    """
    neither, first, second = count - wins - losses - both, both + wins, both + losses
    (low1, high1), (low2, high2) = wilson(first, count), wilson(second, count)
    p1, p2 = first / count, second / count
    product = first * (count - first) * second * (count - second)
    surplus = float(both * neither - wins * losses)
    if surplus > 0:
        surplus = max(0.0, surplus - count / 2)
    phi = surplus / math.sqrt(product) if product else 0.0
    down, up = (p1 - low1, high2 - p2), (high1 - p1, p2 - low2)
    low, high = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (down, up))
    return p1 - p2 - low, p1 - p2 + high


def _summary(job: Job, plan: Plan, e: Evidence, doubt: str) -> dict[str, Any]:
    g, name, rows = job.config.guard, job.config.method, plan.rows
    shares = {name: float(e.method.right.mean()), "supervised": float(e.baseline.right.mean())}
    both, errors = int((e.method.right & e.baseline.right).sum()), DOUBTED if doubt else ERRORS
    interval, kept = paired_interval(e.wins, e.losses, both, rows), better(e, errors)
    found = {
        "mode": g.mode,
        "way": "cross-fitting" if plan.folds else "validation rows",
        "rows": rows,
        "validation_rows": len(plan.validation),
        "folds": len(plan.folds),
        "steps_per_fold": fold_steps(job.config) if plan.folds else 0,
        "accuracy": shares,
        "log_loss": {name: log_loss(e.method.p), "supervised": log_loss(e.baseline.p)},
        "only_method_right": e.wins,
        "only_supervised_right": e.losses,
        "difference": shares[name] - shares["supervised"],
        "difference_95": list(interval),
        "interval": "Newcombe (1998), method 10",
        "standard_errors": errors,
        "doubt": doubt,
        "better": kept,
        "returned": name if kept or g.mode == "warn" else BASELINE,
    }
    return {**found, "text": _text(found, name)}


def _text(found: dict[str, Any], name: str) -> str:
    """The verdict in plain words."""
    accuracy, rows, (low, high) = found["accuracy"], found["rows"], found["difference_95"]
    way = f"{found['folds']}-fold cross-fitting" if found["folds"] else "the validation rows"
    if found["folds"] and found["validation_rows"]:
        way += f" and {found['validation_rows']} validation rows"
    figures = (
        f"{name} is right on {100 * accuracy[name]:.0f} % and supervised training on "
        f"{100 * accuracy['supervised']:.0f} % of {rows} rows, by {way}: {100 * found['difference']:+.0f} points, "
        f"95 % interval {100 * low:+.0f} to {100 * high:+.0f}"
    )
    if found["better"]:
        asked = "three standard errors" if found["doubt"] else "one standard error"
        beyond = "" if low > 0 else f", which chance alone may give: the rule asks for two rows and {asked}"
        return f"guard: {name} is kept and stands in model. {figures}{beyond}"
    if found["doubt"]:
        figures += f". Three standard errors are asked for instead of one: {found['doubt']}"
    advice = (
        "Check that the unlabelled rows are of the same classes and kind as the labelled ones, train longer, try "
        "another method or threshold, or label more rows; guard.mode=warn keeps the model all the same"
    )
    if found["returned"] == BASELINE:
        where = f"stands in model, {name} in model-not-chosen"
        return f"guard: the supervised baseline is returned and {where}. {figures}. {advice}"
    return f"guard: {name} is not clearly better than supervised training. {figures}. {advice.partition(';')[0]}"


def _announce(job: Job, plan: Plan, pace: float | None, progress: Progress) -> None:
    each = pace or seconds_per_step(_copy(job, job.config), PACE)
    method_steps, supervised_steps = plan.steps(job.config, job.extra_steps)
    seconds = each * method_steps + baseline_pace(job, PACE) * supervised_steps
    folds = f" and {len(plan.folds)}-fold cross-fitting of both ({fold_steps(job.config)} steps each)"
    what = f"supervised training for comparison{folds if plan.folds else ''}, {plan.rows} rows to judge"
    progress.note(f"guard: {what}, about {clock(seconds)}; guard.mode=off leaves it out")


def baseline_pace(job: Job, limit: float) -> float:
    """Seconds per step of the run's supervised baseline, timed for ``limit`` seconds on a copy."""
    return seconds_per_step(_copy(job, _supervised(job.config)), limit)


def _copy(job: Job, config: RunConfig) -> Job:
    return build_job(config, job.prepared)

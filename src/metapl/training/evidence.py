"""The labelled rows by which the guard judges, and each side's answers on them.

G2  rows whose labels no side was taught or chosen by, each judged by all sides:
    - each half of the validation rows, by the baselines and by the candidate that the other half chooses;
    - where there are fewer than ``min_validation``: the labelled rows too, fold by fold, by models that were trained on
      the other folds and the validation rows, for ``share`` of the steps. Held-out rows are then unlabelled ones. Of
      the method's candidates that one answers which the validation rows choose in the run;
    - where a class has a single labelled row, labelled and validation rows are dealt out together.
    The method is trained in the folds for images alone. For other rows a training on half of the labels says nothing
    about one on all of them (docs/guard.md), so that its own model answers there. It has learnt from these rows, which
    makes its answers an upper bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from metapl.config.settings import RunConfig
from metapl.data.batches.folds import fold_splits
from metapl.data.modalities import modality_of
from metapl.errors import UserError
from metapl.inference.evaluate import best_of, probabilities
from metapl.methods import fits_once
from metapl.runs.model_folder import Predictor
from metapl.training.in_memory import run_trial
from metapl.training.job import Job, resolved
from metapl.types import Array, Calibrated, Source, Split

LEAST_ROWS = 10  # judged rows below which no verdict is given


@dataclass(frozen=True)
class Fold:
    """One part of the cross-fitting: the rows that all sides train on, and those that they then judge."""

    split: Split
    held: Array


@dataclass(frozen=True)
class GuardPlan:
    """Which rows will be judged.

    Attributes:
        validation: rows to be judged by the models of the run itself.
        folds: the cross-fitting; none where the validation rows are enough.
        none: why the guard is left out; "" with a guard.
        retrained: whether the method is trained in the folds too.
        supervised: whether supervised training is a baseline.
    """

    validation: Array
    folds: tuple[Fold, ...] = ()
    none: str = ""
    retrained: bool = True
    supervised: bool = True

    @property
    def rows(self) -> int:
        return len(self.validation) + sum(len(fold.held) for fold in self.folds)

    @property
    def trainings(self) -> int:
        """Return how often the method is trained beside the run."""
        return len(self.folds) if self.retrained else 0

    def steps(self, config: RunConfig, extra: int = 0) -> tuple[int, int]:
        """Steps of the method (each training with up to ``extra`` ones) and of supervised training, in all."""
        if self.none:
            return 0, 0
        each = fold_steps(config)
        return self.trainings * (each + extra), self.supervised * (config.steps + len(self.folds) * each)


@dataclass(frozen=True)
class Answers:
    """What a model says of some rows: the probability of the true class, and whether it was named; [n] each."""

    p: Array
    right: Array

    def at(self, rows: Array) -> Answers:
        """Return the answers on some of the rows."""
        return Answers(self.p[rows], self.right[rows])

    @property
    def figures(self) -> tuple[float, float]:
        """Return accuracy and log loss."""
        return float(self.right.mean()), log_loss(self.p)


def log_loss(p: Array) -> float:
    """Return the mean of -log of the true class' probabilities [n]."""
    return float(-np.log(np.clip(p, 1e-12, 1)).mean())


def plan_guard(job: Job) -> GuardPlan:
    """Return which rows the guard will judge and how; ``GuardPlan.none`` says why it cannot."""
    rows, g = job.split.validation, job.config.guard
    if g.mode == "off":
        return GuardPlan(rows, none="guard.mode=off")
    if job.config.method == "supervised" or fits_once(job.config.method):
        return GuardPlan(rows, none="the method is a baseline itself")
    if len(rows) >= g.min_validation:
        return GuardPlan(rows, supervised=not fitted_alone(job))
    try:
        plan, why = _cross_fitting(job), ""
    except UserError as error:
        plan, why = GuardPlan(rows), error.what
    if plan.rows < LEAST_ROWS:
        return GuardPlan(rows, none=why or f"only {plan.rows} rows could be judged, fewer than {LEAST_ROWS}")
    return plan


def _cross_fitting(job: Job) -> GuardPlan:
    """Return the folds, and the validation rows where they need not be dealt out too.

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
    kept = none if together else split.validation
    return GuardPlan(kept, tuple(folds), retrained=judged_in_folds(job), supervised=not fitted_alone(job))


def judged_in_folds(job: Job) -> bool:
    """Return whether a training on some of the labels says something about one on all of them: for images it does."""
    return len(job.prepared.preprocessing.input_shape) == 3


def fitted_alone(job: Job) -> bool:
    """Return whether all baselines are fitted, so that no network is trained beside the run's: for tables."""
    return modality_of(job.source.kind).fitted_baselines and not judged_in_folds(job)


def fold_steps(config: RunConfig) -> int:
    """Return the steps of each training of the cross-fitting."""
    return min(config.steps, max(config.guard.least_steps, round(config.guard.share * config.steps)))


def baseline_config(job: Job, name: str) -> RunConfig:
    """Return the run's config as the baseline ``name``, with the default settings of its method (G1).

    The forest is a network that the method ``linear`` fits in place of its own.
    """
    method, model = ("linear", name) if name == "forest" else (name, "auto" if fits_once(name) else job.config.model)
    return resolved(replace(job.config, method=method, settings=None, model=model), job.prepared.preprocessing)


def train_candidate(
    job: Job, config: RunConfig, split: Split, before_step: Callable[[], None] | None, wanted: str = ""
) -> Predictor:
    """Train in memory; return the candidate ``wanted``, or the preferred one if it has no such name."""
    network = None if fits_once(config.method) else job.prepared.network
    trained = run_trial(config, replace(job.prepared, split=split, network=network), before_step, wanted)
    return trained.get(wanted, next(iter(trained.values())))


def gather_evidence(
    job: Job,
    plan: GuardPlan,
    candidates: Mapping[str, Predictor],
    baselines: Mapping[str, Predictor],
    report: Callable[[int], None],
    before_step: Callable[[], None] | None = None,
    own: Predictor | None = None,
) -> dict[str, Answers]:
    """Return the answers of the method and of each baseline about the same rows (G2), by name.

    Args:
        candidates: what the method ended with, preferred first.
        baselines: the baselines of the run itself, by method.
        report: called with the number of each finished fold.
        before_step: called before each step; what it raises ends the guard.
        own: answers for the method in the folds, in place of a training there.
    """
    source, rows, method = job.source, job.split.validation, job.config.method
    judged = {name: answers(source, rows, model) for name, model in candidates.items()}
    parts: dict[str, list[Answers]] = {name: [] for name in (method, *baselines)}
    if len(plan.validation):  # all of the run's, or none: they are dealt into the folds
        parts[method].append(crossed(judged, source.labels[rows]))
        for name, model in baselines.items():
            parts[name].append(answers(source, rows, model))
    for number, fold in enumerate(plan.folds, 1):
        others = np.flatnonzero(~np.isin(rows, fold.held))
        wanted = best_of({name: a.at(others).figures for name, a in judged.items()}) if len(others) else ""
        wanted = wanted or next(iter(candidates))
        for name in (*baselines, method):
            if name == method and own is not None:
                parts[name].append(answers(source, fold.held, own))
                continue
            config = job.config if name == method else baseline_config(job, name)
            shorter = config if fits_once(config.method) else replace(config, steps=fold_steps(config))
            parts[name].append(
                answers(source, fold.held, train_candidate(job, shorter, fold.split, before_step, wanted))
            )
        report(number)
    return {name: _joined(some) for name, some in parts.items()}


def answers(source: Source, rows: Array, model: Predictor) -> Answers:
    """Return the answers of ``model`` on the labelled rows at ``rows`` [n] int64."""
    y, p = source.labels[rows], probabilities(model, source, rows).numpy()
    return Answers(p[np.arange(len(rows)), y], p.argmax(1) == y)


def _joined(parts: list[Answers]) -> Answers:
    return Answers(np.concatenate([a.p for a in parts]), np.concatenate([a.right for a in parts]))


def crossed(candidates: Mapping[str, Answers], y: Array) -> Answers:
    """Return each half of the rows as the candidate answers that is the best on the other half.

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

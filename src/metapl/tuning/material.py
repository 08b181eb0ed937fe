"""The parts that all trainings of a tuning share: the training rows, their folds, and the judging of a fold."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from metapl.config.settings import RunConfig, from_dict
from metapl.data.batches.folds import fold_count, fold_splits
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.batches.seeds import derive_seed
from metapl.data.batches.subset import Subset
from metapl.data.memory.source import MemorySource
from metapl.data.traits import traits
from metapl.hardware.device import pick_device
from metapl.inference.evaluate import judge, probabilities
from metapl.training.finite import Diverged
from metapl.training.in_memory import train_job
from metapl.training.job import Job, build_job, nothing_to_fit_on
from metapl.training.prepared import Prepared
from metapl.types import Array, Calibrated, Kind, Method, Preprocessing, Source, Split

FoldAnswer = dict[str, Any]


@dataclass(frozen=True)
class FoldData:
    """The rows of a tuning, without test rows; only the labelled rows keep their labels.

    Attributes:
        data: [N, ...] raw rows as ``Source.rows`` gives them; or, if they are not held in memory, a source of them.
        labels: [N] int64; -1: no label, or a hidden one.
        folds: splits of these rows; ``validation`` is the part that is held out.
        validation: the run's own validation rows; in the folds they are trained on, or calibrate a method.
    """

    name: str
    kind: Kind
    data: Array | Subset
    labels: Array
    class_names: tuple[str, ...]
    folds: tuple[Split, ...]
    validation: Array
    preprocessing: Preprocessing

    @cached_property
    def source(self) -> Source:
        """Return the rows as a source."""
        if isinstance(self.data, Subset):
            return self.data
        form = {"columns": self.preprocessing.columns, "tokens": self.preprocessing.tokens}
        rows = torch.from_numpy(self.data)
        return MemorySource(self.name, self.kind, rows, self.labels, self.class_names, **form)  # type: ignore[arg-type]


def gather(source: Source, split: Split, folds: int | None, seed: int) -> FoldData:
    """Read the labelled, validation and unlabelled rows of ``split`` and deal the first two into folds.

    Rows that the source does not hold in memory are read when a training needs them.

    Raises:
        UserError: too few labelled rows.
    """
    labeled = np.union1d(split.labeled, split.validation)
    rows = np.union1d(labeled, split.unlabeled)
    labels = np.where(np.isin(rows, labeled), source.labels[rows], -1)
    inside: Source
    if traits(source).lazy:
        inside = Subset(source, rows, labels)
        data: Array | Subset = inside
    else:
        form = {"columns": source.columns, "tokens": source.tokens}
        held = source.rows(rows)
        inside = MemorySource(source.name, source.kind, held, labels, source.class_names, **form)  # type: ignore[arg-type]
        data = held.numpy()
    at = {part: np.searchsorted(rows, getattr(split, part)) for part in ("labeled", "unlabeled", "validation")}
    whole = replace(split, **at, test=np.zeros(0, dtype=np.int64))
    dealt = fold_splits(inside, whole, fold_count(inside, whole) if folds is None else folds, seed)
    preprocessing = fit_preprocessing(inside, np.arange(len(rows)))
    names, own = source.class_names, at["validation"]
    return FoldData(source.name, source.kind, data, labels, names, tuple(dealt), own, preprocessing)


def check_start(material: FoldData, config: RunConfig) -> None:
    """Build the first fold's run and discard it, so that errors come before the first training.

    Raises:
        UserError: a training cannot start with these settings or data.
    """
    if _is_fitted(_job(material, config, 0).method):
        for fold in material.folds:
            _with_rows_to_fit_on(material, fold, config.method)


def judge_fold(material: FoldData, config: RunConfig, fold: int) -> FoldAnswer:
    """Train on all folds but one and judge every candidate network on the rows held out.

    All settings see the same folds and, fold by fold, the same seed: the same first weights, batches and views.

    Returns:
        ``right`` (per network a text of one 0 or 1 per held-out row) and ``log_loss`` (per network), preferred network
            first; or ``error`` if the training diverged.
    """
    source = material.source
    try:
        predictors = train_job(_job(material, config, fold))
    except Diverged as error:
        return {"error": error.what}
    held = material.folds[fold].validation
    truth = torch.from_numpy(source.labels[held])
    right, log_loss = dict[str, str](), dict[str, float]()
    for name, predictor in predictors.items():
        p = probabilities(predictor, source, held)
        right[name] = "".join(str(int(r)) for r in p.argmax(-1) == truth)
        log_loss[name] = judge(p, truth, source.class_names)["log_loss"]
        if not math.isfinite(log_loss[name]):
            return {"error": "the trained network gives no finite probabilities"}
    return {"right": right, "log_loss": log_loss}


def train_fold(material: FoldData, tree: dict[str, Any], fold: int) -> FoldAnswer:
    """Call ``judge_fold`` as a job: with the run's settings as plain values; the answer gets its ``seconds``."""
    began = time.monotonic()
    return {**judge_fold(material, from_dict(tree), fold), "seconds": round(time.monotonic() - began, 3)}


def _job(material: FoldData, config: RunConfig, fold: int) -> Job:
    """Return the run of a fold; a method that is calibrated on validation rows is judged on other rows."""
    config, split = replace(config, seed=derive_seed(config.seed, "fold", fold) % 2**31), material.folds[fold]

    device = pick_device(config.device)

    def build(split: Split) -> Job:
        return build_job(config, Prepared(material.source, split, material.preprocessing, device))

    job = build(split)
    return build(_with_rows_to_fit_on(material, split, config.method)) if _is_fitted(job.method) else job


def _is_fitted(method: Method) -> bool:
    return isinstance(method, Calibrated) and method.needs_validation


def _with_rows_to_fit_on(material: FoldData, fold: Split, method: str) -> Split:
    """Return the fold with other validation rows: those of the run's own validation rows that it trains on.

    A class without other labelled rows keeps them for training.

    Raises:
        UserError: the run has no validation rows, or the fold holds all of them out.
    """
    labels, spare = material.labels, np.intersect1d(fold.labeled, material.validation)
    taught = np.setdiff1d(fold.labeled, spare)
    spare = spare[np.isin(labels[spare], labels[taught])]
    if not len(spare):
        few = "the folds leave none beside those that teach" if len(material.validation) else "there are none"
        raise nothing_to_fit_on(method, few)
    taught, pool = (np.setdiff1d(part, spare) for part in (fold.labeled, fold.unlabeled))
    return replace(fold, labeled=taught, unlabeled=pool, validation=spare)

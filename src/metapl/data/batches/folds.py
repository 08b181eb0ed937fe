"""Folds over the labelled rows: every row is held out once, except the only row of a class. Test rows are not used."""

from __future__ import annotations

import numpy as np
import torch

from metapl.data.batches.seeds import generator
from metapl.data.batches.split import split_sha
from metapl.errors import UserError
from metapl.types import Array, Source, Split

MOST = 5  # folds by default


def fold_count(source: Source, split: Split) -> int:
    """Return the default number of folds for ``split``: the labelled rows of the rarest class, at least 2 and at most
    5."""
    counts = np.bincount(source.labels[_labeled(split)], minlength=len(source.class_names))
    return max(2, min(MOST, int(counts.min())))


def fold_splits(source: Source, split: Split, folds: int, seed: int) -> list[Split]:
    """Return ``folds`` splits of the same rows, each with another part of the labelled rows held out as ``validation``.

    The rows of ``split.labeled`` and ``split.validation`` are dealt out class by class, so that the folds differ by at
    most one row in each class and in all. Held-out rows train without their label, in the unlabelled pool. A class's
    only row is never held out. No fold has test rows.

    Args:
        folds: at least 2.
        seed: of the dealing; the same seed gives the same folds.

    Raises:
        UserError: fewer than two folds, or fewer rows to hold out than folds.
    """
    if folds < 2:
        raise UserError(f"folds is {folds}", "Give at least 2.", "folds")
    rows, part = _labeled(split), _deal(source, _labeled(split), folds, seed)
    spare = int((part >= 0).sum())
    if spare < folds:
        what = "no class has two labelled rows" if not spare else f"{spare} labelled rows can be held out"
        raise UserError(f"{what}, too few for {folds} folds", "Label more rows.", source.name)
    # Labelled rows stand in the pool where the split put them there; held-out rows stand in it always.
    pool = np.union1d(split.unlabeled, rows) if np.isin(split.labeled, split.unlabeled).all() else split.unlabeled
    none = np.zeros(0, dtype=np.int64)
    made = []
    for k in range(folds):
        held, kept = rows[part == k], rows[part != k]
        unlabeled = np.union1d(pool, held)
        sha = split_sha(source, kept, unlabeled, held, none)
        made.append(Split(kept, unlabeled, held, none, seed, sha, (f"fold {k + 1} of {folds}",)))
    return made


def _labeled(split: Split) -> Array:
    return np.union1d(split.labeled, split.validation)


def _deal(source: Source, rows: Array, folds: int, seed: int) -> Array:
    """Return [n] the fold that holds each of ``rows`` out; -1 for the only row of a class."""
    part, dealt = np.full(len(rows), -1, dtype=np.int64), 0
    for k, name in enumerate(source.class_names):
        mine = np.flatnonzero(source.labels[rows] == k)
        if len(mine) < 2:
            continue
        order = torch.randperm(len(mine), generator=generator("cpu", seed, "folds", name)).numpy()
        # Each class goes on with the fold after the last one dealt to: equal folds also where classes are small.
        part[mine[order]] = (dealt + np.arange(len(mine))) % folds
        dealt += len(mine)
    return part

"""Unlabelled rows that look unlike the labelled ones, on features that cost next to nothing.

A row is strange when it lies much farther from the labelled rows than these lie from each other. Apart from that, a
plain classifier is asked to tell labelled from unlabelled rows: it cannot, if both were drawn alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metapl.checks.reading import LABELED, UNLABELED, CheckedRows
from metapl.data.likeness import standardised
from metapl.data.modalities import modality_of
from metapl.types import Array

FEWEST = 15  # labelled and unlabelled rows, below which nothing is said
MOST_LABELED = 2000  # labelled rows that others are compared with
MOST_JUDGED = 4000  # unlabelled rows that the classifier sees
NAMED = 20


@dataclass(frozen=True)
class Strange:
    """How the unlabelled rows differ from the labelled ones.

    Attributes:
        share: of the unlabelled rows that are strange. expected: tthe share up to which this is not worth a word.
        positions: the strangest, at most ``NAMED``, the worst first. scores: how far beyond the limit, 1 = at it.
        auc: how well a classifier tells unlabelled from labelled rows, 0.5 = not at all. error: its standard error.
    """

    share: float
    expected: float
    positions: list[int]
    scores: list[float]
    auc: float
    error: float

    @property
    def some(self) -> bool:
        """Whether more rows are strange than chance allows."""
        return self.share > self.expected

    @property
    def apart(self) -> bool:
        """Whether the two parts as a whole were clearly not drawn alike."""
        return self.auc - 3 * self.error > 0.6


def find_strange(rows: CheckedRows, seed: int = 0) -> Strange | None:
    """None where a part has too few rows to say anything."""
    labeled, pool = np.flatnonzero(rows.part == LABELED), np.flatnonzero(rows.part == UNLABELED)
    if min(len(labeled), len(pool)) < FEWEST:
        return None
    draw = np.random.default_rng(seed)
    labeled = np.sort(draw.permutation(labeled)[:MOST_LABELED])
    groups = _groups(rows, labeled, pool)
    score = np.max([_beyond(own, others) for own, others in groups], axis=0)
    order = np.argsort(-score, kind="stable")[:NAMED]
    order = order[score[order] > 1]
    auc, error = _separability(groups, draw)
    return Strange(
        float((score > 1).mean()),
        0.03 + 1.5 / len(labeled),
        pool[order].tolist(),
        np.round(score[order], 2).tolist(),
        auc,
        error,
    )


def _beyond(own: Array, others: Array) -> Array:
    """Distance of ``others`` to the nearest of ``own``, in units of a limit.

    The limit comes from ``own`` alone: the median distance within it, and so many times the step from there to the
    ninth tenth as few rows make necessary.
    """
    within = _nearest(own, own, leave_one_out=True)
    middle = float(np.median(within))
    step = max(float(np.quantile(within, 0.9)) - middle, 0.1 * middle, 1e-6)
    return _nearest(others, own) / (middle + (4 + 40 / len(own)) * step)


def _nearest(rows: Array, own: Array, leave_one_out: bool = False) -> Array:
    """Distance of each of ``rows`` to the nearest of ``own``, [n]."""
    square, parts = (own**2).sum(axis=1), []
    for start in range(0, len(rows), 2048):
        piece = rows[start : start + 2048]
        far = (piece**2).sum(axis=1)[:, None] + square[None] - 2 * piece @ own.T
        if leave_one_out:
            far[np.arange(len(piece)), start + np.arange(len(piece))] = np.inf
        parts.append(np.sqrt(np.maximum(far.min(axis=1), 0)))
    return np.concatenate(parts)


def _separability(groups: list[tuple[Array, Array]], draw: np.random.Generator) -> tuple[float, float]:
    """Cross-validated area under the curve of a linear classifier, and its standard error were there no difference."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    own = np.concatenate([a for a, _ in groups], axis=1)
    pool = np.concatenate([b for _, b in groups], axis=1)
    pool = pool[draw.permutation(len(pool))[:MOST_JUDGED]]
    x = np.clip(standardised(np.concatenate([own, pool])), -5, 5)
    y = np.repeat([0, 1], [len(own), len(pool)])
    model = LogisticRegression(C=0.01, class_weight="balanced", max_iter=500)
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    judged = cross_val_predict(model, x, y, cv=folds, method="decision_function")
    error = np.sqrt((len(y) + 1) / (12 * len(own) * len(pool)))
    return float(roc_auc_score(y, judged)), float(error)


def _groups(rows: CheckedRows, labeled: Array, pool: Array) -> list[tuple[Array, Array]]:
    """Return groups of features of the labelled and of the unlabelled rows, float32 [n, *], each with its own scale."""
    features = modality_of(rows.source.kind).checks.likeness(rows.kept, rows.source)
    pairs = [(group.values[labeled], group.values[pool]) for group in features]
    return [_scaled(*pair) if group.scaled else pair for pair, group in zip(pairs, features)]


def _scaled(own: Array, others: Array) -> tuple[Array, Array]:
    """In units of the labelled rows' spread, which a few odd ones among them do not decide."""
    middle = np.median(own, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(own - middle), axis=0), 0.25 * own.std(axis=0))
    spread = np.maximum(spread, 0.02)
    return (own - middle) / spread, (others - middle) / spread

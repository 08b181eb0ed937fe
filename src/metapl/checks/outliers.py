"""Find unlabelled rows that differ from the labelled rows, on features that cost little.

A row is strange if it lies much farther from the labelled rows than these lie from each other. In addition, a linear
classifier tries to separate labelled from unlabelled rows: it fails if both come from one distribution.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from metapl.checks.reading import LABELED, UNLABELED, CheckedRows
from metapl.data.likeness import standardised
from metapl.data.modalities import modality_of
from metapl.types import Array

FEWEST = 15  # labelled rows, and unlabelled rows, that an answer needs
MOST_LABELED = 2000  # labelled rows to compare with
MOST_JUDGED = 4000  # unlabelled rows for the classifier
NAMED = 20


@dataclass(frozen=True)
class Strange:
    """How the unlabelled rows differ from the labelled rows.

    Attributes:
        share: the share of strange rows among the unlabelled rows.
        expected: the share that chance explains.
        positions: the strangest rows, at most ``NAMED``, the worst first.
        scores: their distances in units of the limit.
        auc: area under the curve of a classifier between unlabelled and labelled rows; 0.5: it cannot separate them.
        error: the standard error of ``auc``.
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
        """Whether the two parts clearly come from different distributions."""
        return self.auc - 3 * self.error > 0.6


def find_strange(rows: CheckedRows, seed: int = 0) -> Strange | None:
    """Return how the unlabelled rows differ; None if a part has too few rows."""
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
    """Return the distance of ``others`` to the nearest of ``own``, in units of a limit.

    The limit comes from ``own`` alone: the median distance within it, plus a multiple of the step from the median to
    the 90 % quantile. The multiple is larger for few rows.
    """
    within = _nearest(own, own, leave_one_out=True)
    middle = float(np.median(within))
    step = max(float(np.quantile(within, 0.9)) - middle, 0.1 * middle, 1e-6)
    return _nearest(others, own) / (middle + (4 + 40 / len(own)) * step)


def _nearest(rows: Array, own: Array, leave_one_out: bool = False) -> Array:
    """Return [n] the distance of each of ``rows`` to the nearest of ``own``."""
    square, parts = (own**2).sum(axis=1), []
    for start in range(0, len(rows), 2048):
        piece = rows[start : start + 2048]
        far = (piece**2).sum(axis=1)[:, None] + square[None] - 2 * piece @ own.T
        if leave_one_out:
            far[np.arange(len(piece)), start + np.arange(len(piece))] = np.inf
        parts.append(np.sqrt(np.maximum(far.min(axis=1), 0)))
    return np.concatenate(parts)


def _separability(groups: list[tuple[Array, Array]], draw: np.random.Generator) -> tuple[float, float]:
    """Return the cross-validated AUC of a linear classifier, and its standard error if the parts do not differ."""
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
    """Scale both by a robust spread of the labelled rows."""
    middle = np.median(own, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(own - middle), axis=0), 0.25 * own.std(axis=0))
    spread = np.maximum(spread, 0.02)
    return (own - middle) / spread, (others - middle) / spread

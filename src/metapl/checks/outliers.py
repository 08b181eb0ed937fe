"""Unlabelled rows that look unlike the labelled ones, on features that cost next to nothing.

A row is strange when it lies much farther from the labelled rows than these lie from each other. Apart from that, a
plain classifier is asked to tell labelled from unlabelled rows: it cannot, if both were drawn alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metapl.checks.near import number_columns, standardised, words_of
from metapl.checks.reading import LABELED, UNLABELED, Rows

Array = np.ndarray[Any, Any]
FEWEST = 15  # labelled and unlabelled rows, below which nothing is said
MOST_LABELED = 2000  # labelled rows that others are compared with
MOST_JUDGED = 4000  # unlabelled rows that the classifier sees
NAMED = 20
FIELDS = 8  # an image as FIELDS x FIELDS means
TOPICS, WORD_BITS = 32, 14


@dataclass(frozen=True)
class Strange:
    """How the unlabelled rows differ from the labelled ones.

    Attributes:
        share: of the unlabelled rows that are strange. expected: the share up to which this is no news.
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


def find_strange(rows: Rows, seed: int = 0) -> Strange | None:
    """None where a part has too few rows to say anything."""
    labeled, pool = np.flatnonzero(rows.part == LABELED), np.flatnonzero(rows.part == UNLABELED)
    if min(len(labeled), len(pool)) < FEWEST:
        return None
    draw = np.random.default_rng(seed)
    labeled = np.sort(draw.permutation(labeled)[:MOST_LABELED])
    groups = _features(rows, labeled, pool)
    score = np.max([_beyond(own, others) for own, others in groups], axis=0)
    order = np.argsort(-score, kind="stable")[:NAMED]
    order = order[score[order] > 1]
    auc, error = _told_apart(groups, draw)
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


def _told_apart(groups: list[tuple[Array, Array]], draw: np.random.Generator) -> tuple[float, float]:
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


def _features(rows: Rows, labeled: Array, pool: Array) -> list[tuple[Array, Array]]:
    """Groups of features of the labelled and of the unlabelled rows, float32 [n, *]; each group has its own scale."""
    if rows.source.kind == "image":
        return [_split(_fields(rows), labeled, pool), _scaled(*_split(_looks(rows), labeled, pool))]
    assert rows.table is not None
    if rows.source.kind == "table":
        columns = _columns(rows)
        return [_split(columns, labeled, pool)]
    return [_split(_topics(rows), labeled, pool), _scaled(*_split(_style(rows), labeled, pool))]


def _split(features: Array, labeled: Array, pool: Array) -> tuple[Array, Array]:
    return features[labeled], features[pool]


def _scaled(own: Array, others: Array) -> tuple[Array, Array]:
    """In units of the labelled rows' spread, which a few odd ones among them do not decide."""
    middle = np.median(own, axis=0)
    spread = np.maximum(1.4826 * np.median(np.abs(own - middle), axis=0), 0.25 * own.std(axis=0))
    spread = np.maximum(spread, 0.02)
    return (own - middle) / spread, (others - middle) / spread


def _chunks(thumbs: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(thumbs[k : k + 8192]).float() / 255 for k in range(0, len(thumbs), 8192)]


def _fields(rows: Rows) -> Array:
    """Images in FIELDS x FIELDS grey means, on the 0..1 scale."""
    assert rows.thumbs is not None
    side = (min(FIELDS, rows.thumbs.shape[1]), min(FIELDS, rows.thumbs.shape[2]))
    pool = torch.nn.functional.adaptive_avg_pool2d
    made: Array = torch.cat([pool(x.unsqueeze(1), side).flatten(1) for x in _chunks(rows.thumbs)]).numpy()
    return made


def _looks(rows: Rows) -> Array:
    """Brightness, contrast, shares of black and white, how sharp both ways, and hue."""
    assert rows.thumbs is not None
    parts = []
    for x in _chunks(rows.thumbs):
        across = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2))
        down = (x[:, 1:] - x[:, :-1]).abs().mean(dim=(1, 2))
        flat = x.flatten(1)
        ends = [(flat < 0.05).float().mean(1), (flat > 0.95).float().mean(1)]
        parts.append(torch.stack([flat.mean(1), flat.std(1), *ends, across, down], dim=1))
    made: Array = torch.cat(parts).numpy()
    if rows.hues is None:
        return made
    red, blue = rows.hues.reshape(len(made), 2, -1).mean(axis=2).T / 255
    return np.column_stack([made, red, blue]).astype(np.float32)


def _columns(rows: Rows) -> Array:
    """A table's numbers without the pull of far values, what is missing, and its categories spread over levels."""
    assert rows.table is not None
    table = rows.table
    numbers = number_columns(rows.source, table.shape[1])
    parts = [np.arcsinh(standardised(table[:, numbers])), np.isnan(table[:, numbers]).astype(np.float32)]
    for k in np.flatnonzero(~numbers):
        levels = len(rows.source.columns[k].levels)
        if levels <= 50:  # a column of names says nothing about a row's likeness
            parts.append((table[:, k, None] == np.arange(levels)).astype(np.float32) / np.sqrt(2))
    return np.concatenate(parts, axis=1).astype(np.float32)


def _counts(rows: Rows) -> Any:
    """Hashed words of each text, sparse [n, 2**WORD_BITS]."""
    from scipy.sparse import csr_matrix

    assert rows.table is not None
    words = words_of(rows.source, rows.table)
    at = np.repeat(np.arange(len(words)), words.sum(axis=1))
    hashed = rows.table[words].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - WORD_BITS)
    return csr_matrix((np.ones(len(at), dtype=np.float32), (at, hashed.astype(np.int64))), (len(words), 1 << WORD_BITS))


def _topics(rows: Rows) -> Array:
    """Texts by what they are about: the leading directions of their weighted words."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(_counts(rows))
    made: Array = TruncatedSVD(TOPICS, random_state=0).fit_transform(weighted).astype(np.float32)
    return made


def _style(rows: Rows) -> Array:
    """Log length of each text, and how common its words are."""
    counts = _counts(rows)
    common = np.log1p(np.asarray((counts > 0).sum(axis=0)).ravel())
    length = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return np.column_stack([np.log(length), (counts @ common) / length]).astype(np.float32)

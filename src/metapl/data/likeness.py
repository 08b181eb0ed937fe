"""Find nearly equal rows without comparing all pairs, and measure distances of rows.

Every row becomes a vector, and every vector a code of ``BITS`` bits that nearby vectors mostly share. Only rows that
agree in one of ``BANDS`` pieces of the code are compared. The vectors are first centred and partially whitened, so that
the codes of the data at hand are spread evenly. (A fixed perceptual hash gives all pictures of one kind of thing on a
white ground the same code.)
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from metapl.types import Array

BAND_BITS, BANDS = 16, 8
BITS = BAND_BITS * BANDS
FAR = 28  # pairs with more differing bits, of BITS, are passed over: cosine about 0.8
WINDOW = 24  # neighbours looked at in one bucket, in the order of the codes' other bits
MOST = 24  # pairs kept of each row, those with the closest codes: among dense rows, nearly all are candidates
PROBES = 256  # rows whose neighbours define the usual distance
NEIGHBOUR = 10
PARTS = 48  # principal directions that the codes are made from
_ONES = np.array([bin(k).count("1") for k in range(1 << BAND_BITS)], dtype=np.uint8)


def codes_of(vectors: Array, seed: int = 0, sample: int = 20_000) -> Array:
    """Return codes uint16 [N, BANDS] of float32 vectors [N, D]: signs of random projections around their mean.

    The mean and the principal directions come from at most ``sample`` rows, drawn by ``seed``.
    """
    draw = np.random.default_rng(seed)
    count, width = vectors.shape
    some = vectors if count <= sample else vectors[np.sort(draw.choice(count, sample, replace=False))]
    center = some.mean(axis=0)
    values, directions = np.linalg.eigh(np.cov(some - center, rowvar=False).reshape(width, width))
    values, directions = values[::-1][:PARTS], directions[:, ::-1][:, :PARTS]
    scale = np.maximum(values, 1e-9 * max(float(values[0]), 1e-30)) ** -0.25
    plane = (directions * scale) @ draw.standard_normal((len(values), BITS))
    weights = (1 << np.arange(BAND_BITS)).astype(np.uint16)
    made = np.empty((count, BANDS), dtype=np.uint16)
    for start in range(0, count, 16_384):
        bits = ((vectors[start : start + 16_384] - center) @ plane.astype(np.float32)) > 0
        made[start : start + 16_384] = bits.reshape(-1, BANDS, BAND_BITS) @ weights
    return made


def neighbours(codes: Array, far: int | None = FAR, window: int = WINDOW) -> Iterator[tuple[Array, Array, Array]]:
    """Yield pairs of row numbers (i, j) that share a band of ``codes`` [N, bands], and their numbers of differing bits.

    They come band by band; a pair may come again.
    In a bucket of many rows, each is paired with the ``window`` that follow it in the order of the other bands, so the
    work is at most N * bands * window. ``far``: most bits in which the codes may differ; None: any.
    """
    bands = codes.shape[1]
    for band in range(bands):
        turned = np.roll(codes, -band, axis=1)
        order = np.lexsort(turned[:, : min(bands, 4)][:, ::-1].T)
        keys = turned[order, 0]
        for step in range(1, window + 1):
            at = np.flatnonzero(keys[step:] == keys[:-step])
            if not len(at):
                break
            first, second = order[at], order[at + step]
            apart = distance(codes[first], codes[second])
            if far is not None:
                close = apart <= far
                first, second, apart = first[close], second[close], apart[close]
            yield np.minimum(first, second), np.maximum(first, second), apart


def distance(one: Array, other: Array) -> Array:
    """Return the number of differing bits of codes uint16 [n, bands]: int64 [n]."""
    made: Array = _ONES[one ^ other].sum(axis=1, dtype=np.int64)
    return made


def pairs_of(codes: Array, far: int | None = FAR, window: int = WINDOW, most: int = MOST) -> Array:
    """Return the different pairs of ``neighbours``, int64 [n, 2], smaller number first, sorted.

    Of each smaller number the ``most`` pairs with the fewest differing bits, so that memory stays below some
    16 * (most + window) bytes per row however densely the rows lie.
    """
    count = len(codes)
    known, waiting, held = np.zeros(0, dtype=np.int64), list[Array](), 0
    for first, second, apart in neighbours(codes, far, window):
        waiting.append((first << 36) | (apart << 28) | second)  # one number, which sorts by row, then by distance
        held += len(first)
        if held > window * count:
            known, waiting, held = _closest([known, *waiting], most), [], 0
    known = _closest([known, *waiting], most)
    pairs: Array = np.stack([known >> 36, known & ((1 << 28) - 1)], axis=1)
    return pairs[np.lexsort(pairs.T[::-1])]


def _closest(parts: list[Array], most: int) -> Array:
    """Return each pair once, and of each row the first ``most``."""
    known = np.concatenate(parts)
    parts.clear()
    known.sort()
    known = known[np.append(True, known[1:] != known[:-1])[: len(known)]]
    row = known >> 36
    begins = np.flatnonzero(np.append(True, row[1:] != row[:-1])[: len(row)])
    rank = np.arange(len(row)) - np.repeat(begins, np.diff(np.append(begins, len(row))))
    kept: Array = known[rank < most]
    return kept


def usual_distance(vectors: Array, probes: int = PROBES) -> float:
    """Return the median distance of a row to its ``NEIGHBOUR``-th nearest neighbour, over rows spaced evenly.

    The nearest neighbour would be a copy in data in which every row has one.
    """
    rank = min(NEIGHBOUR, -(-len(vectors) // 8))
    some = np.unique(np.linspace(0, len(vectors) - 1, min(probes, len(vectors))).astype(np.int64))
    square = (vectors**2).sum(axis=1)
    best = np.full((len(some), rank), np.inf)
    for start in range(0, len(vectors), 8192):
        piece = slice(start, start + 8192)
        far = square[some, None] + square[None, piece] - 2 * vectors[some] @ vectors[piece].T
        own = np.flatnonzero((some >= start) & (some < start + 8192))
        far[own, some[own] - start] = np.inf
        best = np.partition(np.concatenate([best, far], axis=1), rank - 1, axis=1)[:, :rank]
    return float(np.sqrt(np.median(np.maximum(best[:, rank - 1], 0))))


def apart_of(vectors: Array, pairs: Array) -> Array:
    """Return the distances of the pairs, float [m]."""
    parts = [np.zeros(0)]
    for start in range(0, len(pairs), 65_536):
        one, other = pairs[start : start + 65_536].T
        parts.append(np.sqrt(((vectors[one] - vectors[other]) ** 2).sum(axis=1)))
    return np.concatenate(parts)


def standardised(table: Array) -> Array:
    """Return columns with mean 0 and spread 1, missing values 0; a constant column becomes 0."""
    with np.errstate(all="ignore"):
        there = np.isfinite(table)
        count = np.maximum(there.sum(axis=0), 1)
        filled = np.where(there, table, 0).astype(np.float64)
        mean = filled.sum(axis=0) / count
        centred = np.where(there, filled - mean, 0)
        spread = np.sqrt((centred**2).sum(axis=0) / count)
    varies = spread > 1e-6 * np.maximum(np.abs(mean), 1e-30)
    made: Array = np.where(varies, centred / np.where(varies, spread, 1), 0).astype(np.float32)
    return made

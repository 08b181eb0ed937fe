"""Which rows are nearly the same, kind by kind.

"Nearly" is measured against the data themselves: two images, or two table rows, are a near copy when they are several
times closer than a row's nearest neighbour usually is. A fixed limit would call every pair of trousers in a shop's
catalogue a copy.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch

from metapl.checks.hashes import codes_of, pairs_of
from metapl.checks.reading import Rows
from metapl.types import Source

Array = np.ndarray[Any, Any]
FAR_IMAGES = 20  # differing bits of 128
CLOSER = 0.25  # of the usual distance to a nearest neighbour: images
LEAST = 0.97  # correlation below which two images are never near copies
COARSE, FINE = 8, 16  # fields across an image: to find candidates, and to measure distances
SHIFT_FROM = 24  # images of at least this side may also be moved against each other by a pixel
HUE = 14.0  # most that the colours of two near copies differ by, mean over fields, 0..255 scale
COLUMN = 0.05  # of a column's spread: the most that two near copies of a table row differ by in any column
HAIR = 0.02  # of the usual distance: the same, where rows lie densely
FEWEST_COLUMNS = 4  # columns of numbers; with fewer, rows come close by chance
JACCARD = 0.8  # shared share of words and word pairs: texts
FEWEST_WORDS = 4
PROBES = 256  # rows whose neighbours tell the usual distance
NEIGHBOUR = 10
PER_ROW = 8  # candidate pairs looked at closely, per row
_PRIME = np.uint64((1 << 31) - 1)

Found = tuple[Array, Array]  # pairs int64 [m, 2] of positions, and how much alike they are, float [m]


def near_pairs(rows: Rows) -> Found:
    """Pairs of rows that are nearly, not exactly, the same; the first of several equal rows stands for all."""
    finder = {"image": _images, "table": _tables, "text": _texts}[rows.source.kind]
    first = rows.first
    if len(first) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    pairs, alike = finder(rows, first)
    return first[pairs], alike


def _images(rows: Rows, first: Array) -> Found:
    assert rows.thumbs is not None
    parts = (rows.thumbs[first[k : k + 8192]] for k in range(0, len(first), 8192))
    spread = [part.reshape(len(part), -1).std(axis=1, dtype=np.float32) for part in parts]
    kept = np.flatnonzero(np.concatenate(spread) >= 2)  # an image of one colour is like every other
    if len(kept) < 2:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    thumbs = rows.thumbs[first[kept]]
    vectors = _unit(thumbs, FINE)
    usual = usual_distance(vectors)
    pairs = pairs_of(codes_of(_unit(thumbs, COARSE)), FAR_IMAGES)
    apart = _apart(vectors, pairs)
    near = apart <= max(0.7 * usual, 0.1)
    pairs = pairs[near][np.argsort(apart[near], kind="stable")[: PER_ROW * len(kept)]]
    alike = _aligned(thumbs, pairs, 1 if min(thumbs.shape[1:]) >= SHIFT_FROM else 0)
    good = alike >= max(LEAST, 1 - (CLOSER * usual) ** 2 / 2)
    if rows.hues is not None:
        hues = rows.hues[first[kept]]
        good &= np.abs(hues[pairs[:, 0]] - hues[pairs[:, 1]]).mean(axis=1) <= HUE
    return kept[pairs[good]], alike[good]


def usual_distance(vectors: Array, probes: int = PROBES) -> float:
    """The median distance of a row to its ``NEIGHBOUR``-th nearest neighbour, over rows that stand evenly in the data.

    Not to the nearest: where every row has a copy, that would be the distance of copies.
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


def _unit(thumbs: Array, fields: int) -> Array:
    """float32 [n, <= fields**2]: each thumbnail in fields x fields means, without its brightness and contrast."""
    side = (min(fields, thumbs.shape[1]), min(fields, thumbs.shape[2]))
    parts = []
    for start in range(0, len(thumbs), 8192):
        x = torch.from_numpy(thumbs[start : start + 8192]).float().unsqueeze(1)
        x = torch.nn.functional.adaptive_avg_pool2d(x, side).flatten(1)
        x = x - x.mean(dim=1, keepdim=True)
        parts.append(x / x.norm(dim=1, keepdim=True).clamp_min(1e-3))
    made: Array = torch.cat(parts).numpy()
    return made


def _apart(vectors: Array, pairs: Array) -> Array:
    """Distances of the pairs, float [m]."""
    parts = [np.zeros(0)]
    for start in range(0, len(pairs), 65_536):
        one, other = pairs[start : start + 65_536].T
        parts.append(np.sqrt(((vectors[one] - vectors[other]) ** 2).sum(axis=1)))
    return np.concatenate(parts)


def _aligned(thumbs: Array, pairs: Array, shift: int) -> Array:
    """The best correlation of each pair when one image may be moved by up to ``shift`` pixels, float [m]."""
    parts = [np.zeros(0)]
    height, width = thumbs.shape[1:]
    pool = 2 if shift else 1  # what recompression and scaling change is the finest detail
    for start in range(0, len(pairs), 2048):
        one, other = (torch.from_numpy(thumbs[side]).float() for side in pairs[start : start + 2048].T)
        fixed = _standard(one[:, shift : height - shift, shift : width - shift], pool)
        best = torch.full((len(one),), -1.0)
        for down in range(2 * shift + 1):
            for right in range(2 * shift + 1):
                moved = other[:, down : height - 2 * shift + down, right : width - 2 * shift + right]
                best = torch.maximum(best, (fixed * _standard(moved, pool)).sum(dim=1))
        parts.append(best.numpy().astype(np.float64))
    return np.concatenate(parts)


def _standard(images: torch.Tensor, pool: int) -> torch.Tensor:
    flat = torch.nn.functional.avg_pool2d(images.unsqueeze(1), pool).flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    made: torch.Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-3)
    return made


def number_columns(source: Source, width: int) -> Array:
    """[columns] bool: True where a table's column holds numbers, not categories."""
    return np.array([not column.levels for column in source.columns] or [True] * width)


def standardised(table: Array) -> Array:
    """Columns with mean 0 and spread 1, missing values 0; a constant column is 0 throughout."""
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


def _tables(rows: Rows, first: Array) -> Found:
    """Rows that differ by a hair in every column, as after an export with fewer digits."""
    assert rows.table is not None
    table = rows.table[first]
    numbers = number_columns(rows.source, table.shape[1])
    scaled = standardised(table[:, numbers])
    if (scaled != 0).any(axis=0).sum() < FEWEST_COLUMNS:
        return np.zeros((0, 2), dtype=np.int64), np.zeros(0)
    pairs = pairs_of(codes_of(np.clip(scaled, -5, 5)), FAR_IMAGES)
    usual = usual_distance(scaled)
    apart = _apart(scaled, pairs)
    most = min(COLUMN, HAIR * usual)
    pairs, apart = pairs[apart <= most * np.sqrt(numbers.sum())], apart[apart <= most * np.sqrt(numbers.sum())]
    one, other = table[pairs[:, 0]], table[pairs[:, 1]]
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    hair = np.isnan(one) == np.isnan(other)
    hair[:, numbers] &= np.abs(scaled[pairs[:, 0]] - scaled[pairs[:, 1]]) <= most
    good = np.where(numbers, hair, same).all(axis=1)
    return pairs[good], np.maximum(0.0, 1 - apart[good] / max(usual, 1e-30))


def words_of(source: Source, ids: Array) -> Array:
    """[n, length] bool: the places of ``ids`` that hold words, neither padding nor marks of beginning and end."""
    assert source.tokens is not None
    return ~np.isin(ids, [source.tokens.pad, *source.tokens.special])


def _texts(rows: Rows, first: Array) -> Found:
    """Texts that share most of their words and word pairs."""
    assert rows.table is not None
    ids = rows.table[first]
    words = words_of(rows.source, ids)
    long = np.flatnonzero(words.sum(axis=1) >= FEWEST_WORDS)
    ids, words = ids[long].astype(np.uint64), words[long]
    pairs = pairs_of(_minhash(ids, words), None)
    alike = np.array([_jaccard(_shingles(ids, words, i), _shingles(ids, words, j)) for i, j in pairs.tolist()])
    good = alike >= JACCARD if len(pairs) else np.zeros(0, dtype=bool)
    return long[pairs[good]], alike[good] if len(pairs) else np.zeros(0)


def _minhash(ids: Array, words: Array, bands: int = 10, rows: int = 3) -> Array:
    """Codes uint16 [n, bands]: each band is made of ``rows`` smallest hashes of the row's words and word pairs."""
    made = np.zeros((len(ids), bands), dtype=np.uint16)
    for start in range(0, len(ids), 8192):
        piece, there = ids[start : start + 8192], words[start : start + 8192]
        both = np.concatenate([piece, _mix(piece[:, :-1] * np.uint64(31) + piece[:, 1:])], axis=1)
        mask = np.concatenate([there, there[:, :-1] & there[:, 1:]], axis=1)
        both = _mix(both)
        for band in range(bands):
            key = np.zeros(len(piece), dtype=np.uint64)
            for factor, offset in _factors(band, rows):
                hashed = (both * factor + offset) % _PRIME
                key = _mix(key * np.uint64(1_000_003) + np.where(mask, hashed, _PRIME).min(axis=1))
            made[start : start + 8192, band] = (key % np.uint64(1 << 16)).astype(np.uint16)
    return made


def _factors(band: int, rows: int) -> list[tuple[np.uint64, np.uint64]]:
    """Factors and offsets of the hashes of one band, always the same."""
    own = np.random.default_rng((17, band))
    return [(np.uint64(a), np.uint64(b)) for a, b in own.integers(1, int(_PRIME), (rows, 2))]


def _mix(values: Array) -> Array:
    """A number below 2**31 for each number, well spread."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(33)) % _PRIME


def _shingles(ids: Array, words: Array, row: int) -> frozenset[object]:
    kept = ids[row][words[row]].tolist()
    return frozenset([*kept, *pairwise(kept)])


def _jaccard(one: frozenset[object], other: frozenset[object]) -> float:
    return len(one & other) / max(1, len(one | other))

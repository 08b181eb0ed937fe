"""The checks of texts: near copies, texts unlike the others, empty and cut texts."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from metapl.data.likeness import pairs_of
from metapl.data.row_checks import LOOK, Contents, Finding, Kept, Likeness, Pairs, RowChecks, share
from metapl.types import Array, Source

JACCARD = 0.8  # shared share of words and word pairs
FEWEST_WORDS = 4
TOPICS, WORD_BITS = 32, 14
CUT = 0.05  # share of texts of full length that is worth a note
_PRIME = np.uint64((1 << 31) - 1)


class TextChecks(RowChecks):
    """Keeps the raw rows: ``ids`` int32 [n, length]."""

    def keep(self, rows: Tensor) -> Kept:
        return {"ids": rows.numpy().copy()}

    def near_pairs(self, kept: Kept, first: Array, source: Source) -> Pairs:
        return _near_texts(kept["ids"], first, source)

    def likeness(self, kept: Kept, source: Source) -> list[Likeness]:
        counts = _counts(kept["ids"], source)
        return [Likeness(_topics(counts)), Likeness(_style(counts), scaled=True)]

    def contents(self, kept: Kept, source: Source, parts: Sequence[Array]) -> Contents:
        words, findings = words_of(source, kept["ids"]), list[Finding]()
        empty = np.flatnonzero(~words.any(axis=1)).tolist()
        if empty:
            text = f"{share(len(empty), len(words))} texts hold no word"
            findings.append(Finding(LOOK, "empty_texts", text, "Leave them out.", len(empty)))
        cut = float(words[:, -1].mean())
        if cut > CUT:
            text = f"{100 * cut:.0f} % of the texts fill all {words.shape[1]} places, so they are cut or nearly so"
            remedy = "Raise source.max_tokens if what follows matters."
            findings.append(Finding(LOOK, "cut_texts", text, remedy))
        return Contents(findings, [("empty text", empty)])


def words_of(source: Source, ids: Array) -> Array:
    """Return [n, length] bool: whether an id is a word, not padding or a mark of beginning and end."""
    assert source.tokens is not None
    return ~np.isin(ids, [source.tokens.pad, *source.tokens.special])


def _near_texts(every: Array, first: Array, source: Source) -> Pairs:
    """Return pairs of texts that share most of their words and word pairs."""
    ids = every[first]
    words = words_of(source, ids)
    long = np.flatnonzero(words.sum(axis=1) >= FEWEST_WORDS)
    ids, words = ids[long].astype(np.uint64), words[long]
    pairs = pairs_of(_minhash(ids, words), None)
    alike = np.array([_jaccard(_shingles(ids, words, i), _shingles(ids, words, j)) for i, j in pairs.tolist()])
    good = alike >= JACCARD if len(pairs) else np.zeros(0, dtype=bool)
    return long[pairs[good]], alike[good] if len(pairs) else np.zeros(0)


def _minhash(ids: Array, words: Array, bands: int = 10, rows: int = 3) -> Array:
    """Return codes uint16 [n, bands]: each band combines ``rows`` smallest hashes of the row's words and word pairs."""
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
    """Return factors and offsets of the hashes of one band, always the same."""
    own = np.random.default_rng((17, band))
    return [(np.uint64(a), np.uint64(b)) for a, b in own.integers(1, int(_PRIME), (rows, 2))]


def _mix(values: Array) -> Array:
    """Return a number below 2**31 for each number, well spread."""
    mixed = values * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(33)) % _PRIME


def _shingles(ids: Array, words: Array, row: int) -> frozenset[object]:
    kept = ids[row][words[row]].tolist()
    return frozenset([*kept, *pairwise(kept)])


def _jaccard(one: frozenset[object], other: frozenset[object]) -> float:
    return len(one & other) / max(1, len(one | other))


def _counts(ids: Array, source: Source) -> Any:
    """Return the counts of hashed words of each text, sparse [n, 2**WORD_BITS]."""
    from scipy.sparse import csr_matrix

    words = words_of(source, ids)
    at = np.repeat(np.arange(len(words)), words.sum(axis=1))
    hashed = ids[words].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> np.uint64(64 - WORD_BITS)
    return csr_matrix((np.ones(len(at), dtype=np.float32), (at, hashed.astype(np.int64))), (len(words), 1 << WORD_BITS))


def _topics(counts: Any) -> Array:
    """Return the topics of texts: the leading directions of their weighted words."""
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    weighted = TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    made: Array = TruncatedSVD(TOPICS, random_state=0).fit_transform(weighted).astype(np.float32)
    return made


def _style(counts: Any) -> Array:
    """Return the log length of each text, and the frequency of its words."""
    common = np.log1p(np.asarray((counts > 0).sum(axis=0)).ravel())
    length = np.maximum(np.asarray(counts.sum(axis=1)).ravel(), 1)
    return np.column_stack([np.log(length), (counts @ common) / length]).astype(np.float32)

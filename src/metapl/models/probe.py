"""A few rows that are the same on every machine: their features show whether a frozen encoder is still the same.

Features are compared within a tolerance, not by a hash: their last digits depend on the number of threads and on the
processor.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from metapl.types import Preprocessing

SKETCH = 16  # numbers to keep of each row's features
SPREAD, ROUNDING = (
    0.02,
    1e-4,
)  # allowed difference of features: a share of their spread over the rows, and of their size
ROWS = 4
WORD_IDS = 2**31  # upper bound of the ids of hashed words


def probe_rows(takes: Preprocessing) -> Tensor:
    """Return four raw rows of that kind and shape: images of noise (normal, dark, bright) and a ramp, or texts."""
    if takes.tokens is not None:
        return _ids(takes)
    channels, height, width = takes.shape
    noise = _noise(3 * channels * height * width).reshape(3, channels, height, width)
    rows, columns = np.arange(height)[:, None], np.arange(width)
    ramp = np.broadcast_to((rows + columns) * 255 // max(1, height + width - 2), (1, channels, height, width))
    return torch.from_numpy(np.concatenate([noise[:1], noise[1:2] // 4, 255 - noise[2:] // 4, ramp]).astype(np.uint8))


def sketch(features: Tensor) -> Tensor:
    """Return [n, at most SKETCH] of features [n, D]: sums with random signs, which keep distances in proportion."""
    features = features.detach().cpu().double().nan_to_num()
    if features.shape[1] <= SKETCH:
        return features.float()
    signs = _noise(features.shape[1] * SKETCH).reshape(features.shape[1], SKETCH) % 2 * 2.0 - 1.0
    sums: Tensor = features @ torch.from_numpy(signs) / SKETCH**0.5
    return sums.float()


def alike(one: Tensor, other: Tensor) -> bool:
    """Return whether two sketches [rows, values] are of the same encoder, up to rounding."""
    if one.shape != other.shape:
        return False
    one, other = one.double(), other.double()
    difference = (one - other).norm(dim=1)
    allowed = SPREAD * (other - other.mean(0)).norm(dim=1) + ROUNDING * other.norm(dim=1)
    return bool((difference <= allowed).all())


def _ids(takes: Preprocessing) -> Tensor:
    """Return texts of full, half, quarter and no length, of ids that every tokenizer of this kind has."""
    tokens = takes.tokens
    assert tokens is not None
    length = takes.shape[0]
    if tokens.tokenizer.startswith("hf:"):
        known = np.arange(max(tokens.pad, tokens.mask, *tokens.special, 0) + 1)
    else:
        known = _noise(4 * 997).view("<u4").astype(np.int64) % (WORD_IDS - 2) + 2
    known = known[known != tokens.pad]
    rows = np.full((ROWS, length), tokens.pad, dtype=np.int32)
    drawn = _noise(4 * ROWS * length).view("<u4").reshape(ROWS, length)
    for row, used in enumerate((length, length // 2, length // 4, 0)):
        rows[row, :used] = known[drawn[row, :used] % len(known)] if len(known) else tokens.pad
    rows[:, 0] = tokens.mask
    return torch.from_numpy(rows)


def _noise(count: int) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return ``count`` bytes, the same on every machine and with every version of every library."""
    return np.frombuffer(hashlib.shake_256(b"metapl probe").digest(count), dtype=np.uint8)

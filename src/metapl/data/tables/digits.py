"""Long numbers, such as times in milliseconds: float32 holds seven digits, so their median is subtracted first."""

from __future__ import annotations

import numpy as np

from metapl.types import Array

EXACT = 2.0**24  # up to here float32 holds every whole number
FINE = 1e-4  # step of float32 at a column's values, as a share of their spread, that does no harm


def too_coarse(values: Array) -> bool:
    """Return whether float32 would blur float64 values [n]: they are long, or lie close together far from 0."""
    there = values[np.isfinite(values)]
    if not len(there):
        return False
    largest = float(np.abs(there).max())
    if largest < EXACT and largest < 1e3 * float(there.max() - there.min()):
        return False  # most columns
    with np.errstate(over="ignore"):
        step = float(np.spacing(np.float32(largest)))
    return largest >= EXACT or bool(step > FINE * float(there.std()) > 0)


def offset_of(values: Array) -> float:
    """Return the offset to subtract from values [n] before they become float32; 0.0 if float32 loses nothing.

    An offset other than 0 leaves more different float32 values than there were without it.
    """
    there = values[np.isfinite(values)].astype(np.float64)
    if values.dtype == np.float32 or not too_coarse(there):
        return 0.0
    with np.errstate(over="ignore"):
        step = float(np.spacing(np.float32(np.abs(there).max())))
    if not step > FINE * float(there.std()):
        return 0.0
    centre = float(np.median(there))
    before, after = _different(there), _different(there - centre)
    return centre if after > before else 0.0


def _different(values: Array) -> int:
    """Return how many different numbers are left as float32."""
    with np.errstate(over="ignore"):
        return len(np.unique(values.astype(np.float32)))

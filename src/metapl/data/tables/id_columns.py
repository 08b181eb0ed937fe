"""Columns that name or number the rows: a model that learns from them learns the order of a file."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from metapl.types import Array

FEW = 10  # rows below which nothing is judged
MANY = 50  # rows from which whole numbers that all differ do not lie so densely by chance
_IDS = re.compile(r"(?:^|[\W_])(?:id|ids|idx|nr|uuid|guid|rowid)$|^index$|^unnamed: \d+$", re.IGNORECASE)
_CAMEL = re.compile(r"[a-z]I[Dd]$")
NO_REASON = ("", False)


def numbers_rows(name: str, parts: Sequence[Array]) -> tuple[str, bool]:
    """Return why a column of numbers looks like row ids, and whether that is certain; ("", False) if it does not.

    Args:
        name: of the column; "" if it has no name.
        parts: [n] each, the values of the labelled rows, of the unlabelled rows, ...: each may count from 1 again.
    """
    named = bool(name) and named_id(name)
    if not named and not _may_number(parts[0][:FEW]):  # most columns; the rest may lie on a disk
        return NO_REASON
    whole = np.concatenate(list(parts))
    if len(whole) < FEW or not np.isfinite(whole).all() or (whole != np.floor(whole)).any():
        return NO_REASON
    long = [part for part in parts if len(part) >= FEW]
    found = [_numbered(whole, named)]
    if len(parts) > 1 and long:
        found.append(min((_numbered(part, named) for part in long), key=lambda reason: (bool(reason[0]), reason[1])))
    best = max(found, key=lambda reason: (bool(reason[0]), reason[1]))
    if not best[0] and named and name.lower().endswith("id") and len(np.unique(whole)) > 1:
        return "is an id by its name, and ids are not quantities", False
    return best


def _may_number(values: Array) -> bool:
    if not np.isfinite(values).all() or (values != np.floor(values)).any():
        return False
    return len(np.unique(values)) == len(values) or float(np.spacing(np.abs(values).max())) > 1


def named_id(name: str) -> bool:
    """Return whether a column is called an id: id, user_id, userId, Kunden-Nr, index, ..."""
    return _IDS.search(name) is not None or _CAMEL.search(name) is not None


def _numbered(values: Array, named: bool) -> tuple[str, bool]:
    """``numbers_rows`` for whole, finite numbers in one piece."""
    steps, span = np.diff(values), float(values.max()) - float(values.min())
    # Long numbers are rounded as they are read: then no more can differ than there is room for.
    spacing = max(1.0, float(np.spacing(np.abs(values).max())))
    room, different = span / spacing + 1, len(np.unique(values))
    if different < max(FEW, min(len(values), 0.9 * room if spacing > 1 else len(values))):
        return NO_REASON
    if (steps == 1).all():
        return "only counts the rows", True
    if len(values) >= MANY and span < 2 * len(values):
        return "numbers the rows (another whole number in each, with few gaps)", True
    if named:
        return "has another number in every row, and is an id by its name", True
    if spacing == 1 and ((steps > 0).all() or (steps < 0).all()):
        return "has another whole number in every row, in order", False
    return NO_REASON

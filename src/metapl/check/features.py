"""Columns, texts and images that carry nothing, or too much."""

from __future__ import annotations

from typing import Any

import numpy as np

from metapl.check.near import number_columns, words_of
from metapl.check.reading import Rows

Array = np.ndarray[Any, Any]
ID_ROWS = 50  # below so many rows, whole numbers without a repeat prove nothing


def column_facts(rows: Rows) -> dict[str, list[str]]:
    """Tables: names of columns that are ``constant``, ``empty`` (no value at all), ``sparse`` (over half is missing),
    ``like_ids`` (whole numbers, all different) and ``infinite`` (holding infinite values).
    """
    assert rows.table is not None
    table, count = rows.table, len(rows.table)
    names = [column.name for column in rows.source.columns] or [f"column {k + 1}" for k in range(table.shape[1])]
    numbers = number_columns(rows.source, table.shape[1])
    found: dict[str, list[str]] = {"constant": [], "empty": [], "sparse": [], "like_ids": [], "infinite": []}
    for k, name in enumerate(names):
        values = table[:, k]
        there = values[~np.isnan(values)]
        if not len(there):
            found["empty"].append(name)
            continue
        if len(there) < count / 2:
            found["sparse"].append(name)
        if numbers[k] and np.isinf(there).any():
            found["infinite"].append(name)
        if (there == there[0]).all():
            found["constant"].append(name)
        elif numbers[k] and _like_ids(there, count):
            found["like_ids"].append(name)
    for k, column in enumerate(rows.source.columns):
        if column.levels and count >= ID_ROWS and len(np.unique(table[:, k])) > 0.9 * count:
            found["like_ids"].append(column.name)
    return found


def _like_ids(values: Array, count: int) -> bool:
    """Whole numbers, nearly all different and densely numbered: a running number, not a measurement."""
    if count < ID_ROWS or len(values) < 0.9 * count or not np.isfinite(values).all():
        return False
    if (values != np.floor(values)).any() or len(np.unique(values)) < 0.99 * len(values):
        return False
    return bool(values.max() - values.min() < 2 * len(values))


def empty_texts(rows: Rows) -> list[int]:
    """Positions of texts without a single word."""
    assert rows.table is not None
    return np.flatnonzero(~words_of(rows.source, rows.table).any(axis=1)).tolist()


def cut_texts(rows: Rows) -> float:
    """The share of texts that fill every place, so that some of them were cut."""
    assert rows.table is not None
    if not len(rows.table):
        return 0.0
    return float((words_of(rows.source, rows.table)[:, -1]).mean())

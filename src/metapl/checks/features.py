"""Columns, texts and images that carry nothing, or too much."""

from __future__ import annotations

from typing import Any

import numpy as np

from metapl.checks.near import number_columns, words_of
from metapl.checks.reading import PART_NAMES, Rows
from metapl.data.tables.id_columns import MANY, numbers_rows

Array = np.ndarray[Any, Any]


def column_facts(rows: Rows) -> dict[str, list[str]]:
    """Tables: names of columns that are ``constant``, ``empty`` (no value at all), ``sparse`` (over half is missing),
    ``like_ids`` (numbers or names of rows) and ``infinite`` (holding infinite values).
    """
    assert rows.table is not None
    table, count = rows.table, len(rows.table)
    named = [column.name for column in rows.source.columns]
    names = named or [f"column {k + 1}" for k in range(table.shape[1])]
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
        elif numbers[k] and numbers_rows(name if named else "", [values[rows.part == p] for p in PART_NAMES])[0]:
            found["like_ids"].append(name)
    for k, column in enumerate(rows.source.columns):
        if column.levels and count >= MANY and len(np.unique(table[:, k])) > 0.9 * count:
            found["like_ids"].append(column.name)
    return found


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

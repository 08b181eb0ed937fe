"""The checks of tables: near copies, outliers, and columns without information or with the label in them."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from metapl.data.likeness import apart_of, codes_of, pairs_of, standardised, usual_distance
from metapl.data.row_checks import (
    HURT,
    LOOK,
    Contents,
    Finding,
    Kept,
    Likeness,
    Pairs,
    RowChecks,
    no_pairs,
    plural,
    some,
)
from metapl.data.tables.id_columns import MANY, numbers_rows
from metapl.types import Array, Source

FAR = 20  # differing bits of 128
COLUMN = 0.05  # largest difference of near copies in any column, in units of the column's spread
HAIR = 0.02  # the same for dense rows, in units of the usual distance
FEWEST_LABELS = 20  # with fewer labelled rows a column may equal the label by chance
FAR_MARK = 2.0  # smallest distance of a mark of missing values from the other values, in units of their range
_MARK = re.compile(r"-?9{2,9}|-32768|65535|-?2\.14748e\+09|-?1e\+\d\d|-9\.?9*e\+\d\d")
FEWEST_COLUMNS = 4  # with fewer columns of numbers, rows come close by chance


class TableChecks(RowChecks):
    """Keeps the raw rows: ``table`` float32 [n, columns]."""

    def keep(self, rows: Tensor) -> Kept:
        return {"table": rows.numpy().copy()}

    def near_pairs(self, kept: Kept, first: Array, source: Source) -> Pairs:
        return _near_rows(kept["table"], first, source)

    def likeness(self, kept: Kept, source: Source) -> list[Likeness]:
        return [Likeness(_spread(kept["table"], source))]

    def repeats_by_nature(self, kept: Kept) -> bool:
        table = kept["table"]
        different = max((len(np.unique(table[:, k])) for k in range(table.shape[1])), default=0)
        return different < 0.1 * len(table)

    def contents(self, kept: Kept, source: Source, parts: Sequence[Array]) -> Contents:
        facts = column_facts(kept["table"], source, parts)
        found = [
            *_about_columns(facts),
            *_about_labels(kept["table"], source, parts[0]),
            *_about_marks(kept["table"], source),
        ]
        return Contents(found, facts={"columns": facts})


def column_facts(table: Array, source: Source, parts: Sequence[Array]) -> dict[str, list[str]]:
    """Return the names of columns by what is odd about them.

    The keys: ``constant``, ``empty`` (without a value), ``sparse`` (over half is missing), ``like_ids`` (row ids) and
    ``infinite`` (with infinite values).
    """
    count = len(table)
    named, names = bool(source.columns), _names(source, table.shape[1])
    numbers = number_columns(source, table.shape[1])
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
        elif numbers[k] and numbers_rows(name if named else "", [values[part] for part in parts])[0]:
            found["like_ids"].append(name)
    for k, column in enumerate(source.columns):
        if column.levels and count >= MANY and len(np.unique(table[:, k])) > 0.9 * count:
            found["like_ids"].append(column.name)
    return found


def _about_columns(found: dict[str, list[str]]) -> list[Finding]:
    """Return findings on columns without information, or with row numbers."""
    kinds = (
        ("empty", LOOK, "{n} without any value: {names}", "Leave them out."),
        ("infinite", HURT, "{n} with infinite values: {names}", "Replace them by a number or by nothing."),
        ("like_ids", LOOK, "{n} like a row number: {names}", "Leave them out: a model learns the order of the file."),
        ("constant", LOOK, "{n} with one value throughout: {names}", "Leave them out; they do no harm."),
        ("sparse", LOOK, "{n} with over half of the values missing: {names}", "Check that this is meant."),
    )
    return [
        Finding(
            level, f"columns_{kind}", text.format(n=plural(len(names), "column"), names=some(names)), remedy, len(names)
        )
        for kind, level, text, remedy in kinds
        if (names := found[kind])
    ]


def _about_labels(table: Array, source: Source, labeled: Array) -> list[Finding]:
    """Return a finding on columns that repeat the label: one value for each class."""
    if len(labeled) < FEWEST_LABELS or len(source.labels) != len(table):
        return []
    labels, found = source.labels[labeled], list[str]()
    classes = len(np.unique(labels))
    for name, values in zip(_names(source, table.shape[1]), table[labeled].T, strict=True):
        pairs = np.unique(np.stack([labels, values]), axis=1) if not np.isnan(values).any() else np.zeros((2, 0))
        if classes > 1 and pairs.shape[1] == classes == len(np.unique(values)):
            found.append(name)
    if not found:
        return []
    text = f"{some(found)} goes with the label one to one: each value stands for one class"
    return [Finding(HURT, "columns_like_label", text, "If it is not known for new rows, leave it out.", len(found))]


def _about_marks(table: Array, source: Source) -> list[Finding]:
    """Return a finding on numbers such as -999, far from the other values, that may mark missing values."""
    found = []
    for k in np.flatnonzero(number_columns(source, table.shape[1])).tolist():
        values = table[:, k].astype(np.float64) + (source.columns[k].offset if source.columns else 0.0)
        values = values[np.isfinite(values)]
        for mark in {values.min(), values.max()} if len(values) else ():
            count, others = int((values == mark).sum()), values[values != mark]
            far = len(others) and abs(mark - np.median(others)) > FAR_MARK * max(float(np.ptp(others)), 1e-9)
            if count > 1 and far and _MARK.fullmatch(f"{mark:g}"):
                found.append((_names(source, table.shape[1])[k], mark, count))
    if not found:
        return []
    name, mark, count = found[0]
    more = f" (and so in {plural(len(found) - 1, 'more column')})" if len(found) > 1 else ""
    text = f"column '{name}' holds {mark:g} in {count:,} rows, far from its other values{more}"
    remedy = "If it means that the value is missing, leave these cells empty."
    return [Finding(HURT, "marks_as_numbers", text, remedy, len(found))]


def _names(source: Source, width: int) -> list[str]:
    return [column.name for column in source.columns] or [f"column {k + 1}" for k in range(width)]


def number_columns(source: Source, width: int) -> Array:
    """Return [columns] bool: True where a table's column holds numbers, not categories."""
    return np.array([not column.levels for column in source.columns] or [True] * width)


def _near_rows(whole: Array, first: Array, source: Source) -> Pairs:
    """Return pairs of rows that differ very little in every column, as after an export with fewer digits."""
    table = whole[first]
    numbers = number_columns(source, table.shape[1])
    scaled = standardised(table[:, numbers])
    if (scaled != 0).any(axis=0).sum() < FEWEST_COLUMNS:
        return no_pairs()
    pairs = pairs_of(codes_of(np.clip(scaled, -5, 5)), FAR)
    usual = usual_distance(scaled)
    apart = apart_of(scaled, pairs)
    most = min(COLUMN, HAIR * usual)
    pairs, apart = pairs[apart <= most * np.sqrt(numbers.sum())], apart[apart <= most * np.sqrt(numbers.sum())]
    one, other = table[pairs[:, 0]], table[pairs[:, 1]]
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    hair = np.isnan(one) == np.isnan(other)
    hair[:, numbers] &= np.abs(scaled[pairs[:, 0]] - scaled[pairs[:, 1]]) <= most
    good = np.where(numbers, hair, same).all(axis=1)
    return pairs[good], np.maximum(0.0, 1 - apart[good] / max(usual, 1e-30))


def _spread(table: Array, source: Source) -> Array:
    """Return numbers with large values damped, flags of missing values, and categories spread over their levels."""
    numbers = number_columns(source, table.shape[1])
    parts = [np.arcsinh(standardised(table[:, numbers])), np.isnan(table[:, numbers]).astype(np.float32)]
    for k in np.flatnonzero(~numbers):
        levels = len(source.columns[k].levels)
        if levels <= 50:  # a column of names says nothing about the similarity of rows
            parts.append((table[:, k, None] == np.arange(levels)).astype(np.float32) / np.sqrt(2))
    return np.concatenate(parts, axis=1).astype(np.float32)

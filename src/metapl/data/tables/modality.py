"""Tables as a kind of rows: float32 [columns], NaN where a value is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.memory.tensors import read_numbers, table_rows
from metapl.data.modality import FLOOR, ArrayOptions, Modality, RawRows, check_one_shape
from metapl.data.row_checks import plural
from metapl.data.tables.cells import cells_of
from metapl.data.tables.checks import TableChecks
from metapl.data.tables.dataframe import (
    categorical,
    column_names,
    column_of,
    encode_frame,
    fit_columns,
    is_frame,
    read_frame,
)
from metapl.data.tables.digits import offset_of
from metapl.data.tables.id_columns import numbers_rows
from metapl.data.tables.views import TableViews
from metapl.errors import Doubt, UserError
from metapl.types import Array, Column, Preprocessing, Source
from metapl.utils.warnings import warn


class TableModality(Modality):
    """Mean and spread are per column, over the values that are there; a category has mean 0 and std 1."""

    kind, row, rows = "table", "table row", "a table"
    steps, few_labels, fitted_baselines = 300, 50, True
    dimensions = 1
    has_form = True
    checks = TableChecks()

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> TableViews:
        return TableViews(config, preprocessing)

    def read(self, parts: Mapping[str, Any], options: ArrayOptions) -> RawRows:
        notes: list[str] = []
        if is_frame(parts["X"]):
            tensors, columns = _frames(parts, notes, options.features)
            check_one_shape(tensors)
            return RawRows(tensors, notes, {"columns": columns})
        arrays = {k: read_numbers(part, k) for k, part in parts.items()}
        tensors = {k: table_rows(array, k, options.copy) for k, array in arrays.items()}
        check_one_shape(tensors)
        notes = _blurred([arrays[k] for k in arrays if k != "X_test"])
        return RawRows(tensors, notes + _numbering([tensors[k].numpy() for k in tensors if k != "X_test"]))

    def read_new(self, X: Any, preprocessing: Preprocessing, name: str, tell: Callable[[str], None]) -> Tensor:
        columns = preprocessing.columns
        if not is_frame(X) or not columns:
            return _plain_table(X, preprocessing, name)
        table = read_frame(X, name, [column.name for column in columns])
        rows, lost = encode_frame(table, columns, name)
        for text in lost:
            tell(f"{name}: {text}")
        return rows

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        moments = self.moments(source, index, shape)
        category = torch.tensor([bool(column.levels) for column in source.columns] or [False] * shape[0])
        mean = moments.mean.masked_fill(category, 0.0)
        constant = moments.std <= FLOOR * mean.abs()
        std = torch.where(constant | category, torch.ones_like(moments.std), moments.std)
        missing = tuple(torch.nonzero((moments.count < moments.values) & ~category).flatten().tolist())
        return Preprocessing(self.kind, shape, tuple(mean.tolist()), tuple(std.tolist()), source.columns, missing)

    def size(self, shape: tuple[int, ...]) -> str:
        return plural(shape[0], "column") if shape else "0"

    def show(self, source: Source, index: Array) -> list[dict[str, Any]]:
        return [{"cells": cells} for cells in cells_of(source.columns, source.rows(index))]

    def to_dict(self, preprocessing: Preprocessing) -> dict[str, Any]:
        card = super().to_dict(preprocessing)
        if preprocessing.columns:
            card["columns"] = [
                {"name": c.name, "levels": list(c.levels), **({"offset": c.offset} if c.offset else {})}
                for c in preprocessing.columns
            ]
        if preprocessing.missing:
            card["missing"] = list(preprocessing.missing)
        return card

    def from_dict(self, stored: Mapping[str, Any]) -> Preprocessing:
        return replace(
            super().from_dict(stored),
            columns=tuple(
                Column(str(c["name"]), tuple(map(str, c["levels"])), float(c.get("offset", 0.0)))
                for c in stored.get("columns", ())
            ),
            missing=tuple(int(k) for k in stored.get("missing", ())),
        )

    def is_sound(self, preprocessing: Preprocessing) -> bool:
        p = preprocessing
        fits = len(p.columns) in (0, *p.shape) and all(0 <= k < p.shape[0] for k in p.missing)
        return super().is_sound(p) and fits


def _blurred(parts: Sequence[Array]) -> list[str]:
    """Return a note, and a warning, on columns of an array that lose digits as float32: they have no name to go by."""
    if all(part.dtype in (np.float32, np.float16, np.uint8, bool) for part in parts):
        return []
    columns = [k for k in range(parts[0].shape[1]) if offset_of(np.concatenate([p[:, k] for p in parts]).astype(float))]
    if not columns:
        return []
    what = f"column {columns[0]} of X holds long numbers, of which float32 keeps seven digits"
    note = Doubt(
        what, "Subtract what they share first, or give a DataFrame, whose columns are centred.", "long_numbers"
    )
    warn(note)
    return [note]


def _numbering(parts: Sequence[Array]) -> list[str]:
    """Return a note on each column that numbers the rows; it stays, since columns without names go by their
    position.
    """
    found = {k: numbers_rows("", [part[:, k] for part in parts]) for k in range(parts[0].shape[1])}
    return [f"column {k} of X {why}: to leave it out, drop it" for k, (why, sure) in found.items() if sure]


def _frames(
    parts: Mapping[str, Any], notes: list[str], features: Sequence[str] = ()
) -> tuple[dict[str, Tensor], tuple[Column, ...]]:
    """Rows of every part, its columns in the order of X, or those of ``features``."""
    for name, part in parts.items():
        if not is_frame(part):
            raise UserError("X has named columns, this has none", "Give a DataFrame with the same columns.", name)
    tables = {"X": read_frame(parts["X"], "X", features or None)}
    tables |= {name: read_frame(part, name, tables["X"]) for name, part in parts.items() if name != "X"}
    train = [name for name in tables if name != "X_test"]
    keep = frozenset[str](features).union(*(categorical(parts[name]) for name in train))
    if features:
        tables["X"] = {name: column_of(tables["X"], name, "X") for name in dict.fromkeys(features)}
    found: list[str] = []
    columns = fit_columns([tables[name] for name in train], train, found, keep)
    for text in found:
        warn(text)
    notes += found
    for name in tables:
        further = [column for column in column_names(parts[name]) if column not in tables["X"]]
        if further and not features:
            notes.append(f"{name} has columns that X has not, passed over: {', '.join(further[:5])}")
    encoded = {name: encode_frame(table, columns, name) for name, table in tables.items()}
    notes += [f"{name}: {text}" for name, (_, lost) in encoded.items() for text in lost]
    return {name: rows for name, (rows, _) in encoded.items()}, columns


def _plain_table(X: Any, preprocessing: Preprocessing, name: str) -> Tensor:
    """Columns by position: where the model knows no names, or the rows bring none."""
    levels = [column.name for column in preprocessing.columns if column.levels]
    if levels:
        what = f"the model was trained on categories ('{levels[0]}'), which an array cannot name"
        raise UserError(what, "Give a DataFrame with the columns of the training.", name)
    return table_rows(read_numbers(X.to_numpy() if hasattr(X, "to_numpy") else X, name), name)

"""Table rows as people see them: names and values of the columns that tell the rows apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from metapl.types import Column
from metapl.utils.printing import cut

CELLS = 8  # columns shown of a row


def cells_of(columns: tuple[Column, ...], rows: Tensor) -> list[list[list[str]]]:
    """Return per row of ``rows`` [n, columns] the pairs [name, value] of at most ``CELLS`` columns."""
    order = _telling(columns, rows)
    return [_cells(columns, row, order) for row in rows]


def _telling(columns: tuple[Column, ...], rows: Tensor) -> list[int]:
    """Columns in the order of how much these rows differ in them, so that the few shown tell them apart."""
    levels = torch.tensor([bool(column.levels) for column in columns] or [False] * rows.shape[1])
    values = torch.nan_to_num(rows)
    scaled = (values - values.mean(0)).abs().mean(0) / values.abs().mean(0).clamp_min(1e-9)
    differs = torch.where(levels, (values != values[:1]).float().mean(0), scaled.clamp(max=1.0))
    kept = differs.argsort(descending=True, stable=True)[:CELLS]
    return sorted(kept.tolist())


def _cells(columns: tuple[Column, ...], row: Tensor, order: list[int]) -> list[list[str]]:
    cells = []
    for k in order:
        name = columns[k].name if columns else f"column {k + 1}"
        levels, value = columns[k].levels if columns else (), float(row[k])
        offset = columns[k].offset if columns else 0.0
        text = (
            "missing"
            if math.isnan(value)
            else levels[int(value)]
            if levels
            else f"{value + offset:.17g}"
            if offset
            else f"{value:.4g}"
        )
        cells.append([cut(name, 40), cut(text, 60)])
    left = len(row) - len(order)
    return [*cells, ["and", f"{left} more column{'s' * (left > 1)}"]] if left else cells

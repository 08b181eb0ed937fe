"""Rows as people see them: an image as an inline PNG, a text as it was written, a table row as names and values."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.traits import traits
from metapl.types import Column, Source
from metapl.utils.printing import one_line

Array = np.ndarray[Any, Any]
SIDE = 128  # pixels of the longer side of an image, at most
TEXT = 400  # characters of a text
CELLS = 8  # columns of a table row
WORDS_LOST = "The text of this row is not kept in memory."


def display(source: Source, index: Array) -> list[dict[str, Any]]:
    """Describe the rows at ``index`` for the page, none of them a test row: plain JSON values.

    Returns:
        Per row ``{"image": data URI, "small": bool}``, ``{"text": str}`` or ``{"cells": [[name, value], ...]}``.
    """
    assert not source.is_test[index].any(), "test rows are opened by evaluate alone"
    source = traits(source).inner or source  # features of an encoder say nothing: the rows that it encodes do
    if not len(index):
        return []
    if source.kind == "image":
        return [_image(row) for row in source.rows(index)]
    if source.kind == "text":
        texts = traits(source).texts
        return [{"text": cut(texts[k]) if texts else WORDS_LOST} for k in index.tolist()]
    rows = source.rows(index)
    if rows.ndim != 2:  # a kind of one's own
        return [{"cells": _channels(row)} for row in rows]
    ordered = _telling(source, rows)
    return [{"cells": _cells(source.columns, row, ordered)} for row in rows]


def cut(text: str, most: int = TEXT) -> str:
    """The text on one line, at most ``most`` characters."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"


def _image(row: Tensor) -> dict[str, Any]:
    from PIL import Image

    pixels = row.numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    return {"image": uri, "small": max(row.shape[1:]) < 48}


def _channels(row: Tensor) -> list[list[str]]:
    """Range of each channel of a row [channels, ...] of numbers."""
    numbers = row.double().flatten(1)
    cells = [[f"channel {k + 1}", f"{v.min():.3g} to {v.max():.3g}"] for k, v in enumerate(numbers[:CELLS])]
    return [*cells, ["shape", " x ".join(map(str, row.shape))]]


def _telling(source: Source, rows: Tensor) -> list[int]:
    """Columns in the order of how much these rows differ in them, so that the few shown tell them apart."""
    levels = torch.tensor([bool(column.levels) for column in source.columns] or [False] * rows.shape[1])
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
        text = "missing" if math.isnan(value) else levels[int(value)] if levels else f"{value:.4g}"
        cells.append([cut(name, 40), cut(text, 60)])
    left = len(row) - len(order)
    return [*cells, ["and", f"{left} more column{'s' * (left > 1)}"]] if left else cells

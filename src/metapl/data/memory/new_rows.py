"""New rows in memory, as a trained model wants them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from metapl.data.images.options import SIDES
from metapl.data.images.resize import images_at
from metapl.data.memory.arrays import kind_of
from metapl.data.memory.tensors import new_pixels, planes, read_numbers, table_rows
from metapl.data.tables.dataframe import encode_columns, is_frame, lost_columns, read_frame
from metapl.data.texts.read import read_texts
from metapl.data.texts.tokens import tokenizer_of
from metapl.errors import UserError
from metapl.types import Preprocessing
from metapl.utils.warnings import warn

_NAMES = {"image": "images", "table": "a table", "text": "texts"}


def rows_for(X: Any, preprocessing: Preprocessing, name: str = "X", tell: Callable[[str], None] = warn) -> Tensor:
    """Raw rows [n, ...] of new data, the way ``from_arrays`` reads them, with nothing fitted on them.

    Args:
        X: what ``from_arrays`` takes for X. The columns of a DataFrame (or of a mapping) are found by name, in any
            order, and further ones are passed over; a category that training did not hold counts as missing. Images
            of floats are on the scale of the training's floats; where it had none, 0..1 if they stay within it. Where
            the training brought images to one size, images of other sizes are brought to it in the same way.
        preprocessing: the model's own (``Predictor.preprocessing``).
        name: what messages call ``X``.
        tell: is told what looks like a mistake; by default a ``UserWarning``.

    Raises:
        UserError: data of another kind or shape, a missing column, or a value that cannot be read.
    """
    kind = preprocessing.kind
    if kind == "text":
        assert preprocessing.tokens is not None  # held by every preprocessing of texts
        return tokenizer_of(preprocessing.tokens).encode(read_texts(X, name))
    given = kind_of(X)
    if given != kind:
        what = f"the model was trained on {_NAMES[kind]}, and this is {_NAMES[given]}"
        raise UserError(what, f"Give {_NAMES[kind]} of the shape {list(preprocessing.shape)} per row.", name)
    if kind == "image":
        images = planes(read_numbers(X, name), name, isinstance(X, Tensor))
        rows = _at_size(new_pixels(images, preprocessing.white, name, tell), preprocessing)
    elif is_frame(X) and preprocessing.columns:
        table = read_frame(X, name, [column.name for column in preprocessing.columns])
        rows = encode_columns(table, preprocessing.columns, name)
        for text in lost_columns(table, preprocessing.columns, rows):
            tell(f"{name}: {text}")
    else:
        rows = _plain_table(X, preprocessing, name)
    if tuple(rows.shape[1:]) != preprocessing.shape:
        what = f"its rows have the shape {list(rows.shape[1:])}, the model was trained on {list(preprocessing.shape)}"
        names = [column.name for column in preprocessing.columns]
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        raise UserError(what, f"Give the columns {shown} alone." if names else "Give rows of that shape.", name)
    return rows


def _at_size(rows: Tensor, p: Preprocessing) -> Tensor:
    """Images at the model's size, where its own were brought to it; a single image [H, W, C] is no stack of them."""
    if not p.resized or rows.shape[1] != p.shape[0] or min(rows.shape[2:]) < SIDES.start:
        return rows
    return images_at(rows, (p.shape[1], p.shape[2]), p.resize)


def _plain_table(X: Any, preprocessing: Preprocessing, name: str) -> Tensor:
    """Columns by position: where the model knows no names, or the rows bring none."""
    levels = [column.name for column in preprocessing.columns if column.levels]
    if levels:
        what = f"the model was trained on categories ('{levels[0]}'), which an array cannot name"
        raise UserError(what, "Give a DataFrame with the columns of the training.", name)
    return table_rows(read_numbers(X.to_numpy() if hasattr(X, "to_numpy") else X, name), name)

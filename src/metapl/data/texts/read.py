"""Read texts in memory from lists, arrays, series and DataFrames of one column."""

from __future__ import annotations

from typing import Any

import numpy as np

from metapl.data.tables.dataframe import as_array, is_frame, is_missing
from metapl.errors import UserError


def is_texts(X: Any, asked: bool = False) -> bool:
    """Return whether ``X`` is a sequence of strings; ``asked``: the user says so, so that one column of a DataFrame is
    enough.
    """
    if isinstance(X, str) or X is None:
        return False
    if is_frame(X):
        return asked
    if isinstance(X, list | tuple):
        return isinstance(next((value for value in X if not is_missing(value)), None), str)
    dtype, shape = getattr(X, "dtype", None), getattr(X, "shape", None)
    if dtype is None or shape is None or len(shape) != 1 or getattr(dtype, "kind", "") not in "OUT":
        return False
    return isinstance(next((value for value in as_array(X).tolist() if not is_missing(value)), None), str)


def read_texts(X: Any, name: str) -> list[str]:
    """Return the texts, one per row.

    Raises:
        UserError: no rows, a row without a text, or a row that is not a text.
    """
    if isinstance(X, str):
        raise UserError("it is one text, not a list of texts", "Give [text].", name)
    if is_frame(X):
        names = list(X) if isinstance(X, dict) else list(X.columns)
        if len(names) != 1:
            raise UserError(f"it has {len(names)} columns", "Give the one column that holds the texts.", name)
        X = X[names[0]]
    array = as_array(X)
    if array.ndim != 1 or not len(array):
        raise UserError(f"its shape is {np.shape(array)}", "Give a list of texts, with rows.", name)
    texts: list[Any] = array.tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            what = "has no text" if is_missing(text) else f"is a {type(text).__name__}, not a text"
            raise UserError(f"row {row} {what}", "Leave the row out, or give an empty text.", name)
    return texts

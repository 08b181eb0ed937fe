"""Guess the kind of rows of an array, a DataFrame or a list by its form alone."""

from __future__ import annotations

from typing import Any

from metapl.data.memory.tensors import read_numbers
from metapl.data.tables.dataframe import is_frame
from metapl.data.texts.read import is_texts
from metapl.errors import UserError
from metapl.types import Kind

GUESSED: tuple[Kind, ...] = ("image", "table", "text")  # the kinds that can be guessed


def guess_kind(X: Any, texts_asked: bool = False) -> Kind:
    """Return image, table or text: strings are texts, two dimensions or named columns a table, three or four images.

    Args:
        X: the rows.
        texts_asked: the user says that they are texts, so that one column of a DataFrame is enough.

    Raises:
        UserError: neither strings nor numbers, or five dimensions and more.
    """
    if is_texts(X, texts_asked):
        return "text"
    if is_frame(X):
        return "table"
    dimensions = read_numbers(X, "X").ndim
    if dimensions > 4:
        raise UserError(f"it has {dimensions} dimensions", "Give a table (2) or images (3 or 4).", "X")
    return "table" if dimensions == 2 else "image"

"""One row of a request as a raw row of a trained model, or the reason why it cannot be one."""

from __future__ import annotations

import base64
import binascii
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.decode import Unreadable, decode
from metapl.data.memory.new_rows import rows_for
from metapl.data.modalities import modality_of
from metapl.data.tables.spelling import Spellings
from metapl.data.texts.tokens import tokenizer_of
from metapl.errors import UserError, nearest
from metapl.types import Column, Preprocessing

LARGEST = float(np.finfo(np.float32).max)


class BadRequestRow(ValueError):
    """A row that cannot be judged; the text is the reason."""


class RowReader:
    """Turns JSON values, or the bytes of images, into raw rows. A new row teaches nothing.

    Args:
        takes: what the model asks of raw rows.
        max_pixels: of an image as it is sent.

    Raises:
        UserError: the tokenizer of the training is gone.
    """

    def __init__(self, takes: Preprocessing, max_pixels: int) -> None:
        self.takes, self.max_pixels = takes, max_pixels
        self.sized = modality_of(takes.kind).sized
        self.tokenizer = None if takes.tokens is None else tokenizer_of(takes.tokens)
        self.levels = {column.name: Spellings(column.levels) for column in takes.columns if column.levels}

    def read(self, value: Any) -> Tensor:
        """Return the raw row of ``value``.

        Raises:
            BadRequestRow: it is not a row of this model.
        """
        if self.sized:
            return self._image(value)
        if self.tokenizer is not None:
            return self._text(value)
        return self._cells(value) if self.takes.columns else self._numbers(value)

    def _image(self, value: Any) -> Tensor:
        if isinstance(value, str):
            try:
                value = base64.b64decode(value.partition("base64,")[2] or value, validate=True)
            except (binascii.Error, ValueError):
                raise BadRequestRow("this text is not the base64 of an image") from None
        if not isinstance(value, bytes):
            raise BadRequestRow(f"an image is sent as base64, not as {_kind(value)}")
        channels, height, width = self.takes.shape
        try:
            return decode(
                value,
                (channels, height, width),
                resize=self.takes.resize,
                max_pixels=self.max_pixels,
                levels=self.takes.levels,
            )
        except Unreadable as reason:
            raise BadRequestRow(f"the image cannot be read: {reason}") from None

    def _text(self, value: Any) -> Tensor:
        assert self.tokenizer is not None
        if not isinstance(value, str):
            raise BadRequestRow(f"a row is a text, not {_kind(value)}")
        return self.tokenizer.encode([value])[0]

    def _cells(self, value: Any) -> Tensor:
        """Return a row of a table by the names of its columns; further ones are passed over."""
        if not isinstance(value, dict):
            raise BadRequestRow(f"a row is an object with a value for each column, not {_kind(value)}")
        cells = []
        for column in self.takes.columns:
            if column.name not in value:
                raise BadRequestRow(f"column '{column.name}' is missing. {nearest(column.name, map(str, value))}")
            cells.append(self._cell(column, value[column.name]))
        return torch.tensor(cells, dtype=torch.float32)

    def _cell(self, column: Column, value: Any) -> float:
        if value is None or (isinstance(value, str) and not value.strip()):
            return math.nan
        if not column.levels:
            return _number(value, f"column '{column.name}'") - column.offset
        if isinstance(value, list | dict):
            raise BadRequestRow(f"column '{column.name}' holds {_kind(value)}, not a category")
        found = self.levels[column.name].find(str(value))
        return math.nan if found is None else float(found)

    def _numbers(self, value: Any) -> Tensor:
        """Return a row of an array: lists in lists, of the shape of a row."""
        try:
            cells = np.array(value, dtype=object)
            filled = [math.nan if cell is None else _number(cell, "the row") for cell in cells.ravel().tolist()]
            return rows_for(np.array(filled, dtype=np.float64).reshape(1, *cells.shape), self.takes, "the row")[0]
        except UserError as error:
            raise BadRequestRow(str(error)) from None
        except ValueError as error:
            raise error if isinstance(error, BadRequestRow) else BadRequestRow("its lists differ in length") from None

    def schema(self) -> dict[str, Any]:
        """Return what ``read`` takes, as a JSON schema."""
        if self.sized:
            return {"type": "string", "contentEncoding": "base64", "contentMediaType": "image/*"}
        if self.tokenizer is not None:
            return {"type": "string"}
        if not self.takes.columns:
            return {"type": "array", "description": f"numbers of the shape {list(self.takes.shape)}; null is missing"}
        kinds = {
            column.name: {"enum": [*column.levels, None]} if column.levels else {"type": ["number", "null"]}
            for column in self.takes.columns
        }
        return {"type": "object", "properties": kinds, "required": list(kinds)}


def _number(value: Any, where: str) -> float:
    """Return a finite number; a text that is one counts.

    Raises:
        BadRequestRow: it is something else.
    """
    try:
        if isinstance(value, str) and "_" in value:  # Python's way to write numbers, not that of data
            raise ValueError(value)
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST:
        raise BadRequestRow(f"{where} holds {_kind(value)}, not a finite number")
    return number


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", bytes: "bytes"}
    return "null" if value is None else names.get(type(value), "a number")

"""A batch of rows in memory that is read like a file of rows, for engines that work in batches."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metapl.data.tables.readers.frame import COMMA, POINT, ColumnBuilder, Form, Frame, Values
from metapl.data.tables.readers.jsonl import Typed
from metapl.errors import UserError

LOOKED = 100  # cells to look at to find out whether a column holds text
LINE = "_line"  # the column that names rows without ids


class BatchFile:
    """A ``frame.TableFile`` over a batch.

    Args:
        columns: lists, arrays or series of one length, by name. Cells are text, numbers, the bytes of an image, Hugging
            Face's {bytes, path}, a picture of Pillow's, or None.
        decimal: the decimal sign of numbers that are text, but not ``Typed``.

    Attributes:
        names: the columns, without ``LINE``.
        rows: the number of rows.
        lines: the cells of ``LINE``, or the numbers of the rows.
    """

    name = "the batch"
    whole: frozenset[str] = frozenset()
    last: frozenset[str] = frozenset()
    numbered = False

    def __init__(self, columns: Mapping[str, Any], decimal: str = POINT) -> None:
        self._columns = {str(name): _cells(values) for name, values in columns.items()}
        self._decimal = decimal
        self.rows = len(next(iter(self._columns.values()), ()))
        self.lines = [str(line) for line in self._columns.pop(LINE, range(self.rows))]
        self.names = tuple(self._columns)
        if not self.names or any(len(cells) != self.rows for cells in self._columns.values()):
            raise UserError("the batch has no columns, or columns of several lengths", "Give one cell per row.")

    def part(self, start: int, stop: int) -> BatchFile:
        """Return the rows from ``start`` to ``stop``, numbered from 0."""
        return BatchFile({name: cells[start:stop] for name, cells in self._columns.items()}, self._decimal)

    def is_text(self, name: str) -> bool:
        """Return whether a column holds text, not images."""
        return not any(isinstance(cell, bytes | dict) or hasattr(cell, "save") for cell in self._columns[name][:LOOKED])

    def texts(self, name: str) -> list[str]:
        """Return a column as text; "" for an empty cell."""
        return [_text(cell) for cell in self._columns[name]]

    def read(self, forms: Mapping[str, Form], most: Mapping[str, int] | None = None) -> Frame:
        """Read columns as ``frame.TableFile.read`` does; places are row numbers."""
        columns = {name: self._column(name, forms[name]) for name in self.names if name in forms}
        return Frame(self.name, columns, str, self.lines.__getitem__, self.rows)

    def _column(self, name: str, form: Form) -> Values:
        if not self.is_text(name):
            return [_picture(cell) for cell in self._columns[name]]
        builder = ColumnBuilder(name, form, None, self._decimal)
        builder.add(self.texts(name) if form == "text" else self._numbers(name), str)
        return builder.done()

    def _numbers(self, name: str) -> list[str]:
        """Return a column of numbers as text, all with the decimal sign of the batch."""
        texts = self.texts(name)
        if self._decimal != COMMA:
            return texts
        typed = (not isinstance(cell, str) or isinstance(cell, Typed) for cell in self._columns[name])
        return [text.replace(POINT, COMMA) if own else text for text, own in zip(texts, typed, strict=True)]


def _cells(values: Any) -> Sequence[Any]:
    cells = values.tolist() if hasattr(values, "tolist") else values
    return cells if isinstance(cells, list) else list(cells)


def _text(cell: Any) -> str:
    if cell is None or (isinstance(cell, float) and np.isnan(cell)) or type(cell).__name__ in ("NAType", "NaTType"):
        return ""
    return repr(float(cell)) if isinstance(cell, float) else str(cell)  # repr of NumPy's floats names their type


def _picture(cell: Any) -> bytes | None:
    if isinstance(cell, dict):
        cell = cell.get("bytes")
    if cell is None or isinstance(cell, bytes):
        return cell
    file = io.BytesIO()
    cell.save(file, "PNG")
    return file.getvalue()

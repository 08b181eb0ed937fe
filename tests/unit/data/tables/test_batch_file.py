"""Batches in memory: typed cells are numbers, whatever the decimal sign of texts."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from metapl.data.tables.readers.batch import BatchFile
from metapl.data.tables.readers.frame import Texts
from metapl.data.tables.readers.jsonl import Typed
from metapl.errors import UserError


def numbers(cells: Any, decimal: str) -> list[float]:
    found = BatchFile({"a": cells}, decimal).read({"a": "number"}).columns["a"]
    assert isinstance(found, np.ndarray)
    return found.tolist()


@pytest.mark.parametrize("decimal", [".", ","])
def test_typed_cells_are_numbers_whatever_the_decimal_sign(decimal: str) -> None:
    cells = [0.5, 2, np.float64(1.25), np.float32(0.5), np.int64(3), Decimal("0.75"), 1.5e-7, Typed("4.5")]
    assert numbers(cells, decimal) == [0.5, 2, 1.25, 0.5, 3, 0.75, 1.5e-7, 4.5]
    assert numbers(np.array([0.5, 0.1]), decimal) == [0.5, 0.1]
    assert np.isnan(numbers([None, np.nan, np.float64("nan"), np.float32("nan")], decimal)).all()


def test_text_is_read_with_the_decimal_sign() -> None:
    assert numbers(["0,5", 0.5], ",") == [0.5, 0.5]
    with pytest.raises(UserError, match="a number with a point"):
        numbers([0.5, "0.5"], ",")


def test_numbers_read_as_text_are_as_python_writes_them() -> None:
    cells = [np.float64(0.5), 0.5, 7, Typed("1.50"), "0,5"]
    file = BatchFile({"a": cells}, ",")
    found = file.read({"a": "text"}).columns["a"]
    assert isinstance(found, Texts)
    assert found.tolist() == file.texts("a") == ["0.5", "0.5", "7", "1.50", "0,5"]
    assert {type(text) for text in (*found.levels, *file.texts("a"))} == {str}

"""Labelled and unlabelled rows as one map-style data set."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from metapl.data.row_checks import plural
from metapl.errors import UserError

UNLABELED = -1


class SemiSupervisedDataset(Dataset[tuple[Any, int]]):
    """The labelled rows, then the unlabelled ones: pairs (x, y), with y = -1 for a row without a label.

    Rows are read when asked for, and passed on unchanged; both parts should give rows of one shape and type.
    ``dataset[-1]`` is the last row, as in a list. ``Subset(dataset, dataset.unlabeled_range)`` is one part of it.

    Args:
        labeled: a map-style data set of (x, y), y a whole number of 0 or more; or a tuple of arrays or tensors (X, y).
            NumPy arrays are copied, their floats become torch's default type.
        unlabeled: a map-style data set of x, (x,) or (x, y), whose y is dropped; or an array or tensor X.

    Raises:
        UserError: a part cannot be indexed, X and y differ in length, or (when the row is read) a label is not a class
            number.
    """

    def __init__(self, labeled: Any, unlabeled: Any) -> None:
        self._labeled, self._unlabeled = _labeled_part(labeled), _part(unlabeled, "unlabeled")
        self.labeled_range = range(len(self._labeled))
        self.unlabeled_range = range(len(self._labeled), len(self._labeled) + len(self._unlabeled))

    def __len__(self) -> int:
        return len(self._labeled) + len(self._unlabeled)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        try:
            number = operator.index(index)
        except TypeError as error:
            what = f"a SemiSupervisedDataset takes one index, not a {type(index).__name__}"
            raise TypeError(f"{what}; torch.utils.data.Subset takes several rows") from error
        k = number + (len(self) if number < 0 else 0)
        if not 0 <= k < len(self):
            raise IndexError(f"row {number} of {len(self)}")
        if k >= len(self._labeled):
            row = self._unlabeled[k - len(self._labeled)]
            return (row[0] if isinstance(row, tuple | list) else row), UNLABELED
        row = self._labeled[k]
        if not isinstance(row, tuple | list) or len(row) < 2:
            raise UserError(f"row {k} is a {type(row).__name__}, not a pair (x, y)", "Give pairs.", "labeled")
        return row[0], _class_number(row[1], k)


def _class_number(y: Any, k: int) -> int:
    single = isinstance(y, Tensor | np.ndarray | np.generic) and math.prod(y.shape) == 1
    value = y.item() if single else y
    if not isinstance(value, int) or value < 0:
        remedy = "Labels are whole numbers of 0 or more; rows without one belong to `unlabeled`."
        raise UserError(f"the label of row {k} is {value!r}", remedy, "labeled")
    return int(value)


class _Pairs:
    """(X[k], y[k])."""

    def __init__(self, x: Any, y: Any) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, k: int) -> tuple[Any, Any]:
        return self.x[k], self.y[k]


def _labeled_part(given: Any) -> Any:
    arrays = isinstance(given, tuple) and len(given) == 2 and isinstance(given[0], Tensor | np.ndarray)
    if not arrays:
        return _part(given, "labeled")
    x, y = given
    if len(x) != len(y):
        raise UserError(f"X has {plural(len(x), 'row')}, y has {len(y)}", "Give one label per row.", "labeled")
    return _Pairs(_part(x, "labeled"), y)


def _part(given: Any, name: str) -> Any:
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "buif":
            raise UserError(f"its values are {given.dtype}, not numbers", "Turn them into numbers first.", name)
        return torch.tensor(given, dtype=torch.get_default_dtype() if given.dtype.kind == "f" else None)
    if isinstance(given, IterableDataset) or not hasattr(given, "__getitem__") or not hasattr(given, "__len__"):
        what = f"a {type(given).__name__} cannot be indexed"
        raise UserError(what, "Give a map-style data set, an array or a tensor.", name)
    return given

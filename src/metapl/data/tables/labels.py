"""Turn labels in memory (numbers, text, None) into class numbers; -1: no label."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from metapl.data.images.scan import folded, shown
from metapl.data.tables.dataframe import as_array, is_missing
from metapl.data.tables.readers.frame import COMMA, parsed
from metapl.errors import UserError, nearest
from metapl.types import Array

CLASSES = 20  # up to so many different labels, their number raises no doubt
SPREAD = 10  # class numbers with hardly a row each may reach this many times the number of classes
NO_LABEL = frozenset({"", "-1", "nan", "NaN"})  # lines of a file of labels that mean "no label"
Values = list[int | str | None]  # one per row; None: no label


def encode_labels(
    y: Any,
    rows: int,
    y_test: Any,
    test_rows: int,
    class_names: Sequence[str] | None,
    notes: list[str],
    unlabeled: Any = None,
    learnt: bool = True,
) -> tuple[Array, tuple[str, ...]]:
    """Return the class numbers of the rows and then of the test rows, int64; and the class names.

    Args:
        y: labels of ``rows`` rows.
        y_test: labels of ``test_rows`` rows, or None.
        class_names: see ``from_arrays``.
        notes: notes for the user are appended.
        unlabeled: a value, or a tuple of values, that marks a row without a label, beside -1, None, NaN and ""
            ("" is a class if ``class_names`` holds it).
        learnt: whether the labels are for training. Labels of new rows are not checked for quantities, since a few
            rows of many classes would look like one.

    Raises:
        UserError: labels of mixed or unusable kind, a wrong number of them, or a test label that is not a class.
    """
    marks = tuple(unlabeled) if isinstance(unlabeled, tuple | list) else () if unlabeled is None else (unlabeled,)
    marks += () if "" in (class_names or ()) else ("",)
    values = read_labels(y, rows, "y", marks)
    test = read_labels(y_test, test_rows, "y_test", marks) if y_test is not None else []
    _check_one_kind(values, test)
    order = _classes(values, class_names)
    if class_names is None and learnt:
        _check_classes(values, order, notes)
    number = {value: k for k, value in enumerate(order)}
    named = class_names is not None
    coded = _encode(values, number, "y", named) + _encode(test, number, "y_test", named)
    names = tuple(class_names) if class_names is not None else tuple(str(value) for value in order)
    for name in ("nan", "None"):
        if name in names:
            notes.append(f"'{name}' is taken for a class name; unlabelled text rows need dtype=object and None")
    return np.array(coded, dtype=np.int64), names


def doubt(names: Sequence[str], rows: int, counting: bool) -> tuple[str, bool]:
    """Return a remark on many classes, or ""; and whether the labels cannot be classes.

    Numbers with decimals cannot be classes. Whole numbers with fewer than two rows each cannot be either, unless they
    run from 0 or 1 without a gap, as class numbers do.

    Args:
        names: the class names.
        rows: number of labelled rows.
        counting: whether the labels count the rows: 1, 2, 3, ... from row to row.
    """
    count = len(names)
    if count <= CLASSES:
        return "", False
    values = {name: value for name in names if (value := _number(name)) is not None}
    few, found, ordered = 2 * count > rows, list(values.values()), list(names)
    if len(found) == count:
        ordered.sort(key=values.__getitem__)
    said = f"{count} different values in {rows} labelled rows, such as '{shown(ordered[0])}' and '{shown(ordered[-1])}'"
    if len(found) < count:
        return (said if few else ""), False
    if any(value % 1 for value in found):
        return f"{said}: a quantity, not a class", True
    run = max(found) - min(found) == count - 1 and min(found) in (0, 1)
    if few and (counting or not run):
        return f"{said}: a quantity or a number of the rows, not a class", True
    return (said if few or not run else ""), False


def _number(name: str) -> float | None:
    number = parsed(name)
    return parsed(name, COMMA) if number is None else number


def read_labels(y: Any, rows: int, name: str, marks: Sequence[Any] = ()) -> Values:
    """Return one int, text or None per row; values in ``marks`` become None, too.

    Raises:
        UserError: not one label per row, or a label of another kind.
    """
    array = as_array(y)
    shape = np.shape(y) if isinstance(y, list | tuple) and y and isinstance(y[0], list | np.ndarray) else array.shape
    if shape != (rows,):
        remedy = "Give one label per row of X."
        if len(shape) == 2 and shape[0] == rows and array.dtype.kind in "buif" and set(np.unique(array)) <= {0, 1}:
            remedy = "If it is one-hot, give the number of the class: y.argmax(axis=1)."
        raise UserError(f"its shape is {shape}, not ({rows},)", remedy, name)
    marked = [is_missing(value) or value == b"" or any(_is(value, mark) for mark in marks) for value in array.tolist()]
    return [None if none else _value(value, row, name) for row, (value, none) in enumerate(zip(array.tolist(), marked))]


def read_lines(text: str, name: str) -> Values:
    """Return one label per line of a file, without blanks around it; None for an empty line, -1 and NaN.

    Raises:
        UserError: two classes look the same; file and line are named.
    """
    lines = [line.strip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    if lines and not lines[-1]:  # the empty text after the last line's end
        lines.pop()
    seen: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if line not in NO_LABEL and (twin := seen.setdefault(folded(line), line)) != line:
            what = f"the classes '{shown(twin)}' and '{shown(line)}' differ only by case, spaces or accents' encoding"
            raise UserError(what, "Write both the same way.", f"{name}, line {number}")
    return [None if line in NO_LABEL else line for line in lines]


def _is(value: Any, mark: Any) -> bool:
    """Return whether both are equal and of one kind: True is not 1."""
    same_kind = all(isinstance(value, kind) == isinstance(mark, kind) for kind in (str, bool))
    return same_kind and bool(value == mark)


def _value(value: Any, row: int, name: str) -> int | str | None:
    """Return a label as int, text or None (-1, no label)."""
    if isinstance(value, bool | np.bool_):
        return str(bool(value))
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    if isinstance(value, int | np.integer):
        if value < -1:
            raise UserError(f"row {row} has label {value}", "Labels are 0 or more; -1 means no label.", name)
        return None if value == -1 else int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        if value == "-1":
            raise UserError(
                f"row {row} has the text '-1', which NumPy makes of -1 beside text",
                "Build y with dtype=object and mark rows without a label by None.",
                name,
            )
        return value
    raise UserError(f"row {row} has label {value!r}", "Labels are whole numbers or text.", name)


def _check_one_kind(values: Values, test: Values) -> None:
    kinds = {type(value).__name__ for value in [*values, *test] if value is not None}
    if len(kinds) > 1:
        raise UserError("labels are partly numbers, partly text", "Use one kind.", "y")


def _check_classes(values: Values, order: Sequence[int | str], notes: list[str]) -> None:
    """Append a note on labels that are hardly classes.

    Raises:
        UserError: they cannot be classes.
    """
    labeled = [value for value in values if value is not None]
    counting = all(isinstance(b, int) and b - int(a) == 1 for a, b in pairwise(labeled))
    remark = check_classes(
        [str(value) for value in order], len(labeled), counting, bool(order) and isinstance(order[0], int)
    )
    notes += [remark] if remark else []


def check_classes(names: Sequence[str], rows: int, counting: bool, numbers: bool) -> str:
    """Return a remark on labels in memory, or ""; ``numbers``: whether they are whole numbers. See ``doubt``.

    Small whole numbers with one row each get a note instead of an error: people number the classes of a data set
    before they draw one row of each.

    Raises:
        UserError: they cannot be classes.
    """
    said, refused = doubt(names, rows, counting)
    if refused and numbers:
        if max(map(int, names)) >= SPREAD * len(names):
            raise UserError(f"it has {said}", "If these are classes, give them as texts. Else give the classes.", "y")
        return f"if these are not classes, give others: y has {said.removesuffix(', not a class')}"
    return f"y has {said}: are these the classes?" if said else ""


def _classes(values: Values, class_names: Sequence[str] | None) -> list[int | str]:
    """Return the label values in class order."""
    present = sorted({value for value in values if value is not None}, key=lambda v: (str(type(v)), v))
    if class_names is None:
        return present
    if len(set(class_names)) != len(class_names):
        raise UserError("two class names are the same", "Give each class its own name.", "class_names")
    if present and isinstance(present[0], str):
        return list(class_names)
    return list(range(len(class_names)))


def _encode(values: Values, number: dict[int | str, int], name: str, named: bool) -> list[int]:
    for row, value in enumerate(values):
        if value is not None and value not in number:
            hint = nearest(str(value), map(str, number))
            if named and isinstance(value, int):
                hint = f"Labels count class_names from 0, so the last one is {len(number) - 1}."
            raise UserError(f"row {row} has label '{value}', which is not a class", hint, name)
    return [-1 if value is None else number[value] for value in values]

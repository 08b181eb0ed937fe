"""The first line of a delimited file: whether it names the columns or is a row, and columns without a name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

from metapl.data.tables.readers.frame import TableFile, counted, decimal_comma, parsed, short
from metapl.data.tables.roles import LABELS, PATHS, TEXTS, unnamed
from metapl.data.tables.spelling import Spellings
from metapl.errors import UserError

AUTO, FIRST, NONE = "auto", "first", "none"
ROWS = 200  # rows below the first line that are looked at
_ROLES = frozenset({*LABELS, *PATHS, *TEXTS, "id", "split"})
_NO_HEADER = "or set source.table.header=none: columns are then called 1, 2, ..., also in source.table.label."
Rows = Sequence[Sequence[str]]


@dataclass(frozen=True)
class Header:
    """The columns of a file.

    Attributes:
        names: the columns that are used: all different, none empty.
        fields: for each of them, its position in a row.
        width: number of fields of a row.
        is_row: whether the first line is a row.
        notes: notes for the user.
    """

    names: tuple[str, ...]
    fields: tuple[int, ...]
    width: int
    is_row: bool = False
    notes: tuple[str, ...] = ()


def read_header(first: Sequence[str], rows: Rows, asked: str, where: str) -> Header:
    """Read the first line.

    Args:
        first: its fields.
        rows: the fields of some lines below it.
        asked: "first" (it names the columns), "none" (it is a row) or "auto" (names, unless it looks like a row).

    Raises:
        UserError: the line is empty, two names are the same, or the line looks like a row.
    """
    if asked == NONE:
        numbers = tuple(str(k + 1) for k in range(len(first)))
        return Header(numbers, tuple(range(len(numbers))), len(numbers), True)
    names = [name.strip() for name in first]
    if not any(names):
        remedy = "Write the names of the columns into the first line."
        raise UserError("there is no header", remedy, where, _NO_HEADER if first else "")
    if asked == AUTO and looks_like_row(names, rows):
        what = f"the first line looks like a row ('{short(names[0])}', ...), not like the names of columns"
        raise UserError(what, "Write the names of the columns into the first line", where, _NO_HEADER)
    return _named(names, rows, where)


def check_width(file: TableFile, allowed: Sequence[int], classes: Collection[str]) -> None:
    """Refuse a file without a header whose rows have another number of fields, since columns go by their position.

    Args:
        allowed: number of fields of the training's rows; and one less if their last field is the label.
        classes: the labels of the training.

    Raises:
        UserError: another number of fields; or the last field holds labels, so that another field is missing.
    """
    known, width, last = Spellings(classes), len(file.names), file.last
    if not file.numbered or not allowed or width == allowed[0]:
        return
    labels = any(last) and all(not value or known.find(value) is not None for value in last)
    if width not in allowed or labels:
        what = f"its rows have {counted(width, 'field')}, those of the training have {allowed[0]}"
        what += f", and the last holds '{short(max(last))}', which is a class" if width in allowed else ""
        remedy = "Without a header columns go by their position: write all of them, and leave unknown cells empty."
        raise UserError(what, remedy, file.name)


def _named(names: list[str], rows: Rows, where: str) -> Header:
    """Return the header with the names ``names``; empty columns and row numbers without a name are left out."""
    file, notes, used, width = where.rpartition(", line")[0], list[str](), list(range(len(names))), len(names)
    lengths = {len(row) for row in rows if row}
    if lengths == {width + 1} and not any(row[-1].strip() for row in rows if row):
        notes.append(f"{file}: the delimiter at the end of each row is passed over")
        return Header(_checked(names, where), tuple(used), width + 1, notes=tuple(notes))
    if lengths == {width + 1} and _numbers_rows([row[0] for row in rows if row]):
        notes.append(f"{file}: the first field of each row has no name and is not used (R writes the names of rows so)")
        return Header(_checked(names, where), tuple(k + 1 for k in used), width + 1, notes=tuple(notes))
    while len(used) > 1 and not names[used[-1]] and not any(row[used[-1]].strip() for row in rows if len(row) == width):
        used.pop()
    if len(used) < width:
        dropped = width - len(used)
        notes.append(
            f"{file}: {dropped} empty {'column' if dropped == 1 else 'columns'} without a name at the end dropped"
        )
        width = len(used) if lengths == {len(used)} else width
    if not names[0] and len(used) > 1 and _numbers_rows([row[0] for row in rows if len(row) == width]):
        used.pop(0)
        notes.append(f"{file}: the first column has no name and is not used (pandas and R write the names of rows so)")
    found = [names[k] or unnamed(k + 1) for k in used]
    return Header(_checked(found, where), tuple(used), width, notes=tuple(notes))


def _numbers_rows(values: Sequence[str]) -> bool:
    """Return whether the values can be ids of rows: all differ, none is empty."""
    return len(set(values)) == len(values) and all(values)


def _checked(names: Sequence[str], where: str) -> tuple[str, ...]:
    for k, name in enumerate(names):
        if name in names[:k]:
            raise UserError(f"two columns are called '{short(name)}'", "Rename or remove one.", where)
    return tuple(names)


def looks_like_row(names: Sequence[str], rows: Rows = ()) -> bool:
    """Return whether the first line looks like a row of values.

    It does if it holds a number with decimals; if all its fields are numbers that do not count up; if a text occurs
    again in the same column below; or if numbers that do not count up stand above numbers. It does not if a field is
    ``label``, ``text`` or another name of a role.
    """
    if any(name.lower() in _ROLES for name in names):
        return _holds_decimals(names)
    if holds_values(names):
        return True
    below = [row for row in rows if len(row) == len(names) and [cell.strip() for cell in row] != list(names)]
    numbers = [k for k, name in enumerate(names) if parsed(name) is not None]
    columns = {k: [row[k].strip() for row in below] for k in range(len(names))}
    if any(name and name in columns[k] for k, name in enumerate(names) if k not in numbers):
        return True
    counted = _count_up([float(names[k]) for k in numbers])
    return bool(below) and len(numbers) > 1 and not counted and all(map(_all_numbers, (columns[k] for k in numbers)))


def _all_numbers(values: Sequence[str]) -> bool:
    return all(parsed(value) is not None for value in values if value)


def _count_up(numbers: Sequence[float]) -> bool:
    """Return whether column names such as 2019, 2020, 2021 or 10, 20, 30 go up evenly, in small steps."""
    steps = {b - a for a, b in pairwise(numbers)}
    return len(steps) <= 1 and all(0 < step <= 100 for step in steps)


def _holds_decimals(names: Sequence[str]) -> bool:
    with_point = any(parsed(name) is not None and not re.fullmatch(r"[+-]?\d+", name) for name in names)
    return with_point or any(map(decimal_comma, names))


def holds_values(names: Sequence[str]) -> bool:
    """Return whether the names are values: numbers other than 0, 1, 2, ..., the names that pandas gives columns."""
    if _holds_decimals(names):
        return True
    return all(parsed(name) is not None for name in names) and list(names) != [str(k) for k in range(len(names))]

"""A table in memory, column by column, before its roles are known; and the builder that fills columns in chunks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from metapl.data.images.scan import shown
from metapl.data.tables.digits import too_coarse
from metapl.data.tables.doubts import is_mixed, mixed
from metapl.errors import UserError
from metapl.types import Array

Form = Literal["text", "number", "auto"]
MARKERS = frozenset({"", "NA", "N/A", "NaN", "nan", "null", "None", "?"})  # "missing" in a column of numbers
SKIP = "or set source.table.skip_bad_rows=true to leave such rows out."  # the setting that helps against a bad row
LOOKED = 1 << 14  # values to look at before a column of many texts is certainly not one of numbers
SHOWN = 40  # characters of a value in a message
POINT, COMMA = ".", ","  # the sign before the decimals
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:(?:\.\d{3}){2,}|(?:,\d{3}){2,}|(?:['.]\d{3})+,\d+|(?:[',]\d{3})+\.\d+)")
_ADDRESS = re.compile(r"(?:(?:25[0-5]|2[0-4]\d|1\d\d)\.){3}(?:25[0-5]|2[0-4]\d|1\d\d)")
_ONE_GROUP = re.compile(r"[+-]?[1-9]\d{0,2}[.,]\d{3}")


@dataclass(frozen=True)
class Texts:
    """A column of text: row k holds ``levels[codes[k]]``, verbatim; "": an empty cell.

    Attributes:
        codes: [N] int32; -1: a missing value of a DataFrame.
        levels: the different texts, in the order of their first rows.
        decimal: the decimal sign of numbers among them.
        signs: decimal signs by text, for texts that come from files with different signs.
    """

    codes: Array
    levels: tuple[str, ...]
    decimal: str = POINT
    signs: Mapping[str, str] = field(default_factory=dict)

    def number(self, level: str) -> float | None:
        """Return the level as a finite number, or None if it is not the same number in every file that holds it."""
        found = {parsed(level, sign) for sign in self.signs.get(level, self.decimal)}
        return found.pop() if len(found) == 1 else None

    def not_a_number(self, name: str, level: str, where: str) -> UserError:
        """Return the error ``not_a_number`` for a file in which the level is not a number."""
        signs = self.signs.get(level, self.decimal)
        sign = next((sign for sign in signs if parsed(level, sign) is None), signs[0])
        return not_a_number(name, level, where, sign)

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, row: int) -> str:
        return self.levels[int(self.codes[row])]

    def tolist(self) -> list[str]:
        """Return one text per row."""
        return [self.levels[code] for code in self.codes.tolist()]


Blobs = list[bytes | None]  # as a Parquet file may hold images
Values = Array | Texts | Blobs  # an array is float32 [N], NaN where the value is missing; float64 for long numbers


@dataclass
class Frame:
    """Columns of one length.

    Attributes:
        name: what messages call the file.
        columns: values by column name, in the order of the file.
        where: row number -> the place that a message names: "FILE, line N".
        line: row number -> the row's line number as text, or what identifies it in its file.
        problems: (place, reason) of rows that cannot be read and were left out.
        notes: notes for the user on how the file was read.
        full: columns dropped because they hold too many different texts (see ``ColumnBuilder.most``).
    """

    name: str
    columns: dict[str, Values]
    where: Callable[[int], str]
    line: Callable[[int], str]
    rows: int
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    full: set[str] = field(default_factory=set)

    def text(self, column: str) -> Texts:
        """Return a column that was read as "text".

        Raises:
            UserError: it holds bytes or numbers.
        """
        values = self.columns[column]
        if not isinstance(values, Texts):
            raise UserError(f"column '{column}' does not hold text", "Name another column.", self.name)
        return values


class Lines:
    """``Frame.where`` and ``Frame.line`` of a text file, from the line that each row begins on, [N]."""

    def __init__(self, name: str, lines: Array | Sequence[int]) -> None:
        self.name, self.lines = name, lines

    def __len__(self) -> int:
        return len(self.lines)

    def __call__(self, row: int) -> str:
        return f"{self.name}, line {self.lines[row]}"

    def number(self, row: int) -> str:
        """Return the line as text."""
        return str(self.lines[row])


class TableFile(Protocol):
    """An open file of rows: its header is known, its rows are not read yet.

    Attributes:
        names: the columns, in the order of the file: all different, none empty.
        whole: the columns stored as numbers; in these, the label -1 means "no label".
        numbered: whether the file has no header, so that columns are called 1, 2, ...
        last: values of the last column in the first rows, if ``numbered``.
    """

    name: str
    names: tuple[str, ...]
    whole: frozenset[str]
    numbered: bool
    last: frozenset[str]

    def read(self, forms: Mapping[str, Form], most: Mapping[str, int] | None = None) -> Frame:
        """Return the columns named in ``forms``; the others are skipped.

        Args:
            forms: "text": verbatim (a number as it is written), or bytes if the file holds bytes. "number": float64,
                NaN for ``MARKERS``: an answer does not depend on the rows around a row. "auto": numbers if every value
                is a number (float32, or float64 if float32 loses digits), else as "text".
            most: the number of different texts beyond which a column is dropped and named in ``Frame.full``.

        Raises:
            UserError: rows or values that cannot be read; file and line are named.
        """
        ...


class ColumnBuilder:
    """Builds one column from chunks of text. Numbers become float32 at once, equal texts are kept once.

    Attributes:
        most: the number of different texts beyond which the column is dropped (``full``); None: no limit.
        decimal: the decimal sign.
        late: whether text followed after chunks of numbers, whose texts are gone: read the file again, as text.
    """

    def __init__(self, name: str, form: Form, most: int | None = None, decimal: str = POINT) -> None:
        self.name, self.form, self.most, self.decimal = name, form, most, decimal
        self.full = self.late = False
        self._numbers: list[Array] = []
        self._codes: list[Array] = []
        self._index: dict[str, int] = {}
        self._odd: tuple[str, str] | None = None  # the first value that is not read as a number, and its place
        self._texts = False  # whether a value was not even meant as a number
        self._looked = self._others = 0  # values looked at, and how many of them are not numbers
        self._numeric = form != "text"

    def add(self, values: Sequence[str], where: Callable[[int], str]) -> None:
        """Append a chunk; ``where``: position in it -> the place that a message names.

        Raises:
            UserError: the form is "number" and a value is not a number.
        """
        if self.late:
            return
        if self.full:
            self._look(values, where)
            return
        if self._numeric:
            numbers = to_numbers(values, self.decimal, wide=self.form == "number")
            if isinstance(numbers, int):
                if self.form == "number":
                    raise not_a_number(self.name, values[numbers], where(numbers), self.decimal)
                self._numeric, self.late = False, bool(self._numbers)
                self._numbers = []
            else:
                self._numbers.append(numbers)
                return
        if not self.late:
            index = self._index
            for value in dict.fromkeys(values):
                index.setdefault(value, len(index))
            self._codes.append(np.fromiter(map(index.__getitem__, values), dtype=np.int32, count=len(values)))
            if self.most is None:
                return
            self._look(values, where)
            if len(index) > self.most:
                self.full, self._codes, self._index = True, [], {}

    def _look(self, values: Sequence[str], where: Callable[[int], str]) -> None:
        """Store the first value that is not read as a number, and whether any value is not meant as a number."""
        if self._texts and self._looked > LOOKED and not is_mixed(self._looked - self._others, self._others, LOOKED):
            return
        self._looked += len(values)
        if not isinstance(to_numbers(values, self.decimal), int):
            return
        odd = [v for v in dict.fromkeys(values) if isinstance(to_numbers([v], self.decimal), int)]
        self._others += sum(map(Counter(values).__getitem__, odd))
        self._odd = self._odd or (odd[0], where(values.index(odd[0])))
        self._texts = self._texts or not all(map(meant, odd))

    def check(self) -> None:
        """Refuse to drop a column that is meant as numbers. Call it after the last chunk.

        Raises:
            UserError: the column is dropped, and its values are meant as numbers, of which some cannot be read.
        """
        if self.full and self._odd and not self._texts:
            raise as_categories(not_a_number(self.name, *self._odd, self.decimal), self.name)
        if self.full and self._odd and is_mixed(self._looked - self._others, self._others, self._looked):
            odd, where = self._odd
            raise mixed(self.name, odd, self._others, self._looked, where)

    def done(self) -> Array | Texts:
        """Return the whole column."""
        if self._numeric:
            return np.concatenate(self._numbers) if self._numbers else np.zeros(0, dtype=np.float32)
        codes = np.concatenate(self._codes) if self._codes else np.zeros(0, dtype=np.int32)
        return Texts(codes, tuple(map(str, self._index)), self.decimal)  # str: no ``Typed`` among them


def to_numbers(values: Sequence[str], decimal: str = POINT, wide: bool = False) -> Array | int:
    """Return [n], NaN for ``MARKERS``, or the position of the first value not finite; ``wide``: see ``_narrow``."""
    try:
        plain = ["nan" if value in MARKERS else value for value in values]
        whole = "".join(plain)
        if decimal == COMMA:
            plain = [value.replace(COMMA, POINT) for value in plain]
        numbers = np.fromiter(map(float, plain), dtype=np.float64, count=len(values))
        # float() also accepts 1_000, inf, and spellings of "nan" that are not in MARKERS.
        sound = int((~np.isfinite(numbers)).sum()) == plain.count("nan")
        if sound and "_" not in whole and (decimal == POINT or POINT not in whole):
            return _narrow(numbers, wide)
    except ValueError:
        pass
    numbers = np.empty(len(values), dtype=np.float64)
    for k, value in enumerate(values):
        number = np.nan if value.strip() in MARKERS else parsed(value, decimal)
        if number is None:
            return k
        numbers[k] = number
    return _narrow(numbers, wide)


def _narrow(numbers: Array, wide: bool) -> Array | int:
    """Return float64 if ``wide`` or if float32 loses digits, else float32; or the position of the first too large."""
    with np.errstate(over="ignore"):
        narrow = numbers.astype(np.float32)
    over = np.isinf(narrow)
    if over.any():
        return int(over.argmax())
    return numbers if wide or too_coarse(numbers) else narrow


def parsed(value: str, decimal: str = POINT) -> float | None:
    """Return the finite number that ``value`` is written as, or None; with a decimal comma, it holds no point."""
    if decimal == COMMA:
        if POINT in value:
            return None
        value = value.replace(COMMA, POINT, 1)
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) and "_" not in value else None


def not_a_number(column: str, value: str, where: str, decimal: str = POINT) -> UserError:
    """Return the error that says what is wrong with a value of a column of numbers."""
    cell, named = short(value), f"column '{column}' has '{short(value)}'"
    if infinite(value):
        return UserError(f"{named}, which is infinite", "Give a finite number, or leave it empty.", where)
    if parsed(value, decimal) is not None:
        what = f"column '{column}' has {cell}, too large for float32"
        return UserError(what, "Scale the column, or leave it empty.", where)
    if grouped(value):
        plain = "1234,5" if decimal == COMMA else "1234.5"
        return UserError(f"{named}, a number with its thousands marked", f"Write it plainly, as {plain}.", where)
    if decimal == POINT and decimal_comma(value):
        remedy, setting = _other_sign(value, COMMA, POINT)
        return UserError(f"{named}, a number with a decimal comma", remedy, where, setting)
    if decimal == COMMA and parsed(value) is not None:
        what = f"{named}, a number with a point, where numbers have a decimal comma"
        remedy, setting = _other_sign(value, POINT, COMMA)
        return UserError(what, remedy, where, setting)
    return UserError(f"{named}, which is not a number", "Mend it, or leave the cell empty.", where)


def _other_sign(value: str, found: str, wanted: str) -> tuple[str, str]:
    """Return the remedy for a number with ``found`` in place of the decimal sign ``wanted``, and the setting."""
    text, word = value.strip(), "comma" if found == COMMA else "point"
    remedy, setting = (
        f"Write {text.replace(found, wanted)}.",
        f"or set source.table.decimal={word}, for all numbers of the file.",
    )
    if one_group(text):  # it may mean a thousand, so the remedy names both meanings
        remedy = (
            f"If the {word} marks thousands, take it out; if decimals follow it, write {text.replace(found, wanted)}."
        )
    return remedy, setting


def one_group(value: str) -> bool:
    """Return whether ``value`` looks like 1,234 or 1.234: the mark may separate thousands or decimals."""
    return _ONE_GROUP.fullmatch(value.strip()) is not None


def as_categories(error: UserError, column: str) -> UserError:
    """Return the error with a second remedy: to read the column as categories."""
    return UserError(error.what, f"{error.remedy} Or set source.table.categorical={column}.", error.where)


def meant(value: str) -> bool:
    """Return whether ``value`` is meant as a number, though it may be infinite, too large, or in a form not read."""
    return decimal_comma(value) or grouped(value) or infinite(value) or parsed(value) is not None


def decimal_comma(value: str) -> bool:
    """Return whether ``value`` looks like 3,5, or like 3,5E+04."""
    whole, comma, rest = value.strip().partition(COMMA)
    fraction, _, power = rest.lower().partition("e")
    sound = fraction.isdecimal() and (whole.lstrip("+-") or "0").isdecimal()
    return bool(comma) and sound and (power.lstrip("+-") or "0").isdecimal()


def grouped(value: str) -> bool:
    """Return whether ``value`` is a number with thousands marks, such as 1.234,56, 1,234.56 or 1,234,567.

    192.168.100.100 is taken for the address of a computer: few columns hold numbers that large.
    """
    text = value.strip()
    return _GROUPED.fullmatch(text) is not None and not _ADDRESS.fullmatch(text)


def infinite(value: str) -> bool:
    """Return whether ``value`` is some form of infinity."""
    return value.strip().lower().lstrip("+-") in ("inf", "infinity")


def short(value: str) -> str:
    """Return a value for a one-line message."""
    text = shown(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def join(parts: Sequence[Values]) -> Values:
    """Return columns of one form joined to one column."""
    if len(parts) == 1:
        return parts[0]
    if all(isinstance(part, Texts) for part in parts):
        index: dict[str, int] = {}
        codes = []
        for part in parts:
            assert isinstance(part, Texts)
            number = np.array([index.setdefault(v, len(index)) for v in part.levels], dtype=np.int32)
            codes.append(number[part.codes] if len(number) else part.codes)
        return Texts(np.concatenate(codes), tuple(index), *_signs([part for part in parts if isinstance(part, Texts)]))
    if isinstance(parts[0], list):
        return [value for part in parts if isinstance(part, list) for value in part]
    return np.concatenate([np.asarray(part) for part in parts])


def _signs(parts: Sequence[Texts]) -> tuple[str, dict[str, str]]:
    """Return ``Texts.decimal`` and ``Texts.signs`` of joined columns."""
    commas = {level for part in parts if part.decimal == COMMA for level in part.levels}
    if not commas:
        return POINT, {}
    points = (level for part in parts if part.decimal == POINT for level in part.levels)
    return COMMA, {level: COMMA + POINT if level in commas else POINT for level in points}


def take(values: Values, rows: Array) -> Values:
    """Return the values at ``rows`` (numbers of rows)."""
    if isinstance(values, Texts):
        return Texts(values.codes[rows], values.levels, values.decimal, values.signs)
    return [values[k] for k in rows.tolist()] if isinstance(values, list) else values[rows]


def counted(number: int, noun: str) -> str:
    """Return ``1 row``, ``2 rows``."""
    return f"{number:,} {noun}{'s' * (number != 1)}"

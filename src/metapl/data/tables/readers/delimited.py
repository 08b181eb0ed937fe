"""Read files of comma-, tab-, semicolon- or pipe-separated values strictly: errors name the line."""

from __future__ import annotations

import csv
import gc
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np

from metapl.data.images.scan import shown
from metapl.data.tables.readers.encodings import AUTO, find_encoding, open_text
from metapl.data.tables.readers.frame import (
    COMMA,
    POINT,
    SKIP,
    ColumnBuilder,
    Form,
    Frame,
    Lines,
    counted,
)
from metapl.data.tables.readers.header import ROWS, read_header
from metapl.data.tables.readers.remarks import file_remarks
from metapl.data.tables.readers.rules import Fault
from metapl.data.tables.readers.stretch import TextStretch, cut
from metapl.errors import BadRow, UnclearDelimiter, UserError

_SEP = re.compile(r"""["']?sep=(.)["']?""", re.IGNORECASE)  # Excel may write this line above the header
DECIMALS = {"point": POINT, "comma": COMMA}
DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}
CHUNK = 1 << 10  # rows read at a time; few enough to stay in the processor's cache
LONGEST = 1 << 23  # characters of one field
SAMPLE = 20  # rows that must agree with the header if its delimiter is unclear
FEW_VALUES = 50  # a line of prose hardly holds a value of a column with so few different values by chance
_CLOSE = 'Close it, or write "" for a quote inside a quoted field'
_NO_QUOTES = "or set source.table.quotes=none if quotes mean nothing in this file."


class DelimitedFile:
    """A ``frame.TableFile`` over delimited text with any line ends, and quotes as in RFC 4180.

    Args:
        delimiter: "auto" (found from the header), a name in ``DELIMITERS``, or the character itself.
        encoding: see ``encodings.find_encoding``.
        decimal: the decimal sign of all numbers in the file, a name in ``DECIMALS`` or the sign itself.
        header: see ``header.read_header``.
        quotes: "auto" (fields may stand in double quotes) or "none" (a quote is a character like any other).
        skip_bad: leave out rows that cannot be read, and enter them in ``Frame.problems``, instead of an error.

    Raises:
        UserError: no such file, a wrong encoding, or a header that cannot be read.
    """

    whole: frozenset[str] = frozenset()  # all is text

    def __init__(
        self,
        path: str | Path,
        *,
        delimiter: str = "auto",
        encoding: str = AUTO,
        decimal: str = "point",
        header: str = "auto",
        quotes: str = "auto",
        skip_bad: bool = False,
    ) -> None:
        self.path, self.skip_bad = Path(path), skip_bad
        self.name = shown(self.path.name)
        if (sign := DECIMALS.get(decimal, decimal)) not in DECIMALS.values():
            raise UserError(f"decimal is {decimal!r}", f"Give {' or '.join(DECIMALS)}.", "source.table.decimal")
        self.decimal, self.quoted = sign, quotes != "none"
        self.encoding = find_encoding(self.path, encoding, skip_bad)
        self.odd = self.encoding.odd
        self.spans: list[int] = []  # lines on which a row of several lines begins
        self._blank = self._left_out = 0  # lines and rows that ``stretches`` has passed over
        self._doubtful: list[tuple[int, int, list[list[str]]]] = []  # rows of several lines that may be rows each
        with self._open() as file:
            named = _SEP.fullmatch(file.readline().rstrip("\r\n"))
        self.names_delimiter = named is not None  # the header then is the second line
        with self._open() as file:
            asked = named[1] if named and delimiter == AUTO else delimiter
            self.delimiter = find_delimiter(file, asked, self.name, self.decimal, self._quoting)
        with self._open() as file:
            reader = self._reader(file)
            first = self._header(reader)
            below = _sample(reader)
            self.header = read_header(first, below, header, f"{self.name}, line {1 + self.names_delimiter}")
        self.names, self.numbered = self.header.names, self.header.is_row
        rows = [first, *below] if self.numbered else []
        self.last = frozenset(row[-1].strip() for row in rows if len(row) == len(first))

    def read(self, forms: Mapping[str, Form], most: Mapping[str, int] | None = None) -> Frame:
        """Read columns as ``frame.TableFile.read`` does."""
        frame = read_columns(self, self.names, forms, most or {})
        frame.notes[:0] = self.header.notes
        return frame

    def stretches(self, forms: Mapping[str, Form], rows: int) -> Iterator[TextStretch]:
        """As ``stretch.LongFile`` has it; all columns are in memory."""
        self._blank = self._left_out = 0
        for piece in cut(self.chunks(), rows):
            self._left_out, self._blank = self._left_out + len(piece[2]), self._blank + piece[3]
            yield TextStretch(self, piece, read_columns)

    def remarks(self) -> list[str]:
        """As ``stretch.LongFile`` has it."""
        return [*self.header.notes, *file_remarks(self, self._blank, self._left_out)]

    def chunks(self) -> Iterator[tuple[list[Sequence[str]], list[int], list[tuple[str, str]], int]]:
        """Yield chunks: rows, their first lines, (place, reason) of bad rows, and the number of blank lines."""
        width, self.spans, self._doubtful = self.header.width, list[int](), []
        fields = self.header.fields
        whole = fields == tuple(range(width))
        with self._open() as file:
            reader = self._reader(file)
            first: list[str] | None = None  # the names of the columns
            if self.header.is_row:
                _ = next(reader, None) if self.names_delimiter else None
            else:
                first = self._header(reader)
            while True:
                rows, lines, bad, blank = list[Sequence[str]](), list[int](), list[tuple[str, str]](), 0
                with _limit(), _no_collection():
                    for row, line in self._rows(reader, bad):
                        if row == first and len(row) > 1:
                            self._bad("the row repeats the names of the columns", line, reader.line_num, bad)
                        elif len(row) == width and not (self.odd and self._is_odd(row)):
                            rows.append(row if whole else [row[k] for k in fields])
                            lines.append(line)
                            if len(rows) == CHUNK:
                                break
                        elif row:
                            self._bad(self._reason(row), line, reader.line_num, bad)
                        else:
                            blank += 1
                if not rows and not bad and not blank:
                    return self._check_doubtful()
                yield rows, lines, bad, blank

    def _rows(self, reader: Any, bad: list[tuple[str, str]]) -> Iterator[tuple[list[str], int]]:
        """Yield each row with the line that it begins on."""
        while True:
            line = reader.line_num + 1
            try:
                for row in reader:
                    if reader.line_num != line:
                        self.spans.append(line)
                        self._check_span(row, line, reader.line_num)
                    yield row, line
                    line = reader.line_num + 1
                return
            except csv.Error as error:
                self._bad(self._broken(error, line, reader.line_num), line, reader.line_num, bad)

    def _check_span(self, row: Sequence[str], line: int, last: int) -> None:
        """Refuse a row of several lines if each line would be a row without the quotes.

        Raises:
            UserError: it is such a row, or a row of several lines with a wrong number of fields.
        """
        if len(row) != self.header.width:
            why = f"{self._reason(row)}, and goes over several lines: a quote is opened in the first of them"
            raise UserError(why, _CLOSE, self._place(line, last), _NO_QUOTES)
        lines = [text.split(self.delimiter) for text in self.delimiter.join(row).split("\n")]
        whole = [fields for fields in lines if len(fields) == len(row)]
        if len(row) < 2 or 2 * len(whole) < len(lines) or len(whole) < 2:
            return
        sparse = self.delimiter != "," or len(row) > 3  # lines of prose may hold a comma or two each
        if sparse and len(whole) == len(lines):
            raise self._swallowed(line, last, len(lines))
        self._doubtful.append((line, last, whole))

    def _check_doubtful(self) -> None:
        """Refuse a row of several lines that hold values of a column with few values.

        Raises:
            UserError: there is such a row.
        """
        known = self._few_values() if self._doubtful else {}
        for line, last, rows in self._doubtful:
            if any(all(fields[k].strip() in values for fields in rows) for k, values in known.items()):
                raise self._swallowed(line, last, last - line + 1)

    def _few_values(self) -> dict[int, set[str]]:
        """Return field -> values, for columns with few different values in the rows of one line."""
        values: list[set[str]] = [set() for _ in range(self.header.width)]
        rows = 0
        with self._open() as file, _limit(), suppress(csv.Error):
            reader, before = self._reader(file), 0
            for row in reader:
                if len(row) == self.header.width and reader.line_num == before + 1:
                    rows += 1
                    for seen, value in zip(values, row, strict=True):
                        if len(seen) <= FEW_VALUES:
                            seen.add(value.strip())
                before = reader.line_num
        most = min(FEW_VALUES, rows // 2)
        return {k: seen - {""} for k, seen in enumerate(values) if len(seen) <= most}

    def _swallowed(self, line: int, last: int, count: int) -> UserError:
        why = f"a quote that is opened on line {line} makes one row of {count} lines that are rows of their own"
        return UserError(why, _CLOSE, self._place(line, last), _NO_QUOTES)

    def _broken(self, error: csv.Error, line: int, last: int) -> str:
        """Return the reason of an error in the quotes.

        Raises:
            UserError: the rows after the error cannot be found, so that skipping it is impossible.
        """
        if "expected after" in str(error):
            return Fault(f"something stands between a closing quote and the {_word(self.delimiter)}", "quotes")
        if "unexpected end" in str(error):
            what = "the quote that is opened here is never closed"
        elif "field limit" in str(error):
            what = f"a field has more than {LONGEST:,} characters: a quote that is opened here may never be closed"
        else:
            what = str(error)
        raise UserError(what, _CLOSE, self._place(line, last), _NO_QUOTES)

    def _bad(self, reason: str, line: int, last: int, bad: list[tuple[str, str]]) -> None:
        """Enter a bad row, or refuse it."""
        place = self._place(line, last)
        in_quotes = isinstance(reason, Fault) and reason.source == "quotes"
        if in_quotes and (last > line or not self.skip_bad):
            raise (UserError if last > line else BadRow)(reason, _CLOSE, place, _NO_QUOTES)
        if not self.skip_bad:
            raise BadRow(reason, "Mend the row.", place, SKIP)
        bad.append((place, reason))

    def _reason(self, row: Sequence[str]) -> str:
        if self.odd and self._is_odd(row):
            is_nul, codec = "\0" in "".join(row), self.encoding.codec.upper()
            return "the row holds a NUL byte" if is_nul else f"the row is not valid {codec}"
        return Fault(f"the row has {counted(len(row), 'field')} where {self._wanted} {self.header.width}", "header")

    @property
    def _wanted(self) -> str:
        return "the first has" if self.header.is_row else "the header has"

    @staticmethod
    def _is_odd(row: Sequence[str]) -> bool:
        text = "".join(row)
        return "\0" in text or any("\udc80" <= c <= "\udcff" for c in text)

    def _place(self, line: int, last: int) -> str:
        return f"{self.name}, line {line}" if last <= line else f"{self.name}, lines {line} to {last}"

    def _header(self, reader: Any) -> list[str]:
        """Return the first row, or the one after Excel's ``sep=;``.

        Raises:
            UserError: it cannot be read, or a quote in it is not closed.
        """
        try:
            with _limit():
                header: list[str] = next(reader, [])
                header = next(reader, []) if self.names_delimiter else header
        except csv.Error as error:
            why = self._broken(error, 1, reader.line_num)
            raise UserError(why, "Mend the header.", f"{self.name}, line 1") from error
        return header

    def _reader(self, file: IO[str]) -> Any:
        return csv.reader(file, delimiter=self.delimiter, strict=True, quoting=self._quoting)

    @property
    def _quoting(self) -> Literal[0, 3]:
        return csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE

    def _open(self) -> IO[str]:
        return open_text(self.path, self.encoding)


def read_columns(file: Any, names: Sequence[str], forms: Mapping[str, Form], most: Mapping[str, int]) -> Frame:
    """Read ``file.chunks()`` into a frame; columns that turn out to be text late are read a second time."""
    columns: dict[str, Any] = {}
    lines, problems, blank = list[Any](), list[tuple[str, str]](), 0
    wanted = {name: forms[name] for name in names if name in forms}
    full: set[str] = set()
    first = True
    while wanted:
        builders = [(names.index(n), ColumnBuilder(n, form, most.get(n), file.decimal)) for n, form in wanted.items()]
        for rows, numbers, bad, passed in file.chunks():
            by_column = list(zip(*rows)) if rows else []
            for k, builder in builders:
                if rows:
                    builder.add(by_column[k], Lines(file.name, numbers))
            if first:
                lines.append(np.array(numbers, dtype=np.int64))
                problems += bad
                blank += passed
        for _, builder in builders:
            builder.check()
        columns |= {b.name: b.done() for _, b in builders if not b.late and not b.full}
        full |= {b.name for _, b in builders if b.full}
        wanted, first = {b.name: "text" for _, b in builders if b.late}, False
    where = Lines(file.name, np.concatenate(lines) if lines else np.zeros(0, dtype=np.int64))
    notes = file_remarks(file, blank, len(problems))
    ordered = {name: columns[name] for name in names if name in columns}
    return Frame(file.name, ordered, where, where.number, len(where), problems, notes, full)


def _sample(reader: Any) -> list[list[str]]:
    """Return some of the next rows, up to the first error in quotes."""
    rows = list[list[str]]()
    try:
        with _limit():
            rows += (row for row, _ in zip(reader, range(ROWS)) if row)
    except csv.Error:
        pass
    return rows


def find_delimiter(
    file: IO[str], asked: str, name: str, decimal: str = POINT, quoting: Literal[0, 3] = csv.QUOTE_MINIMAL
) -> str:
    """Return the character between fields: ``asked``, or the delimiter that occurs in the header.

    A decimal comma is the delimiter only if no other character fits.

    Raises:
        UserError: the file has no header, ``asked`` is not a delimiter, or several characters fit.
    """
    if asked != "auto":
        if asked in DELIMITERS.values() or asked in DELIMITERS:
            return DELIMITERS.get(asked, asked)
        raise UserError(f"delimiter is {asked!r}", f"Give auto, {', '.join(DELIMITERS)}.", "source.table.delimiter")
    lines = [line for line, _ in zip(file, range(SAMPLE))]
    if not lines or not lines[0].strip():
        what = "the first line is blank" if any(line.strip() for line in lines) else "the file is empty"
        raise UserError(what, "Write the names of the columns into the first line.", f"{name}, line 1")
    widths = {mark: _widths(lines, mark, quoting) for mark in DELIMITERS.values()}
    found = [mark for mark, counts in widths.items() if counts and counts[0] > 1]
    if not found and (below := next((w[-1] for w in widths.values() if len(w) > 2 and min(w[-2:]) > 1), 0)):
        what = f"the first line has one field, the lines below have {below}"
        raise UserError(what, "Take out what stands above the names of the columns.", f"{name}, line 1")
    if len(found) > 1 and decimal in found:
        found.remove(decimal)
    if len(found) > 1:
        found = [mark for mark in found if len(set(widths[mark])) == 1] or found
    if len(found) > 1:
        words = " and ".join(f"{_word(mark)} ({widths[mark][0]} columns)" for mark in found)
        choices = " or ".join(f"source.table.delimiter={_word(mark)}" for mark in found)
        remedy, setting = "Let one of them stand between fields alone", f"or set {choices}, whichever separates them."
        raise UnclearDelimiter(f"fields may be separated by {words}", remedy, f"{name}, line 1", setting)
    return found[0] if found else ","


def _widths(lines: Sequence[str], mark: str, quoting: Literal[0, 3]) -> list[int]:
    """Return the number of fields of each row if ``mark`` is the delimiter, up to the first error in quotes."""
    counts: list[int] = []
    try:
        with _limit():
            counts += (len(row) for row in csv.reader(lines, delimiter=mark, strict=True, quoting=quoting) if row)
    except csv.Error:  # the sample may end within a quoted field
        pass
    return counts


def _word(mark: str) -> str:
    return next(word for word, known in DELIMITERS.items() if known == mark)


@contextmanager
def _no_collection() -> Iterator[None]:
    """Pause garbage collection: it takes as long as the reading, and the lists of a chunk hold no cycles."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def _limit() -> Iterator[None]:
    """Raise the csv module's limit on the length of a field, which holds for the whole process."""
    before = csv.field_size_limit(LONGEST)
    try:
        yield
    finally:
        csv.field_size_limit(before)

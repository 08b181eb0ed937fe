"""JSON Lines: one JSON object per line. Values are kept as written, so that 1 and 1.0 stay different."""

from __future__ import annotations

import json
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from metapl.data.images.scan import shown
from metapl.data.tables.readers.delimited import CHUNK, read_columns
from metapl.data.tables.readers.encodings import AUTO, find_encoding, open_text
from metapl.data.tables.readers.frame import POINT, SKIP, Form, Frame, short
from metapl.data.tables.readers.remarks import file_remarks
from metapl.data.tables.readers.rules import LINES, Fault
from metapl.data.tables.readers.stretch import TextStretch, cut
from metapl.errors import BadRow, NoRow, UserError


class JsonLinesFile:
    """A ``frame.TableFile`` over a file of JSON objects, one per line; null or a missing key is an empty value.

    The columns are the keys of all lines together, in the order in which they first appear.

    Raises:
        UserError: no such file, a wrong encoding, or no line that can be read.
    """

    decimal = POINT  # JSON knows no other
    whole: frozenset[str] = frozenset()
    numbered = False
    last: frozenset[str] = frozenset()

    def __init__(self, path: str | Path, *, encoding: str = AUTO, skip_bad: bool = False) -> None:
        self.path, self.skip_bad = Path(path), skip_bad
        self.name = shown(self.path.name)
        self.encoding = find_encoding(self.path, encoding, skip_bad)
        self.spans: list[int] = []
        self._blank = self._left_out = 0  # lines and rows that ``stretches`` has passed over
        self._wanted = frozenset[str]()  # keys whose values are read
        self._texts = frozenset[str]()  # keys among them that cannot be ignored
        keys: dict[str, int] = {}
        rows = 0
        for _, row in self._rows([]):
            rows += isinstance(row, dict)
            for key in row or ():
                keys[key] = keys.get(key, 0) + 1
        if not rows:
            raise NoRow("the file has no row", "Write one JSON object per line.", self.name)
        self.names = check_names(list(keys), self.name)
        self._keys = list(keys)
        self.notes = [
            f"{self.name}: the key '{short(k)}' is in {n} of {rows} lines" for k, n in keys.items() if n < rows
        ]

    def want(self, forms: Mapping[str, Form]) -> None:
        """Read the values of these keys alone; other keys may hold anything."""
        self._wanted = frozenset(forms)
        self._texts = frozenset(key for key, form in forms.items() if form == "text")

    def read(self, forms: Mapping[str, Form], most: Mapping[str, int] | None = None) -> Frame:
        """Read columns as ``frame.TableFile.read`` does."""
        self.want(forms)
        frame = read_columns(self, self.names, forms, most or {})
        frame.notes += self.notes
        return frame

    def stretches(self, forms: Mapping[str, Form], rows: int) -> Iterator[TextStretch]:
        """As ``stretch.LongFile`` has it; all keys are in memory."""
        self.want(forms)
        self._blank = self._left_out = 0
        for piece in cut(self.chunks(), rows):
            self._left_out, self._blank = self._left_out + len(piece[2]), self._blank + piece[3]
            yield TextStretch(self, piece, read_columns)

    def remarks(self) -> list[str]:
        """As ``stretch.LongFile`` has it."""
        return [*file_remarks(self, self._blank, self._left_out), *self.notes]

    def chunks(self) -> Iterator[tuple[list[Sequence[str]], list[int], list[tuple[str, str]], int]]:
        """Yield chunks as ``DelimitedFile.chunks`` does."""
        keys = self._keys
        rows, lines, bad, blank = list[Sequence[str]](), list[int](), list[tuple[str, str]](), 0
        for line, row in self._rows(bad):
            if row is None:
                blank += 1
                continue
            rows.append([row.get(key, "") for key in keys])
            lines.append(line)
            if len(rows) == CHUNK:
                yield rows, lines, bad, blank
                rows, lines, blank = [], [], 0
                bad.clear()
        yield rows, lines, bad, blank

    def _rows(self, bad: list[tuple[str, str]]) -> Iterator[tuple[int, dict[str, str] | None]]:
        """Yield each line's number, and its values as text; None for a blank line."""
        with open_text(self.path, self.encoding) as file:
            for line, text in enumerate(file, 1):
                if not text.strip():
                    yield line, None
                    continue
                try:
                    yield line, _values(text, self._wanted)
                except (ValueError, RecursionError) as error:
                    place = f"{self.name}, line {line}"
                    reason = _reason(error)
                    if not self.skip_bad:
                        if isinstance(error, _NotOneValue):
                            setting = (
                                SKIP if error.key in self._texts else f"or set source.table.ignore={short(error.key)}."
                            )
                            raise BadRow(reason, "Write one value.", place, setting) from error
                        if line == 1 and (text.lstrip("\ufeff \t").startswith("[") or text.strip() == "{"):
                            raise UserError("the file is not JSON Lines", LINES, place) from error
                        raise BadRow(reason, "Mend the line.", place, SKIP) from error
                    bad.append((place, reason))


def check_names(keys: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the names of the columns: the keys without blanks around them.

    Raises:
        UserError: a key is empty, or two are the same.
    """
    names = [key.strip() for key in keys]
    for k, name in enumerate(names):
        if not name:
            raise UserError("a key is empty", "Give it a name.", where)
        if name in names[:k]:
            raise UserError(f"two keys differ only by blanks: '{short(name)}'", "Rename or remove one.", where)
    return tuple(names)


def _values(text: str, wanted: Container[str]) -> dict[str, str]:
    """Return the object's values as text; "" for keys that are not ``wanted``.

    Raises:
        ValueError: the line is not such an object; the message says why.
    """
    if "\0" in text or any("\udc80" <= c <= "\udcff" for c in text):
        raise ValueError("the line is not valid UTF-8" if "\0" not in text else "the line holds a NUL byte")
    row = _DECODER.decode(text)
    if not isinstance(row, _Object):
        raise ValueError("the line is not a JSON object ({...})")
    return {key: _text(key, value) if key.strip() in wanted else "" for key, value in row.items()}


class _NotOneValue(ValueError):
    """A list of several values, or an object, where one value belongs."""

    def __init__(self, key: str, value: Any) -> None:
        form = f"a list of {len(value)} values" if isinstance(value, list) else "an object"
        super().__init__(f"the value of '{short(key)}' is {form}, not one text or number")
        self.key = key


class _Object(dict[str, Any]):
    """A JSON object, so that it differs from the texts that numbers become."""


def _object(pairs: list[tuple[str, Any]]) -> _Object:
    made = _Object(pairs)
    if len(made) < len(pairs):
        twice = next(key for k, (key, _) in enumerate(pairs) if key in dict(pairs[:k]))
        raise ValueError(f"the key '{short(twice)}' stands twice in the line")
    return made


def _constant(name: str) -> None:
    """Read NaN, which Python and pandas write for a missing value, as null.

    Raises:
        ValueError: Infinity or -Infinity.
    """
    if name != "NaN":
        raise ValueError(f"the line holds {name}, which is not valid JSON")


class Typed(str):
    """Mark the text of a JSON number, which has a point whatever decimal sign the texts have."""

    __slots__ = ()


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=Typed, parse_float=Typed, parse_constant=_constant)


def _text(key: str, value: Any) -> str:
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            raise ValueError(f"the value of '{short(key)}' holds a character that is not text")
        return value
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list) and len(value) < 2:
        return _text(key, value[0]) if value else ""  # as many tools write one label, and none
    raise _NotOneValue(key, value)


def _reason(error: ValueError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "the line holds lists or objects nested too deeply"
    if isinstance(error, json.JSONDecodeError):
        return Fault(f"the line is not valid JSON ({error.msg}, column {error.colno})", "json")
    return str(error)

"""Files of rows read a stretch at a time, so that memory holds one stretch, however long the file is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from metapl.data.tables.readers.frame import Form, Frame, TableFile

Pieces = Iterator[tuple[list[Sequence[str]], list[int], list[tuple[str, str]], int]]


class LongFile(TableFile, Protocol):
    """A ``frame.TableFile`` on the disk, which can also be read a stretch at a time."""

    def stretches(self, forms: Mapping[str, Form], rows: int) -> Iterator[TableFile]:
        """Yield files of about ``rows`` rows each, in order, with the columns named in ``forms``.

        The last of them is empty only where the whole file is.

        Raises:
            UserError: as ``read``.
        """
        ...

    def remarks(self) -> list[str]:
        """Return the notes of ``Frame.notes`` for all rows that ``stretches`` has read."""
        ...


class Seen:
    """Texts of earlier rows and their places, in a temporary database that goes to the disk where it grows."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None, check_same_thread=False)
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("CREATE TABLE seen (key BLOB PRIMARY KEY, place BLOB, text BLOB) WITHOUT ROWID")

    def earlier(self, noun: str, key: str, text: str, place: str) -> tuple[str, str] | None:
        """Return the place and the text of the earlier row with this key. The first row of a key is remembered: None.

        Args:
            noun: what the key is; keys of different nouns are not compared.
            text: what the row holds, from which the key was made.
        """
        values = [word.encode("utf-8", "surrogatepass") for word in (f"{noun}:{key}", place, text)]
        if self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", values).rowcount:
            return None
        found = self._base.execute("SELECT place, text FROM seen WHERE key = ?", values[:1]).fetchone()
        before, written = (cell.decode("utf-8", "surrogatepass") for cell in found)
        return before, written


def cut(pieces: Pieces, rows: int) -> Pieces:
    """Join pieces, as ``DelimitedFile.chunks`` yields them, to stretches of at least ``rows`` rows."""
    kept, lines, bad, blank = list[Sequence[str]](), list[int](), list[tuple[str, str]](), 0
    for more, numbers, wrong, passed in pieces:
        if more and len(kept) >= rows:
            yield kept, lines, bad, blank
            kept, lines, bad, blank = [], [], [], 0
        kept += more
        lines += numbers
        bad += wrong
        blank += passed
    yield kept, lines, bad, blank


class NoMarks:
    """The encoding of rows that are text already: nothing is to be said of it."""

    notes: tuple[str, ...] = ()


class TextStretch:
    """A ``frame.TableFile`` over rows that were read from a file of text.

    Args:
        file: the file.
        piece: rows, lines, bad rows and blank lines, as ``cut`` yields them.
        read_columns: makes a frame of it.
    """

    whole: frozenset[str] = frozenset()
    encoding = NoMarks()
    spans: tuple[int, ...] = ()

    def __init__(self, file: Any, piece: tuple[Any, ...], read_columns: Any) -> None:
        self.name, self.names, self.decimal = file.name, file.names, file.decimal
        self.numbered, self.last = file.numbered, file.last
        self._piece, self._read_columns = piece, read_columns

    def chunks(self) -> Iterator[tuple[Any, ...]]:
        """Yield the one piece."""
        yield self._piece

    def read(self, forms: Mapping[str, Form], most: Mapping[str, int] | None = None) -> Frame:
        """As ``frame.TableFile`` has it."""
        frame: Frame = self._read_columns(self, self.names, forms, most or {})
        return frame

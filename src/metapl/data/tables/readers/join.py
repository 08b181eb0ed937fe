"""Join the files of labelled, unlabelled and test rows to one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metapl.data.tables.readers.frame import SKIP, Form, Frame, TableFile, Texts, Values, join, take
from metapl.data.tables.readers.rules import Refusal
from metapl.errors import BadRow, NoRow, UserError
from metapl.types import Array


@dataclass
class Joined:
    """The rows of all files, in the order of the files.

    Attributes:
        part: [N] the number of the file that a row comes from: 0, 1, ...
        held: column name -> the numbers of the files that have it.
        full: dropped columns, see ``Frame.full``.
        bad: bad rows and their reasons; ``kept`` leaves them out.
    """

    columns: dict[str, Values]
    part: Array
    place: Callable[[int], str]
    line: Callable[[int], str]
    skip_bad: bool
    held: Mapping[str, frozenset[int]]
    full: frozenset[str]
    notes: list[str]
    problems: list[tuple[str, str]]
    bad: dict[int, str]

    @property
    def rows(self) -> int:
        return len(self.part)

    def text(self, column: str) -> Texts:
        """Return a column that was read as text.

        Raises:
            UserError: it holds bytes or numbers.
        """
        values = self.columns[column]
        if not isinstance(values, Texts):
            raise UserError(f"column '{column}' does not hold text", "Name another column.", self.place(0))
        return values

    def refuse(self, refusals: Iterable[Refusal]) -> None:
        """Enter bad rows; ``kept`` leaves them out.

        Raises:
            BadRow: there is a bad row, and bad rows are not skipped.
        """
        for row, what, remedy in refusals:
            if not self.skip_bad:
                raise BadRow(what, remedy, self.place(row), SKIP)
            self.bad.setdefault(row, what)

    def kept(self) -> Array:
        """Return the numbers of the good rows; the bad rows are entered in ``problems``."""
        self.problems += [(self.place(row), reason) for row, reason in sorted(self.bad.items())]
        keep = np.ones(self.rows, dtype=bool)
        keep[list(self.bad)] = False
        return np.flatnonzero(keep)

    def take(self, rows: Array) -> Joined:
        """Return the table with these rows alone."""
        if len(rows) == self.rows:
            return self
        place, line = self.place, self.line
        places = rows if len(rows) else np.arange(self.rows)  # without a good row an error names the first one
        columns = {name: take(values, rows) for name, values in self.columns.items()}
        return Joined(
            columns,
            self.part[rows],
            lambda row: place(int(places[row])),
            lambda row: line(int(places[row])),
            self.skip_bad,
            self.held,
            self.full,
            self.notes,
            self.problems,
            {},
        )


def read_joined(files: Sequence[TableFile], forms: Sequence[Mapping[str, Form]], skip_bad: bool, most: int) -> Joined:
    """Read the files, each with its own ``forms``, and join them; a column that a file lacks is empty there.

    A column with numbers in one file and text in another is text in both.

    Args:
        most: the number of different texts beyond which an "auto" column is dropped; below 0: no limit.

    Raises:
        UserError: a file cannot be read, or holds no row.
    """
    frames = []
    for file, form in zip(files, forms):
        limits = {name: most for name, wanted in form.items() if wanted == "auto"} if most >= 0 else {}
        frames.append(file.read(form, limits))
        if not frames[-1].rows:
            raise NoRow("there are no rows under the header", "Add some.", file.name)
    full = frozenset().union(*(frame.full for frame in frames))
    names = list(dict.fromkeys(name for frame in frames for name in frame.columns if name not in full))
    for name in names:
        texts = [isinstance(frame.columns.get(name), Texts) for frame in frames]
        if any(isinstance(frame.columns.get(name), list) for frame in frames) and any(texts):
            what = f"column '{name}' holds bytes in one file and text in another"
            raise UserError(what, "Give both the same form.", frames[0].name)
        for file, frame, is_text in zip(files, frames, texts):
            if any(texts) and not is_text and name in frame.columns:
                frame.columns[name] = file.read({name: "text"}).columns[name]
    columns = {name: join([_or_empty(frame, name) for frame in frames]) for name in names}
    sizes = [frame.rows for frame in frames]
    first = np.cumsum([0, *sizes])
    part = np.repeat(np.arange(len(frames), dtype=np.int8), sizes)

    def place(row: int) -> str:
        where: str = frames[part[row]].where(int(row - first[part[row]]))
        return where

    files_named = [frame.name for frame in frames]
    if len(set(files_named)) < len(frames):  # files of one name in several folders
        files_named = [f"{k + 1}:{name}" for k, name in enumerate(files_named)]

    def line(row: int) -> str:
        own: str = frames[part[row]].line(int(row - first[part[row]]))
        return own if len(frames) == 1 else f"{files_named[part[row]]}:{own}"

    held = {name: frozenset(k for k, frame in enumerate(frames) if name in frame.columns) for name in names}
    notes = [note for frame in frames for note in frame.notes]
    problems = [problem for frame in frames for problem in frame.problems]
    if len(frames) == 1:
        return Joined(columns, part, frames[0].where, frames[0].line, skip_bad, held, full, notes, problems, {})
    return Joined(columns, part, place, line, skip_bad, held, full, notes, problems, {})


def _or_empty(frame: Frame, name: str) -> Values:
    if name in frame.columns:
        return frame.columns[name]
    return Texts(np.zeros(frame.rows, dtype=np.int32), ("",))

"""Remarks on files and columns for the notes of a source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metapl.data.tables.readers.frame import counted, short
from metapl.data.tables.roles import listing
from metapl.errors import Doubt
from metapl.types import Column


@dataclass
class ColumnReport:
    """Remarks on columns, gathered so that many columns make few lines.

    Attributes:
        missing: empty cells by column, added up where a column comes in several stretches.
        unknown: cells by column with a category that the training rows lack, added up alike.
        constant: columns with one value.
        notes: further remarks.
        examples: a column of categories and its first text in new rows, by the column's name.
        marks: columns by level, for levels that may mean "missing".
    """

    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    examples: dict[str, tuple[Column, str]] = field(default_factory=dict)
    marks: dict[str, list[str]] = field(default_factory=dict)

    def add(self, column: Column, missing: int, unknown: int = 0, example: str = "") -> None:
        """Count cells of new rows; counts of 0 keep the order of the columns. ``example``: a text among them."""
        name = column.name
        self.missing[name] = self.missing.get(name, 0) + missing
        self.unknown[name] = self.unknown.get(name, 0) + unknown
        if example:
            self.examples.setdefault(name, (column, example))

    def lost(self, rows: int) -> list[str]:
        """Return a line for each column without a single category of the training; ``rows``: how many there are."""
        return [
            _lost_note(column, example, rows)
            for name, (column, example) in self.examples.items()
            if 0 < self.unknown[name] == rows - self.missing[name]
        ]

    def lines(self, rows: int) -> list[str]:
        """Return the remarks as lines; ``rows``: how many rows there are."""
        missing, unknown = _counts(self.missing), _counts(self.unknown)
        made = self.lost(rows)
        if missing:
            made.append(f"values read as missing, of {counted(rows, 'row')}: {missing}")
        if unknown:
            made.append(f"categories that training did not hold, read as missing: {unknown}")
        if self.constant:
            made.append(f"columns with one value in every row: {listing(self.constant)}")
        for mark, names in self.marks.items():
            where = f"in {counted(len(names), 'column')}: {listing(names)}"
            remedy = "Leave the cells empty where it means that the value is missing."
            made.append(Doubt(f"'{mark}' is a category of its own {where}", remedy, "marks_as_categories", False))
        return made + self.notes


def _counts(counts: Mapping[str, int], most: int = 8) -> str:
    found = {name: count for name, count in counts.items() if count}
    shown = ", ".join(f"'{short(name)}' {count:,}" for name, count in list(found.items())[:most])
    return shown + (f" and {counted(len(found) - most, 'more column')}" if len(found) > most else "")


def _lost_note(column: Column, example: str, rows: int) -> str:
    """Return the line on a column of new rows without a single category of the training rows."""
    known = listing(column.levels, 3)
    subject = f"all {rows:,} rows hold categories" if rows > 1 else "the row holds a category"
    return (
        f"column '{short(column.name)}': {subject} that training did not hold, so the column counts as missing "
        f"(here '{short(example)}', in training {known})"
    )


def file_remarks(file: Any, blank: int, left_out: int) -> list[str]:
    """Return what a user should know of how a file of text was read: blank lines and bad rows by their numbers."""
    notes = list(file.encoding.notes)
    if blank:
        notes.append(f"{file.name}: {counted(blank, 'blank line')} passed over")
    if left_out:
        notes.append(f"{file.name}: {counted(left_out, 'bad row')} left out (a run's problems.csv lists them)")
    if file.spans:
        notes.append(
            f"{file.name}: {counted(len(file.spans), 'row')} of several lines, the first on line {file.spans[0]}"
        )
    return notes

"""The answers of a review: ``corrections.csv`` in the run folder, whole after every answer."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from metapl.data.corrections import check_corrections, read_corrections
from metapl.runs.folder import CORRECTIONS, write_csv
from metapl.types import Source
from metapl.utils.files import guarded

FILE = "corrections.csv"
LABEL, UNSURE, NONE = "label", "unsure", "none"


@dataclass(frozen=True)
class Answer:
    """A person's answer on one row: a class, or unsure or another class, for which ``label`` is empty."""

    label: str
    kind: str = LABEL


class AnswerFile:
    """Answers by row id, in the order in which they were given; every change is written at once.

    Raises:
        UserError: the file that is there does not fit the data.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self.path = folder / FILE
        self._source = source
        self._given: dict[str, Answer] = {}
        if self.path.is_file():
            self._given = read_answers(self.path, source)
        elif (folder / CORRECTIONS).is_file():  # what the run was trained with is not asked again, nor lost
            self._given = read_answers(folder / CORRECTIONS, source)

    @property
    def given(self) -> Mapping[str, Answer]:
        """Return all answers by row id, oldest first."""
        return self._given

    def give(self, row: str, answer: Answer) -> None:
        """Keep an answer; an earlier one for the same row is replaced."""
        self._replace({**{k: v for k, v in self._given.items() if k != row}, row: answer})

    @property
    def last(self) -> str | None:
        """Return the row of the last answer; None before the first."""
        return next(reversed(self._given), None)

    def undo(self) -> str | None:
        """Take the last answer back and return its row; None before the first."""
        if (last := self.last) is not None:
            self._replace({k: v for k, v in self._given.items() if k != last})
        return last

    def merge(self, answers: Mapping[str, Answer]) -> int:
        """Keep answers from elsewhere in place of those for the same rows; return how many are new or differ."""
        changed = sum(self._given.get(row) != answer for row, answer in answers.items())
        self._replace({**self._given, **answers})
        return changed

    def _replace(self, given: dict[str, Answer]) -> None:
        write_answers(self.path, given)
        self._given = given


def write_answers(path: Path, given: Mapping[str, Answer]) -> None:
    """Write the CSV file that ``metapl train --corrections`` reads: id, label and the kind of answer."""
    write_csv(path, ["id", "label", "answer"], [[row, a.label, a.kind] for row, a in given.items()])


def read_answers(path: Path, source: Source) -> dict[str, Answer]:
    """Read a CSV file of answers: id, label and, where it is there, the kind of answer.

    Raises:
        UserError: as ``read_corrections``.
    """
    labels = read_corrections(path, source.ids, source.class_names)
    with open(path, encoding="utf-8-sig", newline="") as file:
        kinds = [(row["id"], row.get("answer") or "") for row in csv.DictReader(file)]
    none = {row for row, kind in kinds if kind == NONE}
    return {row: as_answer(label, NONE if {row, guarded(row)} & none else UNSURE) for row, label in labels.items()}


def checked(path: Path, pairs: list[tuple[int, str, str]], source: Source) -> dict[str, Answer]:
    """Turn answers (line, id, class name or "") into ``Answer`` by row id.

    Raises:
        UserError: as ``check_corrections``.
    """
    return {
        row: as_answer(label) for row, label in check_corrections(path, pairs, source.ids, source.class_names).items()
    }


def as_answer(label: str, empty: str = UNSURE) -> Answer:
    """Return an answer with that class; without one, of the kind ``empty``."""
    return Answer(label) if label else Answer("", empty)

"""Corrections: labels in a CSV file (columns id and label) that replace those of a source."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from metapl.data.row_checks import plural
from metapl.data.traits import traits
from metapl.errors import UserError, nearest
from metapl.types import Array, Column, Kind, Source, Tokens
from metapl.utils.files import by_cell
from metapl.utils.printing import cut


class CorrectedSource:
    """A ``types.Source`` with the rows of another source and corrected labels.

    Attributes:
        corrections: class name by row id; "": the row has no label any more.
        uncorrected: the original source. Splits are drawn from its labels, so that the parts stay the same.
        inner: as in ``Traits``, corrected too.
    """

    def __init__(self, source: Source, corrections: Mapping[str, str]) -> None:
        self.uncorrected, self.corrections = source, dict(corrections)
        self.name, self.class_names, self.ids, self.is_test = (
            source.name,
            source.class_names,
            source.ids,
            source.is_test,
        )
        self.kind: Kind = source.kind
        self.columns: tuple[Column, ...] = source.columns
        self.tokens: Tokens | None = source.tokens
        self.problems = source.problems  # the same list: later problems show, too
        self.labels = source.labels.copy()
        row, number = {name: k for k, name in enumerate(source.ids)}, {n: k for k, n in enumerate(source.class_names)}
        for name, label in self.corrections.items():
            self.labels[row[name]] = number[label] if label else -1
        changed = int((self.labels != source.labels).sum())
        self.notes = (
            *source.notes,
            f"corrections: {plural(len(self.corrections), 'answer')}, {plural(changed, 'changed label')}",
        )
        own = traits(source)
        self.inner = None if own.inner is None else CorrectedSource(own.inner, corrections)

    def __getattr__(self, name: str) -> Any:
        """Return an optional attribute of the source (``data.traits``)."""
        if name == "uncorrected":  # not set yet, as during a copy
            raise AttributeError(name)
        return getattr(self.uncorrected, name)

    def rows(self, index: Array) -> Tensor:
        """Return the rows at ``index``, as the source gives them."""
        return self.uncorrected.rows(index)

    def readable(self, index: Array) -> Array:
        """Return the rows in ``index`` that the source can read."""
        return self.uncorrected.readable(index)

    def fingerprint(self) -> str:
        """SHA-256 (hex) over the source's fingerprint and the corrections."""
        digest = hashlib.sha256(f"metapl corrections 1 {self.uncorrected.fingerprint()}".encode())
        for pair in sorted(self.corrections.items()):
            digest.update(repr(pair).encode())
        return digest.hexdigest()


def with_corrections(source: Source, file: str) -> Source:
    """Return ``source`` with the labels of ``file`` in place of its own; without a file, the source itself.

    Raises:
        UserError: as ``read_corrections``.
    """
    if not file or isinstance(source, CorrectedSource):
        return source
    return CorrectedSource(source, read_corrections(Path(file).expanduser(), source.ids, source.class_names))


def read_corrections(path: Path, ids: Sequence[str], class_names: Sequence[str]) -> dict[str, str]:
    """Return class name by row id; "" for an empty label. Other columns are passed over.

    Raises:
        UserError: the file cannot be read, a column is missing, or an id or a class is not known.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            lines = [(reader.line_num, row) for row in reader]
            columns = list(reader.fieldnames or ())
    except (OSError, ValueError, csv.Error) as error:
        what = f"the corrections cannot be read ({error})"
        raise UserError(what, "Give a CSV file in UTF-8 with the columns id and label.", str(path)) from error
    if missing := [name for name in ("id", "label") if name not in columns]:
        what = f"the corrections have no column '{missing[0]}'"
        raise UserError(what, "The first line of the file is: id,label", str(path))
    pairs = [(number, str(row["id"] or ""), str(row["label"] or "")) for number, row in lines]
    return check_corrections(path, pairs, ids, class_names)


def check_corrections(
    path: Path, pairs: Sequence[tuple[int, str, str]], ids: Sequence[str], class_names: Sequence[str]
) -> dict[str, str]:
    """Check answers (line, id, class name or "") against the rows and classes of a source; return class name by id.

    Raises:
        UserError: an id or a class that is not known, or two answers for one row; it names the line.
    """
    row_of, class_of = by_cell(ids), by_cell(class_names)
    found: dict[str, str] = {}
    for line, row, written in pairs:
        where, label = f"{path}, line {line}", written if written in class_of else written.strip()
        if row not in row_of:
            raise UserError(f"the data have no row '{cut(row, 80)}'", "Use ids of the table of pseudo labels.", where)
        if label and label not in class_of:
            what = f"the data have no class '{cut(label, 80)}'"
            raise UserError(what, f"{nearest(label, class_names)} Leave the label empty for none.", where)
        name, answer = row_of[row], class_of[label] if label else ""
        if found.setdefault(name, answer) != answer:
            raise UserError(f"the row '{cut(row, 80)}' has two answers", "Keep one of them.", where)
    return found

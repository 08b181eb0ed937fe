"""New rows for a trained model out of one file, a stretch at a time: memory holds one stretch, however long it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from metapl.data.options import SourceOptions
from metapl.data.tables.guesses import no_id_note, why_no_id
from metapl.data.tables.options import AUTO, NONE
from metapl.data.tables.readers.files import open_new_file
from metapl.data.tables.readers.header import check_width
from metapl.data.tables.readers.stretch import Seen
from metapl.data.tables.roles import model_roles
from metapl.data.tables.source import Earlier, forms_of, open_new_batch
from metapl.errors import UserError
from metapl.types import ModelInput, Source


class NewRows:
    """The rows of a file; iterating opens one stretch after the other as a source.

    Ids that stand twice are found across stretches, and the notes are those of the whole file: what a reader gets is
    what ``open_table`` gives for all rows at once.

    Args:
        path: the file.
        options: how the training read its rows.
        like: what the model asks of them.
        rows: of a stretch.
        suffix: read the file as if its name ended so.

    Attributes:
        notes: what a user should know of the file; complete after the last stretch.

    Raises:
        UserError: the file cannot be opened, or lacks a column that the model needs; while iterating, a row that cannot
            serve.
    """

    def __init__(self, path: Path, options: SourceOptions, like: ModelInput, rows: int, suffix: str = "") -> None:
        self._options, self._like, self._rows = options, like, rows
        self._root = os.path.abspath(os.path.expanduser(options.root) or path.parent)
        self._file = open_new_file(path, options.table, suffix)
        if self._file.numbered:
            check_width(self._file, like.widths, like.class_names)
        self._roles = model_roles(self._file.names, options.table, like, self._file.name)
        self._forms = forms_of(self._file, "labeled", self._roles, options, like.takes.columns)
        self.notes: list[str] = []

    def __iter__(self) -> Iterator[Source]:
        earlier = Earlier()
        try:
            why = self._why_no_id()
            table = replace(self._options.table, split=NONE, id=NONE if why else self._options.table.id)
            options = replace(self._options, table=table)
            for stretch in self._file.stretches(self._forms, self._rows):
                yield open_new_batch(stretch, self._root, options, self._like, earlier)
        except UserError as error:
            raise error.without_setting() from error
        self.notes = [*self._roles.notes, *self._file.remarks()]
        self.notes += [no_id_note(self._roles.id, why)] if why and self._roles.id else []
        self.notes += earlier.report.lines(earlier.rows)

    def _why_no_id(self) -> str:
        """Return why a column that is only called like an id does not name the rows: it is looked through first."""
        column, seen = self._roles.id, Seen()
        if column is None or self._options.table.id != AUTO:
            return ""

        def is_new(text: str, row: int) -> bool:
            return seen.earlier("id", text, "", "") is None

        for stretch in self._file.stretches({column: "text"}, self._rows):
            frame = stretch.read({column: "text"})
            if frame.rows and (why := why_no_id(frame.text(column), np.arange(frame.rows), is_new)):
                return why
        return ""

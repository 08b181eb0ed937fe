"""A pool cut into parts of equal length, read one after the other: memory holds one part, however long the pool is."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from metapl.data.images.scan import clean, exists, missing, shown
from metapl.data.images.tree import image_files
from metapl.data.modalities import modality_of
from metapl.data.options import SourceOptions
from metapl.data.ref import DataRef
from metapl.data.tables.readers.batch import LINE
from metapl.data.tables.readers.files import is_table, open_new_file
from metapl.data.tables.readers.jsonl import JsonLinesFile
from metapl.data.tables.readers.parquet import ParquetFile
from metapl.data.tables.roles import model_roles
from metapl.errors import UserError
from metapl.types import ModelInput

ROWS = 8192  # of a part
Row = tuple[str, Sequence[Any]]  # what names it, and its cells
Problem = tuple[str, str]


@dataclass
class Part:
    """A stretch of the pool.

    Attributes:
        number: 0, 1, ...
        columns: of its rows, as ``label_batch`` takes them.
        problems: (place, reason) of rows that could not be read.
    """

    number: int
    columns: dict[str, list[Any]]
    problems: list[Problem] = field(default_factory=list)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) over the cells; of image files over their paths."""
        found = hashlib.sha256()
        for name, cells in self.columns.items():
            found.update(repr((name, cells)).encode("utf-8", "backslashreplace"))
        return found.hexdigest()


class Pool:
    """Rows to label: a folder of images, a file of rows, or a folder of such files, which are read in sorted order.

    Args:
        ref: where they are.
        options: how the training read its rows.
        like: what the model asks of them.

    Attributes:
        options: for ``label_batch``.

    Raises:
        UserError: nothing is there, or something that is not read in parts.
    """

    def __init__(self, ref: DataRef, options: SourceOptions, like: ModelInput) -> None:
        if ref.path is None or not (ref.is_folder or ref.is_table):
            remedy = "Give a folder of images, or CSV, TSV, JSON Lines or Parquet; or use `metapl predict`."
            raise UserError("this cannot be labelled in parts", remedy, ref.text)
        if not exists(ref.path):
            raise missing(ref.path)
        self.path, self.suffix, self.like = ref.path, ref.suffix, like
        self.tables = [self.path] if ref.is_table else sorted(p for p in self.path.glob("*") if is_table(p))
        if not self.tables and not modality_of(like.takes.kind).sized:
            raise UserError("there is no file of rows here", "Give CSV, TSV, JSON Lines or Parquet.", shown(self.path))
        if self.tables:
            root = options.root or str(self.path if self.path.is_dir() else self.path.parent)
            table = replace(options.table, skip_bad_rows=True)
            self.options = replace(options, root=os.path.abspath(os.path.expanduser(root)), table=table)
        else:
            self.options = SourceOptions(image=options.image)

    def parts(self, rows: int = ROWS) -> Iterator[Part]:
        """Yield the parts in order; the same pool gives the same parts."""
        number = 0
        for pieces in [self._table(path) for path in self.tables] or [self._images()]:
            part = Part(number, {})
            for names, row, problem in pieces:
                if problem is not None:
                    part.problems.append(problem)
                else:
                    assert row is not None
                    line, cells = row
                    for name, cell in zip((*names, LINE), (*cells, line), strict=True):
                        part.columns.setdefault(name, []).append(cell)
                if len(part.problems) + len(part.columns.get(LINE, ())) == rows:
                    yield part
                    number += 1
                    part = Part(number, {})
            if part.problems or part.columns:
                yield part
                number += 1

    def _images(self) -> Iterator[tuple[Sequence[str], Row | None, Problem | None]]:
        for row_id, file, why in image_files(self.path):
            if why:
                yield (), None, (row_id, why)
            else:
                yield ("path", "id"), (row_id, (os.path.abspath(file), row_id)), None

    def _table(self, path: Path) -> Iterator[tuple[Sequence[str], Row | None, Problem | None]]:
        several = "" if len(self.tables) == 1 else f"{clean(path.relative_to(self.path).as_posix())}:"
        file: Any = open_new_file(path, self.options.table, self.suffix)
        roles = model_roles(file.names, self.options.table, self.like, file.name)
        names = [name for name in file.names if name in (*roles.contents, roles.id)]
        if isinstance(file, ParquetFile):
            yield from ((names, (f"{several}{k}", cells), None) for k, cells in enumerate(file.cells(names)))
            return
        if isinstance(file, JsonLinesFile):
            file.want(dict.fromkeys(names, "text"))
        places = [file.names.index(name) for name in names]
        for rows, lines, bad, _ in file.chunks():
            for cells, line in zip(rows, lines, strict=True):
                yield names, (f"{several}{line}", [cells[k] for k in places]), None
            yield from [(names, None, (place, str(reason))) for place, reason in bad]

"""Files of rows by their suffix, and folders that hold labelled and unlabelled ones."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from metapl.data.images.scan import LABELED, TEST, UNLABELED, exists, shown
from metapl.data.tables.options import AUTO, WRITTEN, TableOptions
from metapl.data.tables.readers.delimited import DelimitedFile
from metapl.data.tables.readers.jsonl import JsonLinesFile
from metapl.data.tables.readers.parquet import ParquetFile
from metapl.data.tables.readers.stretch import LongFile
from metapl.errors import UnclearDelimiter, UserError
from metapl.utils.own_folders import is_made

Reader = Callable[[Path, TableOptions], LongFile]


def _delimited(path: Path, options: TableOptions) -> LongFile:
    written = {name: getattr(options, name) for name in WRITTEN}
    return DelimitedFile(path, **written, skip_bad=options.skip_bad_rows)


def _json_lines(path: Path, options: TableOptions) -> LongFile:
    return JsonLinesFile(path, encoding=options.encoding, skip_bad=options.skip_bad_rows)


def _parquet(path: Path, options: TableOptions) -> LongFile:
    return ParquetFile(path)


READERS: dict[str, Reader] = {
    ".csv": _delimited,
    ".tsv": _delimited,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
PARTS = ("labeled", "unlabeled", "test")  # of a source


def is_table(path: str | Path) -> bool:
    """Return whether the path names a file of rows, by its suffix."""
    return os.path.splitext(str(path))[1].lower() in READERS and not os.path.isdir(path)


def open_file(path: Path, options: TableOptions, suffix: str = "") -> LongFile:
    """Return the file, by its suffix or by ``suffix``.

    Raises:
        UserError: it cannot be read, or is not a regular file: a pipe may never end, and can be read but once.
    """
    if exists(path) and not path.is_dir() and not path.is_file():
        what = "this is a pipe or a device, not a file"
        raise UserError(what, "Write what it gives into a file, and name that.", shown(path))
    return READERS[suffix or path.suffix.lower()](path, options)


def open_new_file(path: Path, options: TableOptions, suffix: str = "") -> LongFile:
    """Open a file of new rows with the options of a training; the file's own header decides on the delimiter.

    Raises:
        UserError: as ``open_file``.
    """
    try:
        return open_file(path, replace(options, delimiter=AUTO), suffix)
    except UnclearDelimiter:
        if options.delimiter == AUTO:
            raise
        return open_file(path, options, suffix)


def tables_in(folder: Path) -> dict[str, Path]:
    """Return ``labelled.csv``, ``unlabelled.csv`` and ``test.csv`` in ``folder``, by part; any suffix in ``READERS``.

    Empty without a file of labelled rows.

    Raises:
        UserError: two files for one part, or class folders beside them.
    """
    try:
        files = sorted(p for p in folder.iterdir() if is_table(p) and p.is_file())
        inside = {p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".") and not is_made(p)}
    except OSError:
        return {}
    # train.csv may be a list that lies beside folders of images; labelled.csv is not.
    labeled = LABELED[:2] if inside else LABELED
    stems: Mapping[str, tuple[str, ...]] = {"labeled": labeled, "unlabeled": UNLABELED, "test": (TEST,)}
    found: dict[str, Path] = {}
    for part, names in stems.items():
        mine = [p for p in files if p.stem in names]
        if len(mine) > 1:
            what = f"both '{shown(mine[0].name)}' and '{shown(mine[1].name)}' exist"
            raise UserError(what, "Keep one of the two.", shown(folder))
        if mine:
            found[part] = mine[0]
    if "labeled" not in found:
        return {}
    if twin := sorted(inside & {*LABELED, *UNLABELED}):
        what = f"both the file '{shown(found['labeled'].name)}' and the folder '{twin[0]}' exist"
        raise UserError(what, "Keep one of the two, or name the file.", shown(folder))
    return found

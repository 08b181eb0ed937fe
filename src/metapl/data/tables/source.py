"""Files of rows (CSV, TSV, JSON Lines, ...) as a source: images by their paths, texts, or columns of features.

Training rows and new rows of a trained model take the same way: find the roles of the columns, join the files, leave
out bad rows, read labels, then contents. For new rows the model decides roles, classes and contents; nothing is learnt
from them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metapl.data.images.source import ImageSource
from metapl.data.images.store import Known
from metapl.data.memory.source import MemorySource
from metapl.data.options import SourceOptions
from metapl.data.tables.columns import MOST_LEVELS, described, encode_column, fit_column, too_many
from metapl.data.tables.guesses import only_numbers, without_failed
from metapl.data.tables.label_column import (
    POOL,
    TESTING,
    TRAINING,
    class_numbers,
    label_texts,
    learn_classes,
)
from metapl.data.tables.label_values import read_rule
from metapl.data.tables.options import NONE
from metapl.data.tables.readers.files import PARTS, open_file, open_new_file
from metapl.data.tables.readers.frame import SKIP, Form, TableFile, Texts, counted, short
from metapl.data.tables.readers.header import check_width
from metapl.data.tables.readers.join import Joined, read_joined
from metapl.data.tables.readers.refusals import BY_SPLIT, has_paths, refusals
from metapl.data.tables.readers.remarks import ColumnReport
from metapl.data.tables.readers.rules import SYSTEMATIC, fault_of, systematic_remedy
from metapl.data.tables.readers.stretch import Seen
from metapl.data.tables.roles import Roles, find_roles, hint, model_roles
from metapl.data.texts.tokens import encode_texts, tokenizer_of
from metapl.errors import BadRow, NoRow, UserError
from metapl.types import Array, Column, Levels, ModelInput, Source

BY_PART = {"labeled": TRAINING, "unlabeled": POOL, "test": TESTING}


@dataclass
class _Table:
    """The good rows of all files, before their contents are read.

    Attributes:
        use: [N] TRAINING, POOL or TESTING.
        roots: the folder that relative paths start from, one per file.
        facts: ids, labels, class names and test flags, as in ``types.Source``.
        widths: as in ``ModelInput``.
    """

    name: str
    rows: Joined
    roles: Roles
    use: Array
    roots: Sequence[str]
    facts: dict[str, Any]
    widths: tuple[int, ...] = ()


def open_table(
    paths: Mapping[str, Path],
    options: SourceOptions,
    name: str = "",
    suffix: str = "",
    like: ModelInput | None = None,
    known: Known | None = None,
    progress: Callable[[str], None] | None = None,
    levels: Levels | None = None,
) -> Source:
    """Return a source over files of rows.

    Args:
        paths: the file of each of ``readers.files.PARTS``; "labeled" must be there.
        name: of the source; by default the file's.
        suffix: read the files as if their names ended so.
        like: new rows: the input of the trained model. ``options`` are then those of its training.
        known, progress, levels: for images, as in ``ImageSource``.

    Raises:
        UserError: the files cannot be used; the message names file and line.
    """
    if like is not None:
        return _fitting(_read(paths, options, name, suffix, like), options, like)
    try:
        table = _read(paths, options, name, suffix)
    except BadRow as error:
        raise _judged(error, paths, options, suffix) from error
    if table.roles.kind == "text" and table.roles.guessed and only_numbers(table.rows, table.roles.contents[0]):
        column = short(table.roles.contents[0])
        note = f"column '{column}' is called like the texts, but holds nothing but numbers: it is taken for a feature"
        source = open_table(paths, replace(options, table=replace(options.table, text=NONE)), name, suffix)
        source.notes = (*source.notes, note)
        return source
    if table.roles.kind == "image":
        place = os.path.abspath(paths[PARTS[0]]) if has_paths(table.rows, table.roles) else ""
        how: dict[str, Any] = {"place": place, "known": known, "progress": progress, "levels": levels}
        return _images(table, options, where=table.name, **how)
    return _features(table, options) if table.roles.kind == "table" else _texts(table, options)


def _judged(error: BadRow, paths: Mapping[str, Path], options: SourceOptions, suffix: str) -> UserError:
    """Return the error at a first bad row, with the share of rows with the same fault if it is large."""
    if options.table.skip_bad_rows:
        return error
    better = "" if error.setting == SKIP else error.setting  # a better setting than to leave rows out
    try:
        rows = _read(paths, replace(options, table=replace(options.table, skip_bad_rows=True)), "", suffix).rows
    except NoRow:  # all rows are bad
        plain = error.without_setting().remedy
        return BadRow(error.what, plain if better else systematic_remedy(error.what, plain), error.where, better)
    except UserError:
        return error if better else error.without_setting()
    same = sum(fault_of(reason) == fault_of(error.what) for _, reason in rows.problems)
    total = rows.rows + len(rows.problems)
    if same < 2 or same < SYSTEMATIC * total:
        return error
    what = f"{error.what}, and {same:,} of {total:,} rows have this fault"
    plain = error.without_setting().remedy
    return BadRow(what, plain if better else systematic_remedy(error.what, plain), error.where, better)


@dataclass
class Earlier:
    """What is carried from one stretch of a file of new rows to the next.

    Attributes:
        seen: ids and paths so far.
        report: remarks on the columns so far.
        rows: how many there were.
    """

    seen: Seen = field(default_factory=Seen)
    report: ColumnReport = field(default_factory=ColumnReport)
    rows: int = 0


def open_new_batch(
    file: TableFile, root: str, options: SourceOptions, like: ModelInput, earlier: Earlier | None = None
) -> Source:
    """Open the new rows of one open file as ``open_table`` does; relative paths start from ``root``.

    Where the file is a stretch of a longer one, ``earlier`` is what the stretches before it have left.
    """
    table = _joined([file], ["labeled"], [root], options, "", like, earlier)
    if earlier is not None:
        earlier.rows += table.rows.rows
    return _fitting(table, options, like, None if earlier is None else earlier.report)


def _fitting(table: _Table, options: SourceOptions, like: ModelInput, gathered: ColumnReport | None = None) -> Source:
    """Return new rows as the model takes them; remarks on columns go to ``gathered`` if given, else to the notes."""
    rows, takes = table.rows, like.takes
    if takes.kind == "image":  # decoded when asked for, a chunk at a time, as test rows are
        table.facts["is_test"] = np.ones(rows.rows, dtype=bool)
        forgiving = replace(options, image=replace(options.image, resize=takes.resize, allow_bad=True))
        channels, height, width = takes.shape
        return _images(table, forgiving, known=Known((channels, height, width), {}), levels=takes.levels)
    if takes.tokens is not None:
        data = tokenizer_of(takes.tokens).encode(_joined_texts(table))
        return _source(table, "text", data, tokens=takes.tokens)
    report = gathered or ColumnReport()
    data = torch.from_numpy(_encoded(takes.columns, rows, report))
    rows.notes += report.lines(rows.rows) if gathered is None else []
    return _source(table, "table", data, columns=takes.columns)


def _read(
    paths: Mapping[str, Path], options: SourceOptions, name: str, suffix: str, like: ModelInput | None = None
) -> _Table:
    """Read the files, leave out bad rows, and number the classes.

    Raises:
        UserError: a column or a class is missing, or a row is bad.
    """
    parts = [part for part in PARTS if part in paths]
    reader = open_file if like is None else open_new_file
    files = [reader(paths[part], options.table, suffix if part == PARTS[0] else "") for part in parts]
    given = os.path.expanduser(options.root)
    roots = [os.path.abspath(given or paths[part].parent) for part in parts]
    return _joined(files, parts, roots, options, name, like)


def _joined(
    files: Sequence[TableFile],
    parts: Sequence[str],
    roots: Sequence[str],
    options: SourceOptions,
    name: str,
    like: ModelInput | None,
    earlier: Earlier | None = None,
) -> _Table:
    """Do the work of ``_read`` for open files, each with its part and its root."""
    main, table = files[0], options.table
    widths: tuple[int, ...] = ()
    if like is None:
        roles, most = find_roles(main.names, table, main.name), MOST_LEVELS
        if main.numbered:
            widths = (len(main.names), len(main.names) - 1)[: 1 + (roles.label == main.names[-1])]
            for file, part in zip(files, parts):
                check_width(file, widths[:1] if part == "test" else widths, main.last)
    else:
        if main.numbered:
            check_width(main, like.widths[:1] if like.labels else like.widths, like.class_names)
        roles, most = model_roles(main.names, table, like, main.name), -1
    columns = () if like is None else like.takes.columns
    forms = [forms_of(file, part, roles, options, columns) for file, part in zip(files, parts)]
    rows = read_joined(files, forms, table.skip_bad_rows, most)
    rows.notes[:0] = roles.notes
    rule = read_rule(options.no_label, options.label_map)
    if roles.label is not None:
        numeric = np.isin(rows.part, [k for k, file in enumerate(files) if roles.label in file.whole])
        rows.columns[roles.label], notes = label_texts(roles.label, rows.text(roles.label), numeric, rule)
        rows.notes += notes
    roles = without_failed(rows, roles, table, BY_SPLIT, like is None)
    use = _use(rows, roles, parts)
    ids = _ids(rows, roles)
    seen, begins = (None, True) if earlier is None else (earlier.seen, not earlier.rows)
    rows.refuse(refusals(rows, roles, use, roots, like, table.suffix, seen, begins))
    kept = rows.kept()
    if len(kept) < rows.rows:
        rows, use, ids = rows.take(kept), use[kept], [ids[k] for k in kept.tolist()]
    names: tuple[str, ...] = () if like is None else tuple(like.class_names)
    labels = np.full(rows.rows, -1, dtype=np.int64)
    if roles.label is not None:
        texts = rows.text(roles.label)
        if like is None:
            names, notes = learn_classes(roles.label, texts, use, rule, rows.place, rows.columns)
            rows.notes += notes
        labels = class_numbers(texts, names)
        labels[(use == POOL) & (like is None)] = -1
    facts = {"ids": tuple(ids), "labels": labels, "class_names": names, "is_test": use == TESTING}
    return _Table(name or main.name, rows, roles, use, roots, facts, widths)


def forms_of(
    file: TableFile, part: str, roles: Roles, options: SourceOptions, columns: Sequence[Column]
) -> dict[str, Form]:
    """Return the form to read each column of a file in; ``columns``: the model's, for new rows.

    Raises:
        UserError: a column that the first file has is missing.
    """
    needed = [*roles.contents, *([roles.label] if part != "unlabeled" and roles.label else [])]
    for name in needed:
        if name not in file.names:
            remedy = f"It must have the columns of the first file. {hint(name, file.names)}"
            raise UserError(f"column '{short(name)}' is missing", remedy, file.name)
    auto: Form = "auto" if roles.kind == "table" else "text"
    forms: dict[str, Form] = dict.fromkeys(roles.contents, auto)
    if columns:
        forms |= {column.name: "text" if column.levels else "number" for column in columns}
    else:
        forms |= dict.fromkeys(options.table.named("categorical"), "text")
    forms |= {name: "text" for name in (roles.label, roles.id, roles.split) if name in file.names and name is not None}
    if part != "labeled":
        forms.pop(roles.split or "", None)
    if part == "unlabeled":
        forms.pop(roles.label or "", None)
    return forms


def _use(rows: Joined, roles: Roles, parts: Sequence[str]) -> Array:
    """Return [N] the use of each row, by its file or by the split column."""
    use: Array = np.array([BY_PART[part] for part in parts])[rows.part]
    if roles.split is None:
        return use
    split = rows.text(roles.split)
    codes = np.array([BY_SPLIT.get(level.lower(), TRAINING) for level in split.levels])
    return np.where(rows.part == 0, codes[split.codes], use)


def _ids(rows: Joined, roles: Roles) -> list[str]:
    """Return one id per row: its id or path, or its line in a file without such a column."""
    column = roles.id or (roles.contents[0] if has_paths(rows, roles) else None)
    if column is None:
        return [rows.line(k) for k in range(rows.rows)]
    texts, held = rows.text(column).tolist(), rows.held[column]
    return [text if file in held else rows.line(k) for k, (text, file) in enumerate(zip(texts, rows.part.tolist()))]


def _source(table: _Table, kind: str, data: torch.Tensor, **more: Any) -> MemorySource:
    rows = table.rows
    how: dict[str, Any] = {"notes": tuple(rows.notes), "problems": rows.problems, "widths": table.widths}
    return MemorySource(table.name, kind, data, **how, **more, **table.facts)


def _features(table: _Table, options: SourceOptions) -> MemorySource:
    """Return the columns of features as a source; the training rows decide which hold numbers."""
    report, rows, train = ColumnReport(), table.rows, table.use != TESTING
    columns: list[Column] = []
    for column in table.roles.contents:
        if column in rows.full:
            report.notes.append(too_many(column))
            continue
        category, keep = column in options.table.named("categorical"), column in table.roles.chosen
        fitted = fit_column(column, rows.columns[column], train, rows.place, report, category, keep, rows.part)
        if fitted is not None:
            columns.append(fitted)
    if not columns:
        why = f": {report.notes[0]}" if report.notes else ""
        raise UserError(f"no feature is left{why}", "Give another column to learn from.", table.name)
    data = torch.from_numpy(_encoded(columns, rows, report))
    rows.notes += [described(columns), *report.lines(rows.rows)]
    return _source(table, "table", data, columns=tuple(columns))


def _encoded(columns: Sequence[Column], rows: Joined, report: ColumnReport) -> Array:
    """Return float32 [N, columns]; each column is removed from ``rows`` once it is encoded."""
    data = np.empty((rows.rows, len(columns)), dtype=np.float32)
    for k, column in enumerate(columns):
        data[:, k] = encode_column(column, rows.columns.pop(column.name), rows.place, report)
    return data


def _texts(table: _Table, options: SourceOptions) -> MemorySource:
    """Return texts as a source of token ids; the training rows alone decide on their length."""
    rows = table.rows
    every, train = _joined_texts(table), np.flatnonzero(table.use != TESTING)
    if empty := sum(not text for text in every):
        rows.notes.append(f"{counted(empty, 'text')} empty")
    own = [every[k] for k in train.tolist()]
    ids, tokens, notes = encode_texts(own, options.text.tokenizer, options.text.max_tokens)
    rows.notes += notes
    data = ids
    if len(train) < len(every):
        data = torch.empty(len(every), tokens.length, dtype=torch.int32)
        data[torch.from_numpy(train)] = ids
        rest = np.flatnonzero(table.use == TESTING)
        data[torch.from_numpy(rest)] = tokenizer_of(tokens).encode([every[k] for k in rest.tolist()])
    return _source(table, "text", data, tokens=tokens, texts=every)


def _joined_texts(table: _Table) -> list[str]:
    """Return one text per row; the texts of several columns are joined by line ends."""
    columns = [table.rows.text(name).tolist() for name in table.roles.contents]
    return columns[0] if len(columns) == 1 else ["\n".join(filter(None, row)) for row in zip(*columns, strict=True)]


def _images(table: _Table, options: SourceOptions, **more: Any) -> ImageSource:
    """Return the images that a column names by path, or holds as bytes, as a source."""
    rows, column = table.rows, table.roles.contents[0]
    values = rows.columns[column]
    items: Sequence[str | bytes]
    if isinstance(values, Texts):
        named = zip(rows.part.tolist(), values.tolist())
        items = [os.path.join(table.roots[part], f"{path}{options.table.suffix}") for part, path in named]
    elif isinstance(values, list):
        items = [value or b"" for value in values]
    else:
        what = f"column '{short(column)}' holds numbers, not images"
        raise UserError(what, "Set source.table.path=NAME.", rows.place(0))
    notes: dict[str, Any] = {"notes": rows.notes, "problems": rows.problems}
    source = ImageSource(table.name, items, options=options.image, **notes, **more, **table.facts)
    source.widths = table.widths
    return source

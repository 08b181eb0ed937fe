"""Files of rows (CSV, TSV, JSON Lines, ...) as a source: images by their paths, texts, or columns of features."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metapl.data.images.scan import UNLABELED, folded
from metapl.data.images.source import ImageSource
from metapl.data.images.store import Known
from metapl.data.memory.source import MemorySource
from metapl.data.options import SourceOptions
from metapl.data.tables.columns import MOST_LEVELS, Told, described, encode_column, fit_column, too_many
from metapl.data.tables.files import PARTS, open_file
from metapl.data.tables.frame import MARKERS, Array, Form, TableFile, Texts, Values, counted, parsed, short
from metapl.data.tables.join import Joined, read_joined
from metapl.data.tables.label_values import LabelRule, check_doubtful, read_rule, several_labels
from metapl.data.tables.labels import CLASSES, doubt
from metapl.data.tables.roles import LABELS, SPLITS, TEST, TRAIN, Roles, find_roles, hint, listing
from metapl.data.tables.spelling import Spellings, merged_numbers, told_merged
from metapl.data.texts.tokens import encode_texts, tokenizer_of
from metapl.errors import UserError, nearest
from metapl.types import Column, Source

TRAINING, POOL, TESTING = 0, 1, 2  # what a row is for
LONG = 1024  # characters above which a path without a suffix is taken for something else


def open_table(
    paths: Mapping[str, Path],
    options: SourceOptions,
    name: str = "",
    suffix: str = "",
    known: Known | None = None,
    progress: Callable[[str], None] | None = None,
) -> Source:
    """A source over files of rows.

    Args:
        paths: the file of each of ``table_files.PARTS``; "labeled" must be there.
        name: of the source; by default the file's.
        suffix: read the files as if their names ended so.
        known, progress: for images, as in ``ImageSource``.

    Raises:
        UserError: the files cannot serve; the message names file and line.
    """
    parts = [part for part in PARTS if part in paths]
    files = [open_file(paths[part], options.table, suffix if part == PARTS[0] else "") for part in parts]
    main = files[0]
    roles = find_roles(main.names, options.table, main.name)
    if roles.label is None:
        what = f"no column holds the label (there are {listing(main.names)})"
        more = " (Is the delimiter the right one?)" if len(main.names) == 1 else ""
        raise UserError(what, f"Set source.table.label=NAME.{more}", main.name)
    forms = [_forms(file, part, roles, options) for file, part in zip(files, parts)]
    rows = read_joined(files, forms, options.table.skip_bad_rows, MOST_LEVELS)
    rows.notes[:0] = roles.notes
    without_minus_one(rows, roles.label, files)
    rule = read_rule(options.no_label, options.label_map)
    read_label_values(rows, roles.label, rule)
    use = _use(rows, roles, parts)
    _check_labels(rows, roles, use)
    content = roles.contents[0]
    paths_given = roles.kind == "image" and isinstance(rows.columns[content], Texts)
    roots = [_root(paths[part], options) for part in parts]
    if paths_given:
        check_paths(rows, content, roots)
    ids = row_ids(rows, roles.id or (content if paths_given else None))
    kept = rows.kept()
    whole = len(kept) == rows.rows
    rows, use, ids = rows.take(kept), use[kept], ids if whole else [ids[k] for k in kept.tolist()]
    labels, class_names = _labels(rows, roles.label, use, rule)
    facts: dict[str, Any] = {"labels": labels, "class_names": class_names, "ids": tuple(ids), "is_test": use == TESTING}
    name = name or main.name
    if roles.kind == "image":
        facts |= {
            "place": os.path.abspath(paths[PARTS[0]]) if paths_given else "",
            "known": known,
            "progress": progress,
        }
        return _images(name, rows, content, roots, options, facts)
    made = _table if roles.kind == "table" else _texts
    return made(name, rows, roles, options, use, facts)


def _forms(file: TableFile, part: str, roles: Roles, options: SourceOptions) -> dict[str, Form]:
    """How each column of a file is to be read.

    Raises:
        UserError: a column that the first file has is missing.
    """
    needed = [*roles.contents, *([roles.label] if part != "unlabeled" and roles.label else [])]
    for name in needed:
        if name not in file.names:
            remedy = hint(name, file.names)
            raise UserError(
                f"column '{short(name)}' is missing", f"It must have the columns of the first file. {remedy}", file.name
            )
    auto: Form = "auto" if roles.kind == "table" else "text"
    forms: dict[str, Form] = dict.fromkeys(roles.contents, auto)
    forms |= dict.fromkeys(options.table.named("categorical"), "text")
    forms |= {name: "text" for name in (roles.label, roles.id, roles.split) if name in file.names and name is not None}
    if part != "labeled":
        forms.pop(roles.split or "", None)
    if part == "unlabeled":
        forms.pop(roles.label or "", None)
    return forms


def without_minus_one(rows: Joined, column: str, files: Sequence[TableFile]) -> None:
    """Rows whose label is the number -1 have none, as in memory; text that reads -1, in a CSV file say, is a class."""
    texts = rows.text(column)
    if "-1" not in texts.levels:
        return
    numbers = [k for k, file in enumerate(files) if column in getattr(file, "whole", ())]
    marked = (texts.codes == texts.levels.index("-1")) & np.isin(rows.part, numbers)
    if marked.any():
        levels = texts.levels if "" in texts.levels else (*texts.levels, "")
        rows.columns[column] = Texts(np.where(marked, levels.index(""), texts.codes).astype(np.int32), levels)
        rows.notes.append(f"{counted(int(marked.sum()), 'row')} with the number -1 as label taken for unlabelled")


def read_label_values(rows: Joined, column: str, rule: LabelRule) -> None:
    """Give the labels their meaning: which say that there is none, and which are one class written in two ways."""
    texts, pairs = merged_numbers(rule.applied(rows.text(column)))
    rows.columns[column] = texts
    if pairs:
        rows.notes.append(told_merged(short(column), pairs))


def _use(rows: Joined, roles: Roles, parts: Sequence[str]) -> Array:
    """[N] what each row is for, by its file or by the column of the split."""
    by_part = np.array([{"labeled": TRAINING, "unlabeled": POOL, "test": TESTING}[part] for part in parts])
    use: Array = by_part[rows.part]
    if roles.split is None:
        return use
    split = rows.text(roles.split)
    meaning = {
        **dict.fromkeys(("", *TRAIN), TRAINING),
        **dict.fromkeys(UNLABELED, POOL),
        **dict.fromkeys(TEST, TESTING),
    }

    def odd(value: str) -> str | None:
        if value.lower() in meaning:
            return None
        more = " (validation rows are drawn from the labelled rows, see --validation)" if "val" in value.lower() else ""
        return f"the split '{short(value)}' is none of {', '.join(SPLITS)}{more}"

    rows.refuse_levels(roles.split, rows.part == 0, odd, "Mend it, or set source.table.split=none.")
    codes = np.array([meaning.get(level.lower(), TRAINING) for level in split.levels])
    return np.where(rows.part == 0, codes[split.codes], use)


def _check_labels(rows: Joined, roles: Roles, use: Array) -> None:
    assert roles.label is not None

    def odd(value: str) -> str | None:
        if value and not value.strip():
            return "the label is made of blanks"
        if "\n" in value or "\r" in value:
            return f"the label '{short(value)}' goes over several lines (is a quote left open?)"
        return None

    rows.refuse_levels(roles.label, use != POOL, odd, "Mend it; an empty cell means no label.")
    labels = rows.text(roles.label)
    known = {labels.levels[k] for k in np.unique(labels.codes[use == TRAINING]).tolist()} - {""}
    spellings = Spellings(known)

    def unknown(value: str) -> str | None:
        if not value or spellings.find(value) is not None or odd(value):
            return None
        return f"the test label '{short(value)}' is not among the training labels"

    odd_one = next((level for level in labels.levels if unknown(level)), "")
    rows.refuse_levels(roles.label, use == TESTING, unknown, other_label_remedy(odd_one, known))


def other_label_remedy(label: str, known: Collection[str]) -> str:
    """What to do about a label that is not among the known ones."""
    hint = nearest(short(label), map(short, known))
    near = hint.removeprefix("Did you mean '").removesuffix("'?")
    return f"{hint} Then set source.label_map={short(label)}:{near}." if near != hint and " or " not in near else hint


def _labels(rows: Joined, column: str, use: Array, rule: LabelRule) -> tuple[Array, tuple[str, ...]]:
    """Class numbers, -1 where there is none, and the class names, verbatim.

    Raises:
        UserError: two classes look the same, the labels are quantities, or most rows have a label that may mean none.
    """
    labels = rows.text(column)
    seen = np.bincount(labels.codes[use == TRAINING], minlength=len(labels.levels))
    names = [level for level, count in zip(labels.levels, seen.tolist()) if count and level]
    twins: dict[str, str] = {}
    for name in names:
        if (twin := twins.setdefault(folded(name), name)) != name:
            first = int(np.argmax((labels.codes == labels.levels.index(name)) & (use == TRAINING)))
            what = f"the classes '{short(twin)}' and '{short(name)}' differ only by case, spaces or accents' encoding"
            raise UserError(
                what,
                f"Write both the same way, or set source.label_map={short(name)}:{short(twin)}.",
                rows.place(first),
            )
    own = labels.codes[filled(labels) & (use == TRAINING)]
    said, refused = doubt(names, len(own), _counts_up(own, labels.levels))
    if refused:
        what = f"the label column '{short(column)}' has {said}"
        remedy = f"{_other_label(rows, column)} (If these are classes, write them as texts.)"
        raise UserError(what, remedy, rows.place(0))
    if said:
        rows.notes.append(f"the label column '{short(column)}' has {said}. {_other_label(rows, column)}")
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    else:
        names.sort()
    counts = dict(zip(labels.levels, seen.tolist()))
    rows.notes += check_doubtful(names, counts, rule, rows.place(0))
    rows.notes += several_labels(names, counts)
    if hidden := int((filled(labels) & (use == POOL)).sum()):
        rows.notes.append(f"{counted(hidden, 'label')} of unlabelled rows not used")
    known = Spellings(names)
    numbers = [known.find(level) if level else None for level in labels.levels]
    coded = np.array([-1 if k is None else k for k in numbers], dtype=np.int64)[labels.codes]
    return np.where(use == POOL, -1, coded), tuple(names)


def _counts_up(codes: Array, levels: Sequence[str]) -> bool:
    """Whether the labels count the rows, 1, 2, 3, ... from one row to the next."""
    numbers = [parsed(levels[code]) for code in codes.tolist()]
    return all(a is not None and b is not None and b - a == 1 for a, b in pairwise(numbers))


def _other_label(rows: Joined, column: str) -> str:
    """The remedy for a label column that is none: those whose values are few, as classes are."""
    few = [name for name, values in rows.columns.items() if name != column and 2 <= _different(values) <= CLASSES]
    named = [name for name in few if name.lower() in LABELS]
    remedy = "Name the column of classes with source.table.label"
    if named:
        return f"Did you mean source.table.label={short(named[0])}?"
    return f"{remedy}; few different values are in {listing(few, 4)}." if few else f"{remedy}."


def _different(values: Values) -> int:
    """How many different values a column holds, without missing ones."""
    if isinstance(values, Texts):
        return sum(level not in MARKERS for level in values.levels)
    return 0 if isinstance(values, list) else len(np.unique(values[~np.isnan(values)]))


def filled(texts: Texts) -> Array:
    """[N] bool: where a row's text is not empty."""
    return np.array([level != "" for level in texts.levels], dtype=bool)[texts.codes]


def row_ids(rows: Joined, column: str | None) -> list[str]:
    """One id per row: the column's text, or the line in a file that has no such column."""
    if column is None:
        return [rows.line(k) for k in range(rows.rows)]
    rows.refuse_twice(column, "id")
    ids, held = rows.text(column).tolist(), rows.held[column]
    return [text if int(part) in held else rows.line(k) for k, (text, part) in enumerate(zip(ids, rows.part.tolist()))]


def _root(path: Path, options: SourceOptions) -> str:
    """The folder that relative paths in a file start from."""
    return os.path.abspath(os.path.expanduser(options.root) if options.root else path.parent)


def check_paths(rows: Joined, column: str, roots: Sequence[str]) -> None:
    """Refuse paths that lead out of their root, and files that are named twice, however their paths are written."""

    def encoded(value: str) -> str | None:
        if not value.startswith("data:") and (len(value) <= LONG or os.path.splitext(value)[1]):
            return None
        return f"the path is a text of {len(value)} characters, '{short(value)}', which looks like base64"

    def odd(value: str) -> str | None:
        if os.path.isabs(value) or os.path.normpath(value).split(os.sep)[0] != "..":
            return None
        return f"the path '{short(value)}' leads out of the folder"

    for part in range(len(roots)):
        remedy = "Store the image's bytes (base64.b64decode) in a Parquet file, or name its file."
        rows.refuse_levels(column, rows.part == part, encoded, remedy)
        rows.refuse_levels(column, rows.part == part, odd, "Write it absolute, or set source.root=DIR.")
    rows.refuse_twice(column, "path", lambda path, part: os.path.normpath(os.path.join(roots[part], path)))


def _table(
    name: str, rows: Joined, roles: Roles, options: SourceOptions, use: Array, facts: Mapping[str, Any]
) -> MemorySource:
    told, train = Told(), use != TESTING
    columns: list[Column] = []
    for column in roles.contents:
        if column in rows.full:
            told.notes.append(too_many(column))
            continue
        category, keep = column in options.table.named("categorical"), column in roles.chosen
        fitted = fit_column(column, rows.columns[column], train, rows.place, told, category, keep, rows.part)
        if fitted is not None:
            columns.append(fitted)
    if not columns:
        raise UserError("no feature is left", f"{told.notes[0]}." if told.notes else "", name)
    data = features(columns, rows, told)
    notes = (*rows.notes, described(columns), *told.lines(rows.rows))
    tensor = torch.from_numpy(data)
    return MemorySource(name, "table", tensor, columns=tuple(columns), notes=notes, problems=rows.problems, **facts)


def features(columns: Sequence[Column], rows: Joined, told: Told) -> Array:
    """float32 [N, columns]; the columns are taken out of ``rows`` as they are done."""
    data = np.empty((rows.rows, len(columns)), dtype=np.float32)
    for k, column in enumerate(columns):
        data[:, k] = encode_column(column, rows.columns.pop(column.name), rows.place, told)
    return data


def _texts(
    name: str, rows: Joined, roles: Roles, options: SourceOptions, use: Array, facts: Mapping[str, Any]
) -> MemorySource:
    column = roles.contents[0]
    texts = rows.text(column)
    if roles.guessed and all(parsed(level) is not None for level in texts.levels):
        what = f"column '{short(column)}' is taken for the texts by its name, and holds nothing but numbers"
        raise UserError(what, "Set source.table.text=none (for a table) or source.table.text=NAME.", rows.place(0))
    if empty := int((~filled(texts)).sum()):
        rows.notes.append(f"{counted(empty, 'text')} empty")
    every, train = texts.tolist(), np.flatnonzero(use != TESTING)
    ids, tokens, notes = encode_texts(
        [every[k] for k in train.tolist()], options.text.tokenizer, options.text.max_tokens
    )
    data = ids
    if len(train) < len(every):
        data = torch.empty(len(every), tokens.length, dtype=torch.int32)
        data[torch.from_numpy(train)] = ids
        rest = np.flatnonzero(use == TESTING)
        data[torch.from_numpy(rest)] = tokenizer_of(tokens).encode([every[k] for k in rest.tolist()])
    notes = (*rows.notes, *notes)
    return MemorySource(name, "text", data, tokens=tokens, notes=notes, problems=rows.problems, texts=every, **facts)


def _images(
    name: str,
    rows: Joined,
    column: str,
    roots: Sequence[str],
    options: SourceOptions,
    facts: Mapping[str, Any],
) -> ImageSource:
    items = image_items(rows, column, roots)
    told: dict[str, Any] = {"where": name, "notes": rows.notes, "problems": rows.problems}
    return ImageSource(name, items, options=options.image, **told, **facts)


def image_items(rows: Joined, column: str, roots: Sequence[str]) -> Sequence[str | bytes]:
    """What an image store takes: the path or the bytes of each row."""
    values = rows.columns[column]
    if isinstance(values, Texts):
        return [os.path.join(roots[part], path) for part, path in zip(rows.part.tolist(), values.tolist())]
    if isinstance(values, list):
        return [value or b"" for value in values]
    raise UserError(f"column '{short(column)}' holds numbers, not images", "Set source.table.path=NAME.", rows.place(0))

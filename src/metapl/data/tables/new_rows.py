"""New rows in files, read as a trained model wants them: columns by name, categories by their text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from metapl.data.images.options import ImageOptions
from metapl.data.images.source import ImageSource
from metapl.data.images.store import Known
from metapl.data.memory.source import MemorySource
from metapl.data.options import SourceOptions
from metapl.data.tables.columns import Told
from metapl.data.tables.files import open_file
from metapl.data.tables.frame import Array, Form, TableFile, Texts, short
from metapl.data.tables.join import Joined, read_joined
from metapl.data.tables.label_values import read_rule
from metapl.data.tables.options import AUTO, NONE
from metapl.data.tables.roles import LABELS, PATHS, SURE, TEST, TEXTS, hint, listing
from metapl.data.tables.source import check_paths, features, image_items, read_label_values, row_ids, without_minus_one
from metapl.data.tables.spelling import Spellings
from metapl.data.texts.tokens import tokenizer_of
from metapl.errors import UnclearDelimiter, UserError, nearest
from metapl.types import Preprocessing, Source


def open_rows(
    path: Path,
    options: SourceOptions,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    *,
    labels: bool = False,
    suffix: str = "",
) -> Source:
    """The rows of a file for a model; nothing is learnt from them.

    Args:
        options: those of the run, which know its columns; what names other files is passed over.
        class_names: the model's.
        labels: read the labels, too, which must be among ``class_names``; without it every row is unlabelled.

    Raises:
        UserError: a column is missing, a value or a label cannot be read; file, line and column are named.
    """
    with _no_settings():
        file = _opened(path, options, suffix)
    contents = _contents(file, options, preprocessing)
    label = _label(file, options, contents) if labels else None
    more = {role: _single(file, getattr(options.table, role), role, contents) for role in ("id", "split")}
    forms = _forms(contents, preprocessing)
    forms |= {column: "text" for column in (label, *more.values()) if column is not None}
    with _no_settings():
        rows = read_joined([file], [forms], options.table.skip_bad_rows, -1)
    if label is not None:
        without_minus_one(rows, label, [file])
        read_label_values(rows, label, read_rule(options.no_label, options.label_map))
    used = {*contents, *more.values(), label}
    extra = [n for n in file.names if n not in used and n.lower() not in LABELS and n != options.table.label]
    if extra:
        rows.notes.append(f"{file.name}: columns not used: {listing(extra)}")
    root = os.path.abspath(os.path.expanduser(options.root) if options.root else path.parent)
    listed = preprocessing.kind == "image" and isinstance(rows.columns[contents[0]], Texts)
    if listed:
        check_paths(rows, contents[0], [root])
    ids = row_ids(rows, more["id"] or (contents[0] if listed else None))
    truth = _truth(rows, label, class_names)
    is_test = _is_test(rows, more["split"])
    kept = rows.kept()
    if len(kept) < rows.rows:
        rows, ids, truth, is_test = rows.take(kept), [ids[k] for k in kept.tolist()], truth[kept], is_test[kept]
    facts = _Facts(file.name, tuple(ids), truth, is_test, tuple(class_names))
    return _made(rows, contents, preprocessing, facts, options.image, root)


@contextmanager
def _no_settings() -> Iterator[None]:
    """Errors without the advice to change a setting: these are the run's, and there is none to give here."""
    try:
        yield
    except UserError as error:
        raise error.without_setting() from error


class _Facts:
    """What a source holds beside its rows."""

    def __init__(
        self, name: str, ids: tuple[str, ...], labels: Array, is_test: Array, class_names: tuple[str, ...]
    ) -> None:
        self.name, self.ids, self.labels, self.is_test, self.class_names = name, ids, labels, is_test, class_names


def _made(
    rows: Joined, contents: Sequence[str], p: Preprocessing, facts: _Facts, images: ImageOptions, root: str
) -> Source:
    if p.kind == "image":
        channels, height, width = p.shape
        own = replace(images, resize=p.resize, allow_bad=True)
        return ImageSource(
            facts.name,
            image_items(rows, contents[0], [root]),
            ids=facts.ids,
            labels=facts.labels,
            class_names=facts.class_names,
            is_test=np.ones(len(facts.ids), dtype=bool),  # decoded when asked for, a chunk at a time
            options=own,
            notes=rows.notes,
            problems=rows.problems,
            known=Known((channels, height, width), {}),
        )
    if p.kind == "text":
        assert p.tokens is not None  # held by every preprocessing of texts
        data = tokenizer_of(p.tokens).encode(rows.text(contents[0]).tolist())
    else:
        told = Told()
        data = torch.from_numpy(features(p.columns, rows, told))
        rows.notes += told.lines(len(facts.ids))
    return MemorySource(
        facts.name,
        p.kind,
        data,
        facts.labels,
        facts.class_names,
        facts.ids,
        facts.is_test,
        rows.problems,
        tuple(rows.notes),
        p.columns,
        p.tokens,
    )


def _opened(path: Path, options: SourceOptions, suffix: str) -> TableFile:
    """The file; a delimiter that the run was told holds where the header does not decide."""
    if options.table.delimiter == AUTO:
        return open_file(path, options.table, suffix)
    try:
        return open_file(path, replace(options.table, delimiter=AUTO), suffix)
    except UnclearDelimiter:
        return open_file(path, options.table, suffix)


def _contents(file: TableFile, options: SourceOptions, p: Preprocessing) -> tuple[str, ...]:
    """The columns that the model sees.

    Raises:
        UserError: one is missing, or the model knows no names.
    """
    if p.kind == "table":
        if not p.columns:
            what = "the model was trained on columns without names, so those of a file cannot be matched"
            raise UserError(what, "Use Python, with arrays.", file.name)
        for column in p.columns:
            if column.name not in file.names:
                remedy = hint(column.name, file.names)
                raise UserError(f"column '{short(column.name)}' is missing", f"The model needs it. {remedy}", file.name)
        return tuple(column.name for column in p.columns)
    role, known = ("path", PATHS) if p.kind == "image" else ("text", TEXTS)
    asked = getattr(options.table, role)
    found = [n for n in file.names if (n == asked if asked not in (AUTO, NONE) else n.lower() in known)]
    if len(found) == 1:
        return (found[0],)
    wanted = f"'{short(asked)}'" if asked not in (AUTO, NONE) else f"one of {', '.join(known)}"
    what = f"there must be one column of {'image paths' if p.kind == 'image' else 'texts'}, {wanted}"
    raise UserError(f"{what}; there are {listing(found or file.names)}", "Rename the column.", file.name)


def _forms(contents: Sequence[str], p: Preprocessing) -> dict[str, Form]:
    levels = {column.name: bool(column.levels) for column in p.columns}
    if p.kind != "table":
        return dict.fromkeys(contents, "text")
    return {name: "text" if levels[name] else "number" for name in contents}


def _label(file: TableFile, options: SourceOptions, contents: Sequence[str]) -> str:
    """The column of labels among those that the model does not see."""
    asked, free = options.table.label, [n for n in file.names if n not in contents]
    if asked != AUTO:
        found = [n for n in free if n == asked]
    else:
        found = [n for n in free if n.lower() in LABELS]
        found = [n for n in found if n.lower() in SURE] or found
    if len(found) != 1:
        wanted = f"'{short(asked)}'" if asked != AUTO else f"one of {', '.join(LABELS)}"
        what = f"there must be one column of labels, {wanted}; there are {listing(found or free) or 'none'}"
        raise UserError(what, "Add it, or rename one.", file.name)
    return found[0]


def _single(file: TableFile, asked: str, role: str, contents: Sequence[str]) -> str | None:
    free = [n for n in file.names if n not in contents]
    found = [n for n in free if (n == asked if asked != AUTO else n.lower() == role)]
    return found[0] if len(found) == 1 and asked != NONE else None


def _truth(rows: Joined, label: str | None, class_names: Sequence[str]) -> Array:
    """int64 [N]: class numbers of the model, -1 where there is no label."""
    if label is None:
        return np.full(rows.rows, -1, dtype=np.int64)
    known, texts = Spellings(class_names), rows.text(label)

    def unknown(value: str) -> str | None:
        return None if not value or known.find(value) is not None else f"the model knows no class '{short(value)}'"

    odd = next((level for level in texts.levels if unknown(level)), "")
    rows.refuse_levels(label, np.ones(rows.rows, dtype=bool), unknown, nearest(short(odd), map(short, class_names)))
    numbers = [known.find(level) if level else None for level in texts.levels]
    return np.array([-1 if k is None else k for k in numbers], dtype=np.int64)[texts.codes]


def _is_test(rows: Joined, split: str | None) -> Array:
    if split is None:
        return np.zeros(rows.rows, dtype=bool)
    texts = rows.text(split)
    return np.array([level.lower() in TEST for level in texts.levels], dtype=bool)[texts.codes]

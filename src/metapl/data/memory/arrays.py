"""Arrays from Python, NumPy, torch or pandas, as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.images.resize import how, images_at
from metapl.data.memory.source import MemorySource
from metapl.data.memory.tensors import pixels, planes, read_numbers, table_rows
from metapl.data.tables.dataframe import (
    categorical,
    column_names,
    column_of,
    encode_columns,
    fit_columns,
    is_frame,
    lost_columns,
    read_frame,
)
from metapl.data.tables.id_columns import numbers_rows
from metapl.data.tables.labels import encode_labels
from metapl.data.texts.read import is_texts, read_texts
from metapl.data.texts.tokens import encode_texts, tokenizer_of
from metapl.errors import UserError
from metapl.types import Column, Kind, Resize, Tokens
from metapl.utils.warnings import warn

Array = np.ndarray[Any, Any]
PREFIX = {"X": "", "X_unlabeled": "unlabeled/", "X_test": "test/"}


def from_arrays(
    X: Any,
    y: Any,
    *,
    X_unlabeled: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    class_names: Sequence[str] | None = None,
    kind: Literal["auto", "image", "table", "text"] = "auto",
    unlabeled: Any = None,
    tokenizer: str = "auto",
    max_tokens: int | str = "auto",
    image_size: int | str = "auto",
    resize: Resize = "cover",
    features: Sequence[str | int] = (),
) -> MemorySource:
    """A source over data in memory; they are copied, never written to.

    Args:
        X: images [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3; a table [N, D] of numbers, finite, or NaN
            where a value is missing; a DataFrame (or a mapping of columns); or N texts. Image values are whole
            numbers 0..255, or floats that either stay within 0..1 or reach above 1 and stay within 0..255. Where both
            positions of C fit, NumPy arrays are read channels last, tensors channels first. A DataFrame's columns of
            texts, categories or True/False become categories with the levels that X and X_unlabeled hold; one that
            names or numbers the rows, or holds more than 1000 different texts, is left out, with a warning. Its index
            names the rows where it is made of differing texts.
        y: [N] labels; -1 and the empty text, and in lists, object arrays and series also None, NaN or NA, mark a row
            without a label.
        X_unlabeled: more rows, without labels. A DataFrame's columns are matched by name, in any order.
        X_test: test rows, with labels ``y_test``. A category that X and X_unlabeled do not hold counts as missing.
        class_names: names of the classes 0, 1, ... for whole-number labels, or the text labels in class order.
            Without it classes are the labels that occur, sorted.
        kind: "auto" takes strings for texts, two dimensions for a table and three or four for images.
        unlabeled: a further mark of a row without a label, such as "?", or several as a tuple.
        tokenizer, max_tokens: for texts, as the settings ``source.tokenizer`` and ``source.max_tokens``.
        image_size: side in pixels or "HxW" that images are brought to, as files would be; auto: their own.
        resize: "cover", "stretch" or "pad", as the setting ``source.resize``.
        features: columns of a DataFrame: these alone are used, whatever they hold.

    Raises:
        UserError: shapes, values or labels do not fit, or a size is set for rows that are no images; the message names
            the argument, and row and column for tables.
    """
    sized = ImageOptions(image_size, resize)
    given = {"X": X, "y": y, "X_unlabeled": X_unlabeled, "X_test": X_test, "y_test": y_test}
    return assemble(given, class_names, kind, unlabeled, tokenizer, max_tokens, images=sized, features=features)


def assemble(
    given: Mapping[str, Any],
    class_names: Sequence[str] | None = None,
    kind: str = "auto",
    unlabeled: Any = None,
    tokenizer: str = "auto",
    max_tokens: int | str = "auto",
    name: str = "arrays",
    copy: bool = True,
    images: ImageOptions = OWN_SIZE,
    features: Sequence[str | int] = (),
) -> MemorySource:
    """``from_arrays`` for arguments by name; without ``copy`` a source of one array may share its memory."""
    X, y, X_test, y_test = given["X"], given["y"], given.get("X_test"), given.get("y_test")
    if (X_test is None) != (y_test is None):
        raise UserError("X_test and y_test belong together", "Give both or neither.", "from_arrays")
    if isinstance(features, str):
        raise UserError(f"features is {features!r}, not a list of names", f"Write [{features!r}].", "features")
    names = [str(name) for name in features]
    parts = {part: given[part] for part in PREFIX if given.get(part) is not None}
    made_kind = kind_of(X, kind)
    notes: list[str] = []
    columns: tuple[Column, ...] = ()
    tokens: Tokens | None = None
    white, resized = 0, False
    check_sized(images, made_kind)
    if made_kind == "text":
        tensors, tokens = _texts(parts, tokenizer, max_tokens, notes)
    elif made_kind == "image":
        stacks = {k: planes(read_numbers(part, k), k, isinstance(part, Tensor)) for k, part in parts.items()}
        tensors, white = pixels(stacks, notes, copy=copy)
        resized = images.size is not None
        tensors = _brought(tensors, images, notes)
    elif is_frame(X):
        tensors, columns = _frames(parts, notes, names)
    else:
        tensors = {k: table_rows(read_numbers(part, k), k, copy) for k, part in parts.items()}
    if features and not columns:
        raise UserError("features names columns, and X has none", "Give a DataFrame.", "features")
    _check_same_shape(tensors)
    if made_kind == "table" and not columns:
        notes += _numbering([tensors[k].numpy() for k in tensors if k != "X_test"])
    counts = {part: len(tensor) for part, tensor in tensors.items()}
    _check_order(X, y, "y")
    _check_order(X_test, y_test, "y_test")
    labels, class_names = encode_labels(y, counts["X"], y_test, counts.get("X_test", 0), class_names, notes, unlabeled)
    counts_u, counts_t = counts.get("X_unlabeled", 0), counts.get("X_test", 0)
    spread = [labels[: counts["X"]], np.full(counts_u, -1, dtype=np.int64), labels[counts["X"] :]]
    ids = _ids(parts, counts)
    return MemorySource(
        name=name,
        kind=made_kind,
        data=tensors["X"] if len(tensors) == 1 and not copy else torch.cat(list(tensors.values())).contiguous(),
        labels=np.concatenate(spread),
        class_names=class_names,
        ids=ids,
        is_test=np.arange(len(ids)) >= len(ids) - counts_t,
        notes=tuple(notes),
        columns=columns,
        tokens=tokens,
        resize=images.resize,
        white=white,
        resized=resized,
    )


def kind_of(X: Any, kind: str = "auto") -> Kind:
    """Image, table or text, by what ``X`` is, checked against what was asked for.

    Raises:
        UserError: ``kind`` is unknown, or X is of another kind.
    """
    if kind not in ("auto", "image", "table", "text"):
        raise UserError(f"kind is {kind!r}", "Give 'auto', 'image', 'table' or 'text'.", "kind")
    if is_texts(X, kind == "text"):
        made: Kind = "text"
    elif is_frame(X):
        made = "table"
    else:
        dimensions = read_numbers(X, "X").ndim
        if dimensions > 4:
            raise UserError(f"it has {dimensions} dimensions", "Give a table (2) or images (3 or 4).", "X")
        made = "table" if dimensions == 2 else "image"
    if kind not in ("auto", made):
        what = "texts" if made == "text" else "a table" if made == "table" else "images"
        raise UserError(f"it looks like {what}, not like kind='{kind}'", "Reshape X, or leave kind='auto'.", "X")
    return made


def _texts(
    parts: Mapping[str, Any], tokenizer: str, max_tokens: int | str, notes: list[str]
) -> tuple[dict[str, Tensor], Tokens]:
    """Token ids of every part; how many are kept of a text is told by the training rows alone."""
    texts = {name: read_texts(part, name) for name, part in parts.items()}
    train = [text for name in texts if name != "X_test" for text in texts[name]]
    rows, tokens, said = encode_texts(train, tokenizer, max_tokens)
    notes.extend(said)
    tensors = {"X": rows[: len(texts["X"])]}
    if "X_unlabeled" in texts:
        tensors["X_unlabeled"] = rows[len(texts["X"]) :]
    if "X_test" in texts:
        tensors["X_test"] = tokenizer_of(tokens).encode(texts["X_test"])
    return tensors, tokens


def _numbering(parts: Sequence[Array]) -> list[str]:
    """A note on each column that numbers the rows; it stays, since columns without names go by their position."""
    found = {k: numbers_rows("", [part[:, k] for part in parts]) for k in range(parts[0].shape[1])}
    return [f"column {k} of X {why}: to leave it out, drop it" for k, (why, sure) in found.items() if sure]


def _frames(
    parts: Mapping[str, Any], notes: list[str], features: Sequence[str] = ()
) -> tuple[dict[str, Tensor], tuple[Column, ...]]:
    """Rows of every part, its columns in the order of X, or those of ``features``."""
    for name, part in parts.items():
        if not is_frame(part):
            raise UserError("X has named columns, this has none", "Give a DataFrame with the same columns.", name)
    tables = {"X": read_frame(parts["X"], "X", features or None)}
    tables |= {name: read_frame(part, name, tables["X"]) for name, part in parts.items() if name != "X"}
    train = [name for name in tables if name != "X_test"]
    keep = frozenset[str](features).union(*(categorical(parts[name]) for name in train))
    if features:
        tables["X"] = {name: column_of(tables["X"], name, "X") for name in dict.fromkeys(features)}
    told: list[str] = []
    columns = fit_columns([tables[name] for name in train], train, told, keep)
    for text in told:
        warn(text)
    notes += told
    for name in tables:
        further = [column for column in column_names(parts[name]) if column not in tables["X"]]
        if further and not features:
            notes.append(f"{name} has columns that X has not, passed over: {', '.join(further[:5])}")
    tensors = {name: encode_columns(table, columns, name) for name, table in tables.items()}
    for name, table in tables.items():
        notes += [f"{name}: {text}" for text in lost_columns(table, columns, tensors[name])]
    return tensors, columns


def check_sized(images: ImageOptions, kind: Kind) -> None:
    """Refuse a size for what has none.

    Raises:
        UserError: ``images`` ask for a size, and the rows are no images.
    """
    if images.size is not None and kind != "image":
        rows = {"table": "a table", "text": "texts"}[kind]
        raise UserError(f"image_size is set, and the rows are {rows}", "Leave it out.", "source.image_size")


def _brought(tensors: dict[str, Tensor], images: ImageOptions, notes: list[str]) -> dict[str, Tensor]:
    """Images of every part at the size that is asked for."""
    size = images.size
    if size is None or all(tuple(tensor.shape[2:]) == size for tensor in tensors.values()):
        return tensors
    notes.append(f"images are brought to {size[0]} x {size[1]}{how(images.resize)}")
    return {name: images_at(tensor, size, images.resize) for name, tensor in tensors.items()}


def _check_same_shape(tensors: dict[str, Tensor]) -> None:
    wanted = tensors["X"].shape[1:]
    for name, tensor in tensors.items():
        if tensor.shape[1:] != wanted:
            raise UserError(
                f"its rows have shape {tuple(tensor.shape[1:])}, those of X {tuple(wanted)}",
                "Bring them to one shape.",
                name,
            )


def _index(part: Any) -> Any:
    """The pandas index of ``part``; None for anything else (a list has a method of that name)."""
    index = getattr(part, "index", None)
    return None if callable(index) or not hasattr(index, "equals") else index


def _check_order(X: Any, y: Any, name: str) -> None:
    """Rows and labels are matched by position: refuse an index that says otherwise."""
    ours, theirs = _index(X), _index(y)
    if ours is None or theirs is None or len(ours) != len(theirs) or ours.equals(theirs):
        return
    if ours.is_unique and not len(ours.difference(theirs)):
        raise UserError("its index holds the rows of X in another order", f"Give {name}.loc[X.index].", name)


def _ids(parts: Mapping[str, Any], counts: Mapping[str, int]) -> tuple[str, ...]:
    """The index of a DataFrame or series where it is made of texts that differ, else numbers; a prefix per part."""
    numbered = [f"{PREFIX[name]}{k}" for name, count in counts.items() for k in range(count)]
    named: list[str] = []
    for name, part in parts.items():
        index = _index(part)
        own = list(index) if index is not None and index.is_unique else []
        texts = own and all(isinstance(value, str) for value in own)
        named += [f"{PREFIX[name]}{value}" for value in (own if texts else range(counts[name]))]
    return tuple(named if len(set(named)) == len(numbered) else numbered)

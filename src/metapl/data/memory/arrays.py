"""Arrays from Python, NumPy, torch or pandas, as a source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.memory.kinds import GUESSED, guess_kind
from metapl.data.memory.new_rows import rows_for
from metapl.data.memory.source import MemorySource
from metapl.data.modalities import MODALITIES, modality_of
from metapl.data.modality import ArrayOptions, RawRows
from metapl.data.tables.labels import encode_labels
from metapl.errors import UserError
from metapl.types import Kind, Preprocessing, Resize

_NONE = [-1]  # the label of a row without one
PREFIX = {"X": "", "X_unlabeled": "unlabeled/", "X_test": "test/"}


def from_arrays(
    X: Any,
    y: Any,
    *,
    X_unlabeled: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    class_names: Sequence[str] | None = None,
    kind: str = "auto",
    unlabeled: Any = None,
    tokenizer: str = "auto",
    max_tokens: int | str = "auto",
    image_size: int | str = "auto",
    resize: Resize = "cover",
    features: Sequence[str | int] = (),
) -> MemorySource:
    """Return a source over data in memory; they are copied, never written to.

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
        kind: "auto" takes strings for texts, two dimensions for a table and three or four for images; else "image",
            "table", "text" or a kind of your own (docs/modalities.md).
        unlabeled: a further mark of a row without a label, such as "?", or several as a tuple.
        tokenizer, max_tokens: for texts, as the settings ``source.text.tokenizer`` and ``source.text.max_tokens``.
        image_size: side in pixels or "HxW" that images are brought to, as files would be; auto: their own.
        resize: "cover", "stretch" or "pad", as the setting ``source.image.resize``.
        features: columns of a DataFrame: these alone are used, whatever they hold.

    Raises:
        UserError: shapes, values or labels do not fit, or a size is set for rows that are not images; the message names
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
    learnt: bool = True,
    like: Preprocessing | None = None,
) -> MemorySource:
    """``from_arrays`` for arguments by name; without ``copy`` a source of one array may share its memory.

    Args:
        learnt: as in ``encode_labels``.
        like: the preprocessing of a trained model: the rows are read for it, with their labels if they have any.
    """
    X, y, X_test, y_test = given["X"], given.get("y"), given.get("X_test"), given.get("y_test")
    if like is None and (X_test is None) != (y_test is None):
        raise UserError("X_test and y_test belong together", "Give both or neither.", "from_arrays")
    if isinstance(features, str):
        raise UserError(f"features is {features!r}, not a list of names", f"Write [{features!r}].", "features")
    parts = {part: given[part] for part in PREFIX if given.get(part) is not None}
    modality = modality_of(kind_of(X, kind) if like is None else like.kind)
    check_sized(images, modality.kind)
    options = ArrayOptions(tokenizer, max_tokens, images, tuple(str(name) for name in features), copy)
    raw = modality.read(parts, options) if like is None else _new_rows(parts, like)
    if features and not raw.facts.get("columns"):
        raise UserError("features names columns, and X has none", "Give a DataFrame.", "features")
    tensors, notes = raw.tensors, raw.notes
    if modality.kind == "image" and kind == "auto" and like is None:
        notes += check_signals(np.shape(X)[1:], raw.facts["white"] == 0, "X")
    counts = {part: len(tensor) for part, tensor in tensors.items()}
    check_order(X, y, "y")
    check_order(X_test, y_test, "y_test")
    counts_u, counts_t = counts.get("X_unlabeled", 0), counts.get("X_test", 0)
    if like is None:
        labels, class_names = encode_labels(y, counts["X"], y_test, counts_t, class_names, notes, unlabeled, learnt)
    else:
        both = [*(_NONE * counts["X"] if y is None else y), *(_NONE * counts_t if y_test is None else y_test)]
        labels, class_names = encode_labels(both, len(both), None, 0, class_names, notes, unlabeled, learnt)
    spread = [labels[: counts["X"]], np.full(counts_u, -1, dtype=np.int64), labels[counts["X"] :]]
    ids = _ids(parts, counts)
    return MemorySource(
        name=name,
        kind=modality.kind,
        data=tensors["X"] if len(tensors) == 1 and not copy else torch.cat(list(tensors.values())).contiguous(),
        labels=np.concatenate(spread),
        class_names=class_names,
        ids=ids,
        is_test=np.arange(len(ids)) >= len(ids) - counts_t,
        notes=tuple(notes),
        **raw.facts,
    )


def _new_rows(parts: Mapping[str, Any], like: Preprocessing) -> RawRows:
    """Return the rows of all parts as a trained model takes them."""
    raw = RawRows({}, [], {"columns": like.columns, "tokens": like.tokens})
    for name, part in parts.items():
        raw.tensors[name] = rows_for(part, like, name, raw.notes.append)
    return raw


def check_signals(
    row: Sequence[int], whole: bool, name: str, image: str = "X[:, None]", signal: str = "X.reshape(len(X), -1)"
) -> list[str]:
    """Return a note if rows of two dimensions are read as grey images: signals [steps, channels] look the same.

    Args:
        row: the shape of one row.
        image, signal: the code that makes it clearly an image or a signal.
        whole: whether the values are whole numbers, as in most images and few signals.

    Raises:
        UserError: the sides differ, and the values are not whole numbers, so that rows may be either.
    """
    if len(row) != 2:
        return []
    if row[0] != row[1] and not whole:
        what = f"rows of {row[0]} x {row[1]} numbers may be grey images or signals"
        remedy = f"For images, add the dimension of colours: {image}. For signals, give {signal}."
        raise UserError(what, remedy, name)
    return [f"{name}: rows of {row[0]} x {row[1]} numbers are read as grey images (for signals, give {signal})"]


def kind_of(X: Any, kind: str = "auto") -> Kind:
    """Return the kind of rows that ``kind`` names, or that X has by its form; the form is checked where it can be.

    Raises:
        UserError: ``kind`` is unknown, or X is of another kind.
    """
    if kind not in ("auto", *MODALITIES):
        known = ", ".join(map(repr, ["auto", *MODALITIES]))
        raise UserError(f"kind is {kind!r}", f"Give one of {known}.", "kind")
    if kind in MODALITIES and kind not in GUESSED:
        return kind
    guessed = guess_kind(X, kind == "text")
    if kind not in ("auto", guessed):
        what = f"it looks like {modality_of(guessed).rows}, not like kind='{kind}'"
        raise UserError(what, "Reshape X, or leave kind='auto'.", "X")
    return guessed


def check_sized(images: ImageOptions, kind: Kind) -> None:
    """Refuse an image size for rows that are not images.

    Raises:
        UserError: ``images`` ask for a size, and the rows are not images.
    """
    if images.sides is not None and not modality_of(kind).sized:
        what = f"image_size is set, and the rows are {modality_of(kind).rows}"
        raise UserError(what, "Leave it out.", "source.image.size")


def _index(part: Any) -> Any:
    """Return the pandas index of ``part``; None for anything else (a list has a method of that name)."""
    index = getattr(part, "index", None)
    return None if callable(index) or not hasattr(index, "equals") else index


def check_order(X: Any, y: Any, name: str) -> None:
    """Refuse labels whose index has another order than that of the rows: both are matched by position."""
    ours, theirs = _index(X), _index(y)
    if ours is None or theirs is None or len(ours) != len(theirs) or ours.equals(theirs):
        return
    if ours.is_unique and not len(ours.difference(theirs)):
        raise UserError("its index holds the rows of X in another order", f"Give {name}.loc[X.index].", name)


def _ids(parts: Mapping[str, Any], counts: Mapping[str, int]) -> tuple[str, ...]:
    """Return ids: the index of a DataFrame or series if its values are different texts, else numbers; a prefix per
    part.
    """
    numbered = [f"{PREFIX[name]}{k}" for name, count in counts.items() for k in range(count)]
    named: list[str] = []
    for name, part in parts.items():
        index = _index(part)
        own = list(index) if index is not None and index.is_unique else []
        texts = own and all(isinstance(value, str) for value in own)
        named += [f"{PREFIX[name]}{value}" for value in (own if texts else range(counts[name]))]
    return tuple(named if len(set(named)) == len(numbered) else numbered)

"""Arrays from Python, NumPy or torch, as a source."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from metapl.data.labels import encode_labels
from metapl.data.memory import MemorySource
from metapl.errors import UserError
from metapl.types import Kind

Array = np.ndarray[Any, Any]


def from_arrays(
    X: Any,
    y: Any,
    *,
    X_unlabeled: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    class_names: Sequence[str] | None = None,
    kind: Literal["auto", "image", "table"] = "auto",
) -> MemorySource:
    """A source over arrays in memory; they are copied, never written to.

    Args:
        X: images [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 or 3, or a table [N, D] of numbers, finite, or NaN
            where a value is missing. Image values are whole numbers 0..255, or floats that either stay within 0..1 or
            reach above 1 and stay within 0..255. Where both positions of C fit, NumPy arrays are read channels last,
            tensors channels first.
        y: [N] labels; -1, and in object arrays also None or NaN, marks a row without a label.
        X_unlabeled: more rows, without labels.
        X_test: test rows, with labels ``y_test``.
        class_names: names of the classes 0, 1, ... for whole-number labels, or the text labels in class order.
            Without it classes are the labels that occur, sorted.
        kind: "auto" takes two dimensions for a table and three or four for images.

    Raises:
        UserError: shapes, values or labels do not fit; the message names the argument, and row and column for tables.
    """
    if (X_test is None) != (y_test is None):
        raise UserError("X_test and y_test belong together", "Give both or neither.", "from_arrays")
    given = {"X": X, "X_unlabeled": X_unlabeled, "X_test": X_test}
    parts = {name: _numeric(part, name) for name, part in given.items() if part is not None}
    made_kind = _kind(parts["X"], kind)
    notes: list[str] = []
    if made_kind == "table":
        tensors = {name: _table(part, name) for name, part in parts.items()}
    else:
        first = {name: isinstance(part, Tensor) for name, part in given.items()}
        planes = {name: _planes(part, name, first[name]) for name, part in parts.items()}
        tensors = _pixels(planes, notes)
    _check_same_shape(tensors)
    counts = {name: len(tensor) for name, tensor in tensors.items()}
    labels, names = encode_labels(y, counts["X"], y_test, counts.get("X_test", 0), class_names, notes)
    counts_u, counts_t = counts.get("X_unlabeled", 0), counts.get("X_test", 0)
    spread = [labels[: counts["X"]], np.full(counts_u, -1, dtype=np.int64), labels[counts["X"] :]]
    ids = [str(k) for k in range(counts["X"])]
    ids += [f"unlabeled/{k}" for k in range(counts_u)] + [f"test/{k}" for k in range(counts_t)]
    return MemorySource(
        name="arrays",
        kind=made_kind,
        data=torch.cat(list(tensors.values())).contiguous(),
        labels=np.concatenate(spread),
        class_names=names,
        ids=tuple(ids),
        is_test=np.arange(len(ids)) >= len(ids) - counts_t,
        notes=tuple(notes),
    )


def _numeric(values: Any, name: str) -> Array:
    """A NumPy array of numbers with at least one row."""
    if isinstance(values, Tensor):
        tensor = values.detach().cpu()
        array: Array = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    else:
        array = np.asarray(values)
    if array.dtype.kind not in "buif":
        raise UserError(f"its values are {array.dtype}, not numbers", "Turn them into numbers first.", name)
    if array.ndim < 2 or not array.size:
        raise UserError(f"its shape is {array.shape}", "Give [rows, features] or images, with rows.", name)
    return array


def _kind(X: Array, kind: str) -> Kind:
    """Image or table, by the number of dimensions, checked against what was asked for."""
    if kind not in ("auto", "image", "table"):
        raise UserError(f"kind is {kind!r}", "Give 'auto', 'image' or 'table'.", "kind")
    if X.ndim > 4:
        raise UserError(f"X has {X.ndim} dimensions", "Give a table (2) or images (3 or 4).", "X")
    made: Kind = "table" if X.ndim == 2 else "image"
    if kind not in ("auto", made):
        raise UserError(f"X has {X.ndim} dimensions, which is no {kind}", "Reshape X, or leave kind='auto'.", "X")
    return made


def _table(values: Array, name: str) -> Tensor:
    """float32 [N, D], every value finite or NaN (missing)."""
    if values.ndim != 2:
        raise UserError(f"its shape is {values.shape}, not [rows, features]", "Reshape it like X.", name)
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is named below
        table = np.array(values, dtype=np.float32)
    bad = np.argwhere(np.isinf(table))
    if len(bad):
        row, column = (int(k) for k in bad[0])
        raise UserError(
            f"row {row}, column {column} is {values[row, column]}, not a finite float32 number",
            "Fill or remove such values.",
            name,
        )
    return torch.from_numpy(table)


def _planes(values: Array, name: str, channels_first: bool) -> Array:
    """The images as [N, C, H, W], their values as they are."""
    if values.ndim == 3:
        return values[:, None]
    if values.ndim != 4:
        raise UserError(f"its shape is {values.shape}, which is no stack of images", "Reshape it like X.", name)
    fits_first, fits_last = values.shape[1] in (1, 3), values.shape[3] in (1, 3)
    if not fits_first and not fits_last:
        raise UserError(
            f"its shape is {values.shape}: no dimension holds 1 or 3 channels",
            "Give [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 (grey) or 3 (RGB).",
            name,
        )
    if fits_first and (channels_first or not fits_last):
        return values
    return values.transpose(0, 3, 1, 2)


def _pixels(planes: dict[str, Array], notes: list[str]) -> dict[str, Tensor]:
    """uint8 tensors; all arrays must be on one scale."""
    scales = {name: _scale(values, name) for name, values in planes.items()}
    known = {name: scale for name, scale in scales.items() if scale}
    if len(set(known.values())) > 1:
        (one, a), (other, b) = next(iter(known.items())), list(known.items())[-1]
        raise UserError(f"{one} is on the scale 0..{a} but {other} on 0..{b}", "Bring all images to one scale.", other)
    scale = next(iter(known.values()), 255)
    high = max(float(values.max()) for values in planes.values())
    if scale == 255 and 0 < high <= 64:
        notes.append(f"the images' highest value is {high:g} of 255: is 0..255 their scale?")
    return {name: _bytes(values, scale) for name, values in planes.items()}


def _bytes(values: Array, scale: int) -> Tensor:
    if values.dtype == np.uint8:
        return torch.from_numpy(np.array(values, order="C"))
    return torch.from_numpy(np.rint(values * (255.0 / scale)).astype(np.uint8, order="C"))


def _scale(values: Array, name: str) -> int:
    """1 or 255: what white is. 0 where all is black or the array does not tell.

    Raises:
        UserError: values outside 0..255, or not finite.
    """
    if values.dtype == np.uint8:
        return 255
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # NaN fails both
        raise UserError(f"image values run from {low:g} to {high:g}", "Scale them to 0..1 or to 0..255.", name)
    if values.dtype.kind == "b":
        return 1
    if values.dtype.kind in "ui":
        return 255
    return 0 if high == 0 else 1 if high <= 1 else 255


def _check_same_shape(tensors: dict[str, Tensor]) -> None:
    wanted = tensors["X"].shape[1:]
    for name, tensor in tensors.items():
        if tensor.shape[1:] != wanted:
            raise UserError(
                f"its rows have shape {tuple(tensor.shape[1:])}, those of X {tuple(wanted)}",
                "Bring them to one shape.",
                name,
            )

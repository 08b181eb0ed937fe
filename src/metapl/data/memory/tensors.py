"""Turn arrays into raw rows: images of several layouts and scales, tables of numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.tables.dataframe import as_array, is_missing
from metapl.errors import UserError
from metapl.types import Array

TWICE = 1.5 / 255  # highest value of float images below which all but one or two grey levels are lost
PIECE = 65536  # rows looked at together: a table may lie on disk
MAX_SPARSE = 2**30  # bytes that a sparse table may have once it is written out


def read_numbers(values: Any, name: str) -> Array:
    """Return a NumPy array of numbers with at least one row and two dimensions; None and NA become NaN.

    Raises:
        UserError: text, rows of different lengths, no rows, or a sparse table above 1 GiB.
    """
    array = _dense(values, name)
    if array.dtype == object:
        array = _of_objects(array, name)
    if array.dtype.kind not in "buif":
        remedy = "Turn them into numbers first, or give a pandas DataFrame, whose text columns become categories."
        raise UserError(f"its values are {array.dtype}, not numbers", remedy, name)
    if array.ndim < 2 or not array.size:
        raise UserError(f"its shape is {array.shape}", "Give [rows, features] or images, with rows.", name)
    return array


def _dense(values: Any, name: str) -> Array:
    if hasattr(values, "toarray") and hasattr(values, "nnz"):  # scipy.sparse
        size = 4 * int(np.prod(values.shape, dtype=object))
        if size > MAX_SPARSE:
            what = f"it is sparse, and {size / 2**30:.1f} GiB when written out, above the limit of 1"
            raise UserError(what, "Reduce its columns first (TruncatedSVD in scikit-learn, say).", name)
        values = values.toarray()
    if isinstance(values, list | tuple) and values and isinstance(values[0], Tensor):
        values = [row.detach().cpu().float() if row.dtype == torch.bfloat16 else row.detach().cpu() for row in values]
    try:
        return as_array(values) if not isinstance(values, list | tuple) else np.asarray(values)
    except (ValueError, TypeError) as error:
        raise UserError("its rows are of different lengths or kinds", "Bring them to one shape.", name) from error


def _of_objects(array: Array, name: str) -> Array:
    """Return float64 if all values are numbers or missing."""
    flat = [np.nan if is_missing(value) else value for value in array.ravel().tolist()]
    strange = next((value for value in flat if not isinstance(value, int | float | np.number | np.bool_)), None)
    if strange is not None:
        what = f"it holds {strange!r}, not a number" if isinstance(strange, str) else f"it holds {type(strange)}"
        remedy = "Turn it into numbers, or give a pandas DataFrame, whose text columns become categories."
        raise UserError(what.replace("<class ", "").rstrip(">"), remedy, name)
    return np.array(flat, dtype=np.float64).reshape(array.shape)


def table_rows(values: Array, name: str, copy: bool = True) -> Tensor:
    """Return float32 [N, D], every value finite or NaN (missing); without ``copy`` float32 may share its memory.

    Raises:
        UserError: not two dimensions, or an infinite value; the message names row and column.
    """
    if values.ndim != 2:
        raise UserError(f"its shape is {values.shape}, not [rows, features]", "Reshape it like X.", name)
    with np.errstate(over="ignore"):  # what overflows becomes infinite and is named below
        shared = not copy and values.dtype == np.float32 and values.flags.writeable
        table = values if shared else np.array(values, dtype=np.float32)
    for start in range(0, len(table), PIECE):
        bad = np.argwhere(np.isinf(table[start : start + PIECE]))
        if not len(bad):
            continue
        row, column = start + int(bad[0][0]), int(bad[0][1])
        raise UserError(
            f"row {row}, column {column} is {values[row, column]}, not a finite float32 number",
            "Fill or remove such values.",
            name,
        )
    return torch.from_numpy(table)


def planes(values: Array, name: str, channels_first: bool) -> Array:
    """Return the images as [N, C, H, W], their values as they are."""
    if values.ndim == 3:
        return values[:, None]
    if values.ndim != 4:
        raise UserError(f"its shape is {values.shape}, which is not a stack of images", "Reshape it like X.", name)
    fits_first, fits_last = values.shape[1] in (1, 3), values.shape[3] in (1, 3)
    last = values.shape[3] == 4 and min(values.shape[1:3]) > 4
    if not fits_first and not fits_last and (last or (values.shape[1] == 4 and min(values.shape[2:]) > 4)):
        what, cut = (
            f"its shape is {values.shape}: images with 4 channels",
            "[..., :3]" if last else "[:, :3]",
        )
        raise UserError(what, f"If these are RGBA, leave the transparency out: X{cut}.", name)
    if not fits_first and not fits_last:
        raise UserError(
            f"its shape is {values.shape}: no dimension holds 1 or 3 channels",
            "Give [N, H, W], [N, H, W, C] or [N, C, H, W] with C 1 (grey) or 3 (RGB).",
            name,
        )
    if fits_first and (channels_first or not fits_last):
        return values
    return values.transpose(0, 3, 1, 2)


def pixels(stacks: Mapping[str, Array], notes: list[str], copy: bool = True) -> tuple[dict[str, Tensor], int]:
    """Return uint8 tensors, and the white level of the float stacks, 0 without any. All must be on one scale.

    Args:
        copy: False: uint8 arrays may share their memory with the tensors.

    Raises:
        UserError: values outside 0..255, or scales that differ.
    """
    scales = {name: _scale(values, name) for name, values in stacks.items()}
    known = {name: scale for name, scale in scales.items() if scale}
    if len(set(known.values())) > 1:
        (one, a), (other, b) = next(iter(known.items())), list(known.items())[-1]
        raise UserError(f"{one} is on the scale 0..{a} but {other} on 0..{b}", "Bring all images to one scale.", other)
    scale = next(iter(known.values()), 255)
    high = max(float(values.max()) for values in stacks.values())
    if scale == 1 and any(stack.dtype.kind == "f" for stack in stacks.values()):
        check_divided_once(high, next(iter(stacks)))
    if scale == 255 and 0 < high <= 64:
        notes.append(f"the images' highest value is {high:g} of 255: is 0..255 their scale?")
    floats = any(stacks[name].dtype.kind == "f" for name in known)
    return {name: _bytes(values, scale, copy) for name, values in stacks.items()}, scale if floats else 0


def check_divided_once(highest: float, name: str) -> None:
    """Refuse float images that would be black: they were scaled twice.

    Raises:
        UserError: the highest value of all is not above two grey levels of 255.
    """
    if 0 < highest <= TWICE:
        what = f"the images' highest value is {highest:.4g}, as if they had been divided by 255 twice"
        raise UserError(what, "Give 0..1 or 0..255.", name)


def new_pixels(values: Array, white: int, name: str, tell: Callable[[str], None]) -> Tensor:
    """Return uint8 images for a trained model; a row's result does not depend on other rows.

    Floats are on the scale of the training's float images. Without such, an image within 0..1 is on the scale 0..1 and
    any other on 0..255.

    Args:
        white: as in ``Preprocessing``.
        tell: called with notes on likely mistakes.

    Raises:
        UserError: values outside 0..255 or the scale of the training, or rows that seem to be on two scales.
    """
    scale = _scale(values, name)
    if values.dtype.kind != "f":
        return _bytes(values, scale, True)
    if white < 2 and len(values) > 1 and 0 < (highest := float(values.max())) <= TWICE:
        tell(f"{name}: the images' highest value is {highest:.4g}, as if they had been divided by 255 twice")
    if not white:
        return _bytes(values, _scale_of_each(values, name), True)
    if scale > white:
        what = f"it is on the scale 0..{scale}, the model was trained on floats of the scale 0..{white}"
        raise UserError(what, f"Bring it to 0..{white}, or give whole numbers 0..255.", name)
    if scale and scale < white:
        tell(f"{name}: no value is above {float(values.max()):g}, and the model was trained on floats 0..{white}")
    return _bytes(values, white, True)


def _scale_of_each(values: Array, name: str) -> int:
    """Return 1 or 255, the scale of each of these images alone.

    Raises:
        UserError: the scales differ.
    """
    high = values.reshape(len(values), -1).max(1)
    bright, dim = np.flatnonzero(high > 1), np.flatnonzero((high > 0) & (high <= 1))
    if len(bright) and len(dim):
        what = f"row {bright[0]} reaches {high[bright[0]]:g} and row {dim[0]} no more than {high[dim[0]]:g}"
        remedy = "Give whole numbers 0..255 (uint8), as at the training."
        raise UserError(f"{what}, so that white may be 1 or 255", remedy, name)
    return 255 if len(bright) else 1


def _bytes(values: Array, scale: int, copy: bool) -> Tensor:
    if values.dtype == np.uint8:
        return (
            torch.from_numpy(values)
            if not copy and values.flags.writeable
            else torch.from_numpy(np.array(values, order="C"))
        )
    return torch.from_numpy(np.rint(values * (255.0 / scale)).astype(np.uint8, order="C"))


def _scale(values: Array, name: str) -> int:
    """Return the white level, 1 or 255; 0 if all values are black or the scale is unclear.

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

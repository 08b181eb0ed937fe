"""Mean and spread of the training rows: what turns a raw row into what the model is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.types import Preprocessing, Source

Array = np.ndarray[Any, Any]
CHUNK = 4096  # rows at a time: keeps float64 copies of a large data set out of memory
IMAGE_FLOOR = 1.0 / 255.0  # one grey level
TABLE_FLOOR = 1e-6  # of the feature's size: below it a float32 column is constant but for rounding


def fit_preprocessing(source: Source, index: Array) -> Preprocessing:
    """Mean and population standard deviation over the rows at ``index`` (labelled and unlabelled training rows).

    Images: per channel, on the 0..1 scale, std at least one grey level. Tables: per feature; a constant feature
    gets std 1, so that it becomes 0 and stays finite.

    Raises:
        ValueError: ``index`` is empty.
    """
    index = np.unique(np.asarray(index, dtype=np.int64))
    if not len(index):
        raise ValueError("preprocessing needs at least one row")
    shape = tuple(source.rows(index[:1]).shape[1:])
    values = sum(len(chunk) for chunk in _columns(source, index))
    mean = sum((chunk.sum(0) for chunk in _columns(source, index)), torch.zeros(shape[0], dtype=torch.float64))
    mean = mean / values
    # Second pass: the one-pass formula loses the spread of a feature whose mean is large.
    square = torch.zeros_like(mean)
    for chunk in _columns(source, index):
        square += (chunk - mean).square().sum(0)
    std = (square / values).sqrt()
    if source.kind == "image":
        std = std.clamp_min(IMAGE_FLOOR)
    else:
        std = torch.where(std <= TABLE_FLOOR * mean.abs(), torch.ones_like(std), std)
    return Preprocessing(source.kind, shape, tuple(mean.tolist()), tuple(std.tolist()))


def _columns(source: Source, index: Array) -> Iterator[Tensor]:
    """The rows as float64 [values, channels or features], images on the 0..1 scale, a chunk at a time."""
    for start in range(0, len(index), CHUNK):
        rows = source.rows(index[start : start + CHUNK]).double()
        if source.kind == "image":
            rows = rows.permute(0, 2, 3, 1).reshape(-1, rows.shape[1]) / 255.0
        yield rows


def preprocessing_to_dict(preprocessing: Preprocessing) -> dict[str, Any]:
    """Plain JSON values."""
    return {
        "kind": preprocessing.kind,
        "shape": list(preprocessing.shape),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def preprocessing_from_dict(stored: Mapping[str, Any]) -> Preprocessing:
    """What ``preprocessing_to_dict`` stored.

    Raises:
        UserError: a part is missing, or the parts do not fit each other.
    """
    try:
        made = Preprocessing(
            kind=stored["kind"],
            shape=tuple(int(k) for k in stored["shape"]),
            mean=tuple(float(v) for v in stored["mean"]),
            std=tuple(float(v) for v in stored["std"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the stored preprocessing is damaged ({error})", "Train again.") from error
    sound = made.kind in ("image", "table") and len(made.shape) == (3 if made.kind == "image" else 1)
    if not sound or not made.shape[0] == len(made.mean) == len(made.std) or min(made.std) <= 0:
        raise UserError("the stored preprocessing is damaged (its parts do not fit)", "Train again.")
    return made

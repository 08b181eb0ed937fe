"""Mean and spread of the training rows: what turns a raw row into what the model is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.batches.seeds import generator
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.types import RESIZES, Column, Preprocessing, Source, Tokens
from metapl.utils.chunks import rows_at_once

Array = np.ndarray[Any, Any]
CHUNK, VALUES = 4096, 2**25  # rows at a time, and numbers: keeps float64 copies of a large data set out of memory
SAMPLE = 10_000  # rows that are looked at where each has to be decoded
IMAGE_FLOOR = 1.0 / 255.0  # one grey level
TABLE_FLOOR = 1e-6  # of the feature's size: below it a float32 column is constant but for rounding


def fit_preprocessing(source: Source, index: Array) -> Preprocessing:
    """Mean and population standard deviation over the rows at ``index`` (labelled and unlabelled training rows).

    Images: per channel, on the 0..1 scale, std at least one grey level. Tables: per column, over the values that are
    there; a constant column gets std 1, so that it becomes 0 and stays finite. Categories and texts: nothing to fit.
    Of a source that is ``lazy`` at most 10,000 of the rows are read, the same ones whenever the rows are the same.

    Raises:
        ValueError: ``index`` is empty.
    """
    index = np.unique(np.asarray(index, dtype=np.int64))
    if not len(index):
        raise ValueError("preprocessing needs at least one row")
    own = traits(source)
    own.held()  # what will be held is decoded once, not first here and then for the training
    if own.lazy and len(index) > SAMPLE:
        drawn = torch.randperm(len(index), generator=generator("cpu", 0, "statistics"))[:SAMPLE]
        index = np.sort(index[drawn.numpy()])
    shape = tuple(source.rows(index[:1]).shape[1:])
    if source.kind == "text":
        return Preprocessing("text", shape, (), (), tokens=source.tokens)
    zeros = torch.zeros(shape[0], dtype=torch.float64)
    count, total = zeros.clone(), zeros.clone()
    values = 0
    for chunk in _columns(source, index, shape):
        values += len(chunk)
        count += (~chunk.isnan()).sum(0)
        total += chunk.nansum(0)
    mean = total / count.clamp_min(1)
    # Second pass: the one-pass formula loses the spread of a feature whose mean is large.
    square = sum(((chunk - mean).square().nansum(0) for chunk in _columns(source, index, shape)), zeros)
    std = (square / count.clamp_min(1)).sqrt()
    if source.kind == "image":
        spread = tuple(std.clamp_min(IMAGE_FLOOR).tolist())
        way: dict[str, Any] = {"resize": own.resize, "white": own.white, "resized": own.resized}
        return Preprocessing("image", shape, tuple(mean.tolist()), spread, **way)
    category = torch.tensor([bool(column.levels) for column in source.columns] or [False] * shape[0])
    mean = mean.masked_fill(category, 0.0)
    std = torch.where((std <= TABLE_FLOOR * mean.abs()) | category, torch.ones_like(std), std)
    missing = tuple(torch.nonzero((count < values) & ~category).flatten().tolist())
    return Preprocessing("table", shape, tuple(mean.tolist()), tuple(std.tolist()), source.columns, missing)


def _columns(source: Source, index: Array, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """The rows as float64 [values, channels or columns], images on the 0..1 scale, a chunk at a time."""
    step = rows_at_once(shape, CHUNK, VALUES)
    for start in range(0, len(index), step):
        rows = source.rows(index[start : start + step]).double()
        if source.kind == "image":
            rows = rows.permute(0, 2, 3, 1).reshape(-1, rows.shape[1]) / 255.0
        yield rows


def preprocessing_to_dict(preprocessing: Preprocessing) -> dict[str, Any]:
    """Plain JSON values; what does not concern the kind of rows is left out."""
    made: dict[str, Any] = {
        "kind": preprocessing.kind,
        "shape": list(preprocessing.shape),
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }
    if preprocessing.kind == "image":
        made |= {"resize": preprocessing.resize, "white": preprocessing.white, "resized": preprocessing.resized}
    if preprocessing.columns:
        made["columns"] = [{"name": c.name, "levels": list(c.levels)} for c in preprocessing.columns]
    if preprocessing.missing:
        made["missing"] = list(preprocessing.missing)
    if preprocessing.tokens is not None:
        made["tokens"] = {**asdict(preprocessing.tokens), "special": list(preprocessing.tokens.special)}
    return made


def preprocessing_from_dict(stored: Mapping[str, Any]) -> Preprocessing:
    """What ``preprocessing_to_dict`` stored.

    Raises:
        UserError: a part is missing, or the parts do not fit each other.
    """
    try:
        tokens = stored.get("tokens")
        made = Preprocessing(
            kind=stored["kind"],
            shape=tuple(int(k) for k in stored["shape"]),
            mean=tuple(float(v) for v in stored["mean"]),
            std=tuple(float(v) for v in stored["std"]),
            columns=tuple(Column(str(c["name"]), tuple(map(str, c["levels"]))) for c in stored.get("columns", ())),
            missing=tuple(int(k) for k in stored.get("missing", ())),
            resize=stored.get("resize", "cover"),
            white=int(stored.get("white", 0)),
            resized=bool(stored.get("resized", False)),
            tokens=None if tokens is None else Tokens(**{**tokens, "special": tuple(map(int, tokens["special"]))}),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the stored preprocessing is damaged ({error})", "Train again.") from error
    if not _sound(made):
        raise UserError("the stored preprocessing is damaged (its parts do not fit)", "Train again.")
    return made


def _sound(p: Preprocessing) -> bool:
    """Whether the parts fit each other."""
    if p.kind == "text":
        return p.tokens is not None and p.shape == (p.tokens.length,) and not p.mean and not p.std
    if p.kind not in ("image", "table") or len(p.shape) != (3 if p.kind == "image" else 1):
        return False
    if p.resize not in RESIZES or p.white not in (0, 1, 255):
        return False
    if p.kind == "table" and (p.resize != "cover" or p.white):
        return False
    if not p.shape[0] == len(p.mean) == len(p.std) or min(p.std) <= 0:
        return False
    return len(p.columns) in (0, p.shape[0]) and all(0 <= k < p.shape[0] for k in p.missing)

"""One pass over the rows of a source: what the findings are made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from metapl.checks.hashes import thumbnails
from metapl.types import Source

Array = np.ndarray[Any, Any]
LABELED, UNLABELED, TEST = 1, 2, 4  # parts as bits
PART_NAMES = {LABELED: "labelled", UNLABELED: "unlabelled", TEST: "test"}
CHUNK = 1024
SIDE = 32  # of the thumbnails that images are compared by
HUES = 2  # side of the thumbnails in colour
Told = Callable[[int, int], None]


@dataclass
class Rows:
    """The readable rows of a source, n of them.

    Attributes:
        index: [n] row numbers in the source. part: [n] LABELED, UNLABELED or TEST. labels: [n], -1 for none.
        group: [n] rows with the same contents have the same number, 0, 1, ... in the order of first appearance.
        thumbs: images: uint8 [n, h, w] grey thumbnails. hues: images in colour: float32 [n, 2 * HUES**2].
        flat: images: [n] bool, all pixels of one colour.
        table: tables and texts: the raw rows [n, ...].
        shape: one raw row's shape.
    """

    source: Source
    index: Array
    part: Array
    labels: Array
    group: Array
    shape: tuple[int, ...]
    thumbs: Array | None = None
    hues: Array | None = None
    flat: Array | None = None
    table: Array | None = None
    first: Array = field(init=False)  # [groups] position of the first row of each group

    def __post_init__(self) -> None:
        _, self.first = np.unique(self.group, return_index=True)

    def id(self, position: int) -> str:
        """The id of the row at ``position``."""
        return self.source.ids[int(self.index[position])]


def read_rows(source: Source, told: Told) -> Rows:
    """Read every row once, a chunk at a time; rows that cannot be read are entered in ``source.problems``."""
    index = source.readable(np.arange(len(source.ids)))
    seen: dict[bytes, int] = {}
    parts: dict[str, list[Array]] = {"group": [], "thumbs": [], "hues": [], "flat": [], "table": []}
    shape: tuple[int, ...] = ()
    for start in range(0, len(index), CHUNK):
        rows = source.rows(index[start : start + CHUNK]).contiguous()
        shape = tuple(rows.shape[1:])
        parts["group"].append(_groups(rows, seen))
        if source.kind == "image":
            parts["thumbs"].append(thumbnails(rows, SIDE))
            parts["flat"].append((rows.flatten(2).amin(2) == rows.flatten(2).amax(2)).all(1).numpy())
            if rows.shape[1] == 3:
                parts["hues"].append(_hues(rows))
        else:
            parts["table"].append(rows.numpy().copy())
        told(min(start + CHUNK, len(index)), len(index))
    made = {name: np.concatenate(found) for name, found in parts.items() if found}
    group = made.pop("group", np.zeros(0, dtype=np.int64))
    labels = source.labels[index]
    part = np.where(source.is_test[index], TEST, np.where(labels >= 0, LABELED, UNLABELED))
    return Rows(source, index, part, labels, group, shape, **made)


def _groups(rows: torch.Tensor, seen: dict[bytes, int]) -> Array:
    """A number per row, the same for rows of the same bytes (any NaN equals any other, 0 equals -0)."""
    values = rows.numpy()
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.float32("nan"), values + np.float32(0))
    flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    digests = (hashlib.blake2b(row.data, digest_size=16).digest() for row in flat)
    return np.array([seen.setdefault(digest, len(seen)) for digest in digests], dtype=np.int64)


def _hues(rows: torch.Tensor) -> Array:
    """Red and blue against green in each of HUES x HUES fields, on the 0..255 scale."""
    small = torch.nn.functional.adaptive_avg_pool2d(rows.float(), HUES)
    made: Array = torch.cat([small[:, 0] - small[:, 1], small[:, 2] - small[:, 1]], dim=1).flatten(1).numpy()
    return made

"""Read all rows of a source once, and keep the summaries that the findings are made from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from metapl.data.modalities import modality_of
from metapl.data.row_checks import Kept
from metapl.types import Array, Source

LABELED, UNLABELED, TEST = 1, 2, 4  # parts as bits
PART_NAMES = {LABELED: "labelled", UNLABELED: "unlabelled", TEST: "test"}
CHUNK = 1024
ReadProgress = Callable[[int, int], None]


@dataclass
class CheckedRows:
    """The readable rows of a source, n of them.

    Attributes:
        index: [n] row numbers in the source.
        part: [n] LABELED, UNLABELED or TEST.
        labels: [n] class numbers; -1: no label.
        group: [n] rows with equal contents have the same number, 0, 1, ... in the order of their first rows.
        kept: the arrays [n, ...] of ``RowChecks.keep`` by name; empty without rows.
        shape: one raw row's shape.
    """

    source: Source
    index: Array
    part: Array
    labels: Array
    group: Array
    shape: tuple[int, ...]
    kept: Kept = field(default_factory=dict)
    first: Array = field(init=False)  # [groups] position of the first row of each group

    def __post_init__(self) -> None:
        _, self.first = np.unique(self.group, return_index=True)

    def id(self, position: int) -> str:
        """Return the id of the row at ``position``."""
        return self.source.ids[int(self.index[position])]


def read_rows(source: Source, progress: ReadProgress) -> CheckedRows:
    """Read every row once, a chunk at a time; rows that cannot be read are entered in ``source.problems``."""
    index = source.readable(np.arange(len(source.ids)))
    seen: dict[bytes, int] = {}
    groups, pieces = [np.zeros(0, dtype=np.int64)], dict[str, list[Array]]()
    checks = modality_of(source.kind).checks
    shape: tuple[int, ...] = ()
    for start in range(0, len(index), CHUNK):
        rows = source.rows(index[start : start + CHUNK]).contiguous()
        shape = tuple(rows.shape[1:])
        groups.append(_groups(rows, seen))
        for name, piece in checks.keep(rows).items():
            pieces.setdefault(name, []).append(piece)
        progress(min(start + CHUNK, len(index)), len(index))
    kept = {name: np.concatenate(some) for name, some in pieces.items()}
    labels = source.labels[index]
    part = np.where(source.is_test[index], TEST, np.where(labels >= 0, LABELED, UNLABELED))
    return CheckedRows(source, index, part, labels, np.concatenate(groups), shape, kept)


def _groups(rows: torch.Tensor, seen: dict[bytes, int]) -> Array:
    """Return a number per row, equal for equal rows (NaN equals NaN, and 0 equals -0)."""
    values = rows.numpy()
    if values.dtype.kind == "f":
        values = np.where(np.isnan(values), np.float32("nan"), values + np.float32(0))
    flat = np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8)
    digests = (hashlib.blake2b(row.data, digest_size=16).digest() for row in flat)
    return np.array([seen.setdefault(digest, len(seen)) for digest in digests], dtype=np.int64)

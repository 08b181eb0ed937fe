"""Readers of a stream's raw rows: from one tensor on the training device, or from the source, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from metapl.data.batches.prefetch import Prefetch
from metapl.data.traits import traits
from metapl.hardware import ranks
from metapl.types import Array, Source, Split
from metapl.utils.chunks import rows_at_once

Picks = tuple[Tensor, Tensor | None]  # positions in the labelled and, if they are needed, in the unlabelled rows
Key = tuple[int, bool]
POOL_CHUNK, POOL_VALUES = 512, 16 * 2**20  # rows of one chunk of a pass over the pool, at most so many numbers
LABELED_BYTES = 256 * 2**20  # labelled rows are few and in every batch: up to this size they are held in any case


class HeldRows:
    """All rows of a stream in one tensor on the device."""

    prefetch = 0

    def __init__(self, source: Source, split: Split, device: torch.device) -> None:
        self.data, (at_l, at_u) = _gather(source, [split.labeled, split.unlabeled], device)
        self.at_l, self.at_u, self.device = at_l.to(device), at_u.to(device), device

    def want(self, steps: Mapping[Key, Picks]) -> None:
        """Do nothing: all rows are in memory."""

    def take(self, key: Key, labeled: Tensor, unlabeled: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the labelled and the unlabelled rows of one step."""
        rows = self.data.index_select(0, self.at_l[labeled.to(self.device)])
        return rows, None if unlabeled is None else self.unlabeled(unlabeled)

    def unlabeled(self, positions: Tensor) -> Tensor:
        """Return the unlabelled rows at ``positions``."""
        return self.data.index_select(0, self.at_u[positions.to(self.device)])

    def pool(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all ``count`` unlabelled rows once, in order: chunks of (positions, rows)."""
        for positions in torch.split(
            torch.arange(count, device=self.device), rows_at_once(self.data.shape[1:], POOL_CHUNK, POOL_VALUES)
        ):
            yield positions, self.unlabeled(positions)


class LazyRows:
    """Rows read from the source as steps need them; the rows of the next steps are read in the background.

    Each of several processes reads its part of the rows and gets the others from the other processes.
    """

    def __init__(self, source: Source, split: Split, device: torch.device) -> None:
        self.source, self.device = source, device
        self.at_l, self.at_u = split.labeled.astype(np.int64), split.unlabeled.astype(np.int64)
        self.prefetch = traits(source).prefetch
        self.shape = tuple(source.rows(self.at_l[:1]).shape[1:])
        few = len(self.at_l) * math.prod(self.shape) <= LABELED_BYTES
        self.labeled = source.rows(self.at_l).to(device) if few else None
        self.ahead = Prefetch(source.rows)

    def want(self, steps: Mapping[Key, Picks]) -> None:
        """Read the rows of ``steps`` in the background."""
        index = {key: self._index(*picks) for key, picks in steps.items()}
        self.ahead.want({key: _own(rows) for key, rows in index.items() if len(rows)})

    def take(self, key: Key, labeled: Tensor, unlabeled: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the labelled and the unlabelled rows of one step."""
        index = self._index(labeled, unlabeled)
        rows = _everyones(self.ahead.take(key, _own(index)).to(self.device), len(index)) if len(index) else None
        if self.labeled is not None:
            return self.labeled[labeled.to(self.device)], rows
        assert rows is not None  # the labelled ones at least
        return rows[: len(labeled)], None if unlabeled is None else rows[len(labeled) :]

    def unlabeled(self, positions: Tensor) -> Tensor:
        """Return the unlabelled rows at ``positions``."""
        return self.source.rows(self.at_u[positions.cpu().numpy()]).to(self.device)

    def pool(self, count: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield all ``count`` unlabelled rows once, in order: chunks of (positions, rows); one chunk is read ahead."""
        ahead = Prefetch(self.source.rows)
        chunks = torch.split(torch.arange(count), rows_at_once(self.shape, POOL_CHUNK, POOL_VALUES))
        for k, positions in enumerate(chunks):
            if self.prefetch and k + 1 < len(chunks):
                ahead.want({n: _own(self.at_u[chunks[n].numpy()]) for n in (k, k + 1)})
            own = ahead.take(k, _own(self.at_u[positions.numpy()])).to(self.device)
            yield positions.to(self.device), _everyones(own, len(positions))

    def _index(self, labeled: Tensor, unlabeled: Tensor | None) -> Array:
        """Return the source's rows of one step, without labelled rows that are held."""
        parts = [self.at_l[labeled.numpy()]] if self.labeled is None else []
        return np.concatenate([*parts, *([] if unlabeled is None else [self.at_u[unlabeled.numpy()]]), self.at_u[:0]])


def _own(index: Array) -> Array:
    """Return this process's part of row numbers; all of them if there are fewer than processes."""
    return index[ranks.part(len(index))] if len(index) >= ranks.count() else index


def _everyones(own: Tensor, count: int) -> Tensor:
    """Return all ``count`` rows, of which this process has read ``_own``."""
    return ranks.gathered(own, count) if 1 < ranks.count() <= count else own


def _gather(source: Source, parts: list[Array], device: torch.device) -> tuple[Tensor, list[Tensor]]:
    """Return one tensor with the rows of all ``parts``, each row once, and each part's positions in it."""
    used = np.unique(np.concatenate(parts)).astype(np.int64)
    tensor = traits(source).held() if device.type == "cpu" else None
    if tensor is not None and len(tensor) > used[-1]:
        return tensor, [torch.from_numpy(part.astype(np.int64)) for part in parts]
    where = [torch.from_numpy(np.searchsorted(used, part).astype(np.int64)) for part in parts]
    return source.rows(used).to(device), where

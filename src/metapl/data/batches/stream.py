"""The stream of batches: batch t is a pure function of (seed, t), so that a resumed run needs no replay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from torch import Tensor

from metapl.data.batches.row_readers import HeldRows, LazyRows, Picks
from metapl.data.batches.seeds import generator
from metapl.data.batches.views import Views
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.types import PoolChunk, SemiBatch, Source, Split, View
from metapl.utils.fields import Range, Settings

BATCH = Range(1, 2**20)  # rows of a batch


@dataclass(frozen=True)
class BatchConfig(Settings, group="batch"):
    """Rows per step. Either number may exceed its set, which is then gone through more than once per step."""

    labeled: Annotated[int, "rows with a label", BATCH] = 32
    unlabeled: Annotated[int, "rows without", BATCH] = 128


class _Order:
    """Positions 0..count-1 in one seeded permutation per epoch, epoch after epoch without a gap.

    Every position is seen once per epoch whatever the batch size. The permutations at hand are kept, so that
    neighbouring steps do not draw them again; any step can be asked for at any time.
    """

    def __init__(self, count: int, batch: int, seed: int, part: str) -> None:
        self.count, self.batch, self.seed, self.part = count, batch, seed, part
        self._kept: dict[int, Tensor] = {}

    def __call__(self, step: int) -> Tensor:
        """Return the int64 positions [batch] of one step."""
        if not self.count:
            return torch.zeros(0, dtype=torch.int64)
        start, stop = step * self.batch, (step + 1) * self.batch
        epochs = range(start // self.count, (stop - 1) // self.count + 1)
        self._kept = {epoch: self._kept[epoch] for epoch in epochs if epoch in self._kept}
        pieces = []
        for epoch in epochs:
            first = epoch * self.count
            pieces.append(self._permutation(epoch)[max(start - first, 0) : stop - first])
        return torch.cat(pieces)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch not in self._kept:
            source = generator("cpu", self.seed, "order", self.part, epoch)
            self._kept[epoch] = torch.randperm(self.count, generator=source)
        return self._kept[epoch]


class Stream:
    """Batches of a split's labelled and unlabelled rows; validation and test rows are never read.

    The raw rows are gathered once on ``device``; a source that holds its rows in one CPU tensor (``held()``) is indexed
    in place instead when ``device`` is the CPU. Of a source that is ``lazy``, rows are read when a step needs them,
    those of the next ``source.image.prefetch`` steps in the background; the batches are the same.

    Raises:
        UserError: there is no labelled row.
    """

    def __init__(
        self,
        source: Source,
        split: Split,
        batch: BatchConfig,
        views: Views,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if not len(split.labeled):
            raise UserError("there are no labelled rows to train on", "Label some rows.", source.name)
        self.views, self.seed, self.device = views, seed, torch.device(device)
        reader = LazyRows if traits(source).lazy else HeldRows
        self._rows: LazyRows | HeldRows = reader(source, split, self.device)
        self._y = torch.from_numpy(source.labels[split.labeled].astype(np.int64)).to(self.device)
        self._order_l = _Order(len(split.labeled), batch.labeled, seed, "labeled")
        self._order_u = _Order(len(split.unlabeled), batch.unlabeled, seed, "unlabeled")
        self.on_pool: Callable[[Iterable[PoolChunk]], Iterator[PoolChunk]] = iter  # sees each walk through the pool

    def __call__(self, step: int, needs: frozenset[View]) -> SemiBatch:
        """Return the batch of ``step`` (0, 1, ...), with those unlabelled views that are in ``needs``.

        A view's draw does not depend on which other views are made.
        """
        if step < 0:
            raise ValueError(f"step must be 0 or more, not {step}")
        pick_l, pick_u = self._order_l(step), self._order_u(step)
        if needs and not len(pick_u):
            raise UserError("there are no unlabelled rows", "Add some, or train on the labelled rows alone.")
        if self._rows.prefetch:
            coming = range(step, step + 1 + self._rows.prefetch)
            self._rows.want({(k, bool(needs)): self._picks(k, needs) for k in coming})
        raw_l, raw_u = self._rows.take((step, bool(needs)), pick_l, pick_u if needs else None)
        weak = strong = None
        if raw_u is not None and "weak" in needs:
            weak = self.views.weak(raw_u, self._generator(step, "weak"))
        if raw_u is not None and "strong" in needs:
            strong = self.views.strong(raw_u, self._generator(step, "strong"))
        x_l, y_l = self.views.weak(raw_l, self._generator(step, "labeled")), self._y[pick_l.to(self.device)]
        return SemiBatch(x_l=x_l, y_l=y_l, u_weak=weak, u_strong=strong, u_index=pick_u.to(self.device))

    def _picks(self, step: int, needs: frozenset[View]) -> Picks:
        return self._order_l(step), self._order_u(step) if needs else None

    @property
    def pool_size(self) -> int:
        """Number of unlabelled rows."""
        return self._order_u.count

    def pool(self, view: Literal["plain", "weak", "strong"] = "plain", draw: int = 0) -> Iterator[PoolChunk]:
        """Every unlabelled row once, in order: chunks of (positions, that view of the rows); see ``types.Pool``."""
        return self.on_pool(self._chunks(view, draw))

    def _chunks(self, view: Literal["plain", "weak", "strong"], draw: int) -> Iterator[PoolChunk]:
        for chunk, (positions, raw) in enumerate(self._rows.pool(self.pool_size)):
            if view == "plain":
                yield positions, self.views.plain(raw)
            else:
                make = self.views.weak if view == "weak" else self.views.strong
                yield positions, make(raw, generator(self.device, self.seed, "pool", view, draw, chunk))

    def plain(self, positions: Tensor) -> Tensor:
        """Return the unlabelled rows at ``positions`` (int64, as in ``SemiBatch.u_index``), normalised, no view
        drawn.
        """
        return self.views.plain(self._rows.unlabeled(positions))

    def _generator(self, step: int, name: str) -> torch.Generator:
        return generator(self.device, self.seed, "view", name, step)

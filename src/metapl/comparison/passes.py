"""Count the rows that pass through networks, forward and backward: a unit of cost for all methods.

A forward-mode derivative counts as one more forward. Judging between the steps does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch.autograd.forward_ad as fwad
from torch import Tensor, nn

from metapl.training.job import Job
from metapl.training.timing import spread
from metapl.types import PoolChunk

SAMPLE = 20  # steps of the main phase that are tried, evenly apart
EXTRA = 2  # steps after the main phase that are tried; they are all alike


@dataclass
class RowCounts:
    """Counts of rows, forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def __add__(self, other: RowCounts) -> RowCounts:
        return RowCounts(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, factor: float) -> RowCounts:
        return RowCounts(self.forward * factor, self.backward * factor)


class RowCounter:
    """Counts the rows that pass through the networks it watches, copies made of them later included."""

    def __init__(self) -> None:
        self.rows, self.apart = RowCounts(), False

    def watch(self, model: nn.Module) -> None:
        """Count from now on. The hooks change no number, and a deep copy of ``model`` (an average) carries them."""

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            if self.apart or not isinstance(output, Tensor):
                return
            rows = len(output)
            dual = fwad.unpack_dual(output).tangent is not None  # type: ignore[no-untyped-call]
            self.rows.forward += 2 * rows if dual else rows
            if output.requires_grad:
                output.register_hook(lambda _: self._add_backward(rows))  # type: ignore[no-untyped-call]

        model.register_forward_hook(count)

    def leave_out(self, chunks: Iterable[PoolChunk]) -> Iterator[PoolChunk]:
        """Yield the same chunks without counting the rows that pass meanwhile."""
        self.apart = True
        try:
            yield from chunks
        finally:
            self.apart = False

    def take(self) -> RowCounts:
        """Return the rows since the last call."""
        taken, self.rows = self.rows, RowCounts()
        return taken

    def _add_backward(self, rows: int) -> None:
        self.rows.backward += rows


def sample_run(job: Job, counter: RowCounter) -> tuple[RowCounts, RowCounts]:
    """Measure rows of the extra steps and the mean of a main step, from few steps. The job cannot be used afterwards.

    If the method states its passes over the pool, these are left out.
    """
    if job.pool_passes is not None:
        job.stream.on_pool = counter.leave_out
    counter.take()
    steps = spread(job.config.steps, SAMPLE)
    for t in steps:
        job.step(t)
    each = counter.take() * (1 / len(steps))
    return _extra(job, counter), each


def _extra(job: Job, counter: RowCounter) -> RowCounts:
    tried = min(job.extra_steps, EXTRA)
    for t in range(job.config.steps, job.config.steps + tried):
        job.step(t)
    return counter.take() * (job.extra_steps / max(1, tried))

"""Rows that pass through networks: forward, and backward. The unit in which methods of different make cost the same.

A forward-mode derivative counts as one more forward. What is judged between the steps does not count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.autograd.forward_ad as fwad
from torch import Tensor, nn

from metapl.job import Job

EXTRA = 2  # steps after the main phase that are tried; they are all alike


@dataclass
class Rows:
    """Counts of rows, forward and backward."""

    forward: float = 0.0
    backward: float = 0.0

    @property
    def total(self) -> float:
        return self.forward + self.backward

    def __add__(self, other: Rows) -> Rows:
        return Rows(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, factor: float) -> Rows:
        return Rows(self.forward * factor, self.backward * factor)


class RowCounter:
    """Counts the rows that pass through the networks it watches, copies made of them later included."""

    def __init__(self) -> None:
        self.rows = Rows()

    def watch(self, model: nn.Module) -> None:
        """Count from now on. The hooks change no number, and a deep copy of ``model`` (an average) carries them."""

        def count(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, Tensor):
                return
            rows = len(output)
            dual = fwad.unpack_dual(output).tangent is not None  # type: ignore[no-untyped-call]
            self.rows.forward += 2 * rows if dual else rows
            if output.requires_grad:
                output.register_hook(lambda _: self._add_backward(rows))  # type: ignore[no-untyped-call]

        model.register_forward_hook(count)

    def take(self) -> Rows:
        """The rows since the last call."""
        taken, self.rows = self.rows, Rows()
        return taken

    def _add_backward(self, rows: int) -> None:
        self.rows.backward += rows


def count_run(job: Job, counter: RowCounter) -> Rows:
    """The rows of the whole of ``job``, whose networks ``counter`` watches; the job is spent by it."""
    counter.take()
    for t in range(job.config.steps):
        job.step(t)
    main, extra = counter.take(), job.extra_steps
    tried = min(extra, EXTRA)
    for t in range(job.config.steps, job.config.steps + tried):
        job.step(t)
    return main + counter.take() * (extra / tried) if tried else main

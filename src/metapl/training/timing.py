"""The time of a run on this machine: minutes become steps, and steps the announced seconds.

A pass over the whole pool is timed apart from the steps: it comes once per round or epoch, however long the run is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from metapl.hardware.ranks import clock
from metapl.training.job import Job
from metapl.types import PoolChunk, PoolPasses

STRETCHES = 10  # places of the main phase at which steps are timed, evenly apart
EXTRA = 2  # steps after it


@dataclass(frozen=True)
class Pace:
    """Seconds of a step, of a step after the main phase, of one network's pass over the pool; how often that comes."""

    step: float
    extra: float = 0.0
    over_pool: float = 0.0
    passes: PoolPasses = field(default_factory=PoolPasses)

    def seconds(self, steps: int) -> float:
        """Return the seconds of a main phase of ``steps`` steps."""
        return self.step * steps + self.pool_seconds(steps)

    def pool_seconds(self, steps: int) -> float:
        """Return the seconds of its passes over the pool."""
        return self.over_pool * self.passes.networks * self.passes.count(steps)


class PoolClock:
    """Times each walk through the pool, with the work that is done on its rows."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.walks = device, list[float]()

    def __call__(self, chunks: Iterable[PoolChunk]) -> Iterator[PoolChunk]:
        """Yield the same chunks."""
        self._wait()
        began = clock()
        try:
            yield from chunks
        finally:
            self._wait()
            self.walks.append(clock() - began)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def spread(steps: int, count: int) -> list[int]:
    """Return ``count`` of the ``steps`` steps, or all of them, evenly over the main phase: each stands for as many
    others.
    """
    count = min(count, steps)
    return [(2 * k + 1) * steps // (2 * count) for k in range(count)]


def measure_pace(job: Job, limit: float) -> Pace:
    """Time the job for about ``limit`` seconds, over at least three steps. It cannot be used afterwards.

    Steps are timed in ten places of the main phase, forwards, for they may cost less before a method switches
    something on. If steps are so slow that two places use up the time, the last one stands for those left out.
    """
    timer = _Timer(job)
    timer.step(0)  # not counted: the first step warms up
    timer.steps, timer.walks = [], []
    starts, began, seconds = spread(job.config.steps, STRETCHES), clock(), list[float]()
    while len(seconds) < len(starts):
        late = clock() - began > 2 * limit
        if late and timer.walks:
            break  # a pass over the pool may take long: one has to do
        seconds += [timer.stretch(starts[-1 if late else len(seconds)], limit / STRETCHES)]
        if late:
            break
    seconds += seconds[-1:] * (len(starts) - len(seconds))
    step, passes = float(np.mean(seconds)), job.pool_passes
    if passes is None:  # whatever it does with the pool counts as part of its steps
        step, passes, timer.walks = step + sum(timer.walks) / len(timer.steps), PoolPasses(), []
    if passes.count(job.config.steps) and not timer.walks:
        timer.step(passes.last(job.config.steps))
    return Pace(step, timer.extra(), float(np.median(timer.walks)) if timer.walks else 0.0, passes)


def seconds_per_step(job: Job, limit: float) -> float:
    """Return the mean over the main phase, passes over the pool included, timed as in ``measure_pace``."""
    return measure_pace(job, limit).seconds(job.config.steps) / job.config.steps


class _Timer:
    """``steps``: seconds of each step without its walks through the pool; ``walks``: the longest one of each step.

    The longest, for only that is sure to show every row to a network: a filter looks at those that hold a label.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.clock = job, PoolClock(job.device)
        self.steps, self.walks = list[float](), list[float]()
        job.stream.on_pool = self.clock

    def step(self, t: int) -> None:
        self.clock.walks, began = [], clock()
        self.job.step(t)["loss"].item()
        self.steps.append(clock() - began - sum(self.clock.walks))
        self.walks += [max(self.clock.walks)] if self.clock.walks else []

    def extra(self) -> float:
        """Return a step after the main phase; the first of them, which may set something up, is left out."""
        for t in range(self.job.config.steps, self.job.total)[:EXTRA]:
            self.step(t)
        return self.steps[-1] if self.job.extra_steps else 0.0

    def stretch(self, t: int, limit: float) -> float:
        """Return the median seconds of the steps from t on; the first is left out if there are others."""
        deadline, first = clock() + limit, len(self.steps)
        while len(self.steps) == first or (t < self.job.config.steps and clock() < deadline):
            self.step(t)
            t += 1
        times = self.steps[first:]
        return float(np.median(times[1:] or times))

"""The budget of each method: equal steps, equal passes of rows through networks, or equal minutes.

The cost of a run of n steps is fixed + each * n + pool * passes(n). ``each`` is the mean over a few steps of a trial
run, evenly spaced, so that every phase has its share. ``fixed`` is fine-tuning. The method itself states how often it
passes over the whole pool in n steps (``types.PoolPasses``), since rounds and epochs do not grow evenly with n.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from metapl.comparison.passes import RowCounter, RowCounts, sample_run
from metapl.config.settings import RunConfig
from metapl.data.batches.split import make_split
from metapl.data.sources import open_source
from metapl.errors import UserError
from metapl.hardware.device import pick_device
from metapl.methods import method_class
from metapl.training.job import Job, build_job, resolved
from metapl.training.prepared import prepare
from metapl.training.timing import Pace, measure_pace
from metapl.types import PoolPasses, Source

By = Literal["steps", "passes", "minutes"]
TIMING = 5.0  # seconds spent on the speed of a method, at most
KEPT = 0.9  # share of the minutes that training may take; the rest is for judging and saving


@dataclass(frozen=True)
class Cost:
    """The cost of a run by its number of steps."""

    fixed: RowCounts
    each: RowCounts
    extra_steps: int
    seconds_each: float = 0.0  # of a step without what passes over the pool; 0 = not measured
    seconds_extra: float = 0.0  # of a step after the main phase
    pool: RowCounts = field(default_factory=RowCounts)  # of a pass over the pool
    seconds_pool: float = 0.0  # of the same
    passes: PoolPasses = field(default_factory=PoolPasses)

    def rows(self, steps: int) -> RowCounts:
        """Return the rows that networks see in a run of ``steps`` steps."""
        return self.fixed + self.each * steps + self.pool * self.passes.count(steps)

    def total_rows(self, steps: int) -> float:
        """Return the same as one number, forward and backward together."""
        return self.rows(steps).total

    def seconds(self, steps: int) -> float:
        """Return the seconds of such a run."""
        after = self.seconds_extra * self.extra_steps
        return self.seconds_each * steps + after + self.seconds_pool * self.passes.count(steps)


def measure(config: RunConfig, source: Source | None, minutes: float) -> dict[str, Any]:
    """Return ``Cost`` as plain values. With ``minutes`` the speed is measured too.

    Raises:
        UserError: a run of ``config`` cannot start.
    """
    source = open_source(config.ref if source is None else source, config.source)
    split = make_split(source, config.split, config.seed, require_unlabeled=bool(method_class(config.method).needs))
    prepared = prepare(source, split, pick_device(config.device))
    config = replace(resolved(config, prepared.preprocessing), minutes=0.0)

    def job(counter: RowCounter) -> Job:
        return build_job(config, prepared, counter.watch)

    counter = RowCounter()
    counted = job(counter)
    passes = counted.pool_passes or PoolPasses()
    pool = RowCounts(counted.stream.pool_size * passes.networks)
    fixed, each = sample_run(counted, counter)
    pace = measure_pace(job(RowCounter()), min(TIMING, 0.05 * 60 * minutes)) if minutes else Pace(0.0)
    seconds = pace.over_pool * passes.networks
    return asdict(Cost(fixed, each, counted.extra_steps, pace.step, pace.extra, pool, seconds, passes))


def cost(values: Mapping[str, Any]) -> Cost:
    """Return the inverse of ``asdict``."""
    rows = {name: RowCounts(**values[name]) for name in ("fixed", "each", "pool") if name in values}
    return Cost(**{**values, **rows, "passes": PoolPasses(**values.get("passes", {}))})


def share_out(by: By, costs: Mapping[str, Cost], first: str, steps: int, minutes: float) -> dict[str, int]:
    """Return the steps of each row.

    Args:
        by: "steps": ``steps`` for all. "passes": all pass as many rows as ``first`` in ``steps`` steps. "minutes": as
            many steps as fit into ``minutes`` at the measured speed.

    Raises:
        UserError: a row spends the whole budget before its first step.
    """
    if by == "steps":
        return dict.fromkeys(costs, steps)
    if by == "passes":
        allowed = costs[first].rows(steps).total
        shares = {name: _nearest(allowed, c.total_rows) for name, c in costs.items()}
    else:
        shares = {name: _most(KEPT * 60 * minutes, c.seconds) for name, c in costs.items()}
    for name, share in shares.items():
        if share < 1:
            what = f"{name} gets no step: what it does beside its steps takes the whole budget"
            raise UserError(
                what, "Give more --minutes or --steps, or name first the method whose steps you mean.", name
            )
    return shares


def _most(allowed: float, spent: Callable[[int], float]) -> int:
    """Return the most steps that spend no more than ``allowed``; ``spent`` rises with the steps."""
    limit, allowed = 1, allowed * (1 + 1e-9)
    while spent(limit) <= allowed:
        limit *= 2
    return bisect.bisect_right(range(1, limit), allowed, key=spent)


def _nearest(allowed: float, spent: Callable[[int], float]) -> int:
    """Return the steps that spend about ``allowed``; the fewer of two that are equally far."""
    below = _most(allowed, spent)
    over = spent(below + 1) - allowed
    return below + 1 if below and over < allowed - spent(below) else below

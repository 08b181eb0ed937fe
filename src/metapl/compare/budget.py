"""What each method may spend: equal steps, equal passes of rows through networks, or equal minutes.

The cost of a run of n steps is taken as fixed + each * n, from two short throw-away runs: fixed is what does not
grow with the steps (fine-tuning, a pass over all unlabelled rows in each of a fixed number of rounds).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from metapl.compare.passes import RowCounter, Rows, count_run
from metapl.config import RunConfig
from metapl.data.preprocess import fit_preprocessing
from metapl.data.split import make_split
from metapl.device import pick_device
from metapl.embed import open_source
from metapl.errors import UserError
from metapl.job import Job, build_job
from metapl.methods import method_class
from metapl.models import auto_name
from metapl.pace import seconds_per_step
from metapl.types import Source

By = Literal["steps", "passes", "minutes"]
SHORT, LONG = 4, 12  # steps of the throw-away runs
TIMING = 5.0  # seconds spent on the speed of a method, at most
KEPT = 0.9  # share of the minutes that training may take; the rest is for judging and saving


@dataclass(frozen=True)
class Cost:
    """What a run costs, by its number of steps."""

    fixed: Rows
    each: Rows
    extra_steps: int
    seconds_each: float = 0.0  # of a step; 0 = not measured

    def rows(self, steps: int) -> Rows:
        return self.fixed + self.each * steps


def measure(config: RunConfig, source: Source | None, minutes: float) -> dict[str, Any]:
    """``Cost`` as plain values. With ``minutes`` the speed is measured too.

    Raises:
        UserError: a run of ``config`` cannot start.
    """
    source = open_source(config.data, config.source, source)
    split = make_split(source, config.split, config.seed, require_unlabeled=bool(method_class(config.method).needs))
    preprocessing = fit_preprocessing(source, np.union1d(split.labeled, split.unlabeled))
    model = auto_name(preprocessing.input_shape, preprocessing.tokens) if config.model == "auto" else config.model
    config, device = replace(config, model=model, minutes=0.0), pick_device(config.device)

    def job(steps: int, counter: RowCounter) -> Job:
        short = replace(config, steps=steps)
        return build_job(short, Path(), source, split, preprocessing, device, watch=counter.watch)

    counters = RowCounter(), RowCounter()
    low, high = (count_run(job(n, counter), counter) for n, counter in zip((SHORT, LONG), counters))
    each = (high + low * -1) * (1 / (LONG - SHORT))
    timed = job(config.steps, RowCounter())
    seconds = seconds_per_step(timed, min(TIMING, 0.05 * 60 * minutes)) if minutes else 0.0
    return asdict(Cost(low + each * -SHORT, each, timed.extra_steps, seconds))


def cost(values: Mapping[str, Any]) -> Cost:
    """The inverse of ``asdict``."""
    return Cost(Rows(**values["fixed"]), Rows(**values["each"]), values["extra_steps"], values["seconds_each"])


def share_out(by: By, costs: Mapping[str, Cost], first: str, steps: int, minutes: float) -> dict[str, int]:
    """Steps of each row.

    Args:
        by: steps: ``steps`` for all. passes: so many that all pass as many rows as ``first`` in ``steps`` steps.
            minutes: what fits into ``minutes`` at the measured speed.

    Raises:
        UserError: a row spends the whole budget before its first step.
    """
    if by == "steps":
        return dict.fromkeys(costs, steps)
    if by == "passes":
        allowed = costs[first].rows(steps).total
        exact = {n: (allowed - c.fixed.total) / c.each.total for n, c in costs.items()}
    else:
        exact = {n: KEPT * 60 * minutes / c.seconds_each - c.extra_steps for n, c in costs.items()}
    for name, value in exact.items():
        if value < 1:
            what = f"{name} gets no step: what it does beside its steps takes the whole budget"
            raise UserError(
                what, "Give more --minutes or --steps, or name first the method whose steps you mean.", name
            )
    return {n: round(v) if by == "passes" else int(v) for n, v in exact.items()}

"""How long a step takes here: what turns minutes into steps, and steps into the seconds that are announced."""

from __future__ import annotations

import time

import numpy as np

from metapl.job import Job


def seconds_per_step(job: Job, limit: float) -> float:
    """Median over at least two steps, made for up to ``limit`` seconds; ``job`` is spoilt by it.

    The last steps of the main phase are timed: whatever a method switches on late is on.
    """
    deadline, times = time.monotonic() + limit, list[float]()
    while len(times) < 3 or time.monotonic() < deadline:
        began = time.monotonic()
        job.step(max(0, job.config.steps - 1 - len(times)))["loss"].item()
        times.append(time.monotonic() - began)
    return float(np.median(times[1:]))

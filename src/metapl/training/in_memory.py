"""A training that leaves nothing on disk: for baselines, cross-fitting and tuning."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from metapl.config.settings import RunConfig
from metapl.runs.model_folder import Predictor
from metapl.training.finite import bad_values, diverged
from metapl.training.job import Job, build_job
from metapl.training.prepared import Prepared

CHECK = 50  # steps between two looks at whether the numbers are still finite


def run_trial(
    config: RunConfig, prepared: Prepared, before_step: Callable[[], None] | None = None, wanted: str = ""
) -> dict[str, Predictor]:
    """Build a run and train it in memory: see ``build_job`` and ``train_job``.

    Raises:
        Diverged: a loss that is no longer finite.
        UserError: settings or data that no training can start from.
    """
    return train_job(build_job(config, prepared), before_step, wanted)


def train_job(job: Job, before_step: Callable[[], None] | None = None, wanted: str = "") -> dict[str, Predictor]:
    """Train and give the method's candidates, preferred first. No rows are judged, nothing is written.

    Args:
        before_step: called before each step; what it raises ends the training.
        wanted: the only candidate that is asked for; the method's extra steps are left out where it needs none.

    Raises:
        Diverged: a loss that is no longer finite.
    """
    finite = torch.ones((), dtype=torch.bool, device=job.device)
    for t in range(job.total):
        if t == job.config.steps and wanted in job.method.candidates():
            break
        if before_step is not None:
            before_step()
        values = job.step(t)
        finite &= torch.stack([torch.isfinite(v) for v in values.values()]).all()
        if ((t + 1) % CHECK == 0 or t + 1 in (job.config.steps, job.total)) and not finite:
            raise diverged(t + 1, bad_values(job.method, values))
    models: dict[str, nn.Module] = job.method.candidates()
    return {name: job.predictor(model.eval()) for name, model in models.items()}

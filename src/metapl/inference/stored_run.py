"""A stored run put to use: its settings and its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from metapl.config.settings import RunConfig
from metapl.data.texts.tokens import tokenizer_of
from metapl.hardware.device import pick_device
from metapl.runs.folder import open_run
from metapl.runs.model_folder import Predictor, load_model

Tell = Callable[[str], None]


def open_model(run: Path, device: str | None, trust_code: bool) -> tuple[RunConfig, Predictor]:
    """Return the run's settings, without those of a method of one's own, and its model.

    Raises:
        UserError: no finished run, or one that asks for code that is not trusted.
    """
    config = open_run(run, training=False)
    predictor = load_model(run / "model", pick_device(device or "auto"), trust_code=trust_code)
    if predictor.takes.tokens is not None:
        tokenizer_of(predictor.takes.tokens)  # checked first: with another one the run's own data look changed, too
    return config, predictor

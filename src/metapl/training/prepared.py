"""``Prepared``: data made ready for training, which a run shares with all trainings that are made for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from metapl.data.batches.preprocess import fit_preprocessing
from metapl.models import Factory
from metapl.types import Preprocessing, Source, Split


@dataclass(frozen=True)
class Prepared:
    """What a training needs beside its settings.

    Attributes:
        source: the rows.
        split: which row plays which part.
        preprocessing: fitted on the training rows.
        device: where to train.
        network: makes the networks in place of the setting ``model``, which then only names them; None = as it says.
    """

    source: Source
    split: Split
    preprocessing: Preprocessing
    device: torch.device
    network: Factory | None = None


def prepare(source: Source, split: Split, device: torch.device, network: Factory | None = None) -> Prepared:
    """Fit the preprocessing on the labelled and unlabelled rows of ``split``."""
    preprocessing = fit_preprocessing(source, np.union1d(split.labeled, split.unlabeled))
    return Prepared(source, split, preprocessing, device, network)

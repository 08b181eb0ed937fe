"""Mean and spread of the training rows, by which raw rows are normalised for a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from metapl.data.batches.seeds import generator
from metapl.data.modalities import modality_of
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.types import Array, Preprocessing, Source

SAMPLE = 10_000  # rows to read if each has to be decoded


def fit_preprocessing(source: Source, index: Array) -> Preprocessing:
    """Return mean and population standard deviation over the rows at ``index`` (labelled and unlabelled training rows).

    Images: per channel, on the 0..1 scale, std at least one grey level. Tables: per column, without missing values; a
    constant column gets std 1, so that it becomes 0 and stays finite. Categories and texts: nothing to fit. Other
    kinds: as their ``Modality`` says. Of a ``lazy`` source at most 10,000 rows are read, the same ones for the same
    ``index``.

    Raises:
        ValueError: ``index`` is empty.
        UserError: a kind of rows that is not known.
    """
    index = np.unique(np.asarray(index, dtype=np.int64))
    if not len(index):
        raise ValueError("preprocessing needs at least one row")
    own = traits(source)
    own.held()  # rows that will be held are decoded once, not here and again for the training
    if own.lazy and len(index) > SAMPLE:
        drawn = torch.randperm(len(index), generator=generator("cpu", 0, "statistics"))[:SAMPLE]
        index = np.sort(index[drawn.numpy()])
    shape = tuple(source.rows(index[:1]).shape[1:])
    return modality_of(source.kind).fit(source, index, shape)


def preprocessing_to_dict(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return plain JSON values, without those that other kinds of rows need."""
    return modality_of(preprocessing.kind).to_dict(preprocessing)


def preprocessing_from_dict(stored: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that ``preprocessing_to_dict`` stored.

    Raises:
        UserError: a part is missing, the parts do not fit each other, or the kind of rows is not known.
    """
    try:
        modality = modality_of(stored["kind"])
        preprocessing = modality.from_dict(stored)
    except UserError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"the stored preprocessing is damaged ({error})", "Train again.") from error
    if not modality.is_sound(preprocessing):
        raise UserError("the stored preprocessing is damaged (its parts do not fit)", "Train again.")
    return preprocessing

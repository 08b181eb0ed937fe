"""The handwritten digits that come with scikit-learn: 1797 grey images of 8 x 8, ten classes."""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.images.resize import images_at
from metapl.data.memory.source import MemorySource


def open_digits(images: ImageOptions = OWN_SIZE) -> MemorySource:
    """Return the digits as uint8 [1797, 1, 8, 8], scaled from 0..16 to 0..255, without test rows; ``images`` may name
    another size.
    """
    table = _table()
    pixels8 = table[:, :-1].reshape(-1, 1, 8, 8)
    pixels = torch.from_numpy(np.rint(pixels8 * (255.0 / 16.0)).astype(np.uint8))
    return MemorySource(
        name="digits",
        kind="image",
        data=pixels if images.sides is None else images_at(pixels, images.sides, images.resize),
        labels=table[:, -1].astype(np.int64),
        class_names=tuple(str(k) for k in range(10)),
        resize=images.resize,
        resized=images.sides is not None,
    )


def _table() -> np.ndarray[Any, Any]:
    """Return [1797, 65]: 64 pixels from 0 to 16, and the class. scikit-learn's file is read without importing it."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    with gzip.open(Path(spec.origin).parent / "datasets" / "data" / "digits.csv.gz") as file:
        return np.loadtxt(file, delimiter=",")

"""The handwritten digits that come with scikit-learn: 1797 grey images of 8 x 8, ten classes."""

from __future__ import annotations

import numpy as np
import torch

from metapl.data.memory import MemorySource


def open_digits() -> MemorySource:
    """The digits as uint8 [1797, 1, 8, 8], scaled from 0..16 to 0..255; the set brings no test rows of its own."""
    from sklearn.datasets import load_digits  # slow to import: only when asked for

    bunch = load_digits()
    pixels = np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)
    return MemorySource(
        name="digits",
        kind="image",
        data=torch.from_numpy(pixels).unsqueeze(1).contiguous(),
        labels=bunch.target.astype(np.int64),
        class_names=tuple(str(k) for k in range(10)),
    )

"""The handwritten digits that come with scikit-learn: 1797 grey images of 8 x 8, ten classes."""

from __future__ import annotations

import numpy as np
import torch

from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.images.resize import images_at
from metapl.data.memory.source import MemorySource


def open_digits(images: ImageOptions = OWN_SIZE) -> MemorySource:
    """Return the digits as uint8 [1797, 1, 8, 8], scaled from 0..16 to 0..255; the set brings no test rows of its own.

    Where ``images`` ask for a size, they are brought to it.
    """
    from sklearn.datasets import load_digits  # slow to import: only when asked for

    bunch = load_digits()
    pixels = torch.from_numpy(np.rint(bunch.images * (255.0 / 16.0)).astype(np.uint8)).unsqueeze(1).contiguous()
    return MemorySource(
        name="digits",
        kind="image",
        data=pixels if images.sides is None else images_at(pixels, images.sides, images.resize),
        labels=bunch.target.astype(np.int64),
        class_names=tuple(str(k) for k in range(10)),
        resize=images.resize,
        resized=images.sides is not None,
    )

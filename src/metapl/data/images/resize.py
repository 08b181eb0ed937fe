"""Resize images in memory, with the same result as for files that hold these pixels."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from metapl.data.images.decode import pixels_of
from metapl.types import Resize

Size = tuple[int, int]


def image_at(image: Tensor, size: Size, resize: Resize) -> Tensor:
    """Return a uint8 image [1 or 3, height, width] at ``size`` (height, width); see ``images.decode`` for
    ``resize``.
    """
    if tuple(image.shape[1:]) == size:
        return image
    array = image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).contiguous().numpy()
    return pixels_of(Image.fromarray(array), size, resize)


def images_at(rows: Tensor, size: Size, resize: Resize) -> Tensor:
    """Return uint8 images [N, 1 or 3, height, width] at ``size``; the same tensor if they have this size."""
    if tuple(rows.shape[2:]) == size:
        return rows
    made = torch.empty((*rows.shape[:2], *size), dtype=torch.uint8)
    for k, image in enumerate(rows):
        made[k] = image_at(image, size, resize)
    return made


def how(resize: Resize) -> str:
    """Return the way of resizing for a note; "" for the default."""
    return "" if resize == "cover" else f" ({resize})"

"""An image as text that a page can hold: an inline PNG."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

SIDE = 128  # pixels of the longer side, at most
SMALL = 48  # pixels of the longer side below which a page enlarges the image


def inline_image(row: Tensor) -> dict[str, Any]:
    """Return ``{"image": data URI, "small": bool}`` of a raw row, uint8 [channels, height, width]."""
    pixels = row.numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    return {"image": uri, "small": max(row.shape[1:]) < SMALL}

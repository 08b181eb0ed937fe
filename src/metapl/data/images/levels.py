"""Images with more than 8 bits per value: the range of the training images becomes 0..255.

Dividing 16 bits by 257 would leave 16 grey levels of an image that uses 12 of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from PIL import Image

from metapl.types import Array, Levels

CUT = 0.02  # share of an image's values beyond the range of the training that is worth a note
NO_SPAN = (np.nan,) * 4  # lowest and highest whole number, lowest and highest float


def depth_of(image: Image.Image) -> str:
    """Return "whole" or "floats" for an image with more than 8 bits per value, "" for another."""
    return "whole" if image.mode.startswith("I") else "floats" if image.mode == "F" else ""


def span_of(image: Image.Image) -> tuple[float, ...]:
    """Return the range of a loaded image as in ``NO_SPAN``.

    Raises:
        ValueError: it holds values that are not finite.
    """
    depth = depth_of(image)
    if not depth:
        return NO_SPAN
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("its float values are not all finite")
    return (low, high, np.nan, np.nan) if depth == "whole" else (np.nan, np.nan, low, high)


def levels_of(spans: Array) -> Levels:
    """Return the range of all images together; ``spans`` [n, 4]."""
    pairs = []
    for lows, highs in ((spans[:, 0], spans[:, 1]), (spans[:, 2], spans[:, 3])):
        there = ~np.isnan(lows)
        low, high = (float(lows[there].min()), float(highs[there].max())) if there.any() else (0.0, 0.0)
        pairs.append((low, high) if high > low else None)
    return Levels(*pairs)


def as_bytes(image: Image.Image, levels: Levels) -> Image.Image | None:
    """Return an image with more than 8 bits in mode L, by ``levels``; None if they have no range for it."""
    span = {"whole": levels.whole, "floats": levels.floats}.get(depth_of(image))
    if span is None:
        return None
    values = np.asarray(image).astype(np.float64)
    return Image.fromarray(np.rint((values - span[0]) * (255 / (span[1] - span[0]))).clip(0, 255).astype(np.uint8))


def beyond(images: Iterable[Image.Image], levels: Levels) -> str:
    """Return a note on images with more than 8 bits whose values leave the range of the training images, or ""."""
    count, found, worst = 0, 0, (0.0, 0.0, 0.0, 0.0)
    for image in images:
        span = {"whole": levels.whole, "floats": levels.floats}.get(depth_of(image))
        if span is None:
            continue
        values, count = np.asarray(image), count + 1
        outside = float(((values < span[0]) | (values > span[1])).mean())
        if outside > CUT:
            found += 1
            worst = (float(values.min()), float(values.max()), *span)
    if not found:
        return ""
    stand = f"{found} of {count} new images with more than 8 bits that were looked at"
    return (
        f"{stand} hold values from {worst[0]:g} to {worst[1]:g}, and the training's run from {worst[2]:g} to "
        f"{worst[3]:g}: what lies beyond is cut off, so these images may be misread"
    )


def to_dict(levels: Levels) -> dict[str, Any]:
    """Return plain JSON values; empty without levels."""
    return {"levels": levels._asdict()} if any(levels) else {}


def from_dict(stored: Mapping[str, Any]) -> Levels:
    """Return what ``to_dict`` stored.

    Raises:
        AttributeError, TypeError, ValueError: it is damaged.
    """
    pairs = {name: pair and (float(pair[0]), float(pair[1])) for name, pair in stored.get("levels", {}).items()}
    if any(pair and not pair[0] < pair[1] for pair in pairs.values()):
        raise ValueError("levels that do not go up")
    return Levels(**pairs)

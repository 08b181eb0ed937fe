"""Facts about image files from their headers: sizes, colours, rotation and animation."""

from __future__ import annotations

import os
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from metapl.checks.reading import ReadProgress
from metapl.data.images.decode import Stored, Unreadable, header
from metapl.data.images.levels import depth_of
from metapl.data.images.store import ImageStore
from metapl.data.traits import traits
from metapl.types import Source

MOST = 20_000  # files to read, evenly over the rows
LOADED = 100  # images with more than 8 bits of which values are read
VALUES = 4096  # values per image
DARK = 64  # of 255: a colour image without larger values has lost most of its shades
_ORIENTATION = 0x0112


def header_facts(source: Source, progress: ReadProgress) -> dict[str, Any] | None:
    """Count over the files behind the rows; None if the rows are not files.

    Keys: ``files`` (number read), ``sizes`` (number of different sizes), ``smallest``, ``largest`` and ``commonest``
    [height, width], ``aspects`` (number of different ratios, to two figures), ``modes`` and ``forms`` (counts by name),
    ``alpha``, ``deep`` (more than 8 bits), ``shades`` (how many of 256 grey levels the middle 98 % of their values
    take; 256 without such images), ``cut`` (16 bits per colour, of which 8 are read), ``dark`` (``cut`` and nearly
    black), ``animated``, ``turned`` (by their EXIF orientation).
    """
    files, levels = _files(source), traits(source).levels
    if not files:
        return None
    counts: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    modes: Counter[str] = Counter()
    forms: Counter[str] = Counter()
    deep: dict[str, list[Any]] = {"whole": [], "floats": []}
    for k, path in enumerate(files):
        try:
            with header(path) as image:
                sizes[image.height, image.width] += 1
                modes[image.mode] += 1
                forms[image.format or "?"] += 1
                counts.update(marks := _marks(image))
                if "deep" in marks and counts["deep"] <= LOADED:
                    values = np.asarray(image).ravel()
                    deep[depth_of(image)].append(values[:: max(1, len(values) // VALUES)])
                if "cut" in marks and counts["cut"] <= LOADED and np.asarray(image).max() < DARK:
                    counts["dark"] += 1
        except Unreadable:
            counts["unreadable"] += 1
        progress(k + 1, len(files))
    if not sizes:
        return None
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return {
        "files": len(files),
        "sizes": len(sizes),
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "commonest": list(sizes.most_common(1)[0][0]),
        "aspects": len({round(width / height, 1) for height, width in sizes}),
        "modes": dict(modes.most_common()),
        "forms": dict(forms.most_common()),
        **{name: counts[name] for name in ("alpha", "deep", "cut", "dark", "animated", "turned")},
        "shades": min(_shades(deep["whole"], levels.whole), _shades(deep["floats"], levels.floats)),
    }


def _shades(values: list[Any], span: tuple[float, float] | None) -> int:
    """Return how many of 256 grey levels the middle 98 % of values with more than 8 bits take."""
    if not values or span is None:
        return 256
    low, high = np.quantile(np.concatenate(values), [0.01, 0.99])
    return int((high - low) / (span[1] - span[0]) * 255) + 1


def _files(source: Source) -> list[Stored]:
    """Return the files behind the rows, or what stands in them; at most ``MOST``, evenly over the rows."""
    store = traits(source).store
    if not isinstance(store, ImageStore):
        return []
    items = [store.items[k] for k in range(0, len(store.items), max(1, -(-len(store.items) // MOST)))]
    return [os.path.join(store.root, item) if isinstance(item, str) else item for item in items]


def _marks(image: Image.Image) -> list[str]:
    marks = []
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        marks.append("alpha")
    if depth_of(image):
        marks.append("deep")
    elif any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()) if len(tile) > 3):
        marks.append("cut")
    if getattr(image, "is_animated", False):
        marks.append("animated")
    try:
        if int(image.getexif().get(_ORIENTATION, 1)) > 1:
            marks.append("turned")
    except Exception:  # damaged EXIF makes no image unreadable
        pass
    return marks

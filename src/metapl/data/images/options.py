"""How stored images become rows: size, way of resizing, memory, tolerance for bad images."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated

from metapl.data.images.decode import AUTO_SIDE
from metapl.errors import UserError, nearest
from metapl.types import RESIZES, Resize
from metapl.utils.fields import Help, Range, Settings
from metapl.utils.names import split_name

SIDES = range(4, 2049)
GIB = 2**30


@dataclass(frozen=True)
class ImageOptions(Settings, group="source.image"):
    """How images are read.

    Raises:
        UserError: a value that a setting does not take.
    """

    size: Annotated[
        int | str,
        Help(
            'side that images are brought to, HxW, or "auto" (their own if common and at most 64, else 64); "auto:96" '
            "has 96 in the place of 64; arrays keep their own size under auto",
            "pixels",
        ),
    ] = "auto"
    resize: Annotated[
        Resize, "cover (scaled, cropped about the centre), stretch, or pad (scaled to fit, middle grey beside it)"
    ] = "cover"
    memory: Annotated[
        float,
        Help("decoded training images are held up to this size; above, they are decoded when needed", "GiB"),
        Range(0),
    ] = 4.0
    prefetch: Annotated[
        int,
        "steps for which images that are not held are decoded ahead in the background; 0 = none",
        Range(0),
    ] = 2
    allow_bad: Annotated[bool, "go on where more than 5 images and more than 5 % of them cannot be read"] = False
    cache: Annotated[
        bool, "keep facts about image files, and their decoded rows, for the next opening (docs/images.md)"
    ] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.auto_sides, self.sides
        if self.resize not in RESIZES:
            raise UserError(f"resize is {self.resize!r}", nearest(str(self.resize), RESIZES), "source.image.resize")

    @property
    def sides(self) -> tuple[int, int] | None:
        """The given (height, width); None for "auto"."""
        return None if self._auto else self._read_sides(str(self.size))

    @property
    def auto_sides(self) -> tuple[int, int]:
        """The (height, width) for images of unknown sizes; also the largest common size that images keep."""
        if not self._auto or self.size == "auto":
            return AUTO_SIDE, AUTO_SIDE
        return self._read_sides(split_name(str(self.size)).rest)

    @property
    def _auto(self) -> bool:
        return self.size == "auto" or str(self.size).startswith("auto:")

    def _read_sides(self, text: str) -> tuple[int, int]:
        sides = [int(side) for side in text.split("x")] if re.fullmatch(r"\d{1,4}(x\d{1,4})?", text) else []
        if not sides or isinstance(self.size, bool) or not all(side in SIDES for side in sides):
            raise UserError(
                f"the image size is {self.size!r}",
                f"Give 'auto', a side in pixels ({SIDES.start} to {SIDES.stop - 1}), or HxW.",
                "source.image.size",
            )
        return sides[0], sides[-1]

    def common(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int] | None:
        """Return the common size of all images, if they have one and it fits into ``auto_sides``; else None."""
        size, (height, width) = next(iter(sizes), None), self.auto_sides
        return size if size is not None and len(sizes) == 1 and size[0] <= height and size[1] <= width else None

    def fits(self, count: int, shape: tuple[int, ...]) -> bool:
        """Return whether ``count`` rows of ``shape`` may be held in memory."""
        return count * math.prod(shape) <= self.memory * GIB


OWN_SIZE = ImageOptions()


class SizeStats:
    """Collects the sizes and colours of images that decide the common shape."""

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()
        self.grey = True

    def add(self, height: int, width: int, grey: bool) -> None:
        """Count one image."""
        self.grey &= bool(grey)
        if len(self.sizes) < 2:  # two different sizes show that the images have no common size
            self.sizes.add((height, width))

    def shape(self, options: ImageOptions) -> tuple[int, int, int]:
        """Return the (channels, height, width) to which all images are resized."""
        channels = 1 if self.sizes and self.grey else 3
        return channels, *(options.sides or options.common(self.sizes) or options.auto_sides)

    def note(self, options: ImageOptions) -> str:
        """Return a sentence for the user about ``shape``."""
        channels, height, width = self.shape(options)
        form = f"{height} x {width}, {'grey' if channels == 1 else 'RGB'}"
        how = "" if options.resize == "cover" else f" ({options.resize})"
        if options.sides is not None:
            return f"images are brought to {form}{how}"
        if options.common(self.sizes):
            return f"images are {form}"
        why = "of different sizes" if len(self.sizes) > 1 else "larger"
        return f"images are {why} and are brought to {form}{how} (set source.image.size to change it)"

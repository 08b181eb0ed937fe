"""How stored images become rows: size, shape of the fit, memory, what may be bad."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from metapl.data.images.decode import AUTO_SIDE
from metapl.errors import UserError, nearest
from metapl.types import RESIZES, Resize
from metapl.utils.names import split_name

SIDES = range(4, 2049)
GIB = 2**30


@dataclass(frozen=True)
class ImageOptions:
    """The part of ``SourceOptions`` that is about images.

    Attributes:
        image_size: a side in pixels, "HxW", or "auto": their own size if it is common to all and fits into 64 x 64,
            else 64 x 64; "auto:96", "auto:HxW": another size in the place of 64 x 64.
        resize: "cover", "stretch" or "pad"; see ``images.decode``.
        memory: GiB of decoded training images up to which they are held; above, they are decoded when needed.
        prefetch: steps whose rows are decoded ahead in the background where images are not held; 0 = none.
        allow_bad: go on where more than 5 images and more than 5 % cannot be read.
        cache: keep what was learnt about files for the next opening; see ``image_cache``.

    Raises:
        UserError: a value that means nothing.
    """

    image_size: int | str = "auto"
    resize: Resize = "cover"
    memory: float = 4.0
    prefetch: int = 2
    allow_bad: bool = False
    cache: bool = False

    def __post_init__(self) -> None:
        _ = self.auto_size, self.size
        if self.resize not in RESIZES:
            raise UserError(f"resize is {self.resize!r}", nearest(str(self.resize), RESIZES), "source.resize")
        if not 0 <= self.memory < math.inf:
            raise UserError(f"memory is {self.memory}", "Give GiB, 0 or more.", "source.memory")
        if self.prefetch < 0:
            raise UserError(f"prefetch is {self.prefetch}", "Give steps, 0 or more.", "source.prefetch")

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) that is asked for; None for "auto"."""
        return None if self._auto else self._sides(str(self.image_size))

    @property
    def auto_size(self) -> tuple[int, int]:
        """(height, width) that images of unknown sizes are brought to, and that those of a common one may have."""
        if not self._auto or self.image_size == "auto":
            return AUTO_SIDE, AUTO_SIDE
        return self._sides(split_name(str(self.image_size)).rest)

    @property
    def _auto(self) -> bool:
        return self.image_size == "auto" or str(self.image_size).startswith("auto:")

    def _sides(self, text: str) -> tuple[int, int]:
        sides = [int(side) for side in text.split("x")] if re.fullmatch(r"\d{1,4}(x\d{1,4})?", text) else []
        if not sides or isinstance(self.image_size, bool) or not all(side in SIDES for side in sides):
            raise UserError(
                f"image_size is {self.image_size!r}",
                f"Give 'auto', a side in pixels ({SIDES.start} to {SIDES.stop - 1}), or HxW.",
                "image_size",
            )
        return sides[0], sides[-1]

    def common(self, sizes: Collection[tuple[int, int]]) -> tuple[int, int] | None:
        """The one size of all images, where there is one and it fits into ``auto_size``."""
        size, (height, width) = next(iter(sizes), None), self.auto_size
        return size if size is not None and len(sizes) == 1 and size[0] <= height and size[1] <= width else None

    def fits(self, count: int, shape: tuple[int, ...]) -> bool:
        """Whether ``count`` rows of ``shape`` may be held in memory."""
        return count * math.prod(shape) <= self.memory * GIB


OWN_SIZE = ImageOptions()


class Heads:
    """The sizes and colours of the images seen so far, as far as they decide the common shape."""

    def __init__(self) -> None:
        self.sizes: set[tuple[int, int]] = set()
        self.grey = True

    def add(self, height: int, width: int, grey: bool) -> None:
        """One image more."""
        self.grey &= bool(grey)
        if len(self.sizes) < 2:  # a second size says all that a third could
            self.sizes.add((height, width))

    def shape(self, options: ImageOptions) -> tuple[int, int, int]:
        """(channels, height, width) that every image is brought to."""
        channels = 1 if self.sizes and self.grey else 3
        return channels, *(options.size or options.common(self.sizes) or options.auto_size)

    def note(self, options: ImageOptions) -> str:
        """What a user should know about ``shape``."""
        channels, height, width = self.shape(options)
        form = f"{height} x {width}, {'grey' if channels == 1 else 'RGB'}"
        how = "" if options.resize == "cover" else f" ({options.resize})"
        if options.size is not None:
            return f"images are brought to {form}{how}"
        if options.common(self.sizes):
            return f"images are {form}"
        why = "of different sizes" if len(self.sizes) > 1 else "larger"
        return f"images are {why} and are brought to {form}{how} (set source.image_size to change it)"

"""Weak and strong views of images."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from metapl.data.batches.views import MAX_MAGNITUDE, Scaler, ViewConfig, below
from metapl.data.images import ops
from metapl.types import Preprocessing


class ImageViews:
    """Views of uint8 images [B, C, H, W].

    Weak: maybe mirrored, then shifted by whole pixels; uncovered pixels are mirrored from inside. Strong: another weak
    view; then ``ops`` operations drawn with replacement (``metapl.data.images.ops``), each in a random direction at the
    fixed ``magnitude``; then one blank square at a uniform place inside the image.
    """

    def __init__(self, config: ViewConfig, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self.flips = preprocessing.shape[0] >= 3 if config.flip == "auto" else bool(config.flip)
        self._scaler = Scaler(preprocessing, (-1, 1, 1))

    def plain(self, x: Tensor) -> Tensor:
        """Return the images themselves, normalised."""
        return self._scaler.forward(self._unit(x))

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """Return one weak view of each image, normalised."""
        drawn = torch.rand(3, len(x), generator=generator, device=x.device)
        return self._scaler.forward(self._unit(self._moved(x, drawn)))

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """Return one strong view of each image, normalised."""
        layers = self.config.ops
        drawn = torch.rand(5 + 2 * layers, len(x), generator=generator, device=x.device)
        pixels = self._unit(self._moved(x, drawn[:3]))
        pixels = self._operated(pixels, drawn[5 : 5 + layers], drawn[5 + layers :])
        return self._scaler.forward(self._cut(pixels, drawn[3:5]))

    def pixels(self, view: Tensor) -> Tensor:
        """Return a view without its normalisation, 0..1: for pictures."""
        return self._scaler.back(view).clamp_(0, 1)

    def _unit(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8 or x.ndim != 4:
            raise TypeError(f"Image views take uint8 [B, C, H, W], not {x.dtype} {list(x.shape)}.")
        if x.shape[1] != self.preprocessing.shape[0]:  # one channel would broadcast to three without a word
            raise ValueError(f"{x.shape[1]} channels where the preprocessing has {self.preprocessing.shape[0]}.")
        return x.to(torch.float32).div_(255)

    def _moved(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Flip and shift by one gather of pixels; ``drawn`` [3, B]: flip, y, x."""
        if not self.flips and self.config.shift == 0:
            return x
        n, channels, height, width = x.shape
        rows, columns = self._places(drawn[1], height), self._places(drawn[2], width)
        if self.flips:
            columns = torch.where(drawn[0][:, None] < 0.5, width - 1 - columns, columns)
        source = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width)
        return x.flatten(2).gather(2, source.expand(-1, channels, -1)).view(n, channels, height, width)

    def _places(self, drawn: Tensor, side: int) -> Tensor:
        """Return [B, side]: which pixel each place along one side takes, mirrored at the borders.

        The border pixel itself is repeated: without that, a shift of one pixel of an 8x8 image copies the stroke
        beside the border and leaves a gap, which looks like another stroke.
        """
        most = 0 if self.config.shift == 0 else max(1, round(self.config.shift * side))
        moved = torch.arange(side, device=drawn.device) + (below(drawn, 2 * most + 1) - most)[:, None]
        moved = torch.where(moved < 0, -1 - moved, moved)
        return torch.where(moved >= side, 2 * side - 1 - moved, moved)

    def _operated(self, pixels: Tensor, which: Tensor, direction: Tensor) -> Tensor:
        """Apply the drawn operations; ``which`` and ``direction`` [layers, B] are uniform numbers."""
        kinds = below(which, len(ops.ops_for(pixels.shape[1])))
        strength = torch.where(direction < 0.5, -1.0, 1.0) * (self.config.magnitude / MAX_MAGNITUDE)
        return ops.apply_drawn(pixels, kinds, strength, self.config.fill)

    def _cut(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Blank one square per image, wholly inside it; ``drawn`` [2, B]: y, x."""
        if self.config.cutout == 0:
            return pixels
        height, width = pixels.shape[2:]
        side = max(1, round(self.config.cutout * min(height, width)))
        inside = []
        for length, uniform in zip((height, width), drawn):
            place = torch.arange(length, device=pixels.device) - below(uniform, length - side + 1)[:, None]
            inside.append((place >= 0) & (place < side))
        blank = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
        return pixels.masked_fill(blank, self.config.fill)

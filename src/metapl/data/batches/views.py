"""Weak and strong views of a batch: per sample, on the batch's device, driven by an explicit generator.

A view is a pure function of (rows, configuration, state of the generator). It draws the same number of random
numbers whatever the rows hold, touches no global generator, and gives normalised float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from metapl.data.images import ops
from metapl.data.tables.encode import TableEncoder
from metapl.data.texts.views import TextViews
from metapl.errors import UserError
from metapl.types import Preprocessing

MAX_MAGNITUDE = 30.0


@dataclass(frozen=True)
class ViewConfig:
    """How far a weak and a strong view may stray from the row itself; each kind of rows has settings of its own."""

    flip: str | bool = "auto"
    """Images: mirror left and right with probability 1/2; "auto" does so for images of 3 or more channels only."""
    shift: float = 0.125
    """Images: largest shift of the weak view, as a fraction of each side (0 to 0.5); at least one pixel unless 0."""
    ops: int = 2
    """Images: number of RandAugment operations per image in the strong view (0 to 10)."""
    magnitude: float = 10.0
    """Images: strength of these operations, the same for every image; 0 to 30, the far end of each range."""
    cutout: float = 0.5
    """Images: side of the square that the strong view blanks, as a fraction of the image's shorter side (0 to 1)."""
    fill: float = 0.5
    """Images: grey level of blanked and uncovered pixels, 0 (black) to 1 (white)."""
    noise: float = 0.1
    """Tables: standard deviation of the noise in both views, in units of each feature's own (0 or more)."""
    swap: float = 0.25
    """Tables: share of a row's columns that the strong view takes from another row of the batch (0 to 1)."""
    mask: float = 0.0
    """Tables: share of a row's columns that the strong view hides, as if their values were missing (0 to 1)."""
    word_drop: float = 0.2
    """Texts: chance of each word to be left out of the strong view (0 to 1)."""
    word_mask: float = 0.1
    """Texts: chance of each word that is left to be hidden in the strong view (0 to 1)."""
    word_shuffle: int = 2
    """Texts: places that a word may move by in the strong view (0 to 100)."""
    word_drop_weak: float = 0.0
    """Texts: chance of each word to be left out of the weak view (0 to 1)."""

    def __post_init__(self) -> None:
        if not (isinstance(self.flip, bool) or self.flip == "auto"):
            raise UserError(f"{self.flip!r} is not a choice", "Use auto, true or false.", "views.flip")
        if isinstance(self.ops, bool) or not isinstance(self.ops, int):
            raise UserError(f"{self.ops!r} is not a whole number", "Use 0 to 10.", "views.ops")
        if isinstance(self.word_shuffle, bool) or not isinstance(self.word_shuffle, int):
            raise UserError(f"{self.word_shuffle!r} is not a whole number", "Use 0 to 100.", "views.word_shuffle")
        for name, high in _HIGHEST.items():
            _check_range(name, getattr(self, name), high)


_HIGHEST = {
    "shift": 0.5,
    "ops": 10.0,
    "magnitude": MAX_MAGNITUDE,
    "cutout": 1.0,
    "fill": 1.0,
    "noise": 100.0,
    "swap": 1.0,
    "mask": 1.0,
    "word_drop": 1.0,
    "word_mask": 1.0,
    "word_shuffle": 100.0,
    "word_drop_weak": 1.0,
}


def _check_range(name: str, value: object, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{value!r} is not a number", f"Use 0 to {high:g}.", f"views.{name}")
    if not 0 <= value <= high:  # false for NaN too
        raise UserError(f"{value!r} is out of range", f"Use 0 to {high:g}.", f"views.{name}")


def _below(uniform: Tensor, limit: int) -> Tensor:
    """Uniform numbers in [0, 1) -> whole numbers 0 .. limit - 1."""
    return uniform.mul(limit).to(torch.int64).clamp_(max=limit - 1)


class _Scaler:
    """Normalises by mean and standard deviation, kept once per device."""

    def __init__(self, preprocessing: Preprocessing, shape: tuple[int, ...]) -> None:
        if min(preprocessing.std, default=1.0) <= 0:
            raise ValueError("Preprocessing.std must be above zero for every channel or feature.")
        mean = torch.tensor(preprocessing.mean, dtype=torch.float32).view(shape)
        std = torch.tensor(preprocessing.std, dtype=torch.float32).view(shape)
        self._cpu = (mean, std)
        self._there: dict[torch.device, tuple[Tensor, Tensor]] = {}

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._there:
            self._there[device] = (self._cpu[0].to(device), self._cpu[1].to(device))
        return self._there[device]

    def forward(self, x: Tensor) -> Tensor:
        mean, std = self._on(x.device)
        return torch.sub(x, mean).div_(std)

    def back(self, x: Tensor) -> Tensor:
        mean, std = self._on(x.device)
        return torch.mul(x, std).add_(mean)


class ImageViews:
    """Views of uint8 images [B, C, H, W].

    Weak: mirrored or not, then shifted by whole pixels, what is uncovered mirrored from inside. Strong: a
    weak view of its own, then ``ops`` operations drawn with replacement (see ``metapl.data.images.ops``), each in a
    random direction at the fixed ``magnitude``, then one blank square at a uniform place inside the image.
    """

    def __init__(self, config: ViewConfig, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self.flips = preprocessing.shape[0] >= 3 if config.flip == "auto" else bool(config.flip)
        self._scaler = _Scaler(preprocessing, (-1, 1, 1))

    def plain(self, x: Tensor) -> Tensor:
        """The images themselves, normalised."""
        return self._scaler.forward(self._unit(x))

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """One weak view of each image, normalised."""
        drawn = torch.rand(3, len(x), generator=generator, device=x.device)
        return self._scaler.forward(self._unit(self._moved(x, drawn)))

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """One strong view of each image, normalised."""
        layers = self.config.ops
        drawn = torch.rand(5 + 2 * layers, len(x), generator=generator, device=x.device)
        pixels = self._unit(self._moved(x, drawn[:3]))
        pixels = self._operated(pixels, drawn[5 : 5 + layers], drawn[5 + layers :])
        return self._scaler.forward(self._cut(pixels, drawn[3:5]))

    def pixels(self, view: Tensor) -> Tensor:
        """A view without its normalisation, 0..1: for pictures."""
        return self._scaler.back(view).clamp_(0, 1)

    def _unit(self, x: Tensor) -> Tensor:
        if x.dtype != torch.uint8 or x.ndim != 4:
            raise TypeError(f"Image views take uint8 [B, C, H, W], not {x.dtype} {list(x.shape)}.")
        if x.shape[1] != self.preprocessing.shape[0]:  # one channel would broadcast to three without a word
            raise ValueError(f"{x.shape[1]} channels where the preprocessing has {self.preprocessing.shape[0]}.")
        return x.to(torch.float32).div_(255)

    def _moved(self, x: Tensor, drawn: Tensor) -> Tensor:
        """Flip and shift are one gather of pixels; ``drawn`` [3, B]: flip, y, x."""
        if not self.flips and self.config.shift == 0:
            return x
        n, channels, height, width = x.shape
        rows, columns = self._places(drawn[1], height), self._places(drawn[2], width)
        if self.flips:
            columns = torch.where(drawn[0][:, None] < 0.5, width - 1 - columns, columns)
        source = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, height * width)
        return x.flatten(2).gather(2, source.expand(-1, channels, -1)).view(n, channels, height, width)

    def _places(self, drawn: Tensor, side: int) -> Tensor:
        """[B, side]: which pixel each place along one side takes, mirrored at the borders.

        The border pixel itself is repeated: without that, a shift of one pixel of an 8x8 image copies the stroke
        beside the border and leaves a gap, which looks like another stroke.
        """
        most = 0 if self.config.shift == 0 else max(1, round(self.config.shift * side))
        moved = torch.arange(side, device=drawn.device) + (_below(drawn, 2 * most + 1) - most)[:, None]
        moved = torch.where(moved < 0, -1 - moved, moved)
        return torch.where(moved >= side, 2 * side - 1 - moved, moved)

    def _operated(self, pixels: Tensor, which: Tensor, direction: Tensor) -> Tensor:
        """``which`` and ``direction`` [layers, B] are uniform numbers."""
        kinds = _below(which, len(ops.ops_for(pixels.shape[1])))
        strength = torch.where(direction < 0.5, -1.0, 1.0) * (self.config.magnitude / MAX_MAGNITUDE)
        return ops.apply_drawn(pixels, kinds, strength, self.config.fill)

    def _cut(self, pixels: Tensor, drawn: Tensor) -> Tensor:
        """Blanks one square per image, wholly inside it; ``drawn`` [2, B]: y, x."""
        if self.config.cutout == 0:
            return pixels
        height, width = pixels.shape[2:]
        side = max(1, round(self.config.cutout * min(height, width)))
        inside = []
        for length, uniform in zip((height, width), drawn):
            place = torch.arange(length, device=pixels.device) - _below(uniform, length - side + 1)[:, None]
            inside.append((place >= 0) & (place < side))
        blank = (inside[0][:, :, None] & inside[1][:, None, :]).unsqueeze(1)
        return pixels.masked_fill(blank, self.config.fill)


class TableViews:
    """Views of float32 tables [B, D]; NaN where a value is missing.

    Weak: normal noise on the standardised numbers. Strong: a weak view of its own, then the same number of columns in
    each row, drawn at random, taken from one other row of the batch (after its noise), then some columns hidden. All of
    it is done before categories are spread over their levels, so a category is swapped or hidden as a whole.
    """

    def __init__(self, config: ViewConfig, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self._scaler = _Scaler(preprocessing, (-1,))
        self._encoder = TableEncoder(preprocessing)

    def plain(self, x: Tensor) -> Tensor:
        """The rows themselves, as the network sees them."""
        return self._encoder(self._scaler.forward(x.to(torch.float32)))

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """One weak view of each row."""
        return self._encoder(self._noisy(x, generator))

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """One strong view of each row."""
        weak = self._noisy(x, generator)
        keys = torch.rand(x.shape, generator=generator, device=x.device)
        drawn = torch.rand(len(x), generator=generator, device=x.device)
        n, columns = x.shape
        share = _count(self.config.swap, columns)
        if n >= 2 and share:  # a lone row has nobody to swap with
            other = (torch.arange(n, device=x.device) + 1 + _below(drawn, n - 1)) % n
            weak = torch.where(_chosen(keys, share), weak[other], weak)
        if hidden := _count(self.config.mask, columns):
            keys = torch.rand(x.shape, generator=generator, device=x.device)
            weak = weak.masked_fill(_chosen(keys, hidden), torch.nan)
        return self._encoder(weak)

    def _noisy(self, x: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return self._scaler.forward(x.to(torch.float32)).add_(self._encoder.on_numbers(noise), alpha=self.config.noise)


def _count(share: float, columns: int) -> int:
    """How many of ``columns`` a share above 0 means: at least one."""
    return max(1, round(share * columns)) if share > 0 else 0


def _chosen(keys: Tensor, count: int) -> Tensor:
    """[B, D] bool: the ``count`` largest keys of each row."""
    taken = torch.zeros(keys.shape, dtype=torch.bool, device=keys.device)
    return taken.scatter_(1, keys.topk(count, 1).indices, True)


Views = ImageViews | TableViews | TextViews


def make_views(config: ViewConfig, preprocessing: Preprocessing) -> Views:
    """The views that fit the kind of rows."""
    if preprocessing.tokens is not None:
        c = config
        return TextViews(preprocessing.tokens, c.word_drop_weak, c.word_drop, c.word_mask, c.word_shuffle)
    return ImageViews(config, preprocessing) if preprocessing.kind == "image" else TableViews(config, preprocessing)

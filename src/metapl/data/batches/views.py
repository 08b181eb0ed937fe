"""Weak and strong views of a batch: what all kinds of rows share. Their own views stand in the folder of each kind.

A view is a pure function of (rows, configuration, state of the generator). It draws the same number of random
numbers whatever the rows hold, touches no global generator, and gives normalised float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor

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


class Views(Protocol):
    """Makes views out of raw rows [n, ...], on the generator's device: normalised float32, or int64 ids of texts."""

    def plain(self, x: Tensor) -> Tensor:
        """The rows themselves, normalised."""
        ...

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """The weak view of each row."""
        ...

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """The strong view of each row."""
        ...


def below(uniform: Tensor, limit: int) -> Tensor:
    """Turn uniform numbers in [0, 1) into whole numbers 0 .. limit - 1."""
    return uniform.mul(limit).to(torch.int64).clamp_(max=limit - 1)


class Scaler:
    """Normalises by mean and standard deviation, kept once per device.

    Args:
        preprocessing: holds both, one number per channel or column.
        shape: brings them to the rows' dimensions: (-1,) for columns, (-1, 1, 1) for channels of images.

    Raises:
        ValueError: a standard deviation is not above 0.
    """

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
        """Return ``(x - mean) / std``."""
        mean, std = self._on(x.device)
        return torch.sub(x, mean).div_(std)

    def back(self, x: Tensor) -> Tensor:
        """Return ``x * std + mean``."""
        mean, std = self._on(x.device)
        return torch.mul(x, std).add_(mean)

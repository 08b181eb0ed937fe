"""The common parts of weak and strong views. The folder of each kind of rows has its own views.

A view is a pure function of (rows, configuration, state of the generator). It draws the same number of random
numbers whatever the rows hold, touches no global generator, and gives normalised float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Protocol

import torch
from torch import Generator, Tensor

from metapl.errors import UserError
from metapl.types import Preprocessing
from metapl.utils.fields import SHARE, Range, Settings

MAX_MAGNITUDE = 30.0


@dataclass(frozen=True)
class ViewConfig(Settings, group="views"):
    """How much weak and strong views differ from the row itself; each kind of rows has settings of its own."""

    flip: Annotated[
        str | bool,
        'images: mirror left and right with probability 1/2; "auto" does so for images of 3 or more channels only',
    ] = "auto"
    shift: Annotated[
        float,
        "images: largest shift of the weak view, as a fraction of each side; at least one pixel unless 0",
        Range(0, 0.5),
    ] = 0.125
    ops: Annotated[int, "images: RandAugment operations per image in the strong view", Range(0, 10)] = 2
    magnitude: Annotated[
        float, "images: strength of these operations, the same for every image", Range(0, MAX_MAGNITUDE)
    ] = 10.0
    cutout: Annotated[
        float,
        "images: side of the square that the strong view blanks, as a fraction of the image's shorter side",
        SHARE,
    ] = 0.5
    fill: Annotated[float, "images: grey level of blanked and uncovered pixels, 0 (black) to 1 (white)", SHARE] = 0.5
    noise: Annotated[
        float,
        "tables: standard deviation of the noise in both views, in units of each feature's own",
        Range(0, 100),
    ] = 0.1
    swap: Annotated[
        float, "tables: share of a row's columns that the strong view takes from another row of the batch", SHARE
    ] = 0.25
    mask: Annotated[
        float, "tables: share of a row's columns that the strong view hides, as if their values were missing", SHARE
    ] = 0.0
    word_drop: Annotated[float, "texts: chance of each word to be left out of the strong view", SHARE] = 0.2
    word_mask: Annotated[float, "texts: chance of each word that is left to be hidden in the strong view", SHARE] = 0.1
    word_shuffle: Annotated[int, "texts: places that a word may move by in the strong view", Range(0, 100)] = 2
    word_drop_weak: Annotated[float, "texts: chance of each word to be left out of the weak view", SHARE] = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.flip, bool) or self.flip == "auto"):
            raise UserError(f"{self.flip!r} is not a choice", "Use auto, true or false.", "views.flip")
        super().__post_init__()


class Views(Protocol):
    """Makes views out of raw rows [n, ...], on the generator's device: normalised float32, or int64 ids of texts."""

    def plain(self, x: Tensor) -> Tensor:
        """Return the rows themselves, normalised."""
        ...

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """Return the weak view of each row."""
        ...

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """Return the strong view of each row."""
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

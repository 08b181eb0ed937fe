"""Views of table rows: plain, weak and strong; and the encoding of standardised columns for a network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from metapl.data.batches.views import Scaler, ViewConfig, below
from metapl.types import Preprocessing


class TableEncoder:
    """[B, D] standardised columns, NaN where a value is missing -> [B, ``input_shape``], without NaN.

    First the columns of numbers, a missing value as 0 (the mean). Then one input per column of ``missing``: 1 for a
    missing value. Then the categories, one input per level: all 0 for a missing value or an unknown level. A table of
    numbers without missing values stays as it is.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        columns = preprocessing.columns
        levels = [len(column.levels) for column in columns] or [0] * preprocessing.shape[0]
        numbers = [k for k, count in enumerate(levels) if not count]
        spread = [(k, level) for k, count in enumerate(levels) for level in range(count)]
        self.plain = not spread and not preprocessing.missing
        parts = (numbers, list(preprocessing.missing), [k for k, _ in spread], [level for _, level in spread])
        self._cpu = [torch.tensor(part, dtype=torch.int64) for part in parts]
        self._there: dict[torch.device, list[Tensor]] = {}  # kept per device: a step copies nothing to it

    def __call__(self, x: Tensor) -> Tensor:
        if self.plain:
            return _filled(x)
        numbers, missing, column, level = self._on(x.device)
        known = x[:, column] == level  # NaN equals no number
        return torch.cat([_filled(x[:, numbers]), x[:, missing].isnan().to(x.dtype), known.to(x.dtype)], dim=1)

    def on_numbers(self, noise: Tensor) -> Tensor:
        """Return ``noise`` [B, D] with 0 in the columns of categories."""
        return noise if self.plain else noise.index_fill_(1, self._on(noise.device)[2], 0.0)

    def _on(self, device: torch.device) -> list[Tensor]:
        if device not in self._there:
            self._there[device] = [part.to(device) for part in self._cpu]
        return self._there[device]


def _filled(x: Tensor) -> Tensor:
    """Replace NaN by 0 on the device, without reading a value on the CPU, which would wait for the device."""
    return x.masked_fill(x.isnan(), 0.0)


class TableViews:
    """Views of float32 tables [B, D]; NaN is a missing value.

    Weak: normal noise on the standardised numbers. Strong: another weak view; then some columns of each row, drawn at
    random, take the values of one other row of the batch (after its noise); then some columns are hidden. This happens
    before a category is spread over its levels, so it is swapped or hidden as a whole.
    """

    def __init__(self, config: ViewConfig, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self._scaler = Scaler(preprocessing, (-1,))
        self._encoder = TableEncoder(preprocessing)

    def plain(self, x: Tensor) -> Tensor:
        """Return the rows themselves, as the network sees them."""
        return self._encoder(self._scaler.forward(x.to(torch.float32)))

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """Return one weak view of each row."""
        return self._encoder(self._noisy(x, generator))

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """Return one strong view of each row."""
        weak = self._noisy(x, generator)
        keys = torch.rand(x.shape, generator=generator, device=x.device)
        drawn = torch.rand(len(x), generator=generator, device=x.device)
        n, columns = x.shape
        share = _count(self.config.swap, columns)
        if n >= 2 and share:  # a lone row has nobody to swap with
            other = (torch.arange(n, device=x.device) + 1 + below(drawn, n - 1)) % n
            weak = torch.where(_chosen(keys, share), weak[other], weak)
        if hidden := _count(self.config.mask, columns):
            keys = torch.rand(x.shape, generator=generator, device=x.device)
            weak = weak.masked_fill(_chosen(keys, hidden), torch.nan)
        return self._encoder(weak)

    def _noisy(self, x: Tensor, generator: Generator) -> Tensor:
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return self._scaler.forward(x.to(torch.float32)).add_(self._encoder.on_numbers(noise), alpha=self.config.noise)


def _count(share: float, columns: int) -> int:
    """Return the number of columns for a share: at least one if the share is above 0."""
    return max(1, round(share * columns)) if share > 0 else 0


def _chosen(keys: Tensor, count: int) -> Tensor:
    """Return [B, D] bool: the ``count`` largest keys of each row."""
    taken = torch.zeros(keys.shape, dtype=torch.bool, device=keys.device)
    return taken.scatter_(1, keys.topk(count, 1).indices, True)

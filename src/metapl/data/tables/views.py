"""Weak and strong views of table rows."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from metapl.data.batches.views import Scaler, ViewConfig, below
from metapl.data.tables.encode import TableEncoder
from metapl.types import Preprocessing


class TableViews:
    """Views of float32 tables [B, D]; NaN where a value is missing.

    Weak: normal noise on the standardised numbers. Strong: a weak view of its own, then the same number of columns in
    each row, drawn at random, taken from one other row of the batch (after its noise), then some columns hidden. All of
    it is done before categories are spread over their levels, so a category is swapped or hidden as a whole.
    """

    def __init__(self, config: ViewConfig, preprocessing: Preprocessing) -> None:
        self.config, self.preprocessing = config, preprocessing
        self._scaler = Scaler(preprocessing, (-1,))
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
    """How many of ``columns`` a share above 0 means: at least one."""
    return max(1, round(share * columns)) if share > 0 else 0


def _chosen(keys: Tensor, count: int) -> Tensor:
    """[B, D] bool: the ``count`` largest keys of each row."""
    taken = torch.zeros(keys.shape, dtype=torch.bool, device=keys.device)
    return taken.scatter_(1, keys.topk(count, 1).indices, True)

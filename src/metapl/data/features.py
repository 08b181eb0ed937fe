"""Features of a frozen encoder as a kind of rows: float32 [D], one row per image or text.

What counts in them is the direction, so a row is brought to unit length, then centred and scaled by one number for all
columns. A spread per column, as tables have it, would enlarge the columns that hardly vary: measured in
docs/notes/photos.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metapl.data.batches.views import Scaler, ViewConfig, below
from metapl.data.modality import Modality
from metapl.types import Array, Preprocessing, Source


class FeatureModality(Modality):
    """``mean`` is that of the rows of unit length, ``std`` one number for all columns: their root mean variance."""

    kind, row, rows = "features", "row of features", "features"
    dimensions = 1
    model = "head"

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> FeatureViews:
        return FeatureViews(config, preprocessing)

    def values(self, rows: Tensor) -> Tensor:
        return F.normalize(rows.double(), dim=1)

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        moments = self.moments(source, index, shape)
        spread = float(moments.std.square().mean().sqrt()) or 1.0  # 0: all rows are the same
        return Preprocessing(self.kind, shape, tuple(moments.mean.tolist()), (spread,) * shape[0])


class FeatureViews:
    """Views of features [B, D], brought to unit length, centred and scaled.

    Weak: normal noise, in units of the common spread. Strong: a weak view of its own, in which each column is taken
    from one other row of the batch with probability ``swap``, then hidden (set to its mean) with probability ``mask``.
    """

    def __init__(self, config: ViewConfig, preprocessing: Preprocessing) -> None:
        self.config = config
        self._scaler = Scaler(preprocessing, (-1,))

    def plain(self, x: Tensor) -> Tensor:
        """Return the rows themselves, as the network sees them."""
        return self._scaler.forward(F.normalize(x.to(torch.float32), dim=1))

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """One weak view of each row."""
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        return self.plain(x).add_(noise, alpha=self.config.noise)

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """One strong view of each row."""
        view = self.weak(x, generator)
        drawn = torch.rand(x.shape, generator=generator, device=x.device)
        places = torch.rand(len(x), generator=generator, device=x.device)
        n = len(x)
        if n >= 2 and self.config.swap:  # a lone row has nobody to swap with
            other = (torch.arange(n, device=x.device) + 1 + below(places, n - 1)) % n
            # The same as torch.where, in half of the time: the weight is 0 or 1.
            view = torch.lerp(view, view.index_select(0, other), (drawn < self.config.swap).to(view.dtype))
        if self.config.mask:
            view = view.masked_fill(torch.rand(x.shape, generator=generator, device=x.device) < self.config.mask, 0.0)
        return view

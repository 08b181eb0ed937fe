"""Features of a frozen encoder as a kind of rows: float32 [D], one row per image or text.

What counts in them is the direction, so a row is brought to unit length, then centred and scaled by one number for all
columns. A spread per column, as tables have it, would enlarge the columns that hardly vary: measured in
docs/notes/photos.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.modality import Array, Modality
from metapl.data.tables.views import TableViews
from metapl.types import Preprocessing, Source


class Features(Modality):
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


class FeatureViews(TableViews):
    """The views of tables, of rows brought to unit length; ``views.noise`` is in units of the common spread."""

    def plain(self, x: Tensor) -> Tensor:
        return super().plain(F.normalize(x.to(torch.float32), dim=1))

    def _noisy(self, x: Tensor, generator: Generator) -> Tensor:
        return super()._noisy(F.normalize(x.to(torch.float32), dim=1), generator)

"""Tables as a kind of rows: float32 [columns], NaN where a value is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from metapl.data.batches.views import ViewConfig
from metapl.data.modality import FLOOR, Array, Modality
from metapl.data.tables.views import TableViews
from metapl.types import Column, Preprocessing, Source


class Tables(Modality):
    """Mean and spread are per column, over the values that are there; a category has mean 0 and std 1."""

    kind, row, rows = "table", "table row", "a table"
    dimensions = 1

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> TableViews:
        return TableViews(config, preprocessing)

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        moments = self.moments(source, index, shape)
        category = torch.tensor([bool(column.levels) for column in source.columns] or [False] * shape[0])
        mean = moments.mean.masked_fill(category, 0.0)
        constant = moments.std <= FLOOR * mean.abs()
        std = torch.where(constant | category, torch.ones_like(moments.std), moments.std)
        missing = tuple(torch.nonzero((moments.count < moments.values) & ~category).flatten().tolist())
        return Preprocessing(self.kind, shape, tuple(mean.tolist()), tuple(std.tolist()), source.columns, missing)

    def to_dict(self, preprocessing: Preprocessing) -> dict[str, Any]:
        card = super().to_dict(preprocessing)
        if preprocessing.columns:
            card["columns"] = [{"name": c.name, "levels": list(c.levels)} for c in preprocessing.columns]
        if preprocessing.missing:
            card["missing"] = list(preprocessing.missing)
        return card

    def from_dict(self, stored: Mapping[str, Any]) -> Preprocessing:
        return replace(
            super().from_dict(stored),
            columns=tuple(Column(str(c["name"]), tuple(map(str, c["levels"]))) for c in stored.get("columns", ())),
            missing=tuple(int(k) for k in stored.get("missing", ())),
        )

    def is_sound(self, preprocessing: Preprocessing) -> bool:
        p = preprocessing
        fits = len(p.columns) in (0, *p.shape) and all(0 <= k < p.shape[0] for k in p.missing)
        return super().is_sound(p) and fits

"""Standardised table rows to what a network takes: numbers, categories spread over their levels, what is missing."""

from __future__ import annotations

import torch
from torch import Tensor

from metapl.types import Preprocessing


class TableEncoder:
    """[B, D] standardised columns, NaN where a value is missing -> [B, ``input_shape``], without NaN.

    First the columns of numbers, a missing value as 0 (the mean); then one input per column of ``missing``, 1 where the
    value is missing; then the categories, one input per level, all 0 where the value is missing or no known level. A
    table of numbers alone that lacks nothing stays as it is.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        columns = preprocessing.columns
        levels = [len(column.levels) for column in columns] or [0] * preprocessing.shape[0]
        self.numbers = [k for k, count in enumerate(levels) if not count]
        self.categories = [(k, count) for k, count in enumerate(levels) if count]
        self.missing = list(preprocessing.missing)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.categories and not self.missing:
            return x.nan_to_num(0.0) if bool(x.isnan().any()) else x
        parts = [x[:, self.numbers].nan_to_num(0.0), x[:, self.missing].isnan().to(x.dtype)]
        for column, count in self.categories:
            level = x[:, column, None]  # NaN equals no number
            parts.append((level == torch.arange(count, device=x.device)).to(x.dtype))
        return torch.cat(parts, dim=1)

    def on_numbers(self, noise: Tensor) -> Tensor:
        """``noise`` [B, D] with 0 in the columns of categories."""
        return noise.index_fill_(1, torch.tensor(self._places, device=noise.device), 0.0) if self.categories else noise

    @property
    def _places(self) -> list[int]:
        return [column for column, _ in self.categories]

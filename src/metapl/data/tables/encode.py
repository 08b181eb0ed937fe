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
        """``noise`` [B, D] with 0 in the columns of categories."""
        return noise if self.plain else noise.index_fill_(1, self._on(noise.device)[2], 0.0)

    def _on(self, device: torch.device) -> list[Tensor]:
        if device not in self._there:
            self._there[device] = [part.to(device) for part in self._cpu]
        return self._there[device]


def _filled(x: Tensor) -> Tensor:
    """0 where ``x`` is NaN; without a look at the values from outside, which would wait for the device."""
    return x.masked_fill(x.isnan(), 0.0)

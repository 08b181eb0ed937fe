"""``Modality``: one record per kind of rows. It holds all that depends on the kind, so nothing else has to ask for it.

``data.modalities`` has the table of records and ``register_modality`` for kinds of your own; see docs/modalities.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.batches.views import ViewConfig, Views
from metapl.types import Kind, Preprocessing, Source
from metapl.utils.chunks import rows_at_once

Array = np.ndarray[Any, Any]
CHUNK, VALUES = 4096, 2**25  # rows at a time, and numbers: keeps float64 copies of a large data set out of memory
FLOOR = 1e-6  # of a channel's size: below it a float32 channel is constant but for rounding


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation per channel, over the values that are there.

    Attributes:
        mean, std: float64 [channels].
        count: float64 [channels], how many values are not NaN.
        values: how many there would be without NaN.
    """

    mean: Tensor
    std: Tensor
    count: Tensor
    values: int


class Modality:
    """One kind of rows. Subclass it, set ``kind`` and ``views``, and change what differs.

    As it stands it describes rows of numbers [channels, ...]: each channel is normalised by its mean and spread over
    the training rows, and a model is stored with these numbers.

    Attributes:
        kind: the kind's name; it is stored with every model.
        row, rows: what messages call one row and several of them.
        dtype: of raw rows, as a source gives them.
        dimensions: of one raw row.
        has_tokens: whether a source of such rows has ``tokens``.
        encodable: whether a frozen encoder of images or texts takes such rows.
        model: the network that ``model=auto`` means; "auto" chooses by the shape of a row.
    """

    kind: Kind = ""
    row: str = "row"
    rows: str = "rows"
    dtype: torch.dtype = torch.float32
    dimensions: int = 2
    has_tokens: bool = False
    encodable: bool = False
    model: str = "auto"

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> Views:
        """Return what makes plain, weak and strong views of raw rows."""
        raise NotImplementedError(f"{type(self).__name__} needs views(config, preprocessing)")

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        """Fit the preprocessing on the rows at ``index``, each of ``shape``; a constant channel gets std 1."""
        moments = self.moments(source, index, shape)
        std = torch.where(moments.std <= FLOOR * moments.mean.abs(), torch.ones_like(moments.std), moments.std)
        return Preprocessing(self.kind, shape, tuple(moments.mean.tolist()), tuple(std.tolist()))

    def values(self, rows: Tensor) -> Tensor:
        """Turn raw rows [n, channels, ...] into float64 [values, channels], on the scale that views normalise."""
        return rows.double().movedim(1, -1).reshape(-1, rows.shape[1])

    def moments(self, source: Source, index: Array, shape: tuple[int, ...]) -> Moments:
        """Measure mean and spread of ``values`` over the rows at ``index``, a chunk of rows at a time."""
        zeros = torch.zeros(shape[0], dtype=torch.float64)
        count, total, values = zeros.clone(), zeros.clone(), 0
        for chunk in self._chunks(source, index, shape):
            values += len(chunk)
            count += (~chunk.isnan()).sum(0)
            total += chunk.nansum(0)
        mean = total / count.clamp_min(1)
        # Second pass: the one-pass formula loses the spread of a feature whose mean is large.
        square = sum(((chunk - mean).square().nansum(0) for chunk in self._chunks(source, index, shape)), zeros)
        return Moments(mean, (square / count.clamp_min(1)).sqrt(), count, values)

    def _chunks(self, source: Source, index: Array, shape: tuple[int, ...]) -> Iterator[Tensor]:
        step = rows_at_once(shape, CHUNK, VALUES)
        for start in range(0, len(index), step):
            yield self.values(source.rows(index[start : start + step]))

    def to_dict(self, preprocessing: Preprocessing) -> dict[str, Any]:
        """Return plain JSON values, from which ``from_dict`` makes the preprocessing again."""
        p = preprocessing
        return {"kind": p.kind, "shape": list(p.shape), "mean": list(p.mean), "std": list(p.std)}

    def from_dict(self, stored: Mapping[str, Any]) -> Preprocessing:
        """Make what ``to_dict`` described.

        Raises:
            AttributeError, KeyError, TypeError, ValueError: a part is missing or damaged.
        """
        return Preprocessing(
            kind=self.kind,
            shape=tuple(int(k) for k in stored["shape"]),
            mean=tuple(float(v) for v in stored["mean"]),
            std=tuple(float(v) for v in stored["std"]),
        )

    def is_sound(self, preprocessing: Preprocessing) -> bool:
        """Whether the parts of a preprocessing fit each other."""
        p = preprocessing
        if len(p.shape) != self.dimensions or not p.shape[0] == len(p.mean) == len(p.std):
            return False
        return min(p.std) > 0

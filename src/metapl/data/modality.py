"""``Modality``: one record per kind of rows. It holds everything that depends on the kind, so that no other module asks
for it.

``data.modalities`` has the table of records and ``register_modality`` for kinds of your own; see docs/modalities.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.batches.views import ViewConfig, Views
from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.memory.tensors import read_numbers
from metapl.data.row_checks import RowChecks, plural
from metapl.errors import UserError
from metapl.types import Array, Kind, Preprocessing, Source
from metapl.utils.chunks import rows_at_once

CHUNK, VALUES = 4096, 2**25  # rows at a time, and numbers: keeps float64 copies of a large data set out of memory
SHOWN = 8  # channels of a row that are shown
FLOOR = 1e-6  # of a channel's size: below it a float32 channel is constant but for rounding


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation per channel, without missing values.

    Attributes:
        mean, std: float64 [channels].
        count: float64 [channels], number of values that are not NaN.
        values: number of values with NaN, per channel.
    """

    mean: Tensor
    std: Tensor
    count: Tensor
    values: int


@dataclass(frozen=True)
class ArrayOptions:
    """How rows in memory become raw rows: the arguments of ``from_arrays`` that concern single kinds.

    Attributes:
        tokenizer, max_tokens: texts: as the settings ``source.text.tokenizer`` and ``source.text.max_tokens``.
        images: images: size and resize.
        features: tables: the columns of a DataFrame to use; () = all that are possible.
        copy: without it the rows may share the memory of the array that was given.
    """

    tokenizer: str = "auto"
    max_tokens: int | str = "auto"
    images: ImageOptions = OWN_SIZE
    features: tuple[str, ...] = ()
    copy: bool = True


@dataclass
class RawRows:
    """Raw rows of one or several parts (X, X_unlabeled, X_test), with notes and facts about them.

    Attributes:
        tensors: by part, [n, ...], all rows of one shape.
        notes: notes for the user on how the rows were read.
        facts: further arguments of ``MemorySource``: columns, tokens, resize, white, resized.
    """

    tensors: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class Modality:
    """One kind of rows. Subclass it, set ``kind`` and ``views``, and change what differs.

    The base class describes rows of numbers [channels, ...]: each channel is normalised by its mean and spread over the
    training rows, and a model is stored with these numbers.

    Attributes:
        kind: the kind's name; it is stored with every model.
        row, rows: the names of one row and of several rows in messages.
        dtype: of raw rows, as a source gives them.
        dimensions: of one raw row.
        has_tokens: whether a source of such rows has ``tokens``.
        encodable: whether a frozen encoder takes such rows: uint8 [channels, height, width], or ids with ``tokens``.
        sized: whether such rows are read from image files and brought to the setting ``source.image.size``.
        has_form: whether ``from_arrays`` tells such rows from others by their dimensions; others are asked for by name.
        checks: the checks of ``metapl check`` for such rows.
        model: the network for ``model=auto``; "auto" chooses by the shape of a row.
        steps: the number of steps for ``steps=0``.
        few_labels: with fewer labelled rows in every class, ``split.validation=auto`` trains on all of them.
        fitted_baselines: whether the guard compares a method with a linear model and a forest, and trains no network.
    """

    kind: Kind = ""
    row: str = "row"
    rows: str = "rows"
    dtype: torch.dtype = torch.float32
    dimensions: int = 2
    has_tokens: bool = False
    encodable: bool = False
    sized: bool = False
    has_form: bool = False
    checks: RowChecks = RowChecks()
    model: str = "auto"
    steps: int = 1000
    few_labels: int = 0
    fitted_baselines: bool = False

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> Views:
        """Return the maker of plain, weak and strong views of raw rows."""
        raise NotImplementedError(f"{type(self).__name__} needs views(config, preprocessing)")

    def read(self, parts: Mapping[str, Any], options: ArrayOptions) -> RawRows:
        """Read training rows in memory; ``parts`` has X and may have X_unlabeled and X_test. Nothing is written to.

        Raises:
            UserError: values that are not finite numbers, or rows of another number of dimensions.
        """
        tensors = {name: self._numbers(part, name) for name, part in parts.items()}
        check_one_shape(tensors)
        return RawRows(tensors)

    def read_new(self, X: Any, preprocessing: Preprocessing, name: str, tell: Callable[[str], None]) -> Tensor:
        """Read new rows in memory for a trained model, with nothing fitted on them.

        Args:
            X: as a part of ``read``.
            preprocessing: the model's own.
            name: the name of ``X`` in messages.
            tell: called with notes on likely mistakes.

        Raises:
            UserError: as ``read``. The caller checks the shape.
        """
        return self._numbers(X, name)

    def _numbers(self, X: Any, name: str) -> Tensor:
        array = read_numbers(X, name)
        if array.ndim != 1 + self.dimensions:
            what = f"it has {plural(array.ndim, 'dimension')}, {self.rows} have {1 + self.dimensions}"
            raise UserError(what, "The first is the number of rows.", name)
        rows = torch.from_numpy(np.array(array)).to(self.dtype)
        if not torch.isfinite(rows).all():
            raise UserError("it holds values that are not finite numbers", "Fill or remove them.", name)
        return rows

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

    def size(self, shape: tuple[int, ...]) -> str:
        """Return the size of one row of ``shape`` for messages, such as "3 x 32 x 32", or ""."""
        return " x ".join(map(str, shape))

    def show(self, source: Source, index: Array) -> list[dict[str, Any]]:
        """Show rows to people, one or more, without test rows, as plain JSON values.

        Returns:
            Per row ``{"image": data URI, "small": bool}``, ``{"text": str}`` or ``{"cells": [[name, value], ...]}``.
            The base class gives cells with the range of each channel.
        """
        return [{"cells": _ranges(row)} for row in source.rows(index)]

    def to_dict(self, preprocessing: Preprocessing) -> dict[str, Any]:
        """Return plain JSON values for ``from_dict``."""
        p = preprocessing
        return {"kind": p.kind, "shape": list(p.shape), "mean": list(p.mean), "std": list(p.std)}

    def from_dict(self, stored: Mapping[str, Any]) -> Preprocessing:
        """Return the preprocessing that ``to_dict`` described.

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
        """Return whether the parts of a preprocessing fit each other."""
        p = preprocessing
        if len(p.shape) != self.dimensions or not p.shape[0] == len(p.mean) == len(p.std):
            return False
        return min(p.std) > 0


def check_one_shape(tensors: Mapping[str, Tensor]) -> None:
    """Refuse parts whose rows have different shapes.

    Raises:
        UserError: it names the part that differs from X.
    """
    wanted = tensors["X"].shape[1:]
    for name, tensor in tensors.items():
        if tensor.shape[1:] != wanted:
            what = f"its rows have shape {tuple(tensor.shape[1:])}, those of X {tuple(wanted)}"
            raise UserError(what, "Bring them to one shape.", name)


def _ranges(row: Tensor) -> list[list[str]]:
    """Return the range of each channel of a row [channels, ...] of numbers."""
    numbers = row.double().flatten(1)
    cells = [[f"channel {k + 1}", f"{v.min():.3g} to {v.max():.3g}"] for k, v in enumerate(numbers[:SHOWN])]
    return [*cells, ["shape", " x ".join(map(str, row.shape))]]

"""Some rows of a source as a source of their own; rows are read when asked for."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from metapl.data.traits import traits
from metapl.types import Array, Column, Kind, Source, Tokens


class Subset:
    """A ``types.Source`` over the rows ``index`` of ``source``, without test rows, with ``labels`` of its own."""

    def __init__(self, source: Source, index: Array, labels: Array) -> None:
        self._source, self._index = source, np.asarray(index, dtype=np.int64)
        self.name, self.class_names = source.name, source.class_names
        self.kind: Kind = source.kind
        self.columns: tuple[Column, ...] = source.columns
        self.tokens: Tokens | None = source.tokens
        self.ids = tuple(source.ids[k] for k in self._index.tolist())
        self.labels, self.is_test = np.asarray(labels, dtype=np.int64), np.zeros(len(self._index), dtype=bool)
        self.problems, self.notes = source.problems, source.notes
        own = traits(source)
        self.lazy, self.prefetch, self.resize, self.white = own.lazy, own.prefetch, own.resize, own.white
        self.levels = own.levels

    def rows(self, index: Array) -> Tensor:
        """Return the rows at ``index``, as the source gives them."""
        return self._source.rows(self._index[index])

    def readable(self, index: Array) -> Array:
        """Return the rows in ``index`` that the source can read."""
        index = np.asarray(index, dtype=np.int64)
        return index[np.isin(self._index[index], self._source.readable(self._index[index]))]

    def fingerprint(self) -> str:
        """Return the source's fingerprint; the split's hash covers the choice of rows."""
        return self._source.fingerprint()

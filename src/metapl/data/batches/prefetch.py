"""Rows read before they are needed, in one background thread."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from torch import Tensor

from metapl.types import Array


class Prefetch:
    """Gives ``read(index)``, often without a wait, since the rows were read in the background.

    The rows are the same, read in the background or not. The thread begins with the first ``want`` and ends with the
    object, so that nothing has to be closed at the end of a training.
    """

    def __init__(self, read: Callable[[Array], Tensor]) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="metapl prefetch")
        self._pieces: dict[Hashable, Future[Tensor]] = {}

    def want(self, pieces: Mapping[Hashable, Array]) -> None:
        """Read ``pieces`` (index by key) in the background, in this order; drop earlier pieces."""
        for key in self._pieces.keys() - pieces.keys():
            self._pieces.pop(key).cancel()
        for key, index in pieces.items():
            if key not in self._pieces:
                self._pieces[key] = self._pool.submit(self._read, index)

    def take(self, key: Hashable, index: Array) -> Tensor:
        """Return the rows at ``index``: from the background under ``key``, or read now.

        Raises:
            Whatever ``read`` raises.
        """
        piece = self._pieces.pop(key, None)
        if piece is None or piece.cancel():  # not wanted before, or not begun yet
            return self._read(index)
        return piece.result()

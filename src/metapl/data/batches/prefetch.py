"""Rows read ahead of the need, in a thread that ends by itself when nothing more is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

Array = np.ndarray[Any, Any]


class Ahead:
    """Gives ``read(index)``, often before anyone has to wait for it.

    What is read does not depend on whether, or when, it was read ahead. At most one thread is at work, for no longer
    than it takes to read what was wanted last; none is left waiting for work, so that nothing has to be closed,
    whatever ends a training.
    """

    def __init__(self, read: Callable[[Array], Tensor]) -> None:
        self._read = read
        self._change = threading.Condition()
        self._waiting: dict[Hashable, Array] = {}
        self._done: dict[Hashable, Tensor | BaseException] = {}
        self._busy: Hashable = None
        self._running = False

    def want(self, pieces: Mapping[Hashable, Array]) -> None:
        """Read ``pieces`` (index by key) in the background, in this order; drop what else was wanted before."""
        with self._change:
            self._done = {key: rows for key, rows in self._done.items() if key in pieces}
            self._waiting = {k: i for k, i in pieces.items() if k not in self._done and k != self._busy}
            if not self._waiting or self._running:
                return
            self._running = True
        threading.Thread(target=self._work, name="metapl reads ahead").start()

    def take(self, key: Hashable, index: Array) -> Tensor:
        """The rows at ``index``, as wanted under ``key`` or read now.

        Raises:
            Whatever ``read`` raises.
        """
        with self._change:
            self._change.wait_for(lambda: self._busy != key)
            self._waiting.pop(key, None)
            rows = self._done.pop(key, None)
        if isinstance(rows, BaseException):
            raise rows
        return self._read(index) if rows is None else rows

    def _work(self) -> None:
        while True:
            with self._change:
                self._busy = next(iter(self._waiting), None)
                self._change.notify_all()
                if self._busy is None:
                    self._running = False
                    return
                key, index = self._busy, self._waiting.pop(self._busy)
            try:
                rows: Tensor | BaseException = self._read(index)
            except BaseException as error:  # raised again where the rows are taken
                rows = error
            with self._change:
                self._done[key] = rows

"""Stored images, by file or by their bytes, as rows of one shape: held in memory, or decoded when they are needed.

What must be known before a training, which of its images can be read and what their files hold, is found out at
opening, in one pass of decoding threads; held images are kept in that pass. Other images (test rows) are opened when
asked for. Files are only read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.image_options import GIB, Heads, ImageOptions
from metapl.data.images import PIECE, Decoded, Stored, Unreadable, decode_many, digest_of_file, probe

Array = np.ndarray[Any, Any]
KEPT_BYTES = GIB  # decoded rows beyond the training rows that are kept for the next call
UNKNOWN, GOOD, BAD = 0, 1, 2


@dataclass(frozen=True)
class Known:
    """What a finished run knows of its images, so that they need not be decoded to be judged again.

    Attributes:
        shape: (channels, height, width) of its rows.
        unreadable: the reason by id of each image that was left out.
    """

    shape: tuple[int, int, int]
    unreadable: Mapping[str, str]

    def at(self, ids: Sequence[str]) -> dict[int, str]:
        """The reasons by position in ``ids``."""
        return {k: self.unreadable[i] for k, i in enumerate(ids) if i in self.unreadable}


@dataclass
class Facts:
    """What is known of the training images, one entry each.

    Attributes:
        state: [n] int8, ``UNKNOWN``, ``GOOD`` or ``BAD``.
        hashed: [n] bool, whether ``digest`` holds the file's SHA-256.
        digest: [n, 32] uint8.
        head: [n, 3] int32: height, width, grey?
        reason: position -> why it cannot be read.
    """

    state: Array
    hashed: Array
    digest: Array
    head: Array
    reason: dict[int, str]

    @classmethod
    def none(cls, count: int) -> Facts:
        """Nothing is known of ``count`` images."""
        flags, numbers = np.zeros(count, dtype=np.int8), np.zeros((count, 3), dtype=np.int32)
        return cls(flags, np.zeros(count, dtype=bool), np.zeros((count, 32), dtype=np.uint8), numbers, {})

    def enter(self, k: int, result: Decoded | Unreadable) -> None:
        """What decoding image ``k`` has shown."""
        if isinstance(result, Unreadable):
            self.state[k], self.reason[k] = BAD, str(result)
            return
        self.state[k], self.head[k] = GOOD, result.head
        self.set_digest(k, result.digest)

    def set_digest(self, k: int, digest: bytes) -> None:
        """The SHA-256 of image ``k``'s file."""
        self.digest[k], self.hashed[k] = np.frombuffer(digest, dtype=np.uint8), True


class ImageStore:
    """``items[k]`` as row k, uint8 [channels, height, width].

    Args:
        items: file paths (joined to ``root``) or bytes; any sequence, also one that reads its items when asked.
        count: the first ``count`` items are training images, which are examined now; those that cannot be read stand in
            ``facts``. The others are opened when asked for.
        root: folder that the paths are in.
        known: by position, if nothing is to be decoded now: the shape, and why some cannot be read.

    Attributes:
        shape: of one row. note: what a user should know about it.
        kept: [m] int64, the training images that can be read.
        lazy: whether these are decoded when needed, because all of them would not fit into ``options.memory``.
    """

    def __init__(
        self,
        items: Sequence[str | bytes],
        count: int,
        *,
        root: str = "",
        options: ImageOptions | None = None,
        known: tuple[tuple[int, int, int], Mapping[int, str]] | None = None,
    ) -> None:
        self.items, self.count, self.root = items, count, root
        self.options = options or ImageOptions()
        self.facts = Facts.none(count)
        self._data: Tensor | None = None
        self._others: dict[int, Tensor | Unreadable] = {}
        if known is not None:
            self.shape, self.note = known[0], ""
            self.facts.state[:] = GOOD
            self.facts.state[list(known[1])] = BAD
            self.facts.reason.update(known[1])
        else:
            self.shape, self.note = self._examine()
        self.kept = np.flatnonzero(self.facts.state == GOOD)
        self.lazy = not self.options.fits(len(self.kept), self.shape)
        self._row = np.full(len(items), -1, dtype=np.int64)  # of an image in the held tensor
        if not self.lazy:
            self._row[self.kept] = np.arange(len(self.kept))

    def held(self) -> Tensor | None:
        """The training images that can be read, [m, ...] in the order of ``kept``; None where they are not held.

        Raises:
            Unreadable: one of them can no longer be read.
        """
        if self.lazy:
            return None
        if self._data is None:
            self._data = self._load()
        return self._data

    def rows(self, index: Array) -> Tensor:
        """The images at ``index``, [n, channels, height, width], as a copy.

        Raises:
            Unreadable: one of them cannot be read; its ``args[1]`` is the position.
        """
        index = np.asarray(index, dtype=np.int64)
        at = self._row[index]
        there = at >= 0
        data = self.held() if there.any() else None
        if data is not None and there.all():
            return data[torch.from_numpy(at)]
        rows = torch.empty((len(index), *self.shape), dtype=torch.uint8)
        if data is not None:
            rows[torch.from_numpy(there)] = data[torch.from_numpy(at[there])]
        places = np.flatnonzero(~there)
        for place, result in zip(places.tolist(), self._opened(index[places]), strict=True):
            if isinstance(result, Unreadable):
                raise Unreadable(str(result), int(index[place]))
            rows[place] = result
        return rows

    def readable(self, index: Array) -> dict[int, str]:
        """Why those of ``index`` that cannot be read cannot; images not yet opened are opened to find out."""
        index = np.asarray(index, dtype=np.int64)
        reasons = {k: self.facts.reason[k] for k in index[index < self.count].tolist() if k in self.facts.reason}
        others = index[index >= self.count]
        for k, result in zip(others.tolist(), self._opened(others), strict=True):
            if isinstance(result, Unreadable):
                reasons[k] = str(result)
        return reasons

    def digests(self) -> Iterator[bytes]:
        """SHA-256 of the training images' files, in the order of ``kept``; what is not known is read now."""
        for k in self.kept.tolist():
            if not self.facts.hashed[k]:
                try:
                    self.facts.set_digest(k, digest_of_file(self._stored(k)))
                except Unreadable:  # gone since the run: another digest, so the change is noticed
                    self.facts.set_digest(k, bytes(32))
            yield self.facts.digest[k].tobytes()

    def size(self, k: int) -> int:
        """Bytes of item ``k``; 0 where there is no such file."""
        stored = self._stored(k)
        try:
            return len(stored) if isinstance(stored, bytes) else os.stat(stored).st_size
        except (OSError, ValueError):
            return 0

    def _stored(self, k: int) -> Stored:
        item = self.items[k]
        return os.path.join(self.root, item) if isinstance(item, str) else item

    def _examine(self) -> tuple[tuple[int, int, int], str]:
        """Decode what is not known yet, keep the pixels if all is new and fits, and find the common shape.

        The shape is guessed from the images seen; where a later one proves the guess wrong, held pixels start anew.
        That happens twice at most: another size, and the first colour.
        """
        heads, facts, options = Heads(), self.facts, self.options
        for head in facts.head[facts.state == GOOD].tolist():
            heads.add(head[0], head[1], bool(head[2]))
        todo = np.flatnonzero(facts.state == UNKNOWN)
        if not heads.sizes:
            self._first_head(todo, heads)
        keep = len(todo) == self.count
        while True:
            shape = heads.shape(options)
            held = keep and options.fits(self.count, shape)
            data = torch.empty((self.count, *shape), dtype=torch.uint8) if held else None
            good = 0
            for k, result in zip(todo.tolist(), self._decoded(todo, shape, with_digest=True)):
                facts.enter(k, result)
                if isinstance(result, Unreadable):
                    continue
                heads.add(*result.head)
                if data is not None:
                    if heads.shape(options) != shape:
                        break
                    data[good] = result.pixels
                    good += 1
            else:
                self._data = None if data is None else data[:good]
                return heads.shape(options), heads.note(options)

    def _first_head(self, todo: Array, heads: Heads) -> None:
        """A first guess of the shape, from the first header that can be read."""
        for k in todo.tolist():
            head = probe(self._stored(k))
            if head is not None:
                return heads.add(*head)

    def _decoded(
        self, index: Array, shape: tuple[int, int, int], with_digest: bool = False
    ) -> Iterator[Decoded | Unreadable]:
        """The images at ``index``, a piece at a time: not all paths or bytes are made at once."""
        for start in range(0, len(index), PIECE):
            stored = [self._stored(k) for k in index[start : start + PIECE].tolist()]
            yield from decode_many(stored, shape, resize=self.options.resize, with_digest=with_digest)

    def _load(self) -> Tensor:
        data = torch.empty((len(self.kept), *self.shape), dtype=torch.uint8)
        for row, result in enumerate(self._decoded(self.kept, self.shape)):
            if isinstance(result, Unreadable):
                raise Unreadable(str(result), int(self.kept[row]))
            data[row] = result.pixels
        return data

    def _opened(self, index: Array) -> Iterator[Tensor | Unreadable]:
        """Images that are not held, in the order of ``index``; those beyond the training images are kept."""
        room = KEPT_BYTES // int(np.prod(self.shape))
        missing = np.array([k for k in dict.fromkeys(index.tolist()) if k not in self._others], dtype=np.int64)
        now: dict[int, Tensor | Unreadable] = {}
        for k, result in zip(missing.tolist(), self._decoded(missing, self.shape), strict=True):
            now[k] = result if isinstance(result, Unreadable) else result.pixels
            if k >= self.count and len(self._others) < room:
                self._others[k] = now[k]
        for k in index.tolist():
            yield now[k] if k in now else self._others[k]

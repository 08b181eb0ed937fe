"""Stored images (files or bytes) as rows of one shape: held in memory, or decoded when needed.

Opening examines all training images in one pass of decoding threads: which can be read, and the hashes of their files.
Images to be held are kept in that pass. Other images (test rows) are opened when asked for. Files are only read.
"""

from __future__ import annotations

import math
import os
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metapl.data.images.cache import ImageCache
from metapl.data.images.decode import PIECE, Decoded, Stored, Unreadable, decode_many, digest_of_file, header, probe
from metapl.data.images.facts import BAD, GOOD, UNKNOWN, Facts
from metapl.data.images.levels import beyond, levels_of
from metapl.data.images.options import GIB, ImageOptions, SizeStats
from metapl.types import Array, Levels

KEPT_BYTES = GIB // 32  # of decoded rows beyond the held ones that are kept for the next call: those of one chunk
SLOW, BETWEEN = 3.0, 10.0  # seconds of decoding after which something is said, and between two lines
LOOKED_AT = 20  # new images that are compared with the levels of the training
WORTH = 1.0  # seconds of decoding above which the pixels are worth a place in the cache


@dataclass(frozen=True)
class Known:
    """Facts that a finished run stored of its images, so that they need not be decoded to be opened again.

    Attributes:
        shape: (channels, height, width) of its rows.
        unreadable: the reason by id of each image that was left out.
    """

    shape: tuple[int, int, int]
    unreadable: Mapping[str, str]

    def at(self, ids: Sequence[str]) -> dict[int, str]:
        """Return the reasons by position in ``ids``."""
        return {k: self.unreadable[i] for k, i in enumerate(ids) if i in self.unreadable}


class ImageStore:
    """``items[k]`` as row k, uint8 [channels, height, width].

    Args:
        items: file paths (joined to ``root``) or bytes; any sequence, also one that reads its items when asked.
        count: the first ``count`` items are training images, which are examined now; ``facts`` holds the unreadable
            ones. The others are opened when asked for.
        root: folder that the paths are in.
        known: the shape, and the reasons of unreadable images by position; then nothing is decoded now.
        cache: stored facts of an earlier opening; items must then be paths.
        levels: the range that becomes 0..255 in images with more than 8 bits; None: that of the training images.
        progress: called with progress messages when decoding takes long.

    Attributes:
        shape: of one row. note: what a user should know about it.
        levels: as found or given.
        kept: [m] int64, the training images that can be read.
        lazy: whether training images are decoded when needed, because they do not fit into ``options.memory``.
    """

    def __init__(
        self,
        items: Sequence[str | bytes],
        count: int,
        *,
        root: str = "",
        options: ImageOptions | None = None,
        known: tuple[tuple[int, int, int], Mapping[int, str]] | None = None,
        cache: ImageCache | None = None,
        progress: Callable[[str], None] | None = None,
        levels: Levels | None = None,
    ) -> None:
        self._progress, self._fits_levels, self.levels = progress, levels is None, levels or Levels()
        self.items, self.count, self.root, self.cache = items, count, root, cache
        self.options = options or ImageOptions(cache=False)
        names = [str(items[k]) for k in range(count)] if cache is not None else []
        self.facts = Facts.none(count) if cache is None else cache.facts(root, names)
        self._tried_cache = cache is None
        self._data: Tensor | None = None
        self._others: dict[int, Tensor | Unreadable] = {}  # opened beyond the held rows
        self.kept_in = ""  # where pixels were put for the next time
        self.note = ""
        if known is not None and (not count or (self.facts.state == UNKNOWN).any()):
            self.shape = known[0]
            self.facts.state[self.facts.state == UNKNOWN] = GOOD
            self.facts.state[list(known[1])] = BAD
            self.facts.reason.update(known[1])
        else:
            self.shape = self._examine()
        self.kept = np.flatnonzero(self.facts.state == GOOD)
        self.lazy = not self.options.fits(len(self.kept), self.shape)
        self._row = np.full(len(items), -1, dtype=np.int64)  # of an image in the held tensor
        if not self.lazy:
            self._row[self.kept] = np.arange(len(self.kept))

    def held(self) -> Tensor | None:
        """Return the readable training images, [m, ...] in the order of ``kept``; None if they are not held.

        Raises:
            Unreadable: one of them can no longer be read.
        """
        if self.lazy:
            return None
        if self._data is None:
            self._data = self._load()
        return self._data

    def rows(self, index: Array) -> Tensor:
        """Return the images at ``index``, [n, channels, height, width], as a copy.

        Of the training images that were not decoded yet, only these are decoded.

        Raises:
            Unreadable: one of them cannot be read; its ``args[1]`` is the position.
        """
        index = np.asarray(index, dtype=np.int64)
        at = self._row[index]
        most = (at >= 0).sum() > len(self.kept) // 2
        data = self.held() if most else self._at_hand() if (at >= 0).any() else None
        there = at >= 0 if data is not None else np.zeros(len(index), dtype=bool)
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
        """Return the reasons of unreadable images in ``index``; images not yet opened are opened to find out."""
        index = np.asarray(index, dtype=np.int64)
        reasons = {k: self.facts.reason[k] for k in index[index < self.count].tolist() if k in self.facts.reason}
        others = index[index >= self.count]
        for k, result in zip(others.tolist(), self._opened(others), strict=True):
            if isinstance(result, Unreadable):
                reasons[k] = str(result)
        return reasons

    def beyond_levels(self) -> str:
        """Return a note on images whose values lie beyond ``levels``; the first ``LOOKED_AT`` are read."""
        return beyond(self._first_images(), self.levels) if any(self.levels) else ""

    def _first_images(self) -> Iterator[Image.Image]:
        for k in range(min(LOOKED_AT, len(self.items))):
            with suppress(Unreadable), header(self._stored(k)) as image:
                yield image

    def digests(self) -> Iterator[bytes]:
        """Return the SHA-256 of the training images' files, in the order of ``kept``; missing ones are computed now."""
        for k in self.kept.tolist():
            if not self.facts.hashed[k]:
                try:
                    self.facts.set_digest(k, digest_of_file(self._stored(k)))
                except Unreadable:  # gone since the run: another digest, so the change is noticed
                    self.facts.set_digest(k, bytes(32))
            yield self.facts.digest[k].tobytes()

    def size(self, k: int) -> int:
        """Return the size of item ``k`` in bytes; 0 if the file is missing."""
        stored = self._stored(k)
        try:
            return len(stored) if isinstance(stored, bytes) else os.stat(stored).st_size
        except (OSError, ValueError):
            return 0

    def _stored(self, k: int) -> Stored:
        item = self.items[k]
        return os.path.join(self.root, item) if isinstance(item, str) else item

    def _examine(self) -> tuple[int, int, int]:
        """Decode images without facts, keep their pixels if all are new and fit into memory, and find the common shape.

        The shape is guessed from the first images; if a later one contradicts it, held pixels are decoded again.
        This happens three times at most: for another size, for the first colour image, and for images with more than 8
        bits, whose range is known at the end.
        """
        stats, facts, options, began = SizeStats(), self.facts, self.options, time.monotonic()
        for height, width, grey in np.unique(facts.head[facts.state == GOOD], axis=0).tolist():
            stats.add(height, width, bool(grey))
        todo = np.flatnonzero(facts.state == UNKNOWN)
        if not stats.sizes:
            self._first_head(todo, stats)
        self._find_levels()
        while not self._decode(todo, stats):
            pass
        shape, self.note = stats.shape(options), stats.note(options)
        if self.cache is not None:
            self.cache.keep_facts(facts)
            if self._data is not None and time.monotonic() - began > WORTH:
                self._keep_pixels(shape, facts.digest[facts.state == GOOD], self._data)
        return shape

    def _decode(self, todo: Array, stats: SizeStats) -> bool:
        """Enter the facts of the images at ``todo``; return False if they contradict the guessed shape."""
        shape = stats.shape(self.options)
        held = len(todo) == self.count and self.options.fits(self.count, shape)
        data = torch.empty((self.count, *shape), dtype=torch.uint8) if held else None
        good, next_word = 0, time.monotonic() + SLOW
        for done, (k, result) in enumerate(zip(todo.tolist(), self._decoded(todo, shape, examine=True))):
            if self._progress is not None and time.monotonic() > next_word:
                self._progress(f"{done} of {len(todo)} images are decoded")
                next_word = time.monotonic() + BETWEEN
            self.facts.enter(k, result)
            if isinstance(result, Unreadable):
                continue
            stats.add(*result.head)
            if data is not None:
                if stats.shape(self.options) != shape:
                    return False
                data[good] = result.pixels
                good += 1
        before = self.levels
        self._find_levels()
        if data is not None and self.levels != before:
            return False
        self._data = None if data is None else data[:good]
        return True

    def _find_levels(self) -> None:
        """Find the range of the training images with more than 8 bits among those decoded so far."""
        if self._fits_levels:
            self.levels = levels_of(self.facts.span[self.facts.state == GOOD])

    def _first_head(self, todo: Array, stats: SizeStats) -> None:
        """Return a first guess of the shape, from the first header that can be read."""
        for k in todo.tolist():
            head = probe(self._stored(k), max(self.options.auto_sides))
            if head is not None:
                return stats.add(*head)

    def _decoded(
        self, index: Array, shape: tuple[int, int, int], examine: bool = False
    ) -> Iterator[Decoded | Unreadable]:
        """Yield the images at ``index``, a piece at a time: not all paths or bytes are made at once."""
        for start in range(0, len(index), PIECE):
            stored = [self._stored(k) for k in index[start : start + PIECE].tolist()]
            how: dict[str, Any] = {"resize": self.options.resize, "levels": self.levels}
            yield from decode_many(stored, shape, with_digest=examine, fit=examine and self._fits_levels, **how)

    def _at_hand(self) -> Tensor | None:
        """Return the held rows if this decodes nothing."""
        if self._data is None and not self._tried_cache:
            self._tried_cache = True
            mapped = self._mapped()
            if mapped is not None and (mapped[1] >= 0).all():
                self._data = torch.from_numpy(_in_order(*mapped))
        return self._data

    def _load(self) -> Tensor:
        """Return all held rows, from the cache where possible."""
        data = self._at_hand()
        if data is not None:
            return data
        began, mapped = time.monotonic(), self._mapped()
        data = torch.empty((len(self.kept), *self.shape), dtype=torch.uint8)
        missing = np.arange(len(self.kept))
        if mapped is not None:
            there = mapped[1] >= 0
            data[torch.from_numpy(there)] = torch.from_numpy(mapped[0][mapped[1][there]])
            missing = np.flatnonzero(~there)
        for row, result in zip(missing.tolist(), self._decoded(self.kept[missing], self.shape)):
            if isinstance(result, Unreadable):
                raise Unreadable(str(result), int(self.kept[row]))
            data[row] = result.pixels
        if self.facts.hashed[self.kept].all() and time.monotonic() - began > WORTH:
            self._keep_pixels(self.shape, self.facts.digest[self.kept], data)
        return data

    def _form(self, shape: tuple[int, int, int]) -> str:
        levels = f"_{zlib.crc32(repr(self.levels).encode()):08x}" if any(self.levels) else ""
        return f"{'x'.join(map(str, shape))}_{self.options.resize}{levels}"

    def _mapped(self) -> tuple[Array, Array] | None:
        """Return decoded rows of the cache, and each kept image's position in them."""
        if self.cache is None or not self.facts.hashed[self.kept].all():
            return None
        return self.cache.pixels(self._form(self.shape), self.facts.digest[self.kept])

    def _keep_pixels(self, shape: tuple[int, int, int], digests: Array, data: Tensor) -> None:
        if self.cache is not None:
            self.kept_in = self.cache.keep_pixels(self._form(shape), digests, data)

    def _opened(self, index: Array) -> Iterator[Tensor | Unreadable]:
        """Yield images that are not held, in the order of ``index``, a piece at a time; the last ones are kept for a
        while.

        They are asked for twice: whether they can be read, then for their rows.
        """
        room = max(1, KEPT_BYTES // math.prod(self.shape))
        for start in range(0, len(index), PIECE):
            wanted = index[start : start + PIECE].tolist()
            missing = np.array([k for k in dict.fromkeys(wanted) if k not in self._others], dtype=np.int64)
            at_hand = {k: self._others[k] for k in wanted if k in self._others}
            for k, result in zip(missing.tolist(), self._decoded(missing, self.shape), strict=True):
                at_hand[k] = result if isinstance(result, Unreadable) else result.pixels
                if not (self.lazy and k < self.count):
                    self._others[k] = at_hand[k]
                    if len(self._others) > room:
                        del self._others[next(iter(self._others))]
            for k in wanted:
                yield at_hand[k]


def _in_order(rows: Array, at: Array) -> Array:
    """Return ``rows[at]``, without a copy if that is all rows in order."""
    return rows if len(at) == len(rows) and (at == np.arange(len(at))).all() else rows[at]

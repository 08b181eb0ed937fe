"""Facts about stored images that are known before their pixels are used."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from metapl.data.images.decode import Decoded, Unreadable
from metapl.data.images.levels import NO_SPAN
from metapl.types import Array

UNKNOWN, GOOD, BAD = 0, 1, 2


@dataclass
class Facts:
    """One entry per image.

    Attributes:
        state: [n] int8, ``UNKNOWN``, ``GOOD`` or ``BAD``.
        hashed: [n] bool, whether ``digest`` holds the file's SHA-256.
        digest: [n, 32] uint8.
        head: [n, 3] int32: height, width, grey?
        span: [n, 4] float64, see ``levels.NO_SPAN``.
        reason: position -> why the image cannot be read.
        fleeting: positions whose reason may pass while the file stays the same (no permission, no memory).
    """

    state: Array
    hashed: Array
    digest: Array
    head: Array
    span: Array
    reason: dict[int, str] = field(default_factory=dict)
    fleeting: set[int] = field(default_factory=set)

    @classmethod
    def none(cls, count: int) -> Facts:
        """Return facts without an entry for ``count`` images."""
        flags, numbers = np.zeros(count, dtype=np.int8), np.zeros((count, 3), dtype=np.int32)
        digests, spans = np.zeros((count, 32), dtype=np.uint8), np.tile(np.array(NO_SPAN), (count, 1))
        return cls(flags, np.zeros(count, dtype=bool), digests, numbers, spans)

    def enter(self, k: int, result: Decoded | Unreadable) -> None:
        """Enter the result of decoding image ``k``."""
        if isinstance(result, Unreadable):
            self.state[k], self.reason[k] = BAD, str(result)
            if not result.lasting:
                self.fleeting.add(k)
            return
        self.state[k], self.head[k], self.span[k] = GOOD, result.head, result.span
        self.set_digest(k, result.digest)

    def set_digest(self, k: int, digest: bytes) -> None:
        """Enter the SHA-256 of image ``k``'s file."""
        self.digest[k], self.hashed[k] = np.frombuffer(digest, dtype=np.uint8), True

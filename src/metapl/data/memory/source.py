"""A source whose rows all lie in one tensor."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metapl.data.modalities import modality_of
from metapl.types import NO_LEVELS, Array, Column, Kind, Levels, Resize, Tokens


def digest_of(
    ids: Iterable[str], labels: Array, is_test: Array, class_names: Iterable[str], contents: Iterable[bytes]
) -> str:
    """Return the SHA-256 (hex) over ids, labels, test flags, class names and contents, each with its length."""
    digest = hashlib.sha256(b"metapl source 1")
    for texts in (ids, class_names):
        for text in texts:
            raw = text.encode("utf-8", "surrogateescape")
            digest.update(len(raw).to_bytes(8, "little") + raw)
        digest.update(b"|")
    digest.update(np.ascontiguousarray(labels, dtype="<i8").tobytes())
    digest.update(np.ascontiguousarray(is_test, dtype=np.uint8).tobytes())
    for chunk in contents:
        digest.update(len(chunk).to_bytes(8, "little"))
        digest.update(chunk)
    return digest.hexdigest()


def tensor_bytes(data: Tensor, rows: int = 4096) -> Iterable[bytes]:
    """Yield shape and contents of ``data`` as bytes, ``rows`` rows at a time."""
    yield f"{data.dtype} {tuple(data.shape)}".encode()
    for start in range(0, len(data), rows):
        yield data[start : start + rows].contiguous().numpy().tobytes()


@dataclass(eq=False, repr=False)
class MemorySource:
    """A ``types.Source`` over a tensor on the CPU; treat it as frozen.

    Attributes:
        data: [N, ...] raw rows as ``types`` has them: uint8 images, float32 tables, int32 texts; row k is ``data[k]``.

    Raises:
        ValueError: the parts do not fit each other (a mistake in the caller, not in the user's data).
    """

    name: str
    kind: Kind
    data: Tensor
    labels: Array
    class_names: tuple[str, ...]
    ids: tuple[str, ...] = ()
    is_test: Array = field(default_factory=lambda: np.zeros(0, dtype=bool))
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    columns: tuple[Column, ...] = ()
    tokens: Tokens | None = None
    resize: Resize = "cover"  # how images were brought to their shape, for new ones
    white: int = 0  # what white was in images of floats, 1 or 255, for new ones
    texts: Sequence[str] = ()  # texts as they were written, one per row, where they are at hand; for people to read
    resized: bool = False  # whether images were brought to their shape, so that new ones of other sizes are, too
    levels: Levels = NO_LEVELS  # of images with more than 8 bits
    widths: tuple[int, ...] = ()  # of a file without a header, as in ``ModelInput``
    _fingerprint: str = field(default="", init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.data)
        self.ids = self.ids or tuple(str(k) for k in range(count))
        if not len(self.is_test):
            self.is_test = np.zeros(count, dtype=bool)
        self.labels = np.asarray(self.labels, dtype=np.int64)
        modality = modality_of(self.kind)
        wanted = (modality.dtype, 1 + modality.dimensions)
        if (self.data.dtype, self.data.ndim) != wanted or self.data.device.type != "cpu":
            raise ValueError(f"{self.kind} rows must be a {wanted[0]} tensor with {wanted[1]} dimensions on the CPU")
        if not len(self.ids) == len(self.labels) == len(self.is_test) == count:
            raise ValueError("data, labels, ids and is_test must have the same length")
        if modality.has_tokens != (self.tokens is not None):
            raise ValueError("tokens belong to texts")
        if len(self.columns) not in (0, self.data.shape[1]):
            raise ValueError("there must be one of columns for each column of data")
        if len(set(self.ids)) != count:
            raise ValueError("ids must differ from row to row")
        if count and not -1 <= self.labels.min() <= self.labels.max() < len(self.class_names):
            raise ValueError(f"labels must be -1 or 0..{len(self.class_names) - 1}")

    def __repr__(self) -> str:
        form = "x".join(map(str, self.data.shape[1:]))
        return (
            f"MemorySource({self.name!r}, {len(self.data)} {self.kind} rows of {form}, {len(self.class_names)} classes)"
        )

    def rows(self, index: Array) -> Tensor:
        """Return the rows at ``index``, as a copy."""
        return self.data[torch.from_numpy(np.asarray(index, dtype=np.int64))]

    def readable(self, index: Array) -> Array:
        """Return all of ``index``: rows in memory can always be read."""
        return np.asarray(index, dtype=np.int64)

    def held(self) -> Tensor:
        """Return the tensor itself, so that a reader may index it without a copy; row k is row k of the source."""
        return self.data

    def fingerprint(self) -> str:
        """SHA-256 (hex) over ids, labels, class names and contents; computed once."""
        if not self._fingerprint:
            form = [repr((self.columns, self.tokens)).encode()] if self.columns or self.tokens else []
            contents = itertools.chain(form, tensor_bytes(self.data))
            self._fingerprint = digest_of(self.ids, self.labels, self.is_test, self.class_names, contents)
        return self._fingerprint

"""Folders of idx files, the form in which MNIST and Fashion-MNIST are published."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.images.resize import images_at
from metapl.data.memory.source import digest_of, tensor_bytes
from metapl.data.row_checks import plural
from metapl.errors import UserError
from metapl.types import Array, Column, Kind, Tokens
from metapl.utils.limits import check_ratio

MAX_BYTES = 4 * 2**30
_MAGIC = {1: 0x801, 3: 0x803}  # unsigned bytes with one and with three dimensions


class IdxSource:
    """A ``types.Source`` over ``{train,t10k}-{images-idx3,labels-idx1}-ubyte[.gz]`` in one folder.

    The t10k rows, if any, are test rows: their labels are read at opening, their images when rows are asked for. Class
    names are the label values as text. ``images`` names the size; auto: their own.

    Raises:
        UserError: a file is missing, truncated or not what its name says; the message names it.
    """

    kind: Kind = "image"
    columns: tuple[Column, ...] = ()
    tokens: Tokens | None = None

    def __init__(self, folder: str | Path, images: ImageOptions = OWN_SIZE) -> None:
        root = Path(folder)
        self._size, self.resize, self.resized = images.sides, images.resize, images.sides is not None
        if not root.is_dir():
            raise UserError("no such folder", "Check the spelling.", str(root))
        self.name = root.resolve().name
        train = read_idx(_find(root, "train-images-idx3-ubyte"), 3)
        labels = read_idx(_find(root, "train-labels-idx1-ubyte"), 1)
        _check_lengths(root, "train", len(train), len(labels))
        self._own = train.shape[1:]
        self._data = self._sized(train)
        self._test_file, test_labels = _test_part(root)
        self._test: Tensor | None = None
        values = np.unique(labels)
        self.class_names = tuple(str(v) for v in values)
        strange = np.setdiff1d(test_labels, values)
        if len(strange):
            raise UserError(
                f"the test labels hold {strange[0]}, which no training row has", "Check the files.", str(root)
            )
        both = np.searchsorted(values, np.concatenate([labels, test_labels]))
        self.labels = both.astype(np.int64)
        self.is_test = np.arange(len(both)) >= len(train)
        self.ids = (*(f"train/{k}" for k in range(len(train))), *(f"t10k/{k}" for k in range(len(test_labels))))
        self.problems: list[tuple[str, str]] = []
        self.notes: tuple[str, ...] = () if self._test_file else ("there are no t10k files, so no test rows",)
        self._fingerprint = ""

    def rows(self, index: Array) -> Tensor:
        """Return uint8 [n, 1, height, width]; the t10k images are read at the first test row asked for."""
        index = np.asarray(index, dtype=np.int64)
        held = len(self._data)
        if not (index >= held).any():
            return self._data[torch.from_numpy(index)]
        test, of_test = self._test_images(), index >= held
        rows = torch.empty((len(index), *self._data.shape[1:]), dtype=torch.uint8)
        rows[torch.from_numpy(~of_test)] = self._data[torch.from_numpy(index[~of_test])]
        rows[torch.from_numpy(of_test)] = test[torch.from_numpy(index[of_test] - held)]
        return rows

    def readable(self, index: Array) -> Array:
        """Return all of ``index``: a damaged file is an error of the whole source, not of a row."""
        return np.asarray(index, dtype=np.int64)

    def held(self) -> Tensor:
        """Return the training rows, for reading without a copy; row k is row k of the source, test rows are not in
        it.
        """
        return self._data

    def fingerprint(self) -> str:
        """SHA-256 (hex) over labels, training images and the size of the test file."""
        if not self._fingerprint:
            size = self._test_file.stat().st_size if self._test_file else 0
            contents = [*tensor_bytes(self._data), size.to_bytes(8, "little")]
            self._fingerprint = digest_of((), self.labels, self.is_test, self.class_names, contents)
        return self._fingerprint

    def _test_images(self) -> Tensor:
        if self._test is None:
            assert self._test_file is not None  # rows beyond the training rows exist only with the file
            images = read_idx(self._test_file, 3)
            _check_lengths(self._test_file.parent, "t10k", len(images), int(self.is_test.sum()))
            if images.shape[1:] != self._own:
                raise UserError(
                    f"the test images are {images.shape[1]} x {images.shape[2]}, the training images are not",
                    "Check that the files belong together.",
                    str(self._test_file),
                )
            self._test = self._sized(images)
        return self._test

    def _sized(self, images: Array) -> Tensor:
        """Return uint8 [N, 1, height, width] at the given size."""
        rows = torch.from_numpy(images).unsqueeze(1)
        return rows if self._size is None else images_at(rows, self._size, self.resize)


def read_idx(path: Path, dims: int) -> Array:
    """Return the uint8 array in an idx file with ``dims`` (1 or 3) dimensions; it is unpacked if the name ends in .gz.

    Raises:
        UserError: unreadable, wrong magic number, truncated, longer than its header says, or above 4 GiB.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            head = file.read(4 + 4 * dims)
            fields = np.frombuffer(head[: len(head) // 4 * 4], dtype=">u4")
            if len(fields) and fields[0] != _MAGIC[dims]:
                raise UserError(
                    f"this is not an idx file of unsigned bytes with {dims} dimensions (magic number {fields[0]:#010x},"
                    f" not {_MAGIC[dims]:#010x})",
                    "Fetch the file again, or check that images and labels are not exchanged.",
                    str(path),
                )
            if len(fields) < 1 + dims:
                raise EOFError
            shape = tuple(int(n) for n in fields[1:])
            count = int(np.prod(shape, dtype=object))
            if count > MAX_BYTES:
                raise UserError(f"its header announces {count} bytes", "The limit is 4 GiB.", str(path))
            check_ratio(count, path.stat().st_size, str(path))
            body = file.read(count + 1)  # one more than announced, to notice a tail
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError("the file is truncated or damaged", "Fetch it again.", str(path)) from error
    except OSError as error:
        raise UserError(f"the file cannot be read ({error.strerror})", "Check its permissions.", str(path)) from error
    if len(body) != count or not count:
        state = "empty" if not count else "truncated" if len(body) < count else "longer than its header says"
        raise UserError(f"the file is {state}", "Fetch it again.", str(path))
    return np.frombuffer(bytearray(body), dtype=np.uint8).reshape(shape)


def _find(root: Path, name: str) -> Path:
    """Return the file, plain or packed."""
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise UserError(f"the folder has no file '{name}' or '{name}.gz'", "Put the idx files there.", str(root))


def _test_part(root: Path) -> tuple[Path | None, Array]:
    """Return the file of test images (not opened) and the test labels; (None, empty) without test files."""
    names = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    if not any((root / (name + end)).is_file() for name in names for end in ("", ".gz")):
        return None, np.zeros(0, dtype=np.uint8)
    return _find(root, names[0]), read_idx(_find(root, names[1]), 1)


def _check_lengths(root: Path, part: str, images: int, labels: int) -> None:
    if images != labels:
        raise UserError(
            f"the {part} files hold {plural(images, 'image')} but {plural(labels, 'label')}",
            "Check that they belong together.",
            str(root),
        )

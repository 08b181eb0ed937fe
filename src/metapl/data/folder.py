"""Images in folders: decoded once at opening, test images only when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.images import AUTO_SIDE, Unreadable, decode_many, probe
from metapl.data.memory import digest_of
from metapl.data.scan import Found, clean, scan, shown
from metapl.errors import UserError
from metapl.types import Column, Kind, Tokens

Array = np.ndarray[Any, Any]
MAX_BYTES = 4 * 2**30
MAX_BAD = 0.05
FEW_BAD = 5  # so many may be bad in a small folder, whatever their share
TEST_CACHE = 2**30  # bytes of decoded test rows that are kept
SIDES = range(4, 2049)


class FolderSource:
    """A ``types.Source`` over ``labelled/<class>/*``, ``unlabelled/**`` and ``test/<class>/*``, or ``<class>/*``.

    Rows that are not test rows come first and are held as uint8 [n, channels, height, width]; unreadable ones are
    left out and stand in ``problems``. Files are only read, never written.

    Args:
        path: the folder.
        image_size: "auto" (the common size where it is one and no side is above 64, else 64 x 64) or a side.
        allow_bad: go on where more than 5 % of the images cannot be read.

    Raises:
        UserError: the folder cannot serve; the message names the place and the remedy.
    """

    kind: Kind = "image"
    columns: tuple[Column, ...] = ()
    tokens: Tokens | None = None

    def __init__(self, path: str | Path, *, image_size: int | str = "auto", allow_bad: bool = False) -> None:
        self.root = Path(path)
        found = scan(self.root)
        self.name = shown(self.root.resolve().name)
        self.class_names = tuple(clean(name) for name in found.classes)
        train = [(p, k) for k, paths in enumerate(found.classes.values()) for p in paths]
        train += [(p, -1) for p in found.unlabeled]
        number = {name: k for k, name in enumerate(found.classes)}
        self._test = [(p, number[name]) for name, paths in found.test.items() for p in paths]
        self.problems: list[tuple[str, str]] = list(found.folders_unread)
        self.shape, size_note = _shape([p for p, _ in train], image_size)
        self.notes: tuple[str, ...] = (size_note, *found.notes)
        self._check_memory(len(train))
        self._load(train)
        self._check_bad(len(train), allow_bad, found)
        self._opened: dict[int, Tensor | Unreadable] = {}
        self._fingerprint = ""

    def rows(self, index: Array) -> Tensor:
        """uint8 [n, channels, height, width]; test rows are decoded now.

        Raises:
            UserError: a test image cannot be read (ask ``readable`` first).
        """
        index = np.asarray(index, dtype=np.int64)
        held = len(self._data)
        if not (index >= held).any():
            return self._data[torch.from_numpy(index)]
        opened = self._open_test(index[index >= held])
        rows = [opened[k] if k >= held else self._data[k] for k in index.tolist()]
        for k, row in zip(index.tolist(), rows, strict=True):
            if isinstance(row, Unreadable):
                raise UserError(f"this test image cannot be read: {row}", "Remove it.", shown(self.ids[k]))
        return torch.stack([row for row in rows if not isinstance(row, Unreadable)])

    def readable(self, index: Array) -> Array:
        """Those of ``index`` that can be read; test images are decoded to find out, the bad ones go to ``problems``."""
        index = np.asarray(index, dtype=np.int64)
        opened = self._open_test(index[index >= len(self._data)])
        return index[[not isinstance(opened.get(k), Unreadable) for k in index.tolist()]]

    def held(self) -> Tensor:
        """The decoded rows, for reading without a copy; row k is row k of the source, test rows are not in it."""
        return self._data

    def fingerprint(self) -> str:
        """SHA-256 (hex) over ids, labels, class names, the files' contents and the test files' sizes."""
        if not self._fingerprint:
            sizes = [path.stat().st_size.to_bytes(8, "little") for path, _ in self._test]
            self._fingerprint = digest_of(
                self.ids, self.labels, self.is_test, self.class_names, [*self._digests, *sizes]
            )
        return self._fingerprint

    def _load(self, train: Sequence[tuple[Path, int]]) -> None:
        """Decode the rows that are not test rows, in the order given, and set ids, labels and flags."""
        data = torch.empty((len(train), *self.shape), dtype=torch.uint8)
        ids: list[str] = []
        labels: list[int] = []
        self._digests: list[bytes] = []
        results = decode_many([path for path, _ in train], self.shape, with_digest=True)
        for (path, label), result in zip(train, results, strict=True):
            if isinstance(result, Unreadable):
                self.problems.append((self._id(path), str(result)))
                continue
            data[len(ids)] = result[0]
            self._digests.append(result[1])
            ids.append(self._id(path))
            labels.append(label)
        self._data = data[: len(ids)]
        self.ids = (*ids, *(self._id(path) for path, _ in self._test))
        self.labels = np.array([*labels, *(k for _, k in self._test)], dtype=np.int64)
        self.is_test = np.arange(len(self.ids)) >= len(ids)

    def _id(self, path: Path) -> str:
        return clean(path.relative_to(self.root).as_posix())

    def _check_memory(self, count: int) -> None:
        channels, height, width = self.shape
        need = count * channels * height * width
        if need > MAX_BYTES:
            raise UserError(
                f"{count} images of {height} x {width} need {need / 2**30:.1f} GiB of memory, above the limit of 4",
                "Choose a smaller image_size, or take fewer images.",
                shown(self.root),
            )

    def _check_bad(self, count: int, allow_bad: bool, found: Found) -> None:
        """Stop at many unreadable images, and at a class of which nothing is left."""
        bad = len(self.problems)
        if bad:
            self.notes += (f"{bad} images cannot be read and are left out (see problems)",)
        example = f"{shown(self.problems[0][0])}: {self.problems[0][1]}" if bad else ""
        if bad > max(MAX_BAD * count, FEW_BAD) and not allow_bad:
            raise UserError(
                f"{bad} of {count} images cannot be read, the first is {example}",
                "Repair or remove them, or set source.allow_bad=true.",
                shown(self.root),
            )
        for k, name in enumerate(found.classes):
            if not (self.labels[~self.is_test] == k).any():
                raise UserError(
                    f"no image of the class '{shown(name)}' can be read",
                    f"Put readable images there ({example}).",
                    shown(self.root),
                )
        if found.has_unlabeled and not (self.labels < 0).any():
            raise UserError("no unlabelled image can be read", f"Repair them ({example}).", shown(self.root))

    def _open_test(self, index: Array) -> dict[int, Tensor | Unreadable]:
        """The decoded test rows at ``index``, as far as memory allows kept for the next call."""
        wanted = dict.fromkeys(index.tolist())
        missing = [k for k in wanted if k not in self._opened]
        opened = {k: self._opened[k] for k in wanted if k in self._opened}
        held = len(self._data)
        room = TEST_CACHE // int(np.prod(self.shape))
        for k, result in zip(missing, self._decoded([k - held for k in missing]), strict=True):
            opened[k] = result
            if isinstance(result, Unreadable) and (self.ids[k], str(result)) not in self.problems:
                self.problems.append((self.ids[k], str(result)))
            if len(self._opened) < room:
                self._opened[k] = result
        return opened

    def _decoded(self, positions: list[int]) -> Iterator[Tensor | Unreadable]:
        for result in decode_many([self._test[k][0] for k in positions], self.shape):
            yield result if isinstance(result, Unreadable) else result[0]


def _shape(paths: Sequence[Path], image_size: int | str) -> tuple[tuple[int, int, int], str]:
    """(channels, height, width) that every image is brought to, and a note that says so.

    Raises:
        UserError: ``image_size`` is neither "auto" nor a sensible side.
    """
    side = int(image_size) if str(image_size).isdecimal() else None
    if isinstance(image_size, bool) or (side not in SIDES if side is not None else image_size != "auto"):
        raise UserError(
            f"image_size is {image_size!r}",
            f"Give 'auto' or a side in pixels, {SIDES.start} to {SIDES.stop - 1}.",
            "image_size",
        )
    heads = {head for head in map(probe, paths) if head is not None}
    channels = 1 if heads and all(grey for *_, grey in heads) else 3
    colour = "grey" if channels == 1 else "RGB"
    sizes = {(height, width) for height, width, _ in heads}
    if side is not None:
        return (channels, side, side), f"images are brought to {side} x {side}, {colour}"
    if len(sizes) == 1 and max(max(sizes)) <= AUTO_SIDE:
        height, width = sizes.pop()
        return (channels, height, width), f"images are {height} x {width}, {colour}"
    why = "of different sizes" if len(sizes) > 1 else "larger"
    return (
        (channels, AUTO_SIDE, AUTO_SIDE),
        f"images are {why} and are brought to {AUTO_SIDE} x {AUTO_SIDE}, {colour} (set image_size to change it)",
    )

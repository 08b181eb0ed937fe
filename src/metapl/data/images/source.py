"""A source over stored images: of a folder, a list of files, or a column of bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from metapl.data.images.cache import open_cache
from metapl.data.images.decode import Unreadable
from metapl.data.images.options import GIB, ImageOptions
from metapl.data.images.scan import shown
from metapl.data.images.store import ImageStore, Known
from metapl.data.memory.source import digest_of
from metapl.data.row_checks import plural
from metapl.errors import UserError
from metapl.types import Array, Column, Kind, Levels, Tokens

MAX_BAD = 0.05
FEW_BAD = 5  # so many may be bad in a small set, whatever their share


class ImageSource:
    """A ``types.Source`` over stored images.

    Test rows come last. Other rows keep their order; unreadable ones are left out and listed in ``problems``. Test rows
    are opened when asked for.

    Args:
        name: short name for messages.
        items: one file path (joined to ``root``) or one image's bytes per row; any sequence that threads may index.
        ids, labels, is_test: one per item; label -1: no label. ``is_test`` None: no test rows.
        where: the file or folder that messages name.
        notes, problems: earlier notes and problems; a problem counts as a bad image.
        known: the facts that a finished run stored of these images: then none is decoded now. The fingerprint covers
            the contents of all readable images, so it shows later whether they are the same.
        place: the folder or file that identifies the images for ``options.cache`` (of paths, not of bytes).
        progress: called with progress messages when decoding takes long.
        levels: as in ``ImageStore``.

    Attributes:
        shape: (channels, height, width) of a row.
        lazy: whether training rows are decoded when needed; then ``held()`` is None.
        prefetch: number of steps whose rows a reader should ask for in advance.
        resize, resized, levels: as in ``Preprocessing``.

    Raises:
        UserError: too many images cannot be read, or all images of a class, or all unlabelled images.
    """

    kind: Kind = "image"
    columns: tuple[Column, ...] = ()
    tokens: Tokens | None = None
    widths: tuple[int, ...] = ()  # as in ``ModelInput``

    def __init__(
        self,
        name: str,
        items: Sequence[str | bytes],
        *,
        ids: Sequence[str],
        labels: Array,
        class_names: Sequence[str],
        is_test: Array | None = None,
        root: str = "",
        options: ImageOptions | None = None,
        where: str = "",
        notes: Sequence[str] = (),
        problems: Sequence[tuple[str, str]] = (),
        known: Known | None = None,
        place: str = "",
        progress: Callable[[str], None] | None = None,
        levels: Levels | None = None,
    ) -> None:
        options = options or ImageOptions(cache=False)
        self.name, self.class_names, self._where = name, tuple(class_names), where or name
        labels = np.asarray(labels, dtype=np.int64)
        test = np.zeros(len(items), dtype=bool) if is_test is None else np.asarray(is_test, dtype=bool)
        order = np.argsort(test, kind="stable")
        if (order != np.arange(len(order))).any():
            items, ids, labels = _Reordered(items, order), [ids[k] for k in order.tolist()], labels[order]
        count = int((~test).sum())
        at = None if known is None else (known.shape, known.at(ids[:count]))
        files = len(items) > 0 and isinstance(items[0], str)
        cache = open_cache(place) if place and files and options.cache else None
        self.store = ImageStore(
            items, count, root=root, options=options, known=at, cache=cache, progress=progress, levels=levels
        )
        kept = self.store.kept
        self._item = np.concatenate([kept, np.arange(count, len(items))])  # of a row
        self.ids = tuple(ids) if len(kept) == count else tuple(ids[k] for k in self._item.tolist())
        self.labels = labels[self._item]
        self.is_test = np.arange(len(self.ids)) >= len(kept)
        self.shape, self.lazy = self.store.shape, self.store.lazy
        self.prefetch, self.resize, self.resized, self.levels = (
            options.prefetch,
            options.resize,
            True,
            self.store.levels,
        )
        self.problems: list[tuple[str, str]] = [*problems]
        self.problems += [(ids[k], reason) for k, reason in sorted(self.store.facts.reason.items())]
        self.notes: tuple[str, ...] = (*([self.store.note] if self.store.note else []), *notes)
        if levels is None:
            self.notes += tuple(map(_levels_note, filter(None, self.levels)))
        elif not count:  # new rows
            self.notes += tuple(filter(None, [self.store.beyond_levels()]))
        self._fingerprint = ""
        self._check_bad(count, options, labels[:count])
        if self.store.kept_in:
            self.notes += (self.store.kept_in,)
        if self.lazy:
            need = len(kept) * int(np.prod(self.shape)) / GIB
            would = f"{plural(len(kept), 'image')} would take {need:.1f} GiB"
            self.notes += (f"{would} and are decoded when needed (see source.image.memory)",)

    def rows(self, index: Array) -> Tensor:
        """Return uint8 [n, channels, height, width]; test rows are decoded now, and all rows if ``lazy``.

        Raises:
            UserError: an image cannot be read (ask ``readable`` first), or no longer.
        """
        try:
            return self.store.rows(self._item[np.asarray(index, dtype=np.int64)])
        except Unreadable as reason:
            raise self._gone(reason) from reason

    def readable(self, index: Array) -> Array:
        """Return the rows in ``index`` that can be read; test images are decoded to find out, bad ones go to
        ``problems``.
        """
        index = np.asarray(index, dtype=np.int64)
        items = self._item[index]
        reasons = self.store.readable(items)
        for k, item in zip(index.tolist(), items.tolist()):
            if item in reasons and (problem := (self.ids[k], reasons[item])) not in self.problems:
                self.problems.append(problem)
        return index[[item not in reasons for item in items.tolist()]] if reasons else index

    def held(self) -> Tensor | None:
        """Return the decoded rows, for reading without a copy; row k is row k of the source, test rows are not in it.

        None if ``lazy``.

        Raises:
            UserError: an image can no longer be read.
        """
        try:
            return self.store.held()
        except Unreadable as reason:
            raise self._gone(reason) from reason

    def fingerprint(self) -> str:
        """SHA-256 (hex) over ids, labels, class names, the files' contents, the levels and the test files' sizes."""
        if not self._fingerprint:
            sizes = [self.store.size(k).to_bytes(8, "little") for k in range(self.store.count, len(self.store.items))]
            levels = [repr(self.levels).encode()] if any(self.levels) else []
            contents = [*self.store.digests(), *levels, *sizes]
            self._fingerprint = digest_of(self.ids, self.labels, self.is_test, self.class_names, contents)
        return self._fingerprint

    def _gone(self, reason: Unreadable) -> UserError:
        row = int(np.flatnonzero(self._item == reason.args[1])[0])
        part = "test image cannot be read" if self.is_test[row] else "image can no longer be read"
        return UserError(f"this {part}: {reason.args[0]}", "Remove or restore it.", shown(self.ids[row]))

    def _check_bad(self, count: int, options: ImageOptions, labels: Array) -> None:
        """Refuse many unreadable images, and a class without a readable image."""
        bad = len(self.problems)
        if bad:
            one = f"1 image cannot be read and is left out: {shown(self.problems[0][0])}: {self.problems[0][1]}"
            many = f"{bad} images cannot be read and are left out (a run's problems.csv lists them)"
            self.notes += (one if bad == 1 else many,)
        example = f"{shown(self.problems[0][0])}: {self.problems[0][1]}" if bad else ""
        if bad > max(MAX_BAD * count, FEW_BAD) and not options.allow_bad:
            raise UserError(
                f"{bad} of {count} images cannot be read, the first is {example}",
                "Repair or remove them, or set source.image.allow_bad=true.",
                shown(self._where),
            )
        left = self.labels[~self.is_test]
        for k, name in enumerate(self.class_names):
            if (labels == k).any() and not (left == k).any():
                raise UserError(
                    f"no image of the class '{shown(name)}' can be read",
                    f"Put readable images there ({example}).",
                    shown(self._where),
                )
        if (labels < 0).any() and not (left < 0).any():
            raise UserError("no unlabelled image can be read", f"Repair them ({example}).", shown(self._where))


def _levels_note(span: tuple[float, float]) -> str:
    return f"images with more than 8 bits: their values from {span[0]:g} to {span[1]:g} become 0 to 255"


class _Reordered(Sequence[Any]):
    """``items`` in another order, without a copy of them."""

    def __init__(self, items: Sequence[Any], order: Array) -> None:
        self.items, self.order = items, order

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, k: Any) -> Any:
        return self.items[int(self.order[k])]

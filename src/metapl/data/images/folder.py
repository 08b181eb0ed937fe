"""Images in folders: ``labelled/<class>/*``, ``unlabelled/**`` and ``test/<class>/*``, or ``<class>/*``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from metapl.data.images.options import ImageOptions
from metapl.data.images.scan import NoLabel, clean, scan, shown
from metapl.data.images.source import ImageSource
from metapl.data.images.store import Known
from metapl.types import Levels, Resize


class FolderSource(ImageSource):
    """A ``types.Source`` over ``labelled/<class>/*``, ``unlabelled/**`` and ``test/<class>/*``, or ``<class>/*``.

    Test rows come last; unreadable images are left out and listed in ``problems``. Files are only read.

    Args:
        path: the folder.
        options: how images are read; or its fields one by one: image_size, resize, memory, prefetch, allow_bad, cache.
        known, progress, levels: as in ``ImageSource``.
        no_label: whether the images in a folder of this name have no label.

    Raises:
        UserError: the folder cannot be used; the message names the place and the remedy.
    """

    def __init__(
        self,
        path: str | Path,
        options: ImageOptions | None = None,
        *,
        known: Known | None = None,
        progress: Callable[[str], None] | None = None,
        image_size: int | str = "auto",
        resize: Resize = "cover",
        memory: float = 4.0,
        prefetch: int = 2,
        allow_bad: bool = False,
        cache: bool = False,
        no_label: NoLabel = lambda name: False,
        levels: Levels | None = None,
    ) -> None:
        options = options or ImageOptions(image_size, resize, memory, prefetch, allow_bad, cache)
        root = Path(path)
        found = scan(root, no_label)
        number = {name: k for k, name in enumerate(found.classes)}
        parts = [(paths, k) for k, paths in enumerate(found.classes.values())]
        parts += [(found.unlabeled, -1), *((paths, number[name]) for name, paths in found.test.items())]
        items = [item for paths, _ in parts for item in paths]
        count = len(items) - sum(map(len, found.test.values()))
        super().__init__(
            shown(root.resolve().name),
            items,
            ids=[clean(item) for item in items],
            labels=np.repeat([k for _, k in parts], [len(paths) for paths, _ in parts]),
            class_names=[clean(name) for name in found.classes],
            is_test=np.arange(len(items)) >= count,
            root=str(root),
            options=options,
            where=str(root),
            notes=found.notes,
            problems=found.folders_unread,
            place=str(root),
            known=known,
            progress=progress,
            levels=levels,
        )

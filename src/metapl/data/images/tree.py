"""Open new images in a folder for a trained model: any tree of images, or class folders if labels are asked for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from metapl.data.images.decode import SUFFIXES
from metapl.data.images.options import ImageOptions
from metapl.data.images.parts import is_passed_over, part_of, why_not_image
from metapl.data.images.scan import clean, exists, missing, shown
from metapl.data.images.source import ImageSource
from metapl.data.images.store import Known
from metapl.data.modalities import modality_of
from metapl.errors import UserError, nearest
from metapl.types import ModelInput
from metapl.utils.own_folders import is_made


def open_tree(path: Path, like: ModelInput, options: ImageOptions | None = None) -> ImageSource:
    """Return a source over the images in a folder and the folders inside it, or over one image; none is decoded now.

    If labels are asked for, the images lie in class folders, ``<class>/**``. Of a folder with a part ``labelled``, its
    part ``test`` is read, or else ``labelled``. Files that are passed over are listed in ``problems``.

    Raises:
        UserError: no such path, no image, a class that the model does not know, or a model that does not take images.
    """
    if not modality_of(like.takes.kind).sized:
        what = f"this model was trained on {modality_of(like.takes.kind).rows}, not on images"
        raise UserError(what, "Give a file of rows, such as new.csv.")
    if not exists(path):
        raise missing(path)
    root = _classes_folder(path, like) if like.labels else path
    ids, images, labels, problems = list[str](), list[str](), list[int](), list[tuple[str, str]]()
    for row_id, file, why, label in _class_files(root, like) if like.labels else _unlabeled_files(root):
        if why:
            problems.append((row_id, why))
            continue
        ids.append(row_id)
        images.append(str(file))
        labels.append(label)
    if not images:
        remedy = f"Give a folder with images in it ({', '.join(sorted(SUFFIXES))}), or one image."
        raise UserError("there is no image here", remedy, shown(root))
    channels, height, width = like.takes.shape
    source = ImageSource(
        shown(root),
        images,
        ids=ids,
        labels=np.array(labels, dtype=np.int64),
        class_names=like.class_names,
        is_test=np.ones(len(images), dtype=bool),  # decoded when asked for, a chunk at a time
        options=replace(options or ImageOptions(), resize=like.takes.resize, allow_bad=True, cache=False),
        known=Known((channels, height, width), {}),
        levels=like.takes.levels,
    )
    source.problems += problems
    return source


def _unlabeled_files(root: Path) -> Iterator[tuple[str, Path, str, int]]:
    """Yield ``image_files`` without a class."""
    yield from ((*found, -1) for found in image_files(root))


def _classes_folder(root: Path, like: ModelInput) -> Path:
    """Return the folder that holds the class folders: ``root``, ``root/test`` or ``root/labelled``."""
    if not root.is_dir():
        raise UserError("this is a file, not a folder", "Give a folder <class>/<images>.", shown(root))
    inside = {p.name for p in root.iterdir() if p.is_dir()} - set(like.class_names)
    by_part = {part_of(name): name for name in sorted(inside, reverse=True)}
    labeled = next((by_part[part] for part in ("labelled", "train") if part in by_part), None)
    return root if labeled is None else root / by_part.get("test", labeled)


def _class_files(root: Path, like: ModelInput) -> Iterator[tuple[str, Path, str, int]]:
    """Yield ``image_files`` of each class folder, with the class's number; ids begin with its name."""
    number = {name: k for k, name in enumerate(like.class_names)}
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not is_passed_over(p.name) and not is_made(p))
    for folder in folders:
        if clean(folder.name) not in number:
            what = f"the model knows no class '{shown(folder.name)}'"
            raise UserError(what, nearest(shown(folder.name), map(shown, number)), shown(folder))
    for folder in folders:
        name = clean(folder.name)
        yield from ((f"{name}/{row_id}", file, why, number[name]) for row_id, file, why in image_files(folder))


def image_files(path: Path) -> Iterator[tuple[str, Path, str]]:
    """Yield (id, file, reason) of all files in ``path``, folder by folder, sorted; reason: why it is not an image, or
    "".
    """
    if path.is_file():
        yield clean(path.name), path, ""
        return
    denied: list[OSError] = []
    for folder, inside, names in os.walk(path, onerror=denied.append):
        here = Path(folder)
        inside[:] = sorted((n for n in inside if not is_passed_over(n)), key=clean)
        for name in inside:
            if (here / name).is_symlink():
                yield _id(here / name, path), here / name, "a linked folder is not entered"
            elif is_made(here / name):
                yield _id(here / name, path), here / name, "a folder that metapl wrote is not entered"
        inside[:] = [name for name in inside if not is_made(here / name)]
        for name in sorted((n for n in names if not is_passed_over(n)), key=clean):
            yield _id(here / name, path), here / name, why_not_image(name)
        while denied:
            yield _denied(denied.pop(), path)
    while denied:
        yield _denied(denied.pop(), path)


def _denied(error: OSError, root: Path) -> tuple[str, Path, str]:
    folder = Path(error.filename or root)
    return _id(folder, root), folder, f"folder cannot be opened ({error.strerror})"


def _id(path: Path, root: Path) -> str:
    return clean(path.relative_to(root).as_posix())

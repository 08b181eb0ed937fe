"""Read the names of folders and files: parts of a data set, images, and files that are not data."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from metapl.data.images.decode import SUFFIXES

LABELED = ("labelled", "labeled", "train")
UNLABELED = ("unlabelled", "unlabeled")
TEST = "test"
# Part -> its names, in small letters, without marks between words.
PARTS: Mapping[str, tuple[str, ...]] = {
    "labelled": ("labelled", "labeled"),
    "train": ("train", "training", "trainset", "trainingset"),
    "unlabelled": ("unlabelled", "unlabeled", "unsup", "unsupervised", "nolabel", "nolabels", "withoutlabel"),
    "validation": ("validation", "validate", "valid", "val", "dev"),
    "test": ("test", "testing", "testset"),
}
TRAINING = ("labelled", "train", "fold", "validation")  # parts whose images have labels that training may see
_BY_NAME = {name: part for part, names in PARTS.items() for name in names}
_FOLD = re.compile(r"(fold|split|batch|chunk|shard)\d+")
_MARKS = re.compile(r"[\W_]+")
# Files that systems and programs leave in folders, in small letters.
_LITTER = frozenset(
    {
        "__macosx",
        "thumbs.db",
        "ehthumbs.db",
        "desktop.ini",
        "icon\r",
        "$recycle.bin",
        "system volume information",
        "lost+found",
        "@eadir",
        "__pycache__",
    }
)
PHOTOS = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2")
DRAWINGS = (".svg", ".psd", ".ai", ".eps", ".pdf", ".dcm", ".ico", ".tga")  # images to people, not to Pillow's readers
NOT_READ = frozenset(PHOTOS + DRAWINGS) - SUFFIXES


def part_of(name: str) -> str:
    """Return the part of a data set that a folder's name means: a key of ``PARTS``, "fold", or "" for none."""
    plain = _MARKS.sub("", name.casefold())
    return "fold" if _FOLD.fullmatch(plain) else _BY_NAME.get(plain, "")


def is_passed_over(name: str) -> bool:
    """Return whether a file or folder is passed over in silence: hidden, or left by a system."""
    return name.startswith(".") or name.casefold() in _LITTER


def is_image(name: str) -> bool:
    """Return whether a file is an image that can be read, by its suffix."""
    return os.path.splitext(name)[1].lower() in SUFFIXES


def why_not_image(name: str) -> str:
    """Return why a file is not read as an image, by its suffix; "" if it may be an image."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix in SUFFIXES:
        return ""
    return f"{suffix} is not read: save it as JPEG or PNG" if suffix in NOT_READ else "not an image by its suffix"


def same_folders(folders: Mapping[str, Path]) -> list[str]:
    """Return the names of the folders in each of ``folders``, if all hold the same two or more and no image."""
    inside: list[frozenset[str]] = []
    for folder in folders.values():
        names = _inside(folder)
        if names is None or len(names) < 2 or (inside and names != inside[0]):
            return []
        inside.append(names)
    return sorted(inside[0]) if len(inside) > 1 else []


def _inside(folder: Path) -> frozenset[str] | None:
    """Return the folders in ``folder``; None if it holds images of its own, or cannot be opened."""
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not is_passed_over(entry.name)]
            if any(entry.is_file() and is_image(entry.name) for entry in found):
                return None
            return frozenset(entry.name for entry in found if entry.is_dir())
    except OSError:
        return None

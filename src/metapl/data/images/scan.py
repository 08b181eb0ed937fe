"""What lies in a folder of images: the rows by part and class, before any image is opened."""

from __future__ import annotations

import difflib
import os
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from metapl.data.images.decode import SUFFIXES
from metapl.errors import UserError, nearest
from metapl.utils.own_folders import is_made

LABELED = ("labelled", "labeled", "train")
UNLABELED = ("unlabelled", "unlabeled")
TEST = "test"


@dataclass
class Found:
    """The image files of a folder, as paths within it, parts joined by "/". Every list is sorted by path.

    Attributes:
        classes: image files of each class, by class name in sorted order.
        unlabeled: image files without a class.
        test: image files of each test class.
        folders_unread: (path, reason) of folders that could not be opened.
        others: number of files that are no images by their suffix.
        notes: what was passed over.
    """

    root: Path
    classes: dict[str, list[str]] = field(default_factory=dict)
    unlabeled: list[str] = field(default_factory=list)
    test: dict[str, list[str]] = field(default_factory=dict)
    folders_unread: list[tuple[str, str]] = field(default_factory=list)
    others: int = 0
    notes: list[str] = field(default_factory=list)


def clean(name: str | Path) -> str:
    """A file name as text that can be written anywhere: bytes that are no UTF-8 become ``\\xNN``."""
    if isinstance(name, str) and name.isascii():
        return name  # the very text: many paths are held as file and as id
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown(name: str | Path) -> str:
    """A name for a one-line message: control characters (a newline in a file name) are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean(name))


def exists(path: Path) -> bool:
    """Whether there is such a path; False for one that no file system would take."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a link in a circle, a NUL byte
        return False


def missing(path: Path) -> UserError:
    """What to say of a path that is not there: the nearest name in its folder, if one is near."""
    remedy = f"Did you mean '{near}'?" if (near := near_path(path)) else "Check the spelling."
    return UserError("no such file or folder", remedy, shown(path))


def near_path(path: Path) -> str:
    """The path beside ``path`` whose name is the nearest, as a user would write it; "" where none is near."""
    try:
        names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return shown(path.with_name(close[0])) if close else ""


def scan(root: Path) -> Found:
    """Find the images under ``root``.

    Two forms: ``labelled/<class>/*`` with ``unlabelled/**`` and perhaps ``test/<class>/*``; or ``<class>/*``.
    Hidden names, linked folders inside a class and folders that metapl wrote are passed over.

    Raises:
        UserError: there is nothing to train a classifier from, or the form is ambiguous.
    """
    if not exists(root):
        raise missing(root)
    if not root.is_dir():
        raise UserError("this is a file, not a folder", "Give the folder that holds the images.", shown(root))
    found = Found(root)
    top = _known_by_any_case({path.name: path for path in _folders(root, found)})
    labeled, unlabeled = _parts(root, top)
    if labeled is None:
        _scan_plain(found, top)
    else:
        _scan_tree(found, top, labeled, unlabeled)
    _check_classes(found, labeled or root)
    if found.others:
        found.notes.append(f"{found.others} files that are no images by their suffix are ignored")
    found.notes = list(dict.fromkeys(found.notes))  # a folder may have been looked at twice
    return found


def _known_by_any_case(top: dict[str, Path]) -> dict[str, Path]:
    """``Labelled`` and ``Unlabelled`` under the names that are looked for; beside one of them ``Test``, too."""
    parts = {*LABELED[:2], *UNLABELED}
    parts |= {TEST} if any(name.lower() in parts for name in top) else set()
    return {low if (low := name.lower()) in parts and low not in top else name: path for name, path in top.items()}


def _parts(root: Path, top: dict[str, Path]) -> tuple[Path | None, Path | None]:
    """The labelled and the unlabelled folder; (None, None) where ``root`` is a plain tree of classes."""
    unlabeled = [top[name] for name in UNLABELED if name in top]
    labeled = [top[name] for name in LABELED[:2] if name in top]
    # 'train' may be the name of a class, beside 'bus' and 'boat': then it has neighbours of its own kind.
    only_parts = set(top) <= {*LABELED, *UNLABELED, TEST}
    if not labeled and "train" in top and (unlabeled or (only_parts and _has_folders(top["train"]))):
        labeled = [top["train"]]
    for same in (labeled, unlabeled):
        if len(same) > 1:
            names = " and ".join(f"'{path.name}'" for path in same)
            raise UserError(f"both {names} exist", "Keep one of the two.", shown(root))
    if unlabeled and not labeled:
        raise UserError(
            f"there is a folder '{unlabeled[0].name}' but no folder 'labelled'",
            "Put one folder per class into 'labelled'.",
            shown(root),
        )
    return (labeled[0] if labeled else None), (unlabeled[0] if unlabeled else None)


def _scan_tree(found: Found, top: dict[str, Path], labeled: Path, unlabeled: Path | None) -> None:
    """Fill ``found`` from labelled / unlabelled / test folders."""
    found.classes = _classes(labeled, found)
    where = shown(found.root / (unlabeled.name if unlabeled else "unlabelled"))
    found.unlabeled = _images(unlabeled, found) if unlabeled else []
    if not found.unlabeled:
        state = "has no image in it" if unlabeled else "is missing"
        raise UserError(
            f"the folder of unlabelled images {state}",
            f"Put images there, or use the classes alone: '{shown(labeled)}' with --labels N.",
            where,
        )
    if TEST in top:
        found.test = {name: paths for name, paths in _classes(top[TEST], found).items() if paths}
        for name in found.test:
            if name not in found.classes:
                raise UserError(
                    f"the test class '{shown(name)}' is not among the training classes",
                    nearest(shown(name), map(shown, found.classes)),
                    shown(top[TEST] / name),
                )
        without = sorted(set(found.classes) - set(found.test))
        if without:
            found.notes.append(f"{len(without)} classes have no test image: {', '.join(map(shown, without[:5]))}")
    extra = sorted(path.name for path in top.values() if path not in (labeled, unlabeled, top.get(TEST)))
    if extra:
        found.notes.append(f"folders beside '{labeled.name}' are ignored: {', '.join(map(shown, extra))}")


def _scan_plain(found: Found, top: dict[str, Path]) -> None:
    """Fill ``found`` from one folder per class."""
    found.classes = _classes(found.root, found)
    for name, path in top.items():
        inner = {sub.name for sub in _folders(path, found)} & (set(top) - {name})
        if inner:
            raise UserError(
                f"the folder '{shown(name)}' holds a folder '{shown(min(inner))}', which is a class beside it",
                "Put the training classes into 'labelled', other images into 'unlabelled', test classes into 'test'.",
                shown(path),
            )


def _classes(folder: Path, found: Found) -> dict[str, list[str]]:
    """The image files of each class folder in ``folder``, by folder name, sorted."""
    loose = sum(1 for entry in _entries(folder, found) if entry.is_file() and _is_image(entry.name))
    if loose:
        found.notes.append(f"{loose} images in '{shown(folder.name)}' lie in no class folder and are ignored")
    return {path.name: _images(path, found) for path in _folders(folder, found)}


def _check_classes(found: Found, folder: Path) -> None:
    """Refuse classes that no classifier can be trained from."""
    if not any(found.classes.values()):
        raise UserError(
            "there are no images in class folders",
            f"Put images ({_suffixes()}) into one folder per class.",
            shown(folder),
        )
    for name, paths in found.classes.items():
        if not paths:
            raise UserError(
                f"the class folder '{shown(name)}' has no image in it",
                f"Put images ({_suffixes()}) there or remove the folder.",
                shown(folder / name),
            )
    seen: dict[str, str] = {}
    for name in found.classes:
        twin = seen.setdefault(folded(name), name)
        if twin != name:
            raise UserError(
                f"the classes '{shown(twin)}' and '{shown(name)}' differ only by case, spaces or accents' encoding",
                "Merge the two folders or rename one.",
                shown(folder),
            )
    if len(found.classes) < 2:
        raise UserError(
            f"there is only one class, '{shown(next(iter(found.classes)))}'",
            "A classifier needs a folder for each of at least two classes.",
            shown(folder),
        )


def folded(name: str) -> str:
    """``name`` without what a reader would overlook: case, spaces, the way accents are stored."""
    return "".join(unicodedata.normalize("NFKC", clean(name)).casefold().split())


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _is_image(name: str) -> bool:
    return os.path.splitext(name)[1].lower() in SUFFIXES


def _entries(folder: Path | str, found: Found) -> list[os.DirEntry[str]]:
    """What ``folder`` holds, hidden names left out, sorted; a folder that cannot be opened is entered as such."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: clean(e.name))
    except OSError as error:
        problem = (clean(Path(folder).relative_to(found.root)), f"folder cannot be opened ({error.strerror})")
        if problem not in found.folders_unread:
            found.folders_unread.append(problem)
        return []


def _folders(folder: Path, found: Found) -> list[Path]:
    """The folders in ``folder``; a link is followed unless it leads to a folder that holds it (a loop)."""
    kept = []
    here = folder.resolve()
    for entry in _entries(folder, found):
        if not _is_dir(entry):
            continue
        target = Path(entry.path).resolve()
        if entry.is_symlink() and here.is_relative_to(target):
            found.notes.append(f"the link '{shown(entry.name)}' leads back to a folder above it and is ignored")
            continue
        if is_made(entry.path):
            found.notes.append(_made_note(entry.path, found))
            continue
        kept.append(Path(entry.path))
    return kept


def _made_note(folder: str, found: Found) -> str:
    return f"the folder '{shown(Path(folder).relative_to(found.root))}' holds what metapl wrote and is passed over"


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a folder; False for a link that leads nowhere or round in a circle."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _has_folders(folder: Path) -> bool:
    return any(path.is_dir() for path in folder.iterdir())


def _images(folder: Path, found: Found) -> list[str]:
    """All image files in ``folder`` and the folders inside it, sorted; linked folders inside are not entered."""
    images: list[str] = []
    waiting = [folder.relative_to(found.root).as_posix()]
    links = 0
    while waiting:
        here = waiting.pop()
        for entry in _entries(os.path.join(found.root, here), found):
            if entry.is_symlink() and _is_dir(entry):
                links += 1
            elif _is_dir(entry) and is_made(entry.path):
                found.notes.append(_made_note(entry.path, found))
            elif _is_dir(entry):
                waiting.append(f"{here}/{entry.name}")
            elif _is_image(entry.name):
                images.append(f"{here}/{entry.name}")
            else:
                found.others += 1
    if links:
        found.notes.append(f"{links} linked folders inside '{shown(folder.name)}' are not entered")
    return sorted(images, key=clean)

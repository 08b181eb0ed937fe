"""Scan a folder of images: find its rows by part and class, before any image is opened."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from metapl.data.images.decode import SUFFIXES
from metapl.data.images.parts import LABELED as LABELED
from metapl.data.images.parts import NOT_READ, TRAINING, is_image, is_passed_over, part_of, same_folders
from metapl.data.images.parts import TEST as TEST
from metapl.data.images.parts import UNLABELED as UNLABELED
from metapl.data.row_checks import plural
from metapl.errors import Doubt, UserError, nearest
from metapl.utils.own_folders import is_made
from metapl.utils.paths import clean as clean
from metapl.utils.paths import exists as exists
from metapl.utils.paths import folded as folded
from metapl.utils.paths import missing as missing
from metapl.utils.paths import near_path as near_path
from metapl.utils.paths import shown as shown

NoLabel = Callable[[str], bool]  # whether a class folder's name says that its images have no label


@dataclass
class Found:
    """The image files of a folder, as paths within it, parts joined by "/". Every list is sorted by path.

    Attributes:
        classes: image files of each class, by class name in sorted order.
        unlabeled: image files without a class.
        test: image files of each test class.
        folders_unread: (path, reason) of folders that could not be opened.
        others: suffix -> number of files that are not images.
        notes: notes on files and folders that were passed over.
        outside: links that lead out of the folder.
        no_label: names of class folders whose images have no label, as the user says.
    """

    root: Path
    classes: dict[str, list[str]] = field(default_factory=dict)
    unlabeled: list[str] = field(default_factory=list)
    test: dict[str, list[str]] = field(default_factory=dict)
    folders_unread: list[tuple[str, str]] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    no_label: NoLabel = lambda name: False


def scan(root: Path, no_label: NoLabel = lambda name: False) -> Found:
    """Find the images under ``root``.

    Two forms: ``labelled/<class>/*`` (or ``train/``), perhaps with ``validation/<class>/*``, ``unlabelled/**`` and
    ``test/<class>/*``; or ``<class>/*``. If all folders hold the same folders, these are the classes. Hidden names,
    files left by systems, linked folders inside a class and folders that metapl wrote are passed over.

    Args:
        no_label: whether the images of a class folder of this name have no label.

    Raises:
        UserError: the folder has no classes to train from, or its form is ambiguous.
    """
    if not exists(root):
        raise missing(root)
    if not root.is_dir():
        raise UserError("this is a file, not a folder", "Give the folder that holds the images.", shown(root))
    found = Found(root, no_label=no_label)
    top = {path.name: path for path in _folders(root, found)}
    parts = _parts(root, top)
    if parts:
        _scan_parts(found, top, parts)
    else:
        _scan_plain(found, top)
    labeled = [folder for part in TRAINING for folder in parts.get(part, [])]
    _check_classes(found, labeled[0] if len(labeled) == 1 else root)
    found.notes += other_files(found.others)
    found.notes = list(dict.fromkeys(found.notes))  # a folder may have been read twice
    found.notes += _links_outside(sorted(set(found.outside)))
    return found


def other_files(others: Mapping[str, int]) -> list[str]:
    """Return a note on files that are not read, by their suffix."""
    photos = {suffix: n for suffix, n in others.items() if suffix in NOT_READ}
    said = [f"{suffix} is not read: save as JPEG ({plural(n, 'file')})" for suffix, n in photos.items()]
    rest = {suffix: n for suffix, n in others.items() if suffix not in NOT_READ}
    if rest:
        listed = ", ".join(f"{n} {shown(suffix) or 'without a suffix'}" for suffix, n in list(rest.items())[:5])
        count = sum(rest.values())
        files = "1 file that is not an image by its suffix is" if count == 1 else f"{count} other files are"
        said.append(f"{files} ignored ({listed})")
    return said


Parts = dict[str, list[Path]]  # part -> its folders


def _parts(root: Path, top: Mapping[str, Path]) -> Parts:
    """Return the folders of each part; empty if ``root`` is a plain tree of classes.

    Raises:
        UserError: two folders mean one part, or a part has no class folders.
    """
    parts: Parts = {}
    for name, path in top.items():
        parts.setdefault(part_of(name), []).append(path)
    rest = parts.pop("", [])
    for part in ("labelled", "unlabelled", "test"):
        if len(parts.get(part, [])) > 1 and "labelled" in parts:
            names = " and ".join(f"'{path.name}'" for path in parts[part])
            raise UserError(f"both {names} exist", "Keep one of the two.", shown(root))
    if "labelled" in parts:
        return {part: folders for part, folders in parts.items() if part in ("labelled", "unlabelled", "test")}
    if _are_parts(parts, rest):
        return parts
    if not parts.keys() & set(TRAINING) and not rest and "unlabelled" in parts:
        name = parts["unlabelled"][0].name
        raise UserError(
            f"there is a folder '{shown(name)}' but no folder 'labelled'",
            "Put one folder per class into 'labelled'.",
            shown(root),
        )
    if same_folders(top):
        return {"labelled": list(top.values())}
    return {}


def _are_parts(parts: Parts, rest: list[Path]) -> bool:
    """Return whether folders such as 'train' and 'val' are parts; beside 'bus' and 'boat' they are classes."""
    labeled = [folder for part in TRAINING for folder in parts.get(part, [])]
    inner = [folder for folder in labeled if _has_folders(folder)]
    if not labeled:
        return False
    if not rest:
        if not inner and not any(map(_has_folders, parts.get("test", []))):
            return _refuse_bare(labeled)
        return True
    if "train" in parts and "unlabelled" in parts and inner:
        return True
    others = [*labeled, *parts.get("test", [])]
    return len(others) > 1 and bool(same_folders({path.name: path for path in others}))


def _refuse_bare(labeled: list[Path]) -> bool:
    """Refuse parts with images outside class folders, whose labels are unknown.

    Raises:
        UserError: always, except for a lone folder or folds, which may be classes.
    """
    names = [path.name for path in labeled]
    if any(part_of(name) in ("train", "validation") for name in names):
        remedy = (
            f"Make a folder for each class in '{shown(names[0])}', or list files and labels in a CSV file (path,label)."
        )
        raise UserError(f"'{shown(names[0])}' holds no class folders", remedy, shown(labeled[0]))
    return False


def _scan_parts(found: Found, top: Mapping[str, Path], parts: Parts) -> None:
    """Fill ``found`` from folders of labelled, unlabelled, validation and test images."""
    for part in TRAINING:
        for folder in parts.get(part, []):
            for name, paths in _classes(folder, found).items():
                found.classes[name] = sorted([*found.classes.get(name, []), *paths], key=clean)
    found.classes = dict(sorted(found.classes.items(), key=lambda item: clean(item[0])))
    labeled = [folder for part in TRAINING for folder in parts.get(part, [])]
    if len(labeled) > 1:
        names = " and ".join(f"'{shown(path.name)}'" for path in labeled[:8])
        found.notes.append(
            f"the folders {names} hold the same kind of class folders: their images are taken together as labelled"
            + (" (validation rows are drawn from these, see --validation)" if "validation" in parts else "")
        )
    _add_unlabeled(found, parts.get("unlabelled", []), labeled)
    if "test" in parts:
        _add_test(found, parts["test"])
    used = {folder for folders in parts.values() for folder in folders}
    if extra := sorted(path.name for path in top.values() if path not in used):
        found.notes.append(f"folders beside '{shown(labeled[0].name)}' are ignored: {', '.join(map(shown, extra))}")


def _add_unlabeled(found: Found, folders: list[Path], labeled: list[Path]) -> None:
    """Add the unlabelled images.

    Raises:
        UserError: the folder for them holds no image.
    """
    images = [path for folder in folders for path in _images(folder, found)]
    if folders and not images:
        raise UserError(
            "the folder of unlabelled images has no image in it",
            f"Put images there, or use the classes alone: '{shown(labeled[0])}' with --labels N.",
            shown(folders[0]),
        )
    found.unlabeled = sorted([*found.unlabeled, *images], key=clean)


def _add_test(found: Found, folders: list[Path]) -> None:
    """Add the test images by class.

    Raises:
        UserError: a test class is not among the training classes.
    """
    for folder in folders:
        for name, paths in _classes(folder, found, test=True).items():
            if not paths:
                continue
            if name not in found.classes:
                raise UserError(
                    f"the test class '{shown(name)}' is not among the training classes",
                    nearest(shown(name), map(shown, found.classes)),
                    shown(folder / name),
                )
            found.test[name] = sorted([*found.test.get(name, []), *paths], key=clean)
    without = sorted(set(found.classes) - set(found.test))
    if without:
        have = plural(len(without), "class has", "classes have")
        found.notes.append(f"{have} no test image: {', '.join(map(shown, without[:5]))}")


def _scan_plain(found: Found, top: Mapping[str, Path]) -> None:
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


def _classes(folder: Path, found: Found, test: bool = False) -> dict[str, list[str]]:
    """Return the image files of each class folder in ``folder``, by folder name, sorted.

    A folder such as 'unsup' or 'no_label' beside them holds unlabelled images.
    """
    loose = sum(1 for entry in _entries(folder, found) if entry.is_file() and is_image(entry.name))
    if loose:
        lie = "image in '{}' lies" if loose == 1 else "images in '{}' lie"
        found.notes.append(f"{loose} {lie.format(shown(folder.name))} in no class folder, ignored")
    classes: dict[str, list[str]] = {}
    for path in _folders(folder, found):
        if not test and (found.no_label(path.name) or part_of(path.name) == "unlabelled"):
            images = _images(path, found)
            found.unlabeled = sorted([*found.unlabeled, *images], key=clean)
            count = plural(len(images), "image")
            found.notes.append(f"folder '{shown(path.name)}' holds unlabelled images by its name ({count})")
        else:
            classes[path.name] = _images(path, found)
    return classes


def _check_classes(found: Found, folder: Path) -> None:
    """Refuse classes that no classifier can be trained from."""
    if not any(found.classes.values()):
        raise _no_images(found, folder)
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
        name = next(iter(found.classes))
        inner = [path.name for path in _folders(folder / name, found)] if (folder / name).is_dir() else []
        deeper = f" Did you mean '{shown(folder / name)}'?" if len(inner) > 1 else ""
        raise UserError(
            f"there is only one class, '{shown(name)}'",
            f"A classifier needs a folder for each of at least two classes.{deeper}",
            shown(folder),
        )


def _no_images(found: Found, folder: Path) -> UserError:
    """Return the error for class folders without images: they may hold texts, or images in another form."""
    if any(folder.glob("*idx3-ubyte*")):
        return UserError("the folder holds idx files, as MNIST has them", "Name it as idx:FOLDER.", shown(folder))
    if found.others:
        suffix, count = found.others.most_common(1)[0]
        files = plural(count, "file that ends", "files that end")
        what = f"the folder does not hold images in class folders, but {files} in '{shown(suffix)}'"
        if suffix in NOT_READ:
            return UserError(what, "Save them as JPEG or PNG.", shown(folder))
        if suffix in (".txt", ".text", ".md", ""):
            remedy = "Write the texts into one CSV file with the columns text and label: see docs/data/texts.md."
            return UserError(what, remedy, shown(folder))
        return UserError(what, f"Put images ({_suffixes()}) into one folder per class.", shown(folder))
    what = "the folder does not hold images in class folders"
    return UserError(what, f"Put images ({_suffixes()}) into one folder per class.", shown(folder))


def _suffixes() -> str:
    return ", ".join(sorted(SUFFIXES))


def _entries(folder: Path | str, found: Found) -> list[os.DirEntry[str]]:
    """Return the sorted entries of ``folder``, without files that are passed over; note an unreadable folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if not is_passed_over(e.name)), key=lambda e: clean(e.name))
    except OSError as error:
        problem = (clean(Path(folder).relative_to(found.root)), f"folder cannot be opened ({error.strerror})")
        if problem not in found.folders_unread:
            found.folders_unread.append(problem)
        return []


def _folders(folder: Path, found: Found) -> list[Path]:
    """Return the folders in ``folder``; a link is followed unless it leads to a folder that holds it (a loop)."""
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
        if entry.is_symlink():
            _note_outside(entry.path, found)
        kept.append(Path(entry.path))
    return kept


def _links_outside(links: list[str]) -> list[str]:
    """Return the note on links that lead out of the data folder, as a doubt that ``check`` lists."""
    if not links:
        return []
    what = f"links lead out of the folder, and what they show is read: {len(links)}, such as '{shown(links[0])}'"
    return [Doubt(what, "If the folder came from elsewhere, look where they lead.", "links", harmful=False)]


def _note_outside(path: str, found: Found) -> None:
    """Store a link that leads out of the data folder."""
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(found.root)):  # links in a circle end, too
        found.outside.append(clean(Path(path).relative_to(found.root)))


def _made_note(folder: str, found: Found) -> str:
    return f"the folder '{shown(Path(folder).relative_to(found.root))}' holds what metapl wrote and is passed over"


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Return whether the entry is a folder; False for a broken link or a circle of links."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _has_folders(folder: Path) -> bool:
    try:
        return any(path.is_dir() and not is_passed_over(path.name) for path in folder.iterdir())
    except OSError:
        return False


def _images(folder: Path, found: Found) -> list[str]:
    """Return all image files in ``folder`` and the folders inside it, sorted; linked folders inside are not entered."""
    images, links = list[str](), 0
    waiting = [folder.relative_to(found.root).as_posix()]
    while waiting:
        here = waiting.pop()
        for entry in _entries(os.path.join(found.root, here), found):
            if entry.is_symlink() and _is_dir(entry):
                links += 1
            elif _is_dir(entry) and is_made(entry.path):
                found.notes.append(_made_note(entry.path, found))
            elif _is_dir(entry):
                waiting.append(f"{here}/{entry.name}")
            elif is_image(entry.name):
                images.append(f"{here}/{entry.name}")
                if entry.is_symlink():
                    _note_outside(entry.path, found)
            else:
                found.others[os.path.splitext(entry.name)[1].lower()] += 1
    if links:
        found.notes.append(f"{plural(links, 'linked folder')} inside '{shown(folder.name)}' not entered")
    return sorted(images, key=clean)

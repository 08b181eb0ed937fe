"""NumPy's files: .npz with all arrays of a data set, or a lone .npy beside a file of labels. Never unpickled."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from metapl.data.images.options import OWN_SIZE, ImageOptions
from metapl.data.images.scan import exists, missing, shown
from metapl.data.memory.arrays import assemble
from metapl.data.memory.source import MemorySource
from metapl.data.tables.label_values import NO_RULE, LabelRule
from metapl.data.tables.labels import read_lines
from metapl.data.tables.readers.frame import counted
from metapl.errors import UserError
from metapl.types import Array, Preprocessing
from metapl.utils.limits import check_ratio

SUFFIXES = (".npz", ".npy")
MAX_BYTES = 8 * 2**30  # of one unpacked array in an .npz file, which cannot be mapped into memory
# How people call the parts, in small letters and without marks between words.
NAMES: dict[str, tuple[str, ...]] = {
    "X": (
        "x",
        "xtrain",
        "trainx",
        "data",
        "traindata",
        "images",
        "trainimages",
        "features",
        "texts",
        "xlabeled",
        "xlabelled",
    ),
    "y": ("y", "ytrain", "trainy", "labels", "label", "trainlabels", "target", "targets", "traintargets", "ylabeled"),
    "X_unlabeled": (
        "xunlabeled",
        "xunlabelled",
        "unlabeled",
        "unlabelled",
        "xu",
        "unlabeledimages",
        "unlabelledimages",
    ),
    "X_test": ("xtest", "testx", "testdata", "testimages", "testfeatures", "testtexts"),
    "y_test": ("ytest", "testy", "testlabels", "testlabel", "testtarget", "testtargets"),
    "class_names": ("classnames", "classes", "labelnames", "targetnames"),
}


def is_numpy(path: str | Path) -> bool:
    """Return whether the path names a file of arrays, by its suffix."""
    return Path(path).suffix.lower() in SUFFIXES and not Path(path).is_dir()


def open_numpy(
    path: str | Path,
    labels: str = "",
    *,
    unlabeled: str = "",
    test: str = "",
    tokenizer: str = "auto",
    max_tokens: int | str = "auto",
    images: ImageOptions = OWN_SIZE,
    like: Preprocessing | None = None,
    rule: LabelRule = NO_RULE,
) -> MemorySource:
    """Return a source over one file of arrays.

    Args:
        path: an .npz file that holds X and y, perhaps X_unlabeled, X_test with y_test, and class_names (or what
            ``NAMES`` has for them); or an .npy file that holds X alone, which is mapped into memory where it can be.
        labels: a file of labels, one per row of X: .npy, or text with one label per line. Needed where the file has
            none; an empty line, "" , -1 and NaN mark a row without a label.
        unlabeled, test: further files: X of the first are rows without labels, X and y of the second test rows.
        tokenizer, max_tokens: for texts, see ``from_arrays``.
        images: the size that they are brought to; auto: their own.
        like: the preprocessing of a trained model: all rows of this file alone are read for it, with labels if it has
            any.
        rule: the labels that mean "no label", and labels that are one class.

    Raises:
        UserError: a file is missing, damaged or holds Python objects, or the arrays do not fit each other or the model.
    """
    name, parts, notes = _parts(Path(path).expanduser(), labels)
    if like is None:
        if "y" not in parts:
            remedy = "Name a file of labels with source.labels=FILE, one per row."
            raise UserError("there are no labels in this file", remedy, name)
        _add(parts, unlabeled, {"X": "X_unlabeled"}, "source.unlabeled")
        _add(parts, test, {"X": "X_test", "y": "y_test"}, "source.test")
    classes = _class_names(parts.pop("class_names", None), name)
    how: dict[str, Any] = {"images": images, "learnt": True} if like is None else {"like": like, "learnt": False}
    with _located(name):
        source = assemble(_by_rule(parts, rule), classes, "auto", "", tokenizer, max_tokens, name, copy=False, **how)
    source.notes += tuple(notes)
    return source


def _by_rule(parts: dict[str, Any], rule: LabelRule) -> dict[str, Any]:
    """Return the arrays, each label as the class that it means; None for rows without a label."""

    def meaning(value: Any) -> Any:
        text = str(value.item() if isinstance(value, np.generic) else value)
        named = rule(text)
        return None if not named else value if named == text else named

    for key in ("y", "y_test"):
        if not rule.asked and getattr(parts.get(key), "dtype", None) is not None and parts[key].dtype.kind in "US":
            marked = int((parts[key] == np.array("-1", dtype=parts[key].dtype)).sum())
            if marked:
                what = f"{counted(marked, 'label')} of {key} read '-1', which may mark rows without a label"
                raise UserError(what, "If so, set source.no_label=-1; if it is a class, give it another name.", key)
    if not (rule.marks or rule.names):
        return parts
    return parts | {key: [meaning(value) for value in parts[key]] for key in ("y", "y_test") if key in parts}


def _parts(path: Path, labels: str) -> tuple[str, dict[str, Any], list[str]]:
    """Return the file's name for messages, its arrays by the names that ``from_arrays`` has, and notes."""
    name, notes = shown(path.name), list[str]()
    if path.suffix.lower() == ".npy":
        parts: dict[str, Any] = {"X": _load(path, name)}
    else:
        parts = _archive(path, name, notes)
    if labels:
        if "y" in parts:
            raise UserError("the file holds labels, and source.labels names others", "Leave one out.", name)
        parts["y"] = _labels(Path(labels).expanduser())
    for key in ("y", "y_test"):  # a column of labels, [N, 1]
        if key in parts and getattr(parts[key], "shape", ())[1:] == (1,):
            parts[key] = parts[key][:, 0]
    return name, parts, notes


def _add(parts: dict[str, Any], path: str, wanted: dict[str, str], setting: str) -> None:
    """Add the arrays of a further file."""
    if not path:
        return
    if not is_numpy(path):
        raise UserError(f"'{shown(path)}' is not a NumPy file by its suffix", "Give a .npz or .npy file.", setting)
    name, found, _ = _parts(Path(path).expanduser(), "")
    for key, part in wanted.items():
        if key not in found:
            raise UserError(f"no array in it is named {key}", "Write it with numpy.savez(FILE, X=..., y=...).", name)
        if part in parts:
            raise UserError(f"the first file holds {part} already", f"Leave {setting} out.", setting)
        parts[part] = found[key]


def _archive(path: Path, name: str, notes: list[str]) -> dict[str, Any]:
    with _opened(path, name) as archive:
        chosen = _chosen(archive.files, name)
        if "X" not in chosen:
            what = f"no array in it is named X (it has {', '.join(map(shown, archive.files)) or 'none'})"
            raise UserError(what, "Write it with numpy.savez(FILE, X=..., y=...).", name)
        _check_sizes(archive, chosen.values(), name)
        rest = [key for key in archive.files if key not in chosen.values()]
        if rest:
            notes.append(f"{name}: arrays that are not used: {', '.join(map(shown, rest))}")
        return {part: archive[key] for part, key in chosen.items()}


def _chosen(keys: Iterable[str], name: str) -> dict[str, str]:
    """Return part -> array."""
    found: dict[str, str] = {}
    for key in keys:
        plain = "".join(c for c in key.lower() if c.isalnum())
        part = next((part for part, names in NAMES.items() if plain in names), None)
        if part is None:
            continue
        if part in found:
            what = f"'{shown(found[part])}' and '{shown(key)}' may both be {part}"
            raise UserError(what, f"Keep one of them, or name it {part}.", name)
        found[part] = key
    return found


def _check_sizes(archive: Any, keys: Iterable[str], name: str) -> None:
    """Refuse arrays that would not fit into memory, before they are unpacked."""
    infos = {info.filename.removesuffix(".npy"): info for info in archive.zip.infolist()}
    for info in (infos[key] for key in keys if key in infos):
        if info.file_size > MAX_BYTES:
            size = f"{info.file_size / 2**30:.1f} GiB, above the limit of {MAX_BYTES / 2**30:.0f}"
            what = f"'{shown(info.filename.removesuffix('.npy'))}' is {size}"
            raise UserError(what, "Save it as a .npy file, which need not fit into memory.", name)
        check_ratio(info.file_size, info.compress_size, f"{name}, '{shown(info.filename)}'")


def _load(path: Path, name: str) -> Array:
    """Map one .npy file into memory; changes to the array never reach the file."""
    _check_regular(path, name)
    with _user_errors(path, name):
        found = np.load(path, mmap_mode="c", allow_pickle=False)
        if not isinstance(found, np.ndarray):
            found.close()
            raise UserError("this is not a .npy file", "Name it .npz if it holds several arrays.", name)
        return found


def _labels(path: Path) -> Any:
    name = shown(path.name)
    if path.suffix.lower() == ".npy":
        return np.array(_load(path, name))
    if path.suffix.lower() == ".npz":
        return _archive_labels(path, name)
    _check_regular(path, name)
    try:
        return read_lines(path.read_text(encoding="utf-8-sig"), name)
    except (OSError, UnicodeDecodeError) as error:
        what = f"the file of labels cannot be read ({getattr(error, 'strerror', None) or 'it is not UTF-8 text'})"
        raise UserError(what, "Give one label per line, or an .npy file.", name) from error


def _archive_labels(path: Path, name: str) -> Array:
    with _opened(path, name) as archive:
        key = _chosen(archive.files, name).get("y")
        if key is None:
            raise UserError("no array in it is named y", "Name the labels y.", name)
        _check_sizes(archive, [key], name)
        return np.array(archive[key])


def _class_names(names: Array | None, name: str) -> list[str] | None:
    if names is None:
        return None
    if names.ndim != 1 or names.dtype.kind not in "US":
        raise UserError(f"class_names is {names.dtype} {names.shape}, not a list of texts", "Give texts.", name)
    return [v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in names.tolist()]


def _check_regular(path: Path, name: str) -> None:
    """Refuse a pipe or a device, which may never end."""
    if exists(path) and not path.is_dir() and not path.is_file():
        raise UserError("this is a pipe or a device, not a file", "Write what it gives into a file.", name)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[Any]:
    """Open the archive, and close it in any case: NumPy leaves a damaged archive open."""
    _check_regular(path, name)
    with _user_errors(path, name), open(path, "rb") as file:
        archive = np.load(file, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError("this is not a .npz file", "Write it with numpy.savez.", name)
        with archive:
            yield archive


@contextmanager
def _user_errors(path: Path, name: str) -> Iterator[None]:
    """Turn errors of NumPy and of the zip format into a ``UserError`` of one line."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise missing(path) from error
    except PermissionError as error:
        raise UserError("no permission to read the file", "Check its permissions.", name) from error
    except MemoryError as error:
        raise UserError("its arrays do not fit into memory", "Take fewer rows, or save X as .npy.", name) from error
    except (OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, OverflowError) as error:
        raise _damaged(error, name) from error
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as error:
        raise _damaged(error, name) from error


def _damaged(error: BaseException, name: str) -> UserError:
    text = " ".join(str(error).split())
    if "allow_pickle" in text or "Python objects" in text:
        what = "it holds Python objects, which could run code when they are loaded"
        return UserError(
            what, "Save numbers or texts: numpy.savez(FILE, X=X.astype('float32'), y=y.astype(str)).", name
        )
    return UserError(f"the file is damaged, or not a NumPy file ({text[:200]})", "Fetch or write it again.", name)


@contextmanager
def _located(name: str) -> Iterator[None]:
    """Add the file's name to errors about one of its arrays."""
    try:
        yield
    except UserError as error:
        raise UserError(error.what, error.remedy, f"{name}, {error.where}" if error.where else name) from error

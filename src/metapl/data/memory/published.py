"""Published data sets by name, ``torchvision:NAME`` and ``hf:NAME``: read from disk, or fetched if asked for.

Nothing is fetched without ``download``. A fetched data set stays in a folder (``root``) and is read from there next
time.
"""

from __future__ import annotations

import os
import pickle
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from metapl.data.images.scan import shown
from metapl.data.memory.datasets import read_dataset
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError, nearest
from metapl.utils.cache import cache_folder

_TRAIN: dict[str, Any] = {"train": True}
_TEST: dict[str, Any] = {"train": False}


_Arguments = tuple[dict[str, Any] | None, ...]


def _split(train: str, test: str = "test", unlabeled: str = "") -> _Arguments:
    return tuple({"split": name} if name else None for name in (train, test, unlabeled))


# The arguments that give the training, the test and the unlabelled rows of a data set; None where it has none.
TORCHVISION: dict[str, _Arguments] = {
    **dict.fromkeys(("MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS"), (_TRAIN, _TEST, None)),
    **dict.fromkeys(("CIFAR10", "CIFAR100"), (_TRAIN, _TEST, None)),
    "EMNIST": ({"split": "balanced", **_TRAIN}, {"split": "balanced", **_TEST}, None),
    "STL10": _split("train", "test", "unlabeled"),
    **{
        name: _split("train")
        for name in ("SVHN", "GTSRB", "DTD", "Flowers102", "Food101", "Country211", "RenderedSST2")
    },
    **{name: _split("trainval") for name in ("OxfordIIITPet", "FGVCAircraft")},
    "Imagenette": _split("train", "val"),
    "EuroSAT": ({}, None, None),
}
UNLABELED = ("unlabeled", "unlabelled", "unsupervised")


@dataclass(frozen=True)
class PublishedOptions:
    """How a published data set is read.

    Attributes:
        root: the folder of the data set; by default one in the user's cache.
        download: fetch a missing data set.
        rows: further arguments of ``from_dataset``.
        label, contents: ``hf:``: the columns that hold the label, and the image or text; "" finds them by name.
    """

    root: str = ""
    download: bool = False
    rows: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""
    contents: str = ""


def open_torchvision(name: str, options: PublishedOptions) -> MemorySource:
    """Return a data set of torchvision with its own test rows; all rows are held in memory.

    Raises:
        UserError: torchvision is missing, no such data set, or it is not on this machine and ``download`` is not set.
    """
    where = f"torchvision:{name}"
    try:
        from torchvision import datasets
    except ImportError as error:
        remedy = "Install it: pip install 'metapl[vision]'."
        raise UserError("torchvision is not installed", remedy, where) from error
    known = {key.lower(): key for key in TORCHVISION}
    if name.lower() not in known:
        raise UserError(f"'{shown(name)}' is not a known data set", nearest(name, TORCHVISION), where)
    name = known[name.lower()]
    root = Path(options.root).expanduser() if options.root else cache_folder() / "data" / "torchvision" / name.lower()
    cls = getattr(datasets, name)
    if options.download and not root.exists():
        try:
            with _whole(root) as aside:  # a fetch that breaks off leaves nothing that would pass for the data
                _torchvision_parts(cls, aside, TORCHVISION[name], True, where)
        except OSError as error:
            raise UserError(
                f"the data cannot be kept ({_short(error)})",
                "Set source.root to a folder that can be written to.",
                where,
            ) from error
    train, test, unlabeled = _torchvision_parts(cls, root, TORCHVISION[name], options.download, where)
    return read_dataset((train, unlabeled, test), name=f"torchvision:{name}", published=True, **options.rows)


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """Give a new folder that takes the name ``folder`` at the end, and is removed after an error."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    around = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    aside = around / "data"
    try:
        aside.mkdir()  # as open to others as any new folder, which what mkdtemp makes is not
        yield aside
        try:
            os.replace(aside, folder)
        except OSError:
            if not folder.exists():  # else another process was faster
                raise
    finally:
        shutil.rmtree(around, ignore_errors=True)


def _torchvision_parts(cls: Any, root: Path, kinds: _Arguments, download: bool, where: str) -> list[Any]:
    return [None if kind is None else _torchvision_part(cls, root, kind, download, where) for kind in kinds]


def _torchvision_part(cls: Any, root: Path, kind: Mapping[str, Any], download: bool, where: str) -> Any:
    try:
        with _plain_pickles(where):
            return cls(str(root), **kind)
    except UserError:
        raise
    except Exception as error:  # each data set has its own way to say that nothing is there
        reason = error
    if not download:
        what = f"the data are not in {shown(str(root))} ({_short(reason)})"
        raise UserError(
            what,
            "Put them there",
            where,
            "or set source.download=true to fetch them (source.root=DIR to another folder).",
        ) from reason
    try:
        root.mkdir(parents=True, exist_ok=True)
        with _plain_pickles(where):
            return cls(str(root), download=True, **kind)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the data cannot be fetched ({_short(error)})", "Is there a network?", where) from error


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


class _PlainUnpickler(pickle.Unpickler):
    """Reads pickled arrays, lists and texts alone: nothing else could be read without running code."""

    allowed = frozenset(
        {
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("_codecs", "encode"),
        }
    )

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which arrays do not need")
        return super().find_class(module, name)


@contextmanager
def _plain_pickles(where: str) -> Iterator[None]:
    """Let torchvision read pickles of arrays alone: CIFAR is published as pickles, which could run code."""
    from torchvision.datasets import cifar

    def load(file: Any, encoding: str = "ASCII") -> Any:
        try:
            return _PlainUnpickler(file, encoding=encoding).load()
        except pickle.UnpicklingError as error:
            what = f"a file of it holds more than arrays ({error})"
            raise UserError(what, "Do not use this copy: fetch it from its publisher.", where) from error

    pickles, cifar.pickle = cifar.pickle, SimpleNamespace(load=load)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # what NumPy says of pickles that old
            yield
    finally:
        cifar.pickle = pickles


def open_hf(name: str, options: PublishedOptions) -> MemorySource:
    """Return a data set of Hugging Face: ``NAME`` or ``NAME:CONFIG``, or a folder that ``save_to_disk`` wrote.

    The split "train" holds the training rows; "test" (or "validation", if "test" has no labels) the test rows. Labels
    of "unsupervised" or "unlabelled" are not read.

    Raises:
        UserError: datasets is missing, the data set is not on this machine and ``download`` is not set, or it lacks a
            split "train" or a column that can be used.
    """
    where = f"hf:{name}"
    try:
        import datasets
    except ImportError as error:
        raise UserError("datasets is not installed", "Install it: pip install 'metapl[hf]'.", where) from error
    base = Path(options.root).expanduser() if options.root else cache_folder() / "data" / "hf"
    place = base / name.replace(":", "--")  # which no name on the hub holds
    folder = next((p for p in (Path(name).expanduser(), place) if _is_saved(p)), None)
    if folder is None:
        folder = place
        if not options.download:
            what = f"{shown(str(folder))} does not hold a data set"
            raise UserError(
                what, "Name a folder that save_to_disk wrote", where, "or set source.download=true to fetch it."
            )
        _fetch(datasets, name, folder, where)
    try:
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # Arrow's and the library's own errors, of many types
        raise UserError(f"the data set is damaged ({_short(error)})", "Fetch it again.", shown(str(folder))) from error
    splits = dict(found) if isinstance(found, Mapping) else {"train": found}
    return _of_splits(splits, options, where)


def _is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "dataset_info.json").is_file()


def _fetch(datasets: Any, name: str, folder: Path, where: str) -> None:
    """Fetch a data set into ``folder``, which is complete or absent."""
    if any(part in ("", ".", "..") for part in name.replace(":", "/").split("/")):
        raise UserError(f"'{shown(name)}' is not the name of a data set", "Write hf:NAME or hf:NAME:CONFIG.", where)
    path, config = name.split(":", 1) if ":" in name else (name, "")
    try:
        with _whole(folder) as aside, tempfile.TemporaryDirectory(dir=aside.parent, prefix=".cache.") as cache:
            found = datasets.load_dataset(path, config or None, cache_dir=cache)
            found.save_to_disk(str(aside))
    except Exception as error:
        several = not config and "config" in str(error).lower()
        remedy = "Write hf:NAME:CONFIG." if several else "Check name and network."
        raise UserError(f"the data set cannot be fetched ({_short(error)})", remedy, where) from error


def _of_splits(splits: Mapping[str, Any], options: PublishedOptions, where: str) -> MemorySource:
    if "train" not in splits:
        raise UserError(
            f"the data set lacks a split 'train' (it has {', '.join(splits)})", "Name another data set.", where
        )
    label = _column(splits["train"], options.label, "label", where)
    contents = _column(splits["train"], options.contents, "text or source.table.path", where)
    parts = {split: _Picked(data, label, contents) for split, data in splits.items()}
    test = next((parts[k] for k in ("test", "validation", "valid") if k in parts and parts[k].labeled()), None)
    unlabeled = next((parts[k] for k in UNLABELED if k in parts), None)
    return read_dataset((parts["train"], unlabeled, test), name=where, published=True, **options.rows)


def _column(data: Any, asked: str, setting: str, where: str) -> str:
    if asked and asked not in data.column_names:
        raise UserError(
            f"there is no column '{shown(asked)}' (source.{setting})", nearest(asked, data.column_names), where
        )
    return asked


class _Picked:
    """The rows of a data set, with the named columns under the names that ``from_dataset`` expects."""

    def __init__(self, data: Any, label: str, contents: str) -> None:
        self.data, self.label, self.contents = data, label, contents
        self.features = dict(data.features)
        if label:
            self.features = {"y": self.features[label]}

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, k: int) -> Any:
        row = dict(self.data[k])
        picked = {"x": row[self.contents]} if self.contents else {}
        picked |= {"y": row[self.label]} if self.label else {}
        return {**row, **picked}

    def labeled(self) -> bool:
        """Return whether any row has a label, by the label column."""
        from metapl.data.memory.datasets import Y_KEYS

        column = self.label or next((key for key in Y_KEYS if key in self.data.column_names), "")
        return bool(column) and any(y is not None and y != -1 for y in self.data[column])

"""The table of sources: what may stand where data are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from metapl.data.images.folder import FolderSource
from metapl.data.images.scan import exists, missing, near_path, shown
from metapl.data.memory.arrays import check_sized
from metapl.data.memory.digits import open_digits
from metapl.data.memory.idx import IdxSource
from metapl.data.memory.numpy_files import SUFFIXES as NUMPY
from metapl.data.memory.numpy_files import open_numpy
from metapl.data.memory.published import open_hf, open_torchvision
from metapl.data.options import SourceOptions as SourceOptions
from metapl.data.ref import DataRef
from metapl.data.tables.files import READERS, is_table, tables_in
from metapl.data.tables.source import open_table
from metapl.errors import UserError, nearest
from metapl.types import Source
from metapl.utils.names import split_name

Opener = Callable[[DataRef, SourceOptions], Source]


def _digits(ref: DataRef, options: SourceOptions) -> Source:
    if ref.argument:
        raise UserError(f"'digits' takes nothing after a colon ('{ref.argument}')", "Write 'digits'.", "data")
    return open_digits(options.image)


def _idx(ref: DataRef, options: SourceOptions) -> Source:
    if ref.path is None:
        raise UserError("'idx' needs a folder", "Write 'idx:FOLDER'.", "data")
    return IdxSource(ref.path, options.image)


def _folder(ref: DataRef, options: SourceOptions) -> Source:
    root = Path(ref.argument).expanduser()
    if exists(root) and not root.is_dir():
        raise _no_reader(root)
    if tables := tables_in(root):
        return open_table(_with_more(tables, options), options, shown(root.resolve().name))
    return FolderSource(root, options.image)


def _no_reader(path: Path) -> UserError:
    """What to do with a file that nothing reads."""
    known = ", ".join([*READERS, *NUMPY])
    suffix = path.suffix.lower()
    if suffix in (".xlsx", ".xls", ".ods"):
        return UserError("spreadsheets are not read", "Save the sheet as CSV.", shown(path))
    if suffix == ".json":
        return UserError("a .json file is not read", "Write one object per line, and call it .jsonl.", shown(path))
    if suffix in PACKED:
        return UserError("packed files are not read", f"Unpack it (metapl reads {known}).", shown(path))
    what = f"a file that ends in '{shown(suffix)}' is not read" if suffix else "a file without a suffix is not read"
    return UserError(what, f"Give a folder of images, or a file ({known}); csv:FILE reads any as CSV.", shown(path))


def _file(ref: DataRef, options: SourceOptions) -> Source:
    """A file of rows, and those that ``source.unlabeled`` and ``source.test`` name."""
    if ref.path is None:
        raise UserError(f"'{ref.source}' needs a file", f"Write '{ref.source}:FILE'.", "data")
    return open_table(_with_more({"labeled": ref.path}, options), options, suffix=ref.suffix)


def _with_more(paths: Mapping[str, Path], options: SourceOptions) -> dict[str, Path]:
    """``paths`` with the files that settings name.

    Raises:
        UserError: the setting names a file of another kind, or one that stands for another already.
    """
    made = dict(paths)
    for part in ("unlabeled", "test"):
        if named := getattr(options, part):
            path = Path(named).expanduser()
            if not is_table(path):
                remedy = f"Give a file ({', '.join(READERS)})."
                raise UserError(f"'{shown(named)}' is no file of rows by its suffix", remedy, f"source.{part}")
            if any(path.resolve() == other.resolve() for other in made.values()):
                raise UserError(f"'{shown(named)}' is given twice", "Name another file.", f"source.{part}")
            made[part] = path
    return made


def _numpy(ref: DataRef, options: SourceOptions) -> Source:
    if ref.path is None:
        raise UserError("a file is missing after the colon", "Write the path of a .npz or .npy file.", "data")
    return open_numpy(
        ref.path,
        options.labels,
        unlabeled=options.unlabeled,
        test=options.test,
        tokenizer=options.text.tokenizer,
        max_tokens=options.text.max_tokens,
        images=options.image,
    )


def _torchvision(ref: DataRef, options: SourceOptions) -> Source:
    return open_torchvision(ref.argument, options.published)


def _hf(ref: DataRef, options: SourceOptions) -> Source:
    return open_hf(ref.argument, options.published)


SOURCES: dict[str, Opener] = {"digits": _digits, "idx": _idx, "folder": _folder}
SOURCES |= dict.fromkeys((suffix[1:] for suffix in READERS), _file)
SOURCES |= {"npz": _numpy, "npy": _numpy, "torchvision": _torchvision, "hf": _hf}
PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz")


def read_ref(text: str) -> DataRef:
    """Return what ``text`` refers to: the path of a folder or file, a name in SOURCES, or ``NAME:ARGUMENT``."""
    return DataRef.parse(text, SOURCES)


def open_source(spec: str, options: SourceOptions | None = None) -> Source:
    """The source that ``spec`` names: ``digits``, ``idx:FOLDER``, ``folder:PATH`` or the path of a folder.

    A known name wins over a folder of that name; write ``./digits`` for the folder.

    Raises:
        UserError: unknown name or path (with the nearest name), or whatever the source finds wrong.
    """
    options = options or SourceOptions()
    source = _opened(read_ref(spec), options)
    check_sized(options.image, source.kind)
    return source


def _opened(ref: DataRef, options: SourceOptions) -> Source:
    if ref.source:
        return SOURCES[ref.source](ref, options)
    if not ref.text:
        raise UserError("no data are named", f"Give a folder or one of {', '.join(SOURCES)}.", "data")
    prefix, rest = split_name(ref.text)
    if prefix is not None:
        raise UserError(f"unknown source '{prefix}'", nearest(prefix, SOURCES), "data")
    if near_path(Path(rest)):
        raise missing(Path(rest))
    raise UserError(f"'{rest}' is neither a source nor a path", nearest(rest, SOURCES), "data")

"""The table of sources: what may stand where data are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from metapl.data.images.folder import FolderSource
from metapl.data.images.options import ImageOptions
from metapl.data.images.scan import exists, missing, near_path, shown
from metapl.data.memory.arrays import check_sized
from metapl.data.memory.digits import open_digits
from metapl.data.memory.idx import IdxSource
from metapl.data.memory.numpy_files import SUFFIXES as NUMPY
from metapl.data.memory.numpy_files import open_numpy
from metapl.data.memory.published import PublishedOptions, open_hf, open_torchvision
from metapl.data.ref import DataRef
from metapl.data.tables.files import READERS, Decimal, TableOptions, is_table, tables_in
from metapl.data.tables.roles import AUTO, NONE, RoleOptions
from metapl.data.tables.source import open_table
from metapl.errors import UserError, nearest
from metapl.types import Resize, Source
from metapl.utils.names import split_name


@dataclass(frozen=True)
class SourceOptions:
    """How rows are read.

    Attributes:
        image_size: side that images are brought to, HxW, or "auto" (their own if common and at most 64, else 64);
            "auto:96" has 96 in the place of 64; arrays keep their own size under auto.
        resize: cover (scaled, cropped about the centre), stretch, or pad (scaled to fit, middle grey beside it).
        memory: GiB of decoded training images up to which they are held; above, they are decoded when needed.
        prefetch: steps for which images that are not held are decoded ahead in the background; 0 = none.
        allow_bad: go on where more than 5 images and more than 5 % of them cannot be read.
        cache: keep what was learnt about image files, and their decoded rows, for the next opening (docs/images.md).
        tokenizer: texts: words (hashed, nothing to download), hf:FOLDER, or auto (the model's own, else words).
        max_tokens: texts: token ids per text, or auto (the longest text's, at most 256); longer texts are cut.
        label: files of rows: the column of the classes; auto takes label, labels, class, target, category or y.
        path: the column of image paths, or none; auto takes path, file, filename, filepath, image, img or image_path.
        text: the column of texts, or none; auto takes text, sentence, question, document or content.
        features: the columns of features, between commas; by default all that have no other role.
        ignore: columns that are not used, between commas.
        categorical: columns whose values are categories even where they look like numbers, between commas.
        id: the column of row ids, or none; auto takes id. Without one, rows go by their line in the file.
        split: the column that says train, unlabelled or test, or none; auto takes split.
        unlabeled: a second file, of rows without labels.
        test: a further file, of test rows.
        root: the folder that paths in a file start from, by default the file's own; for torchvision: and hf: the folder
            that holds the data or is to, by default one in ~/.cache/metapl.
        delimiter: comma, tab, semicolon or pipe; auto finds it in the header.
        encoding: utf-8, cp1252 (Windows, Excel), latin-1 or another that Python knows; auto takes UTF-8, or what the
            file's first bytes say. What is sound UTF-8 beyond ASCII is read as such in any case.
        decimal: the sign before the decimals of all numbers in a CSV or TSV file: point (3.5) or comma (3,5).
        skip_bad_rows: leave bad rows of a file out (they are listed in problems.csv) instead of stopping.
        encoder: a frozen network whose features stand for the rows: timm:NAME, torchvision:NAME, hf:FOLDER or
            package.module:factory.
        encoder_weights: a file of its weights, .safetensors or .pth.
        encoder_size: side that images are brought to for it, HxW, or auto (what it was made for).
        encoder_pooling: texts: mean (over all words), cls, begin (the first two: for questions and the like), or auto
            (as its folder says).
        labels: .npy files: the file of labels, one per row: .npy, .npz or text with one label per line.
        download: torchvision: and hf:, fetch the data where they are not on this machine.
    """

    image_size: int | str = "auto"
    resize: Resize = "cover"
    memory: float = 4.0
    prefetch: int = 2
    allow_bad: bool = False
    cache: bool = True
    tokenizer: str = "auto"
    max_tokens: int | str = "auto"
    label: str = "auto"
    path: str = "auto"
    text: str = "auto"
    features: str = ""
    ignore: str = ""
    categorical: str = ""
    id: str = "auto"
    split: str = "auto"
    unlabeled: str = ""
    test: str = ""
    root: str = ""
    delimiter: str = "auto"
    encoding: str = "auto"
    decimal: Decimal = "point"
    skip_bad_rows: bool = False
    encoder: str = ""
    encoder_weights: str = ""
    encoder_size: int | str = "auto"
    encoder_pooling: str = "auto"
    labels: str = ""
    download: bool = False

    @property
    def table(self) -> TableOptions:
        """What concerns files of rows."""
        return TableOptions(RoleOptions(**self._part(RoleOptions)), **self._part(TableOptions, "roles"))

    @property
    def written(self) -> dict[str, str]:
        """How files of rows are written, as far as it was set: new files of the kind are, too."""
        default = SourceOptions()
        values = {"delimiter": self.delimiter, "encoding": self.encoding, "decimal": self.decimal}
        return {name: value for name, value in values.items() if value != getattr(default, name)}

    @property
    def images(self) -> ImageOptions:
        """What concerns stored images."""
        return ImageOptions(**self._part(ImageOptions))

    def _part(self, cls: Any, without: str = "") -> dict[str, Any]:
        """The values that ``cls`` takes, by name."""
        return {f.name: getattr(self, f.name) for f in fields(cls) if f.name != without}

    @property
    def published(self) -> PublishedOptions:
        """What concerns ``torchvision:`` and ``hf:``."""
        rows = {k: getattr(self, k) for k in ("image_size", "resize", "tokenizer", "max_tokens")}
        asked = [name for name in (self.path, self.text) if name not in (AUTO, NONE)]
        label = "" if self.label in (AUTO, NONE) else self.label
        return PublishedOptions(self.root, self.download, rows, label, asked[0] if asked else "")


Opener = Callable[[DataRef, SourceOptions], Source]


def _digits(ref: DataRef, options: SourceOptions) -> Source:
    if ref.argument:
        raise UserError(f"'digits' takes nothing after a colon ('{ref.argument}')", "Write 'digits'.", "data")
    return open_digits(options.images)


def _idx(ref: DataRef, options: SourceOptions) -> Source:
    if ref.path is None:
        raise UserError("'idx' needs a folder", "Write 'idx:FOLDER'.", "data")
    return IdxSource(ref.path, options.images)


def _folder(ref: DataRef, options: SourceOptions) -> Source:
    root = Path(ref.argument).expanduser()
    if exists(root) and not root.is_dir():
        raise _no_reader(root)
    if tables := tables_in(root):
        return open_table(_with_more(tables, options), options.table, shown(root.resolve().name))
    return FolderSource(root, **asdict(options.images))


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
    return open_table(_with_more({"labeled": ref.path}, options), options.table, suffix=ref.suffix)


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
    more = {key: getattr(options, key) for key in ("unlabeled", "test", "tokenizer", "max_tokens")}
    return open_numpy(ref.path, options.labels, images=options.images, **more)


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
    check_sized(options.images, source.kind)
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

"""The one door for data: the table of sources, and ``open_source`` for training rows and for new rows."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from metapl.data.corrections import CorrectedSource, with_corrections
from metapl.data.embedded import as_features, check_encoder, check_size, for_encoder
from metapl.data.images.folder import FolderSource
from metapl.data.images.scan import exists, missing, near_path, shown
from metapl.data.images.store import Known
from metapl.data.images.tree import open_tree
from metapl.data.memory.arrays import check_sized
from metapl.data.memory.digits import open_digits
from metapl.data.memory.idx import IdxSource
from metapl.data.memory.numpy_files import SUFFIXES as NUMPY
from metapl.data.memory.numpy_files import open_numpy
from metapl.data.memory.published import PublishedOptions, open_hf, open_torchvision
from metapl.data.modalities import modality_of
from metapl.data.new_rows import NewRows
from metapl.data.options import EncoderOptions, TextOptions
from metapl.data.options import SourceOptions as SourceOptions
from metapl.data.ref import DataRef as DataRef
from metapl.data.request import Opener
from metapl.data.request import Request as Request
from metapl.data.tables.label_values import read_rule
from metapl.data.tables.readers.batch import BatchFile
from metapl.data.tables.readers.files import READERS, is_table, tables_in
from metapl.data.tables.source import open_new_batch, open_table
from metapl.errors import UserError, nearest
from metapl.types import Levels, ModelInput, Preprocessing, Source
from metapl.utils.names import split_name
from metapl.utils.progress import silent


def _digits(ref: DataRef, request: Request) -> Source:
    if ref.argument:
        raise UserError(f"'digits' takes nothing after a colon ('{ref.argument}')", "Write 'digits'.", "data")
    return open_digits(request.options.image)


def _idx(ref: DataRef, request: Request) -> Source:
    if ref.path is None:
        raise UserError("'idx' needs a folder", "Write 'idx:FOLDER'.", "data")
    return IdxSource(ref.path, request.options.image)


def _folder(ref: DataRef, request: Request) -> Source:
    if (root := ref.path) is None:
        raise UserError("'folder' needs a path", "Write 'folder:PATH'.", "data")
    options, like = request.options, request.like
    if like is None and exists(root) and not root.is_dir():
        raise _no_reader(root)
    images = like is not None and modality_of(like.takes.kind).sized
    tables = {} if like is not None and images and not like.labels else tables_in(root)
    if tables:
        return _table(tables, request, shown(root.resolve().name))
    if like is not None:
        return open_tree(root, like, options.image)
    no_label = read_rule(options.no_label, "").no_label
    how: dict[str, Any] = {"known": request.known, "progress": request.progress, "levels": request.levels}
    return FolderSource(root, options.image, no_label=no_label, **how)


def _no_reader(path: Path) -> UserError:
    """Return what to do with a file that nothing reads."""
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


def _file(ref: DataRef, request: Request) -> Source:
    """Return a file of rows, and those that ``source.unlabeled`` and ``source.test`` name."""
    if ref.path is None:
        raise UserError(f"'{ref.source}' needs a file", f"Write '{ref.source}:FILE'.", "data")
    return _table({"labeled": ref.path}, request, suffix=ref.suffix)


def _table(paths: Mapping[str, Path], request: Request, name: str = "", suffix: str = "") -> Source:
    options, like = request.options, request.like
    if like is None:
        paths = _with_more(paths, options)
    elif like.labels:  # of several files the one that is judged
        paths = {"labeled": paths.get("test", paths["labeled"])}
    return open_table(paths, options, name, suffix, like, request.known, request.progress, request.levels)


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
                raise UserError(f"'{shown(named)}' is not a file of rows by its suffix", remedy, f"source.{part}")
            if any(path.resolve() == other.resolve() for other in made.values()):
                raise UserError(f"'{shown(named)}' is given twice", "Name another file.", f"source.{part}")
            made[part] = path
    return made


def _numpy(ref: DataRef, request: Request) -> Source:
    if ref.path is None:
        raise UserError("a file is missing after the colon", "Write the path of a .npz or .npy file.", "data")
    options, like = request.options, request.like
    return open_numpy(
        ref.path,
        options.labels if like is None else "",
        unlabeled=options.unlabeled,
        test=options.test,
        tokenizer=options.text.tokenizer,
        max_tokens=options.text.max_tokens,
        images=options.image,
        like=None if like is None else like.takes,
        rule=read_rule(options.no_label, options.label_map),
    )


def _published(request: Request) -> PublishedOptions:
    """Return the options of a published data set; the labels of new rows are those of a trained model."""
    published = request.options.published
    levels = request.levels if request.like is None else request.like.takes.levels
    return replace(published, rows={**published.rows, "learnt": request.like is None, "levels": levels})


def _torchvision(ref: DataRef, request: Request) -> Source:
    return open_torchvision(ref.argument, _published(request))


def _hf(ref: DataRef, request: Request) -> Source:
    return open_hf(ref.argument, _published(request))


SOURCES: dict[str, Opener] = {"digits": _digits, "idx": _idx, "folder": _folder}
SOURCES |= dict.fromkeys((suffix[1:] for suffix in READERS), _file)
SOURCES |= {"npz": _numpy, "npy": _numpy, "torchvision": _torchvision, "hf": _hf}
PACKED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".tar", ".tgz")


def read_ref(text: str) -> DataRef:
    """Return what ``text`` refers to: the path of a folder or file, a name in SOURCES, or ``NAME:ARGUMENT``."""
    return DataRef.parse(text, SOURCES)


def open_source(
    ref: DataRef | Source,
    options: SourceOptions | None = None,
    like: ModelInput | None = None,
    known: Known | None = None,
    progress: Callable[[str], None] | None = None,
    levels: Levels | None = None,
) -> Source:
    """Open what ``ref`` refers to, training rows or new rows for a trained model.

    Args:
        ref: the reference; or a source that is open already, whose rows may become features.
        options: how rows are read. Where they name an encoder, rows become its features; images are then brought to
            its size and texts cut by its tokenizer, unless the options say otherwise.
        like: new rows: what the trained model asks of them. Nothing is learnt from such rows.
        known: what a finished run knows of its images.
        progress: called with a line on how far the opening is, where it takes long.
        levels: those of a stored run (``runs.folder.stored_levels``), to read its images as it did; None: those of the
            training images.

    Raises:
        UserError: an unknown name or path (with the nearest name), rows that do not fit the model, or whatever the
            source finds wrong.
    """
    options, progress = options or SourceOptions(), progress or silent
    if like is not None:
        assert isinstance(ref, DataRef)  # an open source is matched to a model by ``matching``
        return _new_rows(ref, options, like, progress)
    check_encoder(options)
    if isinstance(ref, DataRef):
        options = for_encoder(options)
        source = _opened(ref, Request(options, None, known, progress, levels))
        check_sized(options.image, source.kind)
    else:
        source = ref
        check_size(source.uncorrected if isinstance(source, CorrectedSource) else source, options.image)
        if isinstance(source, CorrectedSource):
            return source
    return with_corrections(as_features(source, options, progress), options.corrections)


def open_new(ref: DataRef, options: SourceOptions, like: ModelInput, rows: int) -> NewRows | Source:
    """Open new rows for a trained model: a file of rows to be read ``rows`` at a time, anything else as a source.

    Raises:
        UserError: as ``open_source``; of a file, what its header tells.
    """
    if not ref.is_table or ref.path is None:
        return _new_rows(ref, options, like, silent)
    try:
        return NewRows(ref.path, _options_for(options, like.takes), like, rows, ref.suffix)
    except UserError as error:
        raise error.without_setting() from error


def _new_rows(ref: DataRef, options: SourceOptions, like: ModelInput, progress: Callable[[str], None]) -> Source:
    """Rows as the model wants them; it encodes by itself. Errors advise no setting, since these are the training's.

    Raises:
        UserError: the model takes images, and these rows are not images.
    """
    p = like.takes
    try:
        source = _opened(ref, Request(_options_for(options, p, ref.is_published), like, None, progress))
    except UserError as error:
        raise error.without_setting() from error
    if modality_of(p.kind).sized and source.kind != p.kind:
        remedy = "Give images, or the model that was trained on such rows."
        raise UserError("the model takes images, and these rows are not images", remedy, ref.text)
    return source


def _options_for(options: SourceOptions, takes: Preprocessing, resized: bool = False) -> SourceOptions:
    """Return the options of a training, for new rows of a model; ``resized``: images are brought to its size."""
    image = replace(options.image, size="auto")
    if modality_of(takes.kind).sized and (takes.resized or resized):
        image = replace(image, size=f"{takes.shape[1]}x{takes.shape[2]}", resize=takes.resize)
    text = options.text if takes.tokens is None else TextOptions(takes.tokens.tokenizer, takes.tokens.length)
    return replace(options, image=image, text=text, encoder=EncoderOptions())


def open_batch(batch: BatchFile, options: SourceOptions, like: ModelInput) -> Source:
    """Open a batch of new rows for a trained model; ``options`` are those of its training.

    Raises:
        UserError: a column is missing, or a row cannot serve.
    """
    root = os.path.abspath(os.path.expanduser(options.root))
    return open_new_batch(batch, root, _options_for(options, like.takes), like)


def _opened(ref: DataRef, request: Request) -> Source:
    if ref.source:
        return SOURCES[ref.source](ref, request)
    if not ref.text:
        raise UserError("no data are named", f"Give a folder or one of {', '.join(SOURCES)}.", "data")
    prefix, rest = split_name(ref.text)
    if prefix is not None:
        raise UserError(f"unknown source '{prefix}'", nearest(prefix, SOURCES), "data")
    if near_path(Path(rest)):
        raise missing(Path(rest))
    raise UserError(f"'{rest}' is neither a source nor a path", nearest(rest, SOURCES), "data")

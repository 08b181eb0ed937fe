"""The table of sources: what may stand where data are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from metapl.data.digits import open_digits
from metapl.data.folder import FolderSource
from metapl.data.idx import IdxSource
from metapl.data.scan import exists
from metapl.errors import UserError, nearest
from metapl.types import Source


@dataclass(frozen=True)
class SourceOptions:
    """How rows are read.

    Attributes:
        image_size: side that the images of a folder are brought to, or "auto".
        allow_bad: go on where more than 5 images and more than 5 % of a folder cannot be read.
        tokenizer: texts: words (hashed, nothing to download), hf:FOLDER, or auto (the model's own, else words).
        max_tokens: texts: token ids per text, or auto (the longest text's, at most 256); longer texts are cut.
    """

    image_size: int | str = "auto"
    allow_bad: bool = False
    tokenizer: str = "auto"
    max_tokens: int | str = "auto"


Opener = Callable[[str, SourceOptions], Source]


def _digits(argument: str, options: SourceOptions) -> Source:
    if argument:
        raise UserError(f"'digits' takes nothing after a colon ('{argument}')", "Write 'digits'.", "data")
    return open_digits()


def _idx(argument: str, options: SourceOptions) -> Source:
    if not argument:
        raise UserError("'idx' needs a folder", "Write 'idx:FOLDER'.", "data")
    return IdxSource(Path(argument).expanduser())


def _folder(argument: str, options: SourceOptions) -> Source:
    return FolderSource(Path(argument).expanduser(), image_size=options.image_size, allow_bad=options.allow_bad)


SOURCES: dict[str, Opener] = {"digits": _digits, "idx": _idx, "folder": _folder}


def open_source(spec: str, options: SourceOptions | None = None) -> Source:
    """The source that ``spec`` names: ``digits``, ``idx:FOLDER``, ``folder:PATH`` or the path of a folder.

    A known name wins over a folder of that name; write ``./digits`` for the folder.

    Raises:
        UserError: unknown name or path (with the nearest name), or whatever the source finds wrong.
    """
    options = options or SourceOptions()
    name, colon, argument = spec.partition(":")
    if name in SOURCES and (colon or name != "folder"):
        return SOURCES[name](argument, options)
    if not spec:
        raise UserError("no data are named", f"Give a folder or one of {', '.join(SOURCES)}.", "data")
    known_name_only = not any(mark in name for mark in "/\\.~")
    if not exists(Path(spec)) and known_name_only:
        what = f"unknown source '{name}'" if colon else f"'{spec}' is neither a source nor a path"
        raise UserError(what, nearest(name, SOURCES), "data")
    return _folder(spec, options)

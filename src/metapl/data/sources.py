"""The table of sources: what may stand where data are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from metapl.data.digits import open_digits
from metapl.data.folder import FolderSource
from metapl.data.idx import IdxSource
from metapl.data.image_options import ImageOptions
from metapl.data.scan import exists
from metapl.errors import UserError, nearest
from metapl.types import Resize, Source


@dataclass(frozen=True)
class SourceOptions:
    """How rows are read.

    Attributes:
        image_size: side that images are brought to, HxW, or "auto" (their own if common and at most 64, else 64).
        resize: cover (scaled, cropped about the centre), stretch, or pad (scaled to fit, middle grey beside it).
        memory: GiB of decoded training images up to which they are held; above, they are decoded when needed.
        prefetch: steps for which images that are not held are decoded ahead in the background; 0 = none.
        allow_bad: go on where more than 5 images and more than 5 % of them cannot be read.
        tokenizer: texts: words (hashed, nothing to download), hf:FOLDER, or auto (the model's own, else words).
        max_tokens: texts: token ids per text, or auto (the longest text's, at most 256); longer texts are cut.
    """

    image_size: int | str = "auto"
    resize: Resize = "cover"
    memory: float = 4.0
    prefetch: int = 2
    allow_bad: bool = False
    tokenizer: str = "auto"
    max_tokens: int | str = "auto"

    @property
    def images(self) -> ImageOptions:
        """What concerns stored images."""
        return ImageOptions(self.image_size, self.resize, self.memory, self.prefetch, self.allow_bad)


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
    return FolderSource(Path(argument).expanduser(), **asdict(options.images))


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

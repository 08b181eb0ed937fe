"""References to data as users write them (``photos``, ``csv:rows.txt``, ``hf:NAME``, ``digits``), parsed once."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

from metapl.data.images.scan import exists
from metapl.data.memory.numpy_files import SUFFIXES as ARRAYS
from metapl.data.memory.numpy_files import is_numpy
from metapl.data.tables.readers.files import READERS as TABLES
from metapl.data.tables.readers.files import is_table
from metapl.utils.names import last_part, split_name

PUBLISHED = ("torchvision", "hf")  # the name of a data set follows, or a folder that holds it
FOLDER = "folder"
OF_FILES = (FOLDER, "idx")  # besides the readers of tables and arrays


@dataclass(frozen=True)
class DataRef:
    """A reference to data.

    Attributes:
        text: as the user wrote it.
        source: its name in SOURCES; "" for an unknown name without a path.
        argument: the part behind the source's name, or the path itself.
        named: whether the user wrote the source's name (``csv:rows.txt``), not a path alone (``rows.csv``).
    """

    text: str
    source: str
    argument: str
    named: bool = False

    @classmethod
    def parse(cls, text: str, names: Container[str]) -> DataRef:
        """Read ``text``; ``names`` are those of the known sources.

        A known name wins over a folder of that name; write ``./digits`` for the folder.
        """
        prefix, rest = split_name(text)
        if prefix is not None and prefix in names:
            return cls(text, prefix, rest, named=True)
        is_path = text == FOLDER or (f".{text}" in TABLES and exists(Path(text)))
        if text in names and not is_path:
            return cls(text, text, "", named=True)
        if is_table(text) or is_numpy(text):
            return cls(text, os.path.splitext(text)[1][1:].lower(), text)
        path_like = any(mark in (text if prefix is None else prefix) for mark in "/\\.~")
        return cls(text, FOLDER if text and (path_like or exists(Path(text))) else "", text)

    @property
    def is_table(self) -> bool:
        """Whether it is a file of rows."""
        return f".{self.source}" in TABLES

    @property
    def is_arrays(self) -> bool:
        """Whether it is a file of NumPy arrays."""
        return f".{self.source}" in ARRAYS

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder (or a file with an unknown suffix)."""
        return self.source == FOLDER

    @property
    def is_published(self) -> bool:
        """Whether it is a published data set."""
        return self.source in PUBLISHED

    @property
    def suffix(self) -> str:
        """The suffix by which a file of rows is read, where the user named it; else ""."""
        return f".{self.source}" if self.named and self.is_table else ""

    @property
    def path(self) -> Path | None:
        """The file or folder that it names; None for others, such as a published data set by its name.

        The argument of a source of one's own is a path only if it exists: ``blobs:60`` names 60 points.
        """
        if not self.argument or not self.source:
            return None
        path = Path(self.argument).expanduser()
        if self.is_published:
            return path if path.is_dir() else None
        return path if self.source in OF_FILES or self.is_table or self.is_arrays or exists(path) else None

    @property
    def stem(self) -> str:
        """``name`` as a part of a folder's name."""
        return re.sub(r"[^A-Za-z0-9]+", "-", self.name).strip("-") or "data"

    @property
    def name(self) -> str:
        """A short name: the last part of the path, or the name of the data set."""
        return Path(last_part(self.text)).name

    def absolute(self) -> DataRef:
        """Return the same reference, for use from any folder."""
        if self.path is None or (not self.named and self.is_folder and not self.path.is_dir()):
            return self
        path = os.path.abspath(self.path)
        return replace(self, argument=path, text=f"{self.source}:{path}" if self.named else path)

    def same_as(self, other: DataRef) -> bool:
        """Return whether both mean the same data, however they are written."""
        return self._identity == other._identity

    @property
    def _identity(self) -> tuple[str, str]:
        if self.path is None:
            return "", self.text
        kind = self.source if self.source in (*PUBLISHED, "idx") else ""  # csv:x.csv is x.csv
        return kind, os.path.realpath(self.path)

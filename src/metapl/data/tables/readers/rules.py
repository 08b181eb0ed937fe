"""Rules over whole columns that yield bad rows and their reasons. ``Joined.refuse`` acts on them."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence

import numpy as np

from metapl.data.tables.readers.frame import Texts, short
from metapl.data.tables.readers.stretch import Seen
from metapl.types import Array

Refusal = tuple[int, str, str]  # the row, what is wrong with it, and the remedy
LONG = 1024  # a longer path without a suffix is hardly a path


LINES = "Write it with one JSON object per line, without commas or brackets between the lines."
SYSTEMATIC = 1 / 3  # a fault in this share of the rows is a fault of the file
_VARYING = re.compile(r"'[^']*'|\d+")


class Fault(str):
    """The reason why a row is bad.

    Attributes:
        source: the part of the file at fault if many rows share the reason: "header" (or the delimiter), "quotes",
            "paths" or "json"; "" if unknown.
    """

    source: str

    def __new__(cls, reason: str, source: str) -> Fault:
        fault = super().__new__(cls, reason)
        fault.source = source
        return fault


def fault_of(reason: str) -> str:
    """Return a reason without the values in it: it is equal for all rows with the same fault."""
    return _VARYING.sub("#", reason)


def systematic_remedy(reason: str, remedy: str) -> str:
    """Return the remedy for many rows with one reason: leaving them out would hide a fault of the file."""
    source = reason.source if isinstance(reason, Fault) else ""
    if source == "header":
        return "Look at the header and the delimiter (source.table.delimiter): one of the two does not fit these rows."
    if source in ("quotes", "paths"):
        return remedy
    if source == "json":
        return LINES
    return f"{remedy} So many are not slips: is the right column named, and the file written as its settings say?"


def odd_levels(texts: Texts, rows: Array, why: Callable[[str], str | None], remedy: str) -> Iterator[Refusal]:
    """Yield the rows among ``rows`` (bool [N]) whose text has a fault; ``why``: text -> the reason, or None."""
    for code, level in enumerate(texts.levels):
        if (reason := why(level)) is not None:
            yield from ((row, reason, remedy) for row in np.flatnonzero((texts.codes == code) & rows).tolist())


def repeated(
    texts: Texts,
    part: Array,
    held: Collection[int],
    noun: str,
    column: str,
    place: Callable[[int], str],
    same: Callable[[str, int], str] | None = None,
    seen: Seen | None = None,
) -> Iterator[Refusal]:
    """Yield rows whose text is empty, or occurs in an earlier row.

    Args:
        part: [N] the file that each row comes from.
        held: the files that have the column; others are passed over.
        noun: the kind of text, for messages.
        place: row -> the place that a message names.
        same: (text, file) -> the key by which texts are compared; by default the text.
        seen: the texts of earlier stretches of the file, to which these are added; None for a whole file.
    """
    if seen is None and same is None and len(texts.levels) == len(texts) and "" not in texts.levels:
        return
    first: dict[str, int] = {}

    def earlier(key: str, row: int, text: str) -> tuple[str, str] | None:
        if seen is not None:
            return seen.earlier(noun, key, text, place(row))
        before = first.setdefault(key, row)
        return None if before == row else (place(before), texts[before])

    for row, code in enumerate(texts.codes.tolist()):
        if (file := int(part[row])) not in held:
            continue
        text = texts.levels[code]
        if not text:
            yield row, f"the {noun} (column '{short(column)}') is empty", "Give one to each row."
        elif (before := earlier(same(text, file) if same else text, row, text)) is not None:
            there, written = before
            twice = f"the {noun} '{short(text)}' stands already in {there}"
            yield row, twice + ("" if written == text else f" (as '{short(written)}')"), "Give each row its own."


def odd_paths(texts: Texts, part: Array, roots: Sequence[str], settings: bool) -> Iterator[Refusal]:
    """Yield rows whose path leads out of its folder (``roots``, one per file), or is an image in base64.

    ``settings``: whether remedies may advise a setting.
    """

    def encoded(value: str) -> str | None:
        if not value.startswith("data:") and (len(value) <= LONG or os.path.splitext(value)[1]):
            return None
        what = f"the path is a text of {len(value)} characters, '{short(value)}', which looks like base64"
        return Fault(what, "paths")

    def outside(value: str) -> str | None:
        if os.path.isabs(value) or os.path.normpath(value).split(os.sep)[0] != "..":
            return None
        return f"the path '{short(value)}' leads out of the folder"

    for file in range(len(roots)):
        remedy = "Store the image's bytes (base64.b64decode) in a Parquet file, or name its file."
        yield from odd_levels(texts, part == file, encoded, remedy)
        absolute = f"Write it absolute{', or set source.root=DIR' if settings else ''}."
        yield from odd_levels(texts, part == file, outside, absolute)

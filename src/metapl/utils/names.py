"""Names of two parts: ``timm:resnet18``, ``hf:FOLDER``, ``csv:rows.txt``, ``package.module:Class``."""

from __future__ import annotations

from typing import NamedTuple


class Name(NamedTuple):
    """A name, split at its first colon.

    Attributes:
        prefix: the part before the colon; None without a colon.
        rest: the part behind it; the whole text without a colon.
    """

    prefix: str | None
    rest: str


def split_name(text: str) -> Name:
    """Return the two parts of ``text``."""
    prefix, colon, rest = text.partition(":")
    return Name(prefix, rest) if colon else Name(None, text)


def last_part(text: str) -> str:
    """Return the part of ``text`` behind its last colon; all of it without a colon."""
    return text.rpartition(":")[2]

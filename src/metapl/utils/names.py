"""Names of two parts: ``timm:resnet18``, ``hf:FOLDER``, ``csv:rows.txt``, ``package.module:Class``."""

from __future__ import annotations

from typing import NamedTuple


class Name(NamedTuple):
    """A name, split at its first colon.

    Attributes:
        prefix: what stands before the colon; None where there is none.
        rest: what stands behind it; the whole text where there is none.
    """

    prefix: str | None
    rest: str


def split_name(text: str) -> Name:
    """Return the two parts of ``text``."""
    prefix, colon, rest = text.partition(":")
    return Name(prefix, rest) if colon else Name(None, text)


def last_part(text: str) -> str:
    """Return what stands behind the last colon of ``text``; all of it where there is none."""
    return text.rpartition(":")[2]

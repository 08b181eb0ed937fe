"""Paths and names in messages: odd bytes, control characters, missing paths and their nearest names."""

from __future__ import annotations

import difflib
import os
import unicodedata
from pathlib import Path

from metapl.errors import UserError


def clean(name: str | Path) -> str:
    """Return a file name as text that can be written anywhere: bytes that are not UTF-8 become ``\\xNN``."""
    if isinstance(name, str) and name.isascii():
        return name  # the very text: many paths are held as file and as id
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown(name: str | Path) -> str:
    """Return a name for a one-line message: control characters (a newline in a file name) are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in clean(name))


def exists(path: Path) -> bool:
    """Return whether the path exists; False for a name that file systems refuse."""
    try:
        return path.exists()
    except (OSError, ValueError):  # a name too long, a link in a circle, a NUL byte
        return False


def missing(path: Path) -> UserError:
    """Return the error for a missing path; it names the nearest path in the same folder, if one is near."""
    remedy = f"Did you mean '{near}'?" if (near := near_path(path)) else "Check the spelling."
    return UserError("no such file or folder", remedy, shown(path))


def near_path(path: Path) -> str:
    """Return the path beside ``path`` whose name is the nearest, as a user would write it; "" where none is near."""
    try:
        names = [name for name in os.listdir(path.parent) if not name.startswith(".")]
    except (OSError, ValueError):
        return ""
    close = difflib.get_close_matches(path.name, names, n=1, cutoff=0.7)
    return shown(path.with_name(close[0])) if close else ""


def folded(name: str) -> str:
    """Return ``name`` without differences that a reader overlooks: case, spaces, the way accents are stored."""
    return "".join(unicodedata.normalize("NFKC", clean(name)).casefold().split())

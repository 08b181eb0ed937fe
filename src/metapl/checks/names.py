"""Find class names that look alike."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from metapl.data.tables.spelling import plain

_NUMBER = re.compile(r"[+\-]?[\d_]+([.,]\d*)?(e[+\-]?\d+)?(-\d+)*")  # also 1-2 and 2024-01: ranges and dates


def twins(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """Return (name, name, difference) of classes that look alike: by case, spaces, accents' encoding or a plural s.

    Numbers with another sign or point are different classes: -1 and 1.
    """
    found: list[tuple[str, str, str]] = []
    seen: dict[str, str] = {}
    for name in names:
        key = folded(name)
        if key in seen:
            alike = _without_blanks(seen[key]) == _without_blanks(name)
            found.append((seen[key], name, "case, spaces or accents' encoding" if alike else "hyphens or underscores"))
        else:
            seen[key] = name
    for key, name in seen.items():
        if key.endswith("s") and len(key) > 3 and key[:-1] in seen:
            found.append((seen[key[:-1]], name, "a plural s"))
    return found


def folded(name: str) -> str:
    """Return ``name`` without case, spaces, hyphens, underscores, and with one encoding of accents."""
    plain = _without_blanks(name)
    return plain if _NUMBER.fullmatch(plain) else re.sub(r"[_\-]+", "", plain)


def _without_blanks(name: str) -> str:
    return re.sub(r"\s+", "", unicodedata.normalize("NFKC", plain(name)).casefold())

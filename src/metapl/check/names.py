"""Class names that a reader would take for one another."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def twins(names: Sequence[str]) -> list[tuple[str, str, str]]:
    """(name, name, what they differ by) of classes that look like one: case, spaces, accents' encoding, plural."""
    found: list[tuple[str, str, str]] = []
    seen: dict[str, str] = {}
    for name in names:
        key = folded(name)
        if key in seen:
            found.append((seen[key], name, "case, spaces or accents' encoding"))
        else:
            seen[key] = name
    for key, name in seen.items():
        if key.endswith("s") and len(key) > 3 and key[:-1] in seen:
            found.append((seen[key[:-1]], name, "a plural s"))
    return found


def folded(name: str) -> str:
    """``name`` without what a reader overlooks: case, spaces, hyphens, underscores, the way accents are stored."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name).casefold())


def empty_names(names: Sequence[str]) -> list[str]:
    """Class names that say that there is no class: they may stand for rows without a label."""
    known = {"", "nan", "none", "null", "na", "n/a", "unknown", "unlabelled", "unlabeled", "?", "-1"}
    return [name for name in names if name.strip().casefold() in known]

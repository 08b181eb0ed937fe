"""Equal values in different spellings, and marks of missing values."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from metapl.data.tables.readers.frame import Texts

_WHOLE = re.compile(r"([+-]?\d+)\.0*")
_NUMBER = re.compile(r"[+-]?\d+")
_QUOTES = frozenset({"'", '"', "`"})
TRUTH = {"true", "false"}
# Marks of missing values, in small letters. A class or a category of that name is doubtful.
NO_VALUE = frozenset(
    {"", "nan", "none", "null", "na", "n/a", "n.a.", "#n/a", "<na>", "nil", "?", "-", "--", "-1", "-1.0"}
    | {"unknown", "unlabelled", "unlabeled", "not labelled", "not labeled", "no label", "nolabel", "missing"}
    | {"undefined", "tbd", "todo", "to do", "tba"}
)


def plain(value: str) -> str:
    """Return the plain form of a value: no blanks or quotes around it, whole numbers without decimals.

    Texts with one plain form are spellings of one value: ``1.0`` and ``1``, ``' Private'`` and ``Private``, an accent
    stored as one character or as two.
    """
    text = value if value.isascii() else unicodedata.normalize("NFC", value)
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] and text[0] in _QUOTES and text[0] not in text[1:-1]:
        text = text[1:-1].strip() or text
    whole = _WHOLE.fullmatch(text)
    return whole[1] if whole else text


def says_none(value: str) -> bool:
    """Return whether a value marks a missing one, such as ``unknown``, ``TBD`` or ``-1``."""
    return plain(value).casefold() in NO_VALUE


def doubtful(names: Sequence[str]) -> list[str]:
    """Return the class names that may mean "no label"; -1 and 1 together are the classes of many old data sets."""
    if {plain(name) for name in names} == {"-1", "1"}:
        return []
    return [name for name in names if says_none(name)]


class Spellings:
    """Finds a value among known values: the same text, or else the only other spelling of it.

    If the known values are true and false, in any case, 1 and 0 are spellings of them.
    """

    def __init__(self, known: Iterable[str]) -> None:
        self._exact = {name: k for k, name in enumerate(known)}
        self._key = _truth if {name.lower() for name in self._exact} in ({"true"}, {"false"}, TRUTH) else plain
        self._plain: dict[str, int] = {}
        twice = set[str]()
        for name, k in self._exact.items():
            if (text := self._key(name)) in self._plain:
                twice.add(text)
            self._plain[text] = k
        for text in twice:  # two known values are spellings of one: a third spelling could mean either
            del self._plain[text]

    def find(self, value: str) -> int | None:
        """Return the position of ``value`` among the known ones, or None."""
        found = self._exact.get(value)
        return self._plain.get(self._key(value)) if found is None else found


def _truth(value: str) -> str:
    text = plain(value).lower()
    return {"1": "true", "0": "false"}.get(text, text)


def one_spelling(values: Iterable[str]) -> dict[str, str]:
    """Return value -> the shortest spelling of it among ``values``, and of several the first.

    A value with one spelling keeps it, blanks and decimals included.
    """
    groups: dict[str, list[str]] = {}
    for value in values:
        groups.setdefault(plain(value), []).append(value)
    return {value: min(group, key=len) for group in groups.values() for value in group}


def merged_numbers(texts: Texts) -> tuple[Texts, list[tuple[str, str]]]:
    """Return the column with one level per whole number (1, 1.0), and the merged pairs (level, other spelling)."""
    name = one_spelling(level for level in texts.levels if _NUMBER.fullmatch(plain(level)))
    name |= {level: level for level in texts.levels if level not in name}
    pairs = [(name[level], level) for level in texts.levels if name[level] != level]
    return (renamed(texts, name) if pairs else texts), pairs


def renamed(texts: Texts, name: Mapping[str, str]) -> Texts:
    """Return the column with its levels renamed; levels with the same new name become one level."""
    wanted = [name.get(level, level) for level in texts.levels]
    levels = tuple(dict.fromkeys(wanted))
    number = {level: k for k, level in enumerate(levels)}
    table = np.array([number[level] for level in wanted], dtype=np.int32)
    codes = table[texts.codes] if len(table) else texts.codes
    return Texts(codes, levels, texts.decimal, texts.signs)


def merged_note(column: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Return the note on merged spellings."""
    listed = ", ".join(f"'{other}' as '{name}'" for name, other in pairs[:4])
    more = f" and {len(pairs) - 4} more" if len(pairs) > 4 else ""
    return f"column '{column}': different spellings of one value are merged: {listed}{more}"

"""Recognise folders that metapl wrote; they are passed over among a user's data."""

from __future__ import annotations

import os
from pathlib import Path

HOMES = frozenset({"runs", "comparisons", "tuned"})  # names of the folders that hold the results of commands
# The files that each kind of folder begins with: a run, a comparison, a search for settings.
MARKS = tuple(
    map(frozenset, (("config.yaml", "env.json", "split.json"), ("comparison.json",), ("plan.json", "trials.jsonl")))
)
CHECKED = frozenset({"check.json", "problems.csv"})


def is_made(folder: str | Path) -> bool:
    """Return whether metapl wrote this folder: a run, a comparison, a search, a check, or ``runs`` with only these."""
    names = _names(folder)
    if any(mark <= names for mark in MARKS) or ("check.json" in names and names <= CHECKED) or names == {"plan.json"}:
        return True
    if os.path.basename(folder) not in HOMES or not names:
        return False
    # an empty folder in it is a run that was stopped before it began
    return all(_is_folder(inner) and (is_made(inner) or not _names(inner)) for inner in _inside(folder, names))


def _inside(folder: str | Path, names: frozenset[str]) -> list[str]:
    return [os.path.join(folder, name) for name in sorted(names)]


def _is_folder(path: str) -> bool:
    return os.path.isdir(path) and not os.path.islink(path)


def _names(folder: str | Path) -> frozenset[str]:
    """Return the names in the folder without hidden ones; an empty set if it cannot be opened."""
    try:
        return frozenset(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError:
        return frozenset()

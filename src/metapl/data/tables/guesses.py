"""Check roles that were guessed from a column's name, and drop those that the column's values contradict."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np

from metapl.data.tables.options import AUTO, TableOptions
from metapl.data.tables.readers.frame import Texts, parsed, short
from metapl.data.tables.readers.join import Joined
from metapl.data.tables.roles import Roles
from metapl.types import Array


def without_failed(rows: Joined, roles: Roles, options: TableOptions, splits: Collection[str], settings: bool) -> Roles:
    """Return the roles without wrong guesses; each adds a note to ``rows.notes``.

    Args:
        splits: the texts, in small letters, that a split column may hold.
        settings: whether notes may advise a setting.
    """
    if roles.id is not None and options.id == AUTO and (why := _no_id(rows, roles.id)):
        insist = f" (to insist, set source.table.id={short(roles.id)})" if settings else ""
        rows.notes.append(f"{no_id_note(roles.id, why)}{insist}")
        roles = replace(roles, id=None)
    if roles.split is not None and options.split == AUTO:
        values = [level for level in rows.text(roles.split).levels if level]
        if values and not any(value.lower() in splits for value in values):
            name = short(roles.split)
            rows.notes.append(
                f"column '{name}' is called like the split, but holds '{short(values[0])}': it is not used"
                + (" (for a feature, name it in source.table.features)" if settings else "")
            )
            roles = replace(roles, split=None)
    return roles


def no_id_note(column: str, why: str) -> str:
    """Return the note on a column that is called like an id; ``why`` it does not name the rows."""
    return f"column '{short(column)}' is called like an id, but {why}: it is not used, and rows go by their line"


def _no_id(rows: Joined, column: str) -> str:
    """Return why a column cannot hold the ids of the rows; "" if it can."""
    own = np.isin(rows.part, list(rows.held[column]))
    texts, first = rows.text(column), dict[str, int]()
    return why_no_id(texts, np.flatnonzero(own), lambda text, row: first.setdefault(text, row) == row)


def why_no_id(texts: Texts, rows: Array, is_new: Callable[[str, int], bool]) -> str:
    """Return why texts cannot be the ids of ``rows`` (numbers of rows); "" if they can.

    Args:
        is_new: called with each text and its row; returns whether no earlier row holds the text, and remembers it.
    """
    for row in rows.tolist():
        if not (text := texts[row]):
            return "is empty in a row"
        if not is_new(text, row):
            return f"'{short(text)}' stands in several rows"
    return ""


def only_numbers(rows: Joined, column: str) -> bool:
    """Return whether all texts of a column are numbers."""
    return all(parsed(level) is not None for level in rows.text(column).levels)

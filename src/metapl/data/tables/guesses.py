"""Check roles that were guessed from a column's name, and drop those that the column's values contradict."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from metapl.data.tables.options import AUTO, TableOptions
from metapl.data.tables.readers.frame import parsed, short
from metapl.data.tables.readers.join import Joined
from metapl.data.tables.roles import Roles


def without_failed(rows: Joined, roles: Roles, options: TableOptions, splits: Collection[str], settings: bool) -> Roles:
    """Return the roles without wrong guesses; each adds a note to ``rows.notes``.

    Args:
        splits: the texts, in small letters, that a split column may hold.
        settings: whether notes may advise a setting.
    """
    if roles.id is not None and options.id == AUTO and (why := _no_id(rows, roles.id)):
        name = short(roles.id)
        rows.notes.append(
            f"column '{name}' is called like an id, but {why}: it is not used, and rows go by their line"
            + (f" (to insist, set source.table.id={name})" if settings else "")
        )
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


def _no_id(rows: Joined, column: str) -> str:
    """Return why a column cannot hold the ids of the rows; "" if it can."""
    texts, held = rows.text(column), rows.held[column]
    first: dict[int, int] = {}
    for row, code in enumerate(texts.codes.tolist()):
        if int(rows.part[row]) not in held:
            continue
        if not texts.levels[code]:
            return "is empty in a row"
        if first.setdefault(code, row) != row:
            return f"'{short(texts.levels[code])}' stands in several rows"
    return ""


def only_numbers(rows: Joined, column: str) -> bool:
    """Return whether all texts of a column are numbers."""
    return all(parsed(level) is not None for level in rows.text(column).levels)

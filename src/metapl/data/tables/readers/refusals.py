"""Rows of joined files that cannot serve: which rules are asked of which columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from metapl.data.images.scan import UNLABELED
from metapl.data.modalities import modality_of
from metapl.data.tables.label_column import POOL, TESTING, TRAINING, odd_labels, unknown_labels
from metapl.data.tables.readers.frame import Texts, short
from metapl.data.tables.readers.join import Joined
from metapl.data.tables.readers.paths import LOOKED_AT, check_there
from metapl.data.tables.readers.rules import Refusal, odd_levels, odd_paths, repeated
from metapl.data.tables.readers.stretch import Seen
from metapl.data.tables.roles import SPLITS, TEST, TRAIN, Roles
from metapl.types import Array, ModelInput

BY_SPLIT = {
    **dict.fromkeys(("", *TRAIN), TRAINING),
    **dict.fromkeys(UNLABELED, POOL),
    **dict.fromkeys(TEST, TESTING),
}


def refusals(
    rows: Joined,
    roles: Roles,
    use: Array,
    roots: Sequence[str],
    like: ModelInput | None,
    ending: str,
    seen: Seen | None,
    begins: bool,
) -> Iterator[Refusal]:
    """Yield bad rows: with an unknown split, a bad label, a bad path, or a repeated id.

    Args:
        use: [N] TRAINING, POOL or TESTING.
        roots: the folder that relative paths start from, one per file.
        like: what a trained model asks of new rows; None for training rows.
        ending: what is appended to paths.
        seen: ids and paths of earlier stretches of the file, if these rows are a stretch.
        begins: whether the rows begin the file, so that the first images are looked for.
    """
    if roles.split is not None and like is None:
        remedy = "Mend it, or set source.table.split=none."
        yield from odd_levels(rows.text(roles.split), rows.part == 0, _odd_split, remedy)
    if roles.label is not None:
        labels = rows.text(roles.label)
        yield from odd_labels(labels, use) if like is None else unknown_labels(labels, like.class_names)
    column, by_path = roles.contents[0], has_paths(rows, roles)
    if by_path:
        texts, held = rows.text(column), rows.held[column]
        yield from odd_paths(texts, rows.part, roots, like is None)

        def target(path: str, file: int) -> str:
            return os.path.normpath(os.path.join(roots[file], path))

        yield from repeated(texts, rows.part, held, "path", column, rows.place, target, seen)
        first = [texts[k] for k in range(min(LOOKED_AT, rows.rows) if begins else 0)]
        looked_for = [os.path.join(roots[rows.part[k]], f"{path}{ending}") for k, path in enumerate(first)]
        check_there(first, looked_for, roots[0], rows.place(0))
    if named := roles.id or (column if by_path else None):
        yield from repeated(rows.text(named), rows.part, rows.held[named], "id", named, rows.place, None, seen)


def _odd_split(value: str) -> str | None:
    if value.lower() in BY_SPLIT:
        return None
    more = " (validation rows are drawn from the labelled rows, see --validation)" if "val" in value.lower() else ""
    return f"the split '{short(value)}' is not one of {', '.join(SPLITS)}{more}"


def has_paths(rows: Joined, roles: Roles) -> bool:
    """Return whether the rows are paths of image files."""
    return modality_of(roles.kind).sized and isinstance(rows.columns[roles.contents[0]], Texts)

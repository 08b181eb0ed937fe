"""The label column of files of rows: learn the classes of a training from it, or match them with a model's classes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np

from metapl.data.images.scan import folded
from metapl.data.tables.label_values import LabelRule, check_doubtful, several_labels
from metapl.data.tables.labels import CLASSES, doubt
from metapl.data.tables.readers.frame import MARKERS, Texts, Values, counted, parsed, short
from metapl.data.tables.readers.rules import Refusal, odd_levels
from metapl.data.tables.roles import LABELS, listing
from metapl.data.tables.spelling import Spellings, merged_note, merged_numbers, plain
from metapl.errors import UserError, closest, nearest
from metapl.types import Array

TRAINING, POOL, TESTING = 0, 1, 2  # the use of a row


def label_texts(column: str, texts: Texts, numeric: Array, rule: LabelRule) -> tuple[Texts, list[str]]:
    """Find the labels that mark unlabelled rows, and join one class that is written in two ways.

    The number -1 marks an unlabelled row, as in memory. The text -1 is a class, in a CSV file for instance.

    Args:
        numeric: [N] bool, whether the file that a row comes from holds its labels as whole numbers.

    Returns:
        The labels, and notes.
    """
    notes: list[str] = []
    if "-1" in texts.levels:
        marked = (texts.codes == texts.levels.index("-1")) & numeric
        if marked.any():
            levels = texts.levels if "" in texts.levels else (*texts.levels, "")
            texts = Texts(np.where(marked, levels.index(""), texts.codes).astype(np.int32), levels)
            notes.append(f"{counted(int(marked.sum()), 'row')} with the number -1 as label taken for unlabelled")
    texts, pairs = merged_numbers(rule.applied(texts))
    return texts, [*notes, merged_note(short(column), pairs)] if pairs else notes


def odd_labels(labels: Texts, use: Array) -> Iterator[Refusal]:
    """Refuse labels that are blank or broken, and labels of test rows that no training row has."""

    def broken(value: str) -> str | None:
        if value and not value.strip():
            return "the label is made of blanks"
        if "\n" in value or "\r" in value:
            return f"the label '{short(value)}' goes over several lines (is a quote left open?)"
        return None

    yield from odd_levels(labels, use != POOL, broken, "Mend it; an empty cell means no label.")
    known = {labels.levels[k] for k in np.unique(labels.codes[use == TRAINING]).tolist()} - {""}
    spellings = Spellings(known)

    def unknown(value: str) -> str | None:
        if not value or spellings.find(value) is not None or broken(value):
            return None
        return f"the test label '{short(value)}' is not among the training labels"

    first = next((level for level in labels.levels if unknown(level)), "")
    yield from odd_levels(labels, use == TESTING, unknown, other_label_remedy(first, known))


def other_label_remedy(label: str, known: Collection[str]) -> str:
    """Return the remedy for a label that is not one of the known labels."""
    hint, near = nearest(short(label), map(short, known)), closest(short(label), map(short, known))
    return f"{hint} Then set source.label_map={short(label)}:{near}." if near else hint


def unknown_labels(labels: Texts, class_names: Sequence[str]) -> Iterator[Refusal]:
    """Refuse labels of new rows that the model does not know."""
    known = Spellings(class_names)

    def unknown(value: str) -> str | None:
        return None if not value or known.find(value) is not None else f"the model knows no class '{short(value)}'"

    first = next((level for level in labels.levels if unknown(level)), "")
    yield from odd_levels(labels, np.ones(len(labels), bool), unknown, nearest(short(first), map(short, class_names)))


def class_numbers(labels: Texts, class_names: Sequence[str]) -> Array:
    """Return [N] int64: the number of each row's class; -1: no label."""
    known = Spellings(class_names)
    numbers = [known.find(level) if level else None for level in labels.levels]
    return np.array([-1 if k is None else k for k in numbers], dtype=np.int64)[labels.codes]


def learn_classes(
    column: str,
    labels: Texts,
    use: Array,
    rule: LabelRule,
    place: Callable[[int], str],
    columns: Mapping[str, Values],
) -> tuple[tuple[str, ...], list[str]]:
    """Return the sorted classes of the training rows, and notes.

    Args:
        use: [N] the use of each row.
        place: row -> the place that a message names.
        columns: all columns; if this one does not hold classes, the error proposes another.

    Raises:
        UserError: two classes look the same, the labels are quantities, or most rows have a label that may mean "no
            label".
    """
    seen = np.bincount(labels.codes[use == TRAINING], minlength=len(labels.levels))
    names = [level for level, count in zip(labels.levels, seen.tolist()) if count and level]
    _check_twins(names, labels, use, place)
    own = labels.codes[filled(labels) & (use == TRAINING)]
    said, refused = doubt(names, len(own), _counts_up(own, labels.levels))
    if refused:
        what = f"the label column '{short(column)}' has {said}"
        remedy = f"{_other_label(columns, column)} (If these are classes, write them as texts.)"
        raise UserError(what, remedy, place(0))
    notes = [f"the label column '{short(column)}' has {said}. {_other_label(columns, column)}"] if said else []
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    else:
        names.sort()
    counts = dict(zip(labels.levels, seen.tolist()))
    notes += check_doubtful(names, counts, rule, place(0))
    notes += several_labels(names, counts)
    if hidden := int((filled(labels) & (use == POOL)).sum()):
        notes.append(f"{counted(hidden, 'label')} of unlabelled rows not used")
    return tuple(names), notes


def _check_twins(names: Sequence[str], labels: Texts, use: Array, place: Callable[[int], str]) -> None:
    twins: dict[str, str] = {}
    for name in names:
        if (twin := twins.setdefault(folded(name), name)) != name:
            first = int(np.argmax((labels.codes == labels.levels.index(name)) & (use == TRAINING)))
            what = f"the classes '{short(twin)}' and '{short(name)}' differ only by case, spaces or accents' encoding"
            good, other = sorted((twin, name), key=lambda text: text != plain(text))
            remedy = f"Write both the same way, or set source.label_map={short(plain(other))}:{short(good)}."
            raise UserError(what, remedy, place(first))


def _counts_up(codes: Array, levels: Sequence[str]) -> bool:
    """Return whether the labels count the rows, 1, 2, 3, ... from one row to the next."""
    numbers = [parsed(levels[code]) for code in codes.tolist()]
    return all(a is not None and b is not None and b - a == 1 for a, b in pairwise(numbers))


def _other_label(columns: Mapping[str, Values], column: str) -> str:
    """Return the remedy for a label column that does not hold classes: other columns with few different values."""
    few = [name for name, values in columns.items() if name != column and 2 <= _different(values) <= CLASSES]
    named = [name for name in few if name.lower() in LABELS]
    if named:
        return f"Did you mean source.table.label={short(named[0])}?"
    remedy = "Name the column of classes with source.table.label"
    return f"{remedy}; few different values are in {listing(few, 4)}." if few else f"{remedy}."


def _different(values: Values) -> int:
    """Return how many different values a column holds, without missing ones."""
    if isinstance(values, Texts):
        return sum(level not in MARKERS for level in values.levels)
    return 0 if isinstance(values, list) else len(np.unique(values[~np.isnan(values)]))


def filled(texts: Texts) -> Array:
    """Return [N] bool: whether a row's text is not empty."""
    return np.array([level != "" for level in texts.levels], dtype=bool)[texts.codes]

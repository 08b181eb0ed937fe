"""Columns of features: numbers or categories, as the training rows have them; and the same columns in new rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.scan import folded
from metapl.data.tables.digits import offset_of
from metapl.data.tables.doubts import are_dates, is_mixed, mixed, shared_unit
from metapl.data.tables.id_columns import FEW, NO_REASON, numbers_rows
from metapl.data.tables.readers.frame import MARKERS, Texts, Values, as_categories, counted, meant, one_group, short
from metapl.data.tables.roles import hint, listing
from metapl.data.tables.spelling import Spellings, merged_note, one_spelling
from metapl.errors import Doubt, UserError
from metapl.types import Array, Column

Where = Callable[[int], str]
MOST_LEVELS = 1000  # of a category that nobody asked for
LONGEST, HUGE = 2.0**53, 2.0**64  # between these, whole numbers lose digits; beyond, nobody writes them out
UNIQUE = 0.9  # share of different values from which a column of texts is taken for an id or for free text
DATES = "holds dates or times, which are not read as numbers (turn them into days since a day, say)"
TOO_MANY = f"has more than {MOST_LEVELS} different texts"


@dataclass
class ColumnReport:
    """Remarks on columns, gathered so that many columns make few lines.

    Attributes:
        missing, unknown: cells by column that are empty, and that hold a category which training lacked.
        constant: columns with one value.
        notes: further remarks.
        lost: columns whose values training lacked altogether.
        marks: columns by a level that may mean "missing".
    """

    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    constant: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)
    marks: dict[str, list[str]] = field(default_factory=dict)

    def lines(self, rows: int) -> list[str]:
        """Return the remarks as lines; ``rows``: how many rows there are."""
        made = list(self.lost)
        if self.missing:
            made.append(f"values read as missing, of {counted(rows, 'row')}: {_counts(self.missing)}")
        if self.unknown:
            made.append(f"categories that training did not hold, read as missing: {_counts(self.unknown)}")
        if self.constant:
            made.append(f"columns with one value in every row: {listing(self.constant)}")
        for mark, names in self.marks.items():
            where = f"in {counted(len(names), 'column')}: {listing(names)}"
            remedy = "Leave the cells empty where it means that the value is missing."
            made.append(Doubt(f"'{mark}' is a category of its own {where}", remedy, "marks_as_categories", False))
        return made + self.notes


def _counts(found: Mapping[str, int], most: int = 8) -> str:
    shown = ", ".join(f"'{short(name)}' {count:,}" for name, count in list(found.items())[:most])
    return shown + (f" and {counted(len(found) - most, 'more column')}" if len(found) > most else "")


@dataclass(frozen=True)
class Decision:
    """What becomes of a column.

    Attributes:
        column: as a model is to see it; None: it is left out.
        reason: why it is left out, or what speaks against it; "" where nothing does.
        merged: (level, other spelling) of values that are one, written in two ways.
    """

    column: Column | None
    reason: str = ""
    merged: tuple[tuple[str, str], ...] = ()


def decide(
    name: str, levels: Sequence[str], texts: int, numbers: Sequence[Array], keep: bool = False, category: bool = False
) -> Decision:
    """Decide what becomes of a column, whatever it was read from.

    Args:
        levels: the different texts of the training rows, () for a column of numbers.
        texts: training rows that hold a text.
        numbers: the values of the training rows, a part for each file; () where there are none.
        keep, category: the user named the column, as a feature or as a category: it stays whatever it holds.
    """
    if not levels:
        if not numbers or all(np.isnan(part).all() for part in numbers):
            return Decision(None, "has no value in any training row")
        reason, sure = NO_REASON if keep else numbers_rows(name, numbers)
        return Decision(None if sure else Column(name, offset=offset_of(np.concatenate(list(numbers)))), reason)
    if not (keep or category):
        if nearly_all_differ(len(levels), texts):
            unit, why = shared_unit(levels), "has another text in nearly every row (an id or free text?)"
            if unit:
                why = f"holds numbers with '{unit}', which are not read as numbers (write them without it)"
            return Decision(None, DATES if are_dates(levels) else why)
        if are_dates(levels):
            return Decision(None, DATES)
        if len(levels) > MOST_LEVELS:
            return Decision(None, TOO_MANY)
    spelling = one_spelling(levels)
    merged = tuple((spelling[level], level) for level in levels if spelling[level] != level)
    return Decision(Column(name, tuple(sorted(set(spelling.values())))), "", merged)


def fit_column(
    name: str,
    values: Values,
    train: Array,
    where: Where,
    report: ColumnReport,
    category: bool = False,
    keep: bool = False,
    part: Array | None = None,
) -> Column | None:
    """Return what the training rows of a file make of a column; None where it is left out, which is said in ``report``.

    Args:
        train: [N] bool; nothing is learnt from the other rows.
        where: row -> the place that a message names.
        category: read numbers as categories, too.
        keep: the user named the column: it stays whatever it holds.
        part: [N] the file that each row comes from; None: one.

    Raises:
        UserError: values that are neither plain numbers nor clearly categories.
    """
    if isinstance(values, list):
        remedy = "Name it in source.table.path (images) or in source.table.ignore."
        raise UserError(f"column '{short(name)}' holds bytes", remedy, where(0))
    if isinstance(values, Texts):
        return _fit_texts(name, values, train, where, report, category, keep)
    decision = decide(name, (), 0, _by_part(values, train, part), keep)
    if decision.column is None and np.isnan(values[train]).all():
        report.notes.append(_empty(name))
    elif decision.column is None:
        remedy = f"to keep it, name the columns in source.table.features, '{short(name)}' among them"
        report.notes.append(f"column '{short(name)}' {decision.reason} and is left out ({remedy})")
    elif decision.reason:
        remedy = f"to leave it out, source.table.ignore={short(name)}"
        report.notes.append(f"column '{short(name)}' {decision.reason}: {remedy}")
    if decision.column is not None and decision.column.offset:
        report.notes.append(f"column '{short(name)}' holds long numbers: {decision.column.offset:.17g} is subtracted")
    if decision.column is not None and LONGEST < float(np.abs(values[np.isfinite(values)]).max(initial=0)) < HUGE:
        what = f"column '{short(name)}' holds whole numbers of more than 15 digits, of which the last are lost"
        report.notes.append(Doubt(what, "If it is an id, leave it out.", "digits_lost", False))
    own = values[train]
    if decision.column is not None and not np.isnan(own).any() and own.min() == own.max():
        report.constant.append(name)
    return decision.column


def _empty(name: str) -> str:
    return f"column '{short(name)}' has no value in any training row and is left out"


def _by_part(values: Array, train: Array, part: Array | None) -> list[Array]:
    """Return the values of the training rows, by file."""
    own = values[train]
    return [own] if part is None else [own[part[train] == k] for k in np.unique(part[train]).tolist()]


def _fit_texts(
    name: str, values: Texts, train: Array, where: Where, report: ColumnReport, category: bool, keep: bool
) -> Column | None:
    seen = np.bincount(values.codes[train], minlength=len(values.levels))
    levels = [level for level, count in zip(values.levels, seen.tolist()) if count and level]
    if not category and _are_numbers(name, values, levels, where):
        return Column(name)
    if not levels:
        report.notes.append(_empty(name))
        return None
    total = sum(count for level, count in zip(values.levels, seen.tolist()) if level)
    if not (category or keep):
        _refuse_mixed(name, values, seen, where)
    decision = decide(name, levels, total, (), keep, category)
    if decision.column is None:
        report.notes.append(_left_out(name, decision.reason))
        return None
    if len(levels) == 1 and total == int(train.sum()):
        report.constant.append(name)
    if not category:
        _note_numbers(name, values, seen, where, report)
        for level in decision.column.levels:
            if level in MARKERS:
                report.marks.setdefault(level, []).append(name)
    if decision.merged:
        report.notes.append(merged_note(short(name), decision.merged))
    _note_twins(name, decision.column.levels, report)
    return decision.column


def described(columns: Sequence[Column], most: int = 12) -> str:
    """Return which columns are numbers and which categories, with how many levels."""
    numbers = [column.name for column in columns if not column.levels]
    levels = [f"'{short(column.name)}' ({len(column.levels)} levels)" for column in columns if column.levels]
    said = [f"numbers: {listing(numbers, most)}"] if numbers else []
    if levels:
        more = f" and {len(levels) - most} more" if len(levels) > most else ""
        said.append(f"categories: {', '.join(levels[:most])}{more}")
    return "; ".join(said)


def nearly_all_differ(levels: int, total: int) -> bool:
    """Return whether ``levels`` texts in ``total`` rows that hold one are an id or free text, not a category."""
    return total >= FEW and levels > UNIQUE * total


def too_many(name: str) -> str:
    """Return the note on a column with more than ``MOST_LEVELS`` texts."""
    return _left_out(name, TOO_MANY)


def _left_out(name: str, why: str) -> str:
    cell = short(name)
    keep = f"to keep it, as a text: source.table.text={cell}; as categories: source.table.categorical={cell}"
    return f"column '{short(name)}' {why} and is left out ({keep})"


def _are_numbers(name: str, values: Texts, levels: Sequence[str], where: Where) -> bool:
    """Return whether the levels are numbers.

    Raises:
        UserError: they would be, but for infinite values, or a decimal sign or marks of thousands that are not read.
    """
    odd = [level for level in levels if level.strip() not in MARKERS and not _fits(values.number(level))]
    if not all(map(meant, odd)):
        return False
    if not odd:  # what is not a number stands in rows that nothing is learnt from
        return any(level.strip() not in MARKERS for level in levels)
    clear = next((level for level in odd if not one_group(level)), odd[0])
    raise as_categories(values.not_a_number(name, clear, where(_first(values, clear))), name)


def _fits(number: float | None) -> bool:
    """Return whether it is a finite float32."""
    return number is not None and abs(number) <= float(np.finfo(np.float32).max)


def _first(values: Texts, level: str) -> int:
    """Return the first row that holds ``level``."""
    return int(np.argmax(values.codes == values.levels.index(level)))


def _refuse_mixed(name: str, values: Texts, seen: Array, where: Where) -> None:
    """Refuse a column of numbers in which a few cells are not: as categories, or left out, it would be lost.

    Raises:
        UserError: nearly all cells are numbers, and too many different ones for categories.
    """
    numbers, others = list[int](), list[int]()
    for k, level in enumerate(values.levels):
        if seen[k] and level.strip() not in MARKERS:
            (others if values.number(level) is None else numbers).append(k)
    count, odd = int(seen[numbers].sum()), int(seen[others].sum())
    if is_mixed(count, odd, len(numbers), len(others)):
        level = values.levels[others[0]]
        raise mixed(name, level, odd, count + odd, where(_first(values, level)))


def _note_numbers(name: str, values: Texts, seen: Array, where: Where, report: ColumnReport) -> None:
    """Say so where most values are numbers: a slip of the pen may have made a category of the column."""
    numbers = {k for k, level in enumerate(values.levels) if seen[k] and values.number(level) is not None}
    others = [k for k, level in enumerate(values.levels) if seen[k] and k not in numbers and level not in MARKERS]
    count = int(seen[list(numbers)].sum()) if numbers else 0
    if others and count > int(seen[others].sum()):
        odd = values.levels[others[0]]
        what = (
            f"column '{short(name)}' is read as categories: {count:,} of its values are numbers, but "
            f"'{short(odd)}' ({where(_first(values, odd))}) is not"
        )
        remedy = "If it is a column of numbers, mend these cells or leave them empty."
        report.notes.append(Doubt(what, remedy, "numbers_as_categories", False))
    elif unit := shared_unit([level for k, level in enumerate(values.levels) if seen[k] and level]):
        what = f"column '{short(name)}' is read as categories, though it holds numbers with '{unit}'"
        report.notes.append(Doubt(what, "Write the numbers without it.", "numbers_with_units", False))


def _note_twins(name: str, levels: Sequence[str], report: ColumnReport) -> None:
    seen: dict[str, str] = {}
    for level in levels:
        twin = seen.setdefault(folded(level), level)
        if twin != level:
            what = (
                f"column '{short(name)}': '{short(twin)}' and '{short(level)}' are different categories, though they "
                "differ only by case, spaces or accents' encoding"
            )
            report.notes.append(Doubt(what, "Write both the same way.", "category_twins", False))
            return


def encode_column(column: Column, values: Values, where: Where, report: ColumnReport) -> Array:
    """float32 [N]: numbers, or numbers of levels; NaN where the value is missing or no known level.

    Raises:
        UserError: a number is asked for, and a value is none.
    """
    if isinstance(values, list):
        raise UserError(f"column '{short(column.name)}' holds bytes", "Give numbers or texts.", where(0))
    if not column.levels:
        numbers = values if not isinstance(values, Texts) else _numbers(column.name, values, where)
        if missing := int(np.isnan(numbers).sum()):
            report.missing[column.name] = missing
        return (numbers - column.offset if column.offset else numbers).astype(np.float32, copy=False)
    if not isinstance(values, Texts):
        what = f"column '{short(column.name)}' holds numbers, and the model knows categories"
        raise UserError(what, "Read the file by its path, so that they are kept as they are written.", where(0))
    known = Spellings(column.levels)
    found = [known.find(level) if level else None for level in values.levels]
    table = np.array([np.nan if k is None else k for k in found], dtype=np.float32)
    coded = table[values.codes] if len(table) else np.zeros(0, dtype=np.float32)
    empty = int(np.isin(values.codes, [k for k, level in enumerate(values.levels) if not level]).sum())
    if empty:
        report.missing[column.name] = empty
    if unknown := int(np.isnan(coded).sum()) - empty:
        report.unknown[column.name] = unknown
        if unknown == len(coded) - empty:
            report.lost.append(lost_note(column, next(level for level in values.levels if level), len(coded)))
    return coded


def lost_note(column: Column, example: str, rows: int) -> str:
    """Return the remark on a column of new rows without a single category of the training."""
    known = listing(column.levels, 3)
    subject = f"all {rows:,} rows hold categories" if rows > 1 else "the row holds a category"
    return (
        f"column '{short(column.name)}': {subject} that training did not hold, so the column counts as missing "
        f"(here '{short(example)}', in training {known})"
    )


def _numbers(name: str, values: Texts, where: Where) -> Array:
    table = np.full(len(values.levels), np.nan, dtype=np.float32)
    for k, level in enumerate(values.levels):
        if level.strip() not in MARKERS:
            if not _fits(values.number(level)):
                raise values.not_a_number(name, level, where(_first(values, level)))
            table[k] = values.number(level)
    return table[values.codes] if len(table) else np.zeros(0, dtype=np.float32)


def matching(given: Sequence[Column], wanted: Sequence[Column], where: str) -> Callable[[Tensor], Tensor]:
    """Return what turns rows with the columns ``given`` into rows with those ``wanted``: by name, and levels by text.

    Where either has no names, rows stay as they are.

    Raises:
        UserError: a column is missing, or is numbers in one and categories in the other.
    """
    if not given or not wanted or tuple(given) == tuple(wanted):
        return lambda rows: rows
    position = {column.name: k for k, column in enumerate(given)}
    places, tables, shifts = list[int](), dict[int, Tensor](), dict[int, float]()
    for k, column in enumerate(wanted):
        if column.name not in position:
            remedy = f"The model needs it. {hint(column.name, list(position))}"
            raise UserError(f"column '{short(column.name)}' is missing", remedy, where)
        own = given[position[column.name]]
        if bool(own.levels) != bool(column.levels):
            what = f"column '{short(column.name)}' is numbers in the one and categories in the other"
            raise UserError(f"{what} of data and model", "Give the path of the file instead of a source.", where)
        places.append(position[column.name])
        if own.offset != column.offset:
            shifts[k] = own.offset - column.offset
        if own.levels != column.levels:
            known = Spellings(column.levels)
            found = [known.find(level) for level in own.levels]
            tables[k] = torch.tensor([float("nan") if j is None else float(j) for j in (*found, None)])

    def change(rows: Tensor) -> Tensor:
        made = rows[:, places]
        for k, shift in shifts.items():
            made[:, k] = (made[:, k].double() + shift).float()
        for k, table in tables.items():
            code = made[:, k]
            made[:, k] = table[code.nan_to_num(len(table) - 1).long()]
        return made

    return change

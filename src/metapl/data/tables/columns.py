"""Feature columns: learn from the training rows which hold numbers and which categories, and encode them as float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.scan import folded
from metapl.data.tables.digits import offset_of
from metapl.data.tables.doubts import are_dates, is_mixed, mixed, shared_unit
from metapl.data.tables.id_columns import FEW, NO_REASON, numbers_rows
from metapl.data.tables.readers.frame import MARKERS, Texts, Values, as_categories, meant, one_group, short
from metapl.data.tables.readers.remarks import ColumnReport
from metapl.data.tables.roles import hint, listing
from metapl.data.tables.spelling import Spellings, merged_note, one_spelling
from metapl.errors import Doubt, UserError
from metapl.types import Array, Column

Where = Callable[[int], str]
MOST_LEVELS = 1000  # levels of a category column that the user did not name
LONGEST, HUGE = 2.0**53, 2.0**64  # between these, whole numbers lose digits; beyond, nobody writes them out
UNIQUE = 0.9  # a column of texts with a larger share of different values is an id or free text
DATES = "holds dates or times, which are not read as numbers (turn them into days since a day, say)"
TOO_MANY = f"has more than {MOST_LEVELS} different texts"


@dataclass(frozen=True)
class Decision:
    """Whether a column is used, and how.

    Attributes:
        column: the column as the model sees it; None: it is left out.
        reason: why it is left out, or why that may be better; "" without a reason.
        merged: (level, other spelling) of equal values written in two ways.
    """

    column: Column | None
    reason: str = ""
    merged: tuple[tuple[str, str], ...] = ()


def decide(
    name: str, levels: Sequence[str], texts: int, numbers: Sequence[Array], keep: bool = False, category: bool = False
) -> Decision:
    """Decide whether a column of a file or of a DataFrame is used: the same rules hold for both.

    Args:
        levels: the different texts of the training rows, () for a column of numbers.
        texts: number of training rows with a text.
        numbers: the values of the training rows, one array per file; () for a column of texts.
        keep: the user named the column as a feature, so it stays.
        category: the user named the column as a category, so it stays.
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
    """Return a column of a file as the model sees it, or None if it is left out; ``report`` then says why.

    Args:
        train: [N] bool; only these rows are learnt from.
        where: row -> the place that a message names.
        category: read numbers as categories, too.
        keep: the user named the column, so it stays.
        part: [N] the file that each row comes from; None: all from one file.

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
    """Return a line that lists the columns of numbers and those of categories with their number of levels."""
    numbers = [column.name for column in columns if not column.levels]
    levels = [f"'{short(column.name)}' ({len(column.levels)} levels)" for column in columns if column.levels]
    said = [f"numbers: {listing(numbers, most)}"] if numbers else []
    if levels:
        more = f" and {len(levels) - most} more" if len(levels) > most else ""
        said.append(f"categories: {', '.join(levels[:most])}{more}")
    return "; ".join(said)


def nearly_all_differ(levels: int, total: int) -> bool:
    """Return whether ``levels`` different texts in ``total`` rows look like ids or free text, not like a category."""
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
        UserError: they are meant as numbers, but some are infinite or have a decimal sign or thousands marks that are
            not read.
    """
    odd = [level for level in levels if level.strip() not in MARKERS and not _fits(values.number(level))]
    if not all(map(meant, odd)):
        return False
    if not odd:  # values that are not numbers stand only in rows that are not learnt from
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
    """Refuse a column of numbers with a few other cells: read as categories, or left out, it would be lost.

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
    """Note a column of categories whose values are mostly numbers: a typing error may have made it one."""
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


def encode_column(column: Column, values: Values, where: Where, report: ColumnReport, typed: bool = False) -> Array:
    """Return a column as a model sees it, float32 [N]: numbers, or numbers of levels; NaN where a value is missing.

    A category that the training rows lacked counts as missing, too.

    Args:
        typed: the values have types of their own, as in a DataFrame: an empty text is a text, and no text is a number.
            In a file an empty cell is a missing value, and texts of numbers are read.

    Raises:
        UserError: a text, or an infinite number, in a column of numbers.
    """
    if isinstance(values, list):
        raise UserError(f"column '{short(column.name)}' holds bytes", "Give numbers or texts.", where(0))
    if not column.levels:
        return _encode_numbers(column, values, where, report, typed)
    texts = values if isinstance(values, Texts) else _number_texts(values)
    known = Spellings(column.levels)
    filled = np.array([bool(level) or typed for level in texts.levels] + [False])  # the last: code -1, no value
    found = [known.find(level) if has_value else None for level, has_value in zip(texts.levels, filled)]
    encoded = np.array([np.nan if k is None else k for k in (*found, None)], dtype=np.float32)[texts.codes]
    there = filled[texts.codes]
    example = texts.levels[texts.codes[there][0]] if there.any() else ""
    report.add(column, int((~there).sum()), int((np.isnan(encoded) & there).sum()), example)
    return encoded


def _encode_numbers(column: Column, values: Array | Texts, where: Where, report: ColumnReport, typed: bool) -> Array:
    numbers = _numbers(column.name, values, where, typed) if isinstance(values, Texts) else values
    report.add(column, int(np.isnan(numbers).sum()))
    with np.errstate(over="ignore"):  # a number that is too large becomes infinite, and is named below
        encoded: Array = (numbers - column.offset if column.offset else numbers).astype(np.float32, copy=False)
    if (infinite := np.isinf(encoded)).any():
        row = int(infinite.argmax())
        what = f"column '{short(column.name)}' is {numbers[row]}, not a finite float32 number"
        raise UserError(what, "Fill or remove such values.", where(row))
    return encoded


def _number_texts(values: Array) -> Texts:
    """Return numbers as the texts of categories: a whole number without decimals."""
    numbers, codes = np.unique(values, return_inverse=True)  # NaN, if any, comes last
    known = numbers[~np.isnan(numbers)].tolist()
    levels = tuple(str(int(value)) if value % 1 == 0 else str(value) for value in known)
    return Texts(np.where(np.isnan(values), -1, codes), levels)


def _numbers(name: str, values: Texts, where: Where, typed: bool) -> Array:
    table = np.full(len(values.levels) + 1, np.nan, dtype=np.float32)  # the last: code -1, no value
    for k, level in enumerate(values.levels):
        if typed:
            what = f"column '{short(name)}' is '{short(level)}', but the column holds numbers in training"
            remedy = "Give numbers, or leave it empty where the value is missing."
            raise UserError(what, remedy, where(_first(values, level)))
        if level.strip() not in MARKERS:
            if not _fits(values.number(level)):
                raise values.not_a_number(name, level, where(_first(values, level)))
            table[k] = values.number(level)
    return table[values.codes]


def matching(given: Sequence[Column], wanted: Sequence[Column], where: str) -> Callable[[Tensor], Tensor]:
    """Return the function that turns rows with the columns ``given`` into rows with the columns ``wanted``.

    Columns are matched by name, levels by their text. Without names on either side, rows stay as they are.

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
            data, model = ("categories", "numbers") if own.levels else ("numbers", "categories")
            what = f"column '{short(column.name)}' holds {data} in the data and {model} in the model"
            raise UserError(what, "Give the path of the file instead of a source.", where)
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

"""Columns of texts that may be something else: numbers with a few other cells, or dates."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from datetime import datetime

from metapl.errors import UserError
from metapl.utils.paths import shown

MOSTLY = 0.9  # with this share of numbers, other cells are typing errors, or limits such as <1.0
FEWEST = 5  # with fewer different values a shared unit may be a coincidence
MANY = 1000  # number of texts to assume if they were not counted
CLEARLY = 20  # a column with more different numbers hardly holds categories
_DATE = re.compile(
    r"(\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](\d{4}|\d{2})|\d{1,2}[ -][A-Za-z]{3,9}\.?[ -]\d{2,4}"
    r"|[A-Za-z]{3,9}\.? \d{1,2},? \d{4})([T ]\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?( ?[AaPp][Mm])?(Z| ?[+-]\d{2}:?\d{2})?)?"
)


_TIME = re.compile(r"\d{1,2}:[0-5]\d(:[0-5]\d([.,]\d+)?)?( ?[AaPp][Mm])?")
_MEASURE = re.compile(r"([$€£¥₹~≈\u2212]?) ?([+-]?\d[\d.,' ]*?(?:[eE][+-]?\d+)?) ?([^\d\s.,][^\d]{0,5})?")


def is_date(value: str) -> bool:
    """Return whether a text is a date or a time: 2024-05-31, 31.05.24, 5/31/2024 10:15, 31 May 2024, 10:15."""
    text = value.strip()
    if _TIME.fullmatch(text):
        return True
    if not _DATE.fullmatch(text):
        return False
    numbers = [int(part) for part in re.findall(r"\d+", text.split("T")[0].split(" ")[0])]
    if len(numbers) < 3:  # with the month as a word
        return True
    year, month, day = numbers if numbers[0] > 31 else numbers[::-1]
    if month > 12:
        month, day = day, month
    try:
        datetime(year if year > 99 else 2000 + year, month, day)
    except ValueError:
        return False
    return True


def are_dates(levels: Collection[str]) -> bool:
    """Return whether nearly all levels are dates."""
    return bool(levels) and sum(map(is_date, levels)) >= MOSTLY * len(levels)


def shared_unit(levels: Collection[str]) -> str:
    """Return the unit or sign with which nearly all levels are numbers, as in 12 cm, $5 or 30%; "" for none."""
    if len(levels) < FEWEST:
        return ""
    found: Counter[str] = Counter()
    for level in levels:
        if match := _MEASURE.fullmatch(level.strip()):
            sign, _, unit = match.groups("")
            found[unit.strip() or sign] += 1
    found.pop("", None)
    unit, count = found.most_common(1)[0] if found else ("", 0)
    negative = unit == "\u2212" and count > 1  # the others are positive
    return unit if negative or count >= MOSTLY * len(levels) else ""


def is_mixed(numbers: int, others: int, different: int, texts: int = MANY) -> bool:
    """Return whether a column is meant as numbers, though some of its cells are not numbers.

    Args:
        numbers: cells that are numbers.
        others: cells that are neither numbers nor empty.
        different: different numbers.
        texts: different texts; one or two may be marks of missing values, even in many cells.
    """
    least = 0.5 if texts <= 2 else MOSTLY
    return others > 0 and different > CLEARLY and numbers >= least * (numbers + others)


def mixed(name: str, odd: str, others: int, total: int, where: str, setting: bool = True) -> UserError:
    """Return the error for a column of numbers with a few other cells; ``odd`` is one of them."""
    share = f"{others:,} of its {total:,} cells is not" if others == 1 else f"{others:,} of its {total:,} cells are not"
    what = f"column '{shown(name)}' holds numbers, but {share}, such as '{shown(odd)[:40]}'"
    remedy = "Write numbers there, or leave these cells empty"
    other = f"or set source.table.categorical={shown(name)} (categories) or source.table.ignore={shown(name)}."
    return UserError(what, remedy, where, other if setting else "")

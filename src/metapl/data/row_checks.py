"""Checks of rows, kind by kind: ``RowChecks``; and ``Finding``, one result of a check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from metapl.types import Array, Source

Kept = dict[str, Array]  # arrays [n, ...] by name: all that is remembered of n rows
Pairs = tuple[Array, Array]  # pairs int64 [m, 2] of positions, and how much alike they are, float [m]
UNUSABLE, HURT, LOOK = "CANNOT BE USED", "WILL HURT", "LOOK AT THIS"
LEVELS = (UNUSABLE, HURT, LOOK)


@dataclass(frozen=True)
class Finding:
    """One result of a check.

    Attributes:
        level: UNUSABLE, HURT or LOOK.
        kind: a short name that stays the same from version to version.
        text: the fact.
        remedy: what to do about it.
        rows: the number of rows (or classes, or columns) that it concerns.
    """

    level: str
    kind: str
    text: str
    remedy: str
    rows: int = 0


@dataclass(frozen=True)
class Likeness:
    """Features by which rows are compared, float32 [n, D].

    Attributes:
        values: one row each.
        scaled: whether each column is brought to the labelled rows' spread before distances are taken.
    """

    values: Array
    scaled: bool = False


@dataclass(frozen=True)
class Contents:
    """Findings on the contents of rows.

    Attributes:
        findings: the findings.
        problems: (reason, positions of the rows).
        facts: measurements for ``Check.facts``.
    """

    findings: list[Finding] = field(default_factory=list)
    problems: list[tuple[str, list[int]]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)


class RowChecks:
    """Checks of rows of numbers [channels, ...]; a kind of rows changes what differs.

    Exact copies are found for every kind. The base class keeps mean and spread of each channel of a row.
    """

    def keep(self, rows: Tensor) -> Kept:
        """Return the arrays to keep of a chunk of raw rows [n, ...]."""
        flat = rows.double().flatten(2) if rows.ndim > 2 else rows.double().unsqueeze(2)
        both = [flat.mean(2), flat.std(2, correction=0)]
        return {"summary": np.concatenate([part.float().numpy() for part in both], axis=1)}

    def near_pairs(self, kept: Kept, first: Array, source: Source) -> Pairs:
        """Return pairs of rows that are nearly the same; positions in ``first``, which has one of each exact copy."""
        return no_pairs()

    def likeness(self, kept: Kept, source: Source) -> list[Likeness]:
        """Return the features that separate foreign rows: groups of features, each with its own scale."""
        return [Likeness(kept["summary"], scaled=True)]

    def repeats_by_nature(self, kept: Kept) -> bool:
        """Return whether rows have so few different values that equal rows are to be expected."""
        return False

    def contents(self, kept: Kept, source: Source, parts: Sequence[Array]) -> Contents:
        """Return findings on the contents; ``parts``: positions of the labelled, the unlabelled and the test rows."""
        return Contents()


def no_pairs() -> Pairs:
    """Return no pairs at all."""
    return np.zeros((0, 2), dtype=np.int64), np.zeros(0)


def plural(count: int, one: str, many: str = "") -> str:
    """Return ``1 row``, ``2 rows``."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def of_rows(count: int, of: int, one: str, many: str) -> str:
    """Return ``share`` with the words that fit the count, such as "rows repeat" or, of one, "rows repeats"."""
    return f"{share(count, of)} {one if count == 1 else many}"


def some(names: Sequence[str], most: int = 4) -> str:
    """Return the first few names in quotes."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def share(count: int, of: int) -> str:
    """Return ``3 of 120 (2.5 %)``."""
    return f"{count:,} of {of:,} ({100 * count / max(1, of):.1f} %)"

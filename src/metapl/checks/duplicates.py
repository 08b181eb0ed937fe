"""Copies, exact and near, inside a part and across parts; copies under two classes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from metapl.checks.reading import LABELED, PART_NAMES, TEST, UNLABELED, CheckedRows
from metapl.data.modalities import modality_of
from metapl.data.row_checks import Pairs, no_pairs
from metapl.types import Array

RowProblem = tuple[str, str, str, str]  # kind, id, other id, detail
ACROSS = ((TEST, LABELED), (TEST, UNLABELED), (UNLABELED, LABELED))


@dataclass
class Copies:
    """Counts of rows, exact and near.

    Attributes:
        within: by part: (exact, near): rows of the part that repeat an earlier one of it.
        across: by (part, other part): rows of the part with an exact copy in the other; rows with only a near one.
        conflicts: (exact, near): labelled and test rows with a copy of another class.
        problems: every such row with the row that it repeats.
    """

    within: dict[int, tuple[int, int]] = field(default_factory=dict)
    across: dict[tuple[int, int], tuple[int, int]] = field(default_factory=dict)
    conflicts: tuple[int, int] = (0, 0)
    problems: list[RowProblem] = field(default_factory=list)


def find_copies(rows: CheckedRows) -> Copies:
    """Return all copies among the rows."""
    pairs, alike = near_pairs(rows)
    found = Copies()
    members = _members(rows.group)
    near = _near_groups(rows, pairs, alike)
    for part in (LABELED, UNLABELED, TEST):
        found.within[part] = _within(rows, part, members, near, found.problems)
    for part, other in ACROSS:
        found.across[part, other] = _across(rows, part, other, members, near, found.problems)
    found.conflicts = _conflicts(rows, members, near, found.problems)
    return found


def near_pairs(rows: CheckedRows) -> Pairs:
    """Return pairs of rows that are nearly, not exactly, the same; the first of several equal rows stands for all.

    The limit comes from the data: near copies are several times closer to each other than a row usually is to its
    nearest neighbour. With a fixed limit, all pairs of trousers in a shop's catalogue would be copies.
    """
    if len(rows.first) < 2:
        return no_pairs()
    pairs, alike = modality_of(rows.source.kind).checks.near_pairs(rows.kept, rows.first, rows.source)
    return rows.first[pairs], alike


Near = dict[int, list[tuple[int, float]]]  # group -> near groups and how much alike


def _members(group: Array) -> dict[int, Array]:
    """Return group -> positions of its rows, for groups of two or more."""
    order = np.argsort(group, kind="stable")
    edges = np.flatnonzero(np.diff(group[order])) + 1
    pieces = np.split(order, edges) if len(order) else []
    return {int(group[piece[0]]): piece for piece in pieces if len(piece) > 1}


def _near_groups(rows: CheckedRows, pairs: Array, alike: Array) -> Near:
    near: Near = {}
    for (i, j), how in zip(rows.group[pairs].tolist(), alike.tolist()):
        near.setdefault(i, []).append((j, how))
        near.setdefault(j, []).append((i, how))
    return near


def _rows_of(rows: CheckedRows, members: dict[int, Array], group: int) -> Array:
    return members.get(group, rows.first[group : group + 1])


def _within(
    rows: CheckedRows, part: int, members: dict[int, Array], near: Near, problems: list[RowProblem]
) -> tuple[int, int]:
    name = PART_NAMES[part]
    exact = 0
    for group in members.values():
        own = group[rows.part[group] == part]
        exact += max(0, len(own) - 1)
        problems += [("duplicate", rows.id(k), rows.id(own[0]), f"exact, both {name}") for k in own[1:]]
    nearly = 0
    for number, others in near.items():
        own = _of_part(rows, members, number, part)
        partner = _partner(rows, members, [o for o in others if o[0] < number], part) if len(own) else None
        if partner is not None:  # each pair once, as with exact copies: the first row is the original
            nearly += 1
            problems.append(
                ("near duplicate", rows.id(own[0]), rows.id(partner[0]), f"{partner[1]:.3f} alike, both {name}")
            )
    return exact, nearly


def _of_part(rows: CheckedRows, members: dict[int, Array], group: int, part: int) -> Array:
    every = _rows_of(rows, members, group)
    chosen: Array = every[rows.part[every] == part]
    return chosen


def _partner(
    rows: CheckedRows, members: dict[int, Array], others: list[tuple[int, float]], part: int
) -> tuple[int, float] | None:
    """Return the row of ``part`` that is most alike, among near groups."""
    for group, how in sorted(others, key=lambda other: -other[1]):
        found = _of_part(rows, members, group, part)
        if len(found):
            return int(found[0]), how
    return None


def _across(
    rows: CheckedRows, part: int, other: int, members: dict[int, Array], near: Near, problems: list[RowProblem]
) -> tuple[int, int]:
    kind = f"{PART_NAMES[part]} in {PART_NAMES[other]}"
    done: set[int] = set()
    for group in members.values():
        own, copies = group[rows.part[group] == part], group[rows.part[group] == other]
        if len(own) and len(copies):
            done.update(own.tolist())
            problems += [(kind, rows.id(k), rows.id(copies[0]), "exact") for k in own]
    exact = len(done)
    for number, others in near.items():
        own = [k for k in _of_part(rows, members, number, part).tolist() if k not in done]
        partner = _partner(rows, members, others, other) if own else None
        if partner is not None:
            done.update(own)
            problems += [(kind, rows.id(k), rows.id(partner[0]), f"{partner[1]:.3f} alike") for k in own]
    return exact, len(done) - exact


def _conflicts(rows: CheckedRows, members: dict[int, Array], near: Near, problems: list[RowProblem]) -> tuple[int, int]:
    """Count labelled rows whose copy has another label."""
    exact: set[int] = set()
    for group in members.values():
        known = group[rows.labels[group] >= 0]
        if len(np.unique(rows.labels[known])) > 1:
            exact.update(known.tolist())
            one = int(known[0])
            two = int(known[rows.labels[known] != rows.labels[one]][0])
            for k in known.tolist():
                problems.append(_conflict(rows, k, two if rows.labels[k] == rows.labels[one] else one, "exact"))
    nearly: set[int] = set()
    for number, others in near.items():
        for k in _rows_of(rows, members, number).tolist():
            other = _other_class(rows, members, k, others) if k not in exact else None
            if other is not None:
                nearly.add(k)
                problems.append(_conflict(rows, k, other[0], f"{other[1]:.3f} alike"))
    return len(exact), len(nearly)


def _other_class(
    rows: CheckedRows, members: dict[int, Array], row: int, others: list[tuple[int, float]]
) -> tuple[int, float] | None:
    """Return a labelled near copy of another class than the row's, and how much alike it is."""
    for group, how in others:
        for other in _rows_of(rows, members, group).tolist():
            if rows.labels[row] >= 0 and rows.labels[other] >= 0 and rows.labels[row] != rows.labels[other]:
                return other, how
    return None


def _conflict(rows: CheckedRows, one: int, other: int, how: str) -> RowProblem:
    names = rows.source.class_names
    detail = f"{how}: '{names[rows.labels[one]]}' here, '{names[rows.labels[other]]}' there"
    return "label conflict", rows.id(one), rows.id(other), detail

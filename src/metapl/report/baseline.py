"""Did the unlabelled rows help? The run's method beside a model that learnt from the labels alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from metapl.report.record import Record
from metapl.training.guard import NAMES
from metapl.training.pairs import paired_interval


@dataclass(frozen=True)
class Compared:
    """The method and a baseline on the same rows, of which neither learnt.

    Attributes:
        baseline: its name in words.
        rows: how many, and ``kind``: which.
        method, other: share that each has right.
        low, high: 95 % interval of the difference.
    """

    baseline: str
    rows: int
    kind: str
    method: float
    other: float
    low: float
    high: float

    @property
    def difference(self) -> float:
        return self.method - self.other


def compared(record: Record) -> Compared | None:
    """Return the comparison to go by: on test rows where these were judged, else the guard's; None without a fair one.

    Where the guard returned the mean of both sides, no baseline is kept, so test rows compare nothing.
    """
    guard = record.results.get("guard", {})
    return _on_test_rows(record, guard) or _by_guard(record, guard)


def returned_mean(record: Record) -> bool:
    """Return whether the run's model is the mean of method and baselines."""
    return bool(mean_partners(record))


def mean_partners(record: Record) -> list[str]:
    """Return the baselines in a returned mean; none where another model was returned."""
    guard = record.results.get("guard", {})
    if "partners" in guard:
        return list(guard["partners"])
    returned = str(guard.get("returned", ""))  # older results have the names in words only
    return [name for name, words in NAMES.items() if words in returned] if returned.startswith("mean of ") else []


def _on_test_rows(record: Record, guard: dict[str, Any]) -> Compared | None:
    counts = (record.evaluation or {}).get("not_chosen")
    if not counts or returned_mean(record):
        return None
    count, both = record.evaluation["rows"], counts["both_right"]  # type: ignore[index]
    wins, losses = counts["only_chosen_right"], counts["only_other_right"]
    if record.results.get("chosen_by") == "guard":  # the method is the other side then
        wins, losses = losses, wins
    low, high = paired_interval(wins, losses, both, count)
    name = NAMES.get(guard.get("baseline", "supervised"), "supervised baseline")
    return Compared(name, count, "test rows", (wins + both) / count, (losses + both) / count, low, high)


def _by_guard(record: Record, guard: dict[str, Any]) -> Compared | None:
    if "difference" in guard:  # runs of 0.1.0
        shares, (low, high) = list(guard["accuracy"].values()), guard["difference_95"]
        return Compared(NAMES["supervised"], guard["rows"], "labelled rows", shares[0], shares[1], low, high)
    if not guard.get("pairs") or not guard.get("held_out", guard.get("way") == "validation rows"):
        return None
    pair, shares = guard["pairs"][-1], guard["accuracy"]
    low, high = pair["difference_95"]
    first, second = pair["first"], pair["second"]
    return Compared(NAMES[second], guard["rows"], "labelled rows", shares[first], shares[second], low, high)

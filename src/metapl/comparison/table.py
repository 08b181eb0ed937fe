"""The table of a comparison: means and spread, paired differences with intervals, and a verdict in plain words."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from metapl.comparison.budget import cost
from metapl.comparison.paired import Estimate, against_best, estimate, holm, paired, seeds_needed
from metapl.comparison.plan import Plan

FAMILY = "mpl"  # methods that have this word in their name do not count as baselines
OVER = 1.25  # times the minutes asked for, from which on a row is marked
TableRow = dict[str, Any]


def make_table(plan: Plan, runs: Iterable[Mapping[str, Any]]) -> list[TableRow]:
    """Return one row per method, in the order asked; accuracies in percent, differences in points.

    ``to_reference`` and ``to_best`` are paired estimates (``paired.Estimate`` as plain values, and Holm's p over the
    column) or None. ``to_best`` is against the best baseline, whichever that is in truth (``paired.against_best``): the
    best of the rows that are not of the mpl family, the row itself left out; where all rows are of that family, of all
    others. ``against`` names the one with the highest mean, from which the difference and its sd are.

    A failed run would mostly have been a bad one, so a mean over the other seeds is too good. Only a row with every
    seed of the plan (``whole``) is ranked and serves as an opponent. A row with fewer seeds keeps its mean and gets no
    interval.
    """
    runs = list(runs)
    accuracy: dict[str, dict[int, float]] = {label: {} for label in plan.labels}
    for run in runs:
        if not run.get("error"):
            accuracy[run["method"]][run["seed"]] = run["test_accuracy"]
    means = {label: statistics.fmean(a.values()) for label, a in accuracy.items() if len(a) == len(plan.seeds)}
    rows = []
    for label in plan.labels:
        mine = [run for run in runs if run["method"] == label]
        row: TableRow = {"method": label, **_own(plan, accuracy[label], mine), **_spent(plan, label, mine)}
        opponents = _opponents(plan, means, label)
        reference = plan.asked["reference"]
        row["to_reference"] = None if label == reference else _difference(plan, accuracy, label, reference)
        row["against"] = opponents[0] if opponents else None
        row["to_best"] = _to_best(plan, accuracy, label, opponents)
        sd = row["to_best"]["sd"] if row["to_best"] else None
        row["seeds_for_one_point"] = seeds_needed(sd) if sd else None
        rows.append(row)
    for column in ("to_reference", "to_best"):
        _adjust([row[column] for row in rows])
    return rows


def best_baseline(plan: Plan, rows: Sequence[TableRow]) -> str | None:
    """Return the baseline with the highest mean, or None if no baseline finished every seed."""
    means = {r["method"]: r["mean"] for r in rows if r["whole"] and not in_family(plan, r["method"])}
    return max(means, key=lambda label: means[label]) if means else None


def in_family(plan: Plan, label: str) -> bool:
    """Return whether the row is a kind of MPL."""
    return FAMILY in plan.method(label).split("_")


def ranked(rows: Iterable[TableRow]) -> list[TableRow]:
    """Return the rows with the best mean first, then those that lack seeds, then those that never finished."""
    return sorted(rows, key=lambda r: (not r["whole"], r["mean"] is None, -(r["mean"] or 0.0)))


def _own(plan: Plan, accuracy: Mapping[int, float], runs: Sequence[Mapping[str, Any]]) -> TableRow:
    errors = {run["seed"]: run["error"] for run in runs if run.get("error")}
    head = {"seeds": len(accuracy), "whole": len(accuracy) == len(plan.seeds)}
    if not accuracy:
        none = dict.fromkeys(("mean", "sd", "low", "high", "worst", "balanced"))
        return {**head, **none, "errors": errors}
    estimated = _honest(plan, estimate(list(accuracy.values())))
    own = {"mean": estimated.mean, "sd": estimated.sd, "low": estimated.low, "high": estimated.high}
    finished = [run for run in runs if not run.get("error")]
    known = [float(run["test_balanced"]) for run in finished if "test_balanced" in run]
    mean = statistics.fmean(known) if len(known) == len(finished) else None  # runs of 0.1.0 do not have it
    return {**head, **own, "worst": min(accuracy.values()), "balanced": mean, "errors": errors}


def _honest(plan: Plan, found: Estimate) -> Estimate:
    """Return ``found`` unchanged if it has every seed, else without interval and p."""
    return found if found.n == len(plan.seeds) else replace(found, low=None, high=None, p=None)


def _spent(plan: Plan, label: str, runs: Sequence[Mapping[str, Any]]) -> TableRow:
    """Steps, passes, and the mean time and highest memory of the runs that were measured from start to end."""
    share = plan.budget[label]
    whole = [r for r in runs if not r.get("error") and r["resumed_at"] == 0]
    memory = [r["peak_memory"] for r in whole if r["peak_memory"] is not None]
    passes = cost(share["cost"]).rows(share["steps"]) if share["cost"] else None
    seconds, minutes = statistics.fmean(r["seconds"] for r in whole) if whole else None, plan.asked["budget"]["minutes"]
    return {
        "steps": share["steps"],
        "extra_steps": share["cost"]["extra_steps"] if share["cost"] else 0,
        "rows_forward": round(passes.forward) if passes else None,
        "rows_backward": round(passes.backward) if passes else None,
        "seconds": seconds,
        "over_budget": bool(seconds and minutes) and seconds > OVER * 60 * minutes,
        "peak_memory_mb": max(memory) / (1 << 20) if memory else None,
    }


def _opponents(plan: Plan, means: Mapping[str, float], label: str) -> list[str]:
    """Return the methods that the row is compared with in ``to_best``, highest mean first."""
    baselines = [m for m in means if not in_family(plan, m)]
    return sorted((m for m in baselines or means if m != label), key=lambda m: -means[m])


def _to_best(
    plan: Plan, accuracy: Mapping[str, Mapping[int, float]], label: str, opponents: Sequence[str]
) -> TableRow | None:
    if not opponents or len(accuracy[label]) < len(plan.seeds):
        return _difference(plan, accuracy, label, opponents[0]) if opponents else None
    return asdict(against_best(accuracy[label], [accuracy[other] for other in opponents]))


def _difference(plan: Plan, accuracy: Mapping[str, Mapping[int, float]], label: str, other: str) -> TableRow | None:
    estimated = paired(accuracy[label], accuracy[other])
    return asdict(_honest(plan, estimated)) if estimated else None


def _adjust(cells: Sequence[TableRow | None]) -> None:
    """Add Holm's p beside each p of a column."""
    tested = [cell for cell in cells if cell is not None and cell["p"] is not None]
    for cell, p in zip(tested, holm([cell["p"] for cell in tested])):
        cell["p_holm"] = p


# ---- in words ------------------------------------------------------------------------------------------------


def verdict(plan: Plan, rows: Sequence[TableRow]) -> str:
    """Return a few sentences: who wins and by how much, where mpl stands, what failed, and how many seeds would
    tell.
    """
    order = [r for r in ranked(rows) if r["whole"]]
    if not any(r["seeds"] for r in rows):
        return "No run finished."
    said = list[str]()
    first = [r["method"] for r in order if r["mean"] == order[0]["mean"]]
    if len(first) > 1:
        said.append(
            f"{', '.join(first[:-1])} and {first[-1]} have the same mean, {order[0]['mean']:.1f} %, the highest."
        )
    elif order:
        said.append(f"{order[0]['method']} has the highest mean, {order[0]['mean']:.1f} %{_gap(order[0])}.")
    else:
        said.append(f"No method finished all {len(plan.seeds)} seeds, so none is the best.")
    ours = next((r for r in order if r["method"] == FAMILY), None)
    ours = ours or next((r for r in order if in_family(plan, r["method"])), None)
    if ours is not None and ours is not order[0]:
        place = f"number {order.index(ours) + 1} of {len(order)}"
        said.append(f"{ours['method']} is {place}, {ours['mean']:.1f} %{_gap(ours)}.")
    said += _not_ranked(plan, rows)
    if len(plan.seeds) == 1:
        said.append("One seed gives no interval: any difference may be luck, so add seeds.")
    elif order:
        said += _seeds_asked(ours or order[0])
    return " ".join(said)


def _not_ranked(plan: Plan, rows: Sequence[TableRow]) -> list[str]:
    """Return a sentence on rows that lack seeds and are not ranked."""
    lacking = [f"{r['method']} ({r['seeds']} of {len(plan.seeds)} seeds)" for r in ranked(rows) if not r["whole"]]
    return [f"Not ranked, since seeds failed: {', '.join(lacking)}."] if lacking else []


def _seeds_asked(row: TableRow) -> list[str]:
    """Return a sentence on the number of seeds that would decide, if the present seeds do not."""
    cell, number = row["to_best"], row["seeds_for_one_point"]
    if cell is None or number is None or not _open(cell) or number <= cell["n"]:
        return []
    pair = f"{row['method']} and {row['against']}"
    return [f"To see a difference of one point between {pair} takes about {number:,} seeds."]


def _gap(row: TableRow) -> str:
    """Return the difference to the opponent, and whether the interval settles it."""
    cell = row["to_best"]
    if cell is None:
        return ""
    size = f": {signed(cell['mean'])} points against {row['against']}, seed by seed"
    if cell["low"] is None:
        equal = cell["n"] > 1 and cell["sd"] == 0
        return f"{size}{', the same in every one, so there is no spread and no interval' if equal else ''}"
    between = f"{size}, 95 % interval to the best opponent {signed(cell['low'])} to {signed(cell['high'])}"
    if _open(cell):
        return f"{between}, which includes 0: {cell['n']} seeds do not settle it"
    also = "" if cell["p_holm"] < 0.05 else " (though not once all rows of the table are allowed for)"
    return f"{between}, which excludes 0{also}"


def _open(cell: TableRow) -> bool:
    """Return whether the interval leaves open which of the two is better."""
    return cell["low"] is not None and bool(cell["low"] <= 0 <= cell["high"])


def signed(value: float) -> str:
    """Return ``+1.2``, ``-0.3``, and ``0.0`` without a sign."""
    rounded = round(value, 1)
    return f"{rounded:+.1f}" if rounded else "0.0"


def footnotes(plan: Plan, rows: Sequence[TableRow]) -> list[str]:
    """Return how to read the table."""
    reference, best, several = plan.asked["reference"], best_baseline(plan, rows), len(plan.seeds) > 1
    tests = sum(1 for r in rows if r["to_reference"]) + sum(1 for r in rows if r["to_best"])
    notes = [f"Accuracy on test rows, %, over {len(plan.seeds)} seeds; each seed gives every method the same split."]
    if several:
        notes.append(
            f"to {reference}, to best baseline: mean paired difference in points [95 % interval over seeds]. It covers "
            "the draw of labels, test rows, weights and batches, not other data. [-]: no interval, since all "
            "differences to an opponent are the same or seeds failed."
        )
    else:
        notes.append(f"to {reference}, to best baseline: difference in points; one seed gives no interval.")
    if not all(r["whole"] for r in rows):
        notes.append(
            "Rows with failed seeds stand below the others and are not opponents: their figures are of the seeds that "
            "did not fail, and no interval is made of these."
        )
    if best is not None:
        notes.append(
            f"Best baseline: the highest mean outside the {FAMILY} family, here {best}, which itself is held "
            "against the next. The interval allows for its being chosen on the same runs."
        )
    else:
        notes.append(
            f"No baseline outside the {FAMILY} family is here with every seed: best means the best of the other rows."
        )
    if several:
        notes.append(
            "seeds for 1 point: n = ((1.96 + 0.84) sd)^2 + 1.92, with the sd of the paired difference to the best "
            "baseline: power 0.8, two-sided 5 %."
        )
    if several and tests > 1:
        notes.append(
            f"{tests} intervals stand here, of which up to one in twenty misses by chance; results.json has p-values "
            "with Holm's correction."
        )
    notes.append(f"Budget: {budget_text(plan, rows)}")
    memory = "time: mean seconds from the first step to the last; memory: highest peak of a run's process"
    notes.append(f"{memory}. Runs that were broken off and resumed are left out of both.")
    return notes


def budget_text(plan: Plan, rows: Sequence[TableRow]) -> str:
    """Return the budget of each method."""
    budget = plan.asked["budget"]
    extra = [f"{r['method']} {r['extra_steps']}" for r in rows if r["extra_steps"]]
    after = f" Steps of fine-tuning come on top: {', '.join(extra)}." if extra else ""
    if budget["by"] == "steps":
        return f"equal steps, {budget['steps']} each.{after}"
    if budget["by"] == "minutes":
        over = " ! = took over 25 % longer than that." if any(r["over_budget"] for r in rows) else ""
        return f"equal time, {budget['minutes']:g} minutes per run; steps by the speed measured here.{over}{after}"
    first = rows[0]
    return (
        f"equal passes: as many rows forward and backward as {first['method']} passes in {first['steps']} steps. "
        f"Fine-tuning is counted.{after}"
    )

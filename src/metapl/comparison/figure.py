"""``comparison.png``: every seed of every method, means with intervals, and training times."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metapl.comparison.plan import Plan
from metapl.comparison.table import TableRow, in_family, ranked
from metapl.utils.names import last_part

DROP = 0.22  # the dots stand below their mean
LONGEST, MOST_LINES = 28, 3  # characters of a name on one line, and lines
OURS, OTHERS, LINE = "#c2410c", "#1d4e89", "0.35"


def draw(path: Path, plan: Plan, rows: Sequence[TableRow], runs: Iterable[Mapping[str, Any]]) -> None:
    """Draw accuracy on the left, one row per method, best on top; on the right training time per run."""
    from matplotlib.figure import Figure

    shown = [row for row in ranked(rows) if row["seeds"]]
    runs = [run for run in runs if not run.get("error")]
    figure = Figure(figsize=(10.5, 2.2 + 0.44 * len(shown)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3.2, 1], sharey=True)
    places = range(len(shown))[::-1]
    for place, row in zip(places, shown):
        _accuracy(left, place, row, [r for r in runs if r["method"] == row["method"]], _colour(plan, row))
        _time(right, place, row, _colour(plan, row))
    reference = next((r for r in shown if r["method"] == plan.asked["reference"]), None)
    if reference is not None:
        left.axvline(reference["mean"], color=LINE, linestyle="--", linewidth=1, zorder=0)
        left.annotate(
            f"{_name(reference['method'])} {reference['mean']:.1f}",
            (reference["mean"], 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            ha="center",
            color=LINE,
            fontsize=8,
        )
    left.set_yticks(list(places), [_named(row) for row in shown])
    left.set_ylim(-0.7, len(shown) - 0.4)
    left.set_xlabel("test accuracy, %")
    left.set_xlim(*axis_ends(shown, runs))
    right.set_xlabel("training time per run, s")
    right.set_xlim(0, 1.3 * max([row["seconds"] or 0.0 for row in shown] + [0.1]))
    right.tick_params(left=False)
    for axes in (left, right):
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_title(plan), fontsize=10)
    figure.savefig(path, dpi=130)


def _accuracy(axes: Any, place: int, row: TableRow, runs: Sequence[Mapping[str, Any]], colour: str) -> None:
    values = [run["test_accuracy"] for run in runs]
    axes.plot(values, [place - DROP] * len(values), "o", color=colour, alpha=0.45, markersize=5.5, markeredgewidth=0)
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
    axes.plot(row["mean"], place, "D", color=colour, markersize=6.5, markeredgecolor="white", markeredgewidth=0.8)


def axis_ends(rows: Iterable[Mapping[str, Any]], runs: Iterable[Mapping[str, Any]]) -> tuple[float, float]:
    """Return the ends of an axis of accuracies in %, which holds every dot and every interval within 0 to 100."""
    intervals = [row[end] for row in rows for end in ("low", "high") if row[end] is not None]
    values = [run["test_accuracy"] for run in runs] + [min(100.0, max(0.0, value)) for value in intervals]
    margin = max(1.0, 0.05 * (max(values) - min(values)))
    return min(values) - margin, max(values) + margin


def _time(axes: Any, place: int, row: TableRow, colour: str) -> None:
    if row["seconds"] is None:
        return
    axes.barh(place, row["seconds"], height=0.5, color=colour, alpha=0.55)
    text = f"{row['seconds']:.0f}" if row["seconds"] >= 10 else f"{row['seconds']:.1f}"
    axes.annotate(text, (row["seconds"], place), (4, 0), textcoords="offset points", va="center", fontsize=8)


def _colour(plan: Plan, row: TableRow) -> str:
    return OURS if in_family(plan, row["method"]) else OTHERS


def _named(row: TableRow) -> str:
    return _name(row["method"]) + (
        "" if row["whole"] else f"\n({row['seeds']} of {row['seeds'] + len(row['errors'])} seeds)"
    )


def _name(label: str) -> str:
    """Return a name on several lines if it is long, cut if it is longer still; ``$`` is escaped."""
    lines = [""]
    for part in re.split(r"(?<=[:+])", label):
        if lines[-1] and len(lines[-1]) + len(part) > LONGEST:
            lines.append("")
        lines[-1] += part
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES - 1], f"{lines[MOST_LINES - 1]}…"]
    return "\n".join(line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…" for line in lines).replace("$", r"\$")


def _title(plan: Plan) -> str:
    data = Path(last_part(plan.asked["data"])).name.replace("$", r"\$")
    seeds = len(plan.seeds)
    what = "dots: seeds; diamond: mean" + ("; bar: its 95 % interval" if seeds > 1 else "")
    return f"{data}: {plan.facts['labels']}\n{seeds} seed{'s' * (seeds > 1)}; {what}"

"""The table as text for a terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from metapl.comparison.plan import Plan
from metapl.comparison.table import TableRow, budget_text, footnotes, ranked, signed, verdict
from metapl.utils.files import guarded

WIDTH = 110  # of the text
NAME, SHORT = 24, 12  # longest name that shares its line with the figures, and that stands in a header
RUN_FIELDS = (
    *(
        "method",
        "seed",
        "test_accuracy",
        "test_balanced",
        "test_rows",
        "test_log_loss",
        "steps",
        "extra_steps",
        "seconds",
    ),
    *("peak_memory", "resumed_at", "chosen", "split_sha", "error"),
)


def text_table(plan: Plan, rows: Sequence[TableRow]) -> str:
    """Return the table as text, best mean first; a long name has a line of its own."""
    header, lines = _header(plan), [_cells(row) for row in ranked(rows)]
    widths = [max(len(line[k]) for line in [header, *lines]) for k in range(1, len(header))]
    width = max([len(line[0]) for line in lines if len(line[0]) <= NAME] + [len(header[0])])
    printed = []
    for line in [header, *lines]:
        name, figures = line[0], "  ".join(cell.rjust(w) for cell, w in zip(line[1:], widths))
        if len(name) > width:
            printed.append(name)
            name = ""
        printed.append(f"{name.ljust(width)}  {figures}".rstrip())
    return "\n".join(printed)


def text(plan: Plan, rows: Sequence[TableRow]) -> str:
    """Return the terminal's text: the table, failed runs, the verdict, and how to read it."""
    parts = [f"{plan.asked['data']}: {plan.facts['labels']}", text_table(plan, rows)]
    parts += ["\n".join(_wrapped(line) for line in failures(rows))] if any(r["errors"] for r in rows) else []
    parts.append(_wrapped(verdict(plan, rows)))
    if len(plan.asked["reference"]) > SHORT:
        parts.append(f"reference: {plan.asked['reference']}")
    parts.append(_wrapped(f"Budget: {budget_text(plan, rows)}"))
    return "\n\n".join(parts)


def failures(rows: Sequence[TableRow]) -> list[str]:
    """Return one line per run that failed."""
    return [f"failed: {r['method']}, seed {seed}: {why}" for r in rows for seed, why in r["errors"].items()]


def markdown(plan: Plan, rows: Sequence[TableRow], versions: Mapping[str, str]) -> str:
    """Return a section to paste: the table, the verdict, how to read it, the command and the versions."""
    header = [*_header(plan), "balanced", "steps", "rows forward", "rows backward"]
    lines = [f"| {' | '.join(header)} |", f"|{'---|' * len(header)}"]
    for row in ranked(rows):
        passes = [f"{row[k]:,}" if row[k] is not None else "-" for k in ("rows_forward", "rows_backward")]
        cells = [*_cells(row), _figure(row["balanced"]), f"{row['steps']:,}", *passes]
        lines.append(f"| {' | '.join(c.replace('|', chr(92) + '|') for c in cells)} |")
    sections = [f"Data: `{plan.asked['data']}`, {plan.facts['labels']}.", "\n".join(lines), verdict(plan, rows)]
    sections += ["\n".join(f"- {line}" for line in [*failures(rows), *footnotes(plan, rows), *plan.facts["notes"]])]
    stand = ", ".join(f"{name} {version}" for name, version in versions.items())
    sections.append(f"    {plan.facts['command']}\n\n{stand}")
    return "\n\n".join(sections) + "\n"


def runs_csv(runs: Iterable[Mapping[str, Any]]) -> str:
    """Return one line per run. A text that a spreadsheet would take for a formula gets an apostrophe in front."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(RUN_FIELDS)
    for run in runs:
        writer.writerow([guarded(run.get(name)) for name in RUN_FIELDS])
    return out.getvalue()


def _header(plan: Plan) -> list[str]:
    reference = plan.asked["reference"]
    figures = ["mean", "sd", "worst", f"to {reference if len(reference) <= SHORT else 'reference'}", "to best baseline"]
    return ["method", *figures, "seeds for 1 point", "time", "memory"]


def _cells(row: TableRow) -> list[str]:
    number = row["seeds_for_one_point"]
    time, memory = row["seconds"], row["peak_memory_mb"]
    total = row["seeds"] + len(row["errors"])
    return [
        row["method"] if row["whole"] else f"{row['method']} ({row['seeds']} of {total} seeds)",
        *(_figure(row[k]) for k in ("mean", "sd", "worst")),
        _interval(row["to_reference"]),
        _interval(row["to_best"]),
        "-" if number is None else f"{number:,}",
        ("! " if row["over_budget"] else "") + _seconds(time),
        "-" if memory is None else f"{memory:,.0f} MB",
    ]


def _seconds(time: float | None) -> str:
    return "-" if time is None else f"{time:.0f} s" if time >= 10 else f"{time:.1f} s"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _interval(cell: TableRow | None) -> str:
    """Return ``+4.8 [+1.5, +8.1]``; ``+4.8 [-]`` where several seeds make no interval."""
    if cell is None:
        return "-"
    between = " [-]" if cell["n"] > 1 else ""
    if cell["low"] is not None:
        between = f" [{signed(cell['low'])}, {signed(cell['high'])}]"
    return f"{signed(cell['mean'])}{between}"


def _wrapped(line: str) -> str:
    return "\n".join(textwrap.wrap(line, WIDTH, subsequent_indent="" if line.endswith(".") else "  ")) or line

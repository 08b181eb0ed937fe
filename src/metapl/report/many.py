"""Several runs, or a comparison of methods, side by side on one page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metapl.comparison.comparison import RESULTS, folder_names, is_comparison
from metapl.comparison.figure import axis_ends
from metapl.errors import UserError
from metapl.report.charts import Draw
from metapl.report.charts import render as draw
from metapl.report.display import cut
from metapl.report.gather import stored
from metapl.report.page import render
from metapl.report.record import Json, Record, read_record
from metapl.report.svg import LIGHT, SERIES
from metapl.report.verdict import against_supervised, judged, percent
from metapl.runs.folder import Metrics
from metapl.utils.files import check_output, write_text
from metapl.utils.names import last_part

MOST_CURVES = 10
PAGE_WIDE = 4.8  # inches: the letters of a wider figure are too small on a phone


def report_runs(folders: Sequence[Path], out: Path, overwrite: bool = False) -> Path:
    """Write one page that shows several finished runs side by side.

    Raises:
        UserError: a folder is not a finished run, or ``out`` is a file that metapl did not write.
    """
    records = [read_record(folder) for folder in folders]
    names = _names(records)
    figures = [judged(record, stored(record.folder) or {}) for record in records]
    table = []
    for record, name, (found, rows) in zip(records, names, figures):
        helped = against_supervised(record)
        share = f"{percent(found['accuracy'])} of {found['rows']} {rows}" if found else "-"
        interval = f"{percent(found['accuracy_low'])} to {percent(found['accuracy_high'])}" if found else "-"
        counts = record.results["rows"]
        cells = [
            name,
            record.method,
            str(record.results["model"]),
            str(counts["labeled"]),
            str(record.results["steps"]),
        ]
        table.append([*cells, f"{record.results['seconds']:.0f} s", share, interval, helped.short])
    curves = [(name, *record.series("validation_accuracy")) for name, record in zip(names, records)]
    notes = _unlike(records, [rows for _, rows in figures])
    values = {
        "title": f"{len(records)} runs side by side",
        "facts": cut(" · ".join(names), 300),
        "headline": _best(names, figures, notes),
        "notes": notes,
        "charts": draw([*_intervals(names, figures), *_curves(curves)], None),
        "header": [
            "run",
            "method",
            "network",
            "labels",
            "steps",
            "time",
            "right",
            "95 % interval",
            "unlabelled rows helped",
        ],
        "table": table,
        "failed": [],
        "names": names,
        "differences": _differences([record.config for record in records]),
        "commands": [
            f"metapl train --config {shlex.quote(str(record.folder / 'config.yaml'))} --out NEW_RUN"
            for record in records
        ],
        "environment": records[0].environment,
    }
    return _write(out, render("many.html", values), overwrite)


def report_comparison(folder: Path, out: Path | None = None, overwrite: bool = False) -> Path:
    """Write the page of a comparison, by default ``report.html`` in its folder.

    Raises:
        UserError: the comparison has not finished a single run.
    """
    try:
        found = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        table, runs, plan = found["table"], found["runs"], found["plan"]
    except (OSError, ValueError, KeyError) as error:
        remedy = "Go on with `metapl resume`."
        raise UserError(f"the comparison has no results yet ({error})", remedy, str(folder)) from error
    ordered = sorted(table, key=lambda row: (not row["whole"], row["mean"] is None, -(row["mean"] or 0.0)))
    asked, reference = plan["asked"], plan["asked"]["reference"]
    header = [
        "method",
        "mean",
        "sd",
        "worst",
        f"to {cut(reference, 24)}",
        "to best baseline",
        "seeds for 1 point",
        "time",
    ]
    lines = [
        [
            cut(row["method"], 80),
            *(_number(row[key]) for key in ("mean", "sd", "worst")),
            *(_estimate(row[key]) for key in ("to_reference", "to_best")),
            _number(row["seeds_for_one_point"], "{:.0f}"),
            _number(row["seconds"], "{:.0f} s"),
        ]
        for row in ordered
    ]
    failed = [f"{row['method']}, seed {seed}: {why}" for row in table for seed, why in row["errors"].items()]
    data = Path(last_part(str(asked["data"]))).name
    values = {
        "title": f"Comparison on {cut(data, 80)}",
        "facts": cut(f"{plan['facts']['labels']} · seeds {', '.join(map(str, plan['seeds']))}", 300),
        "headline": found["verdict"],
        "notes": [cut(note) for note in plan["facts"].get("notes", [])],
        "charts": draw(
            [
                *_seeds(ordered, runs),
                *_curves(
                    _mean_curves(ordered, runs, folder / "runs", folder_names(list(asked["rows"]))),
                    ", mean over the seeds" if len(plan["seeds"]) > 1 else "",
                ),
            ],
            None,
        ),
        "header": header,
        "table": lines,
        "failed": [cut(line) for line in failed],
        "names": [],
        "differences": [],
        "commands": [str(plan["facts"].get("command", ""))],
        "environment": found.get("versions", {}),
    }
    return _write(out or folder / "report.html", render("many.html", values), overwrite)


def several(folders: Sequence[Path], out: Path | None, overwrite: bool = False) -> Path:
    """Return the page for what the user named: one comparison, or runs.

    Raises:
        UserError: they cannot stand on one page.
    """
    compared = [folder for folder in folders if is_comparison(folder)]
    if compared and len(folders) > 1:
        raise UserError("a comparison stands on a page of its own", "Name it alone, or name runs.", str(compared[0]))
    if compared:
        return report_comparison(folders[0], out, overwrite)
    return report_runs(folders, out or Path("runs-report.html"), overwrite)


def _write(path: Path, page: str, overwrite: bool) -> Path:
    """Write the page, in place of an earlier one; a file of the user's is replaced with ``overwrite`` alone."""
    check_output(path, overwrite, _is_page)
    write_text(path, page)
    return path


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with open(path, encoding="utf-8", errors="replace") as file:
        return '<p class="brand">metapl report</p>' in file.read(20_000)


def _names(records: Sequence[Record]) -> list[str]:
    """Return the folders' names, with their parents where two are alike."""
    short = [cut(record.folder.resolve().name, 60) for record in records]
    return [cut(str(r.folder), 80) if short.count(name) > 1 else name for r, name in zip(records, short)]


def _best(names: Sequence[str], figures: Sequence[tuple[Json | None, str]], unlike: Sequence[str]) -> str:
    shown = [(found["accuracy"], name, rows) for name, (found, rows) in zip(names, figures) if found]
    if not shown:
        return "These runs have not been judged on labelled rows."
    best, name, rows = max(shown)
    if unlike:
        return "These runs were judged on different rows, so their figures do not say which is better."
    first = f"{name} is right most often: {percent(best)} of its {rows}."
    return f"{first} Look at the intervals before you believe a difference."


def _unlike(records: Sequence[Record], rows: Sequence[str]) -> list[str]:
    """Return why the figures may not be comparable."""
    notes = []
    if len({record.split.get("sha") for record in records}) > 1:
        notes.append("The runs have different splits: they were not judged on the same rows.")
    if len(set(rows)) > 1:
        notes.append("Some runs are judged on test rows and others on validation rows. Run `metapl evaluate` on each.")
    return notes


def _differences(configs: Sequence[Json]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not alike in all runs."""
    flat = [_flat(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    found = [(key, [config.get(key, "-") for config in flat]) for key in keys]
    # a method's own settings differ only between runs of that method
    return [(key, values) for key, values in found if len({*values} - {"-"}) > 1]


def _flat(tree: Json, prefix: str = "") -> dict[str, str]:
    flat = dict[str, str]()
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": cut(str(value), 80)}
    return flat


def _number(value: float | None, form: str = "{:.1f}") -> str:
    return "-" if value is None else form.format(value)


def _estimate(found: Json | None) -> str:
    if not found or found.get("mean") is None:
        return "-"
    interval = "" if found.get("low") is None else f" [{found['low']:+.1f}, {found['high']:+.1f}]"
    return f"{found['mean']:+.1f}{interval}"


def _intervals(
    names: Sequence[str], figures: Sequence[tuple[Json | None, str]]
) -> list[tuple[str, str, str, str, Draw]]:
    shown = [(cut(name, 28), found) for name, (found, _) in zip(names, figures) if found][::-1]
    if not shown:
        return []

    def drawn(figure: Any) -> None:
        figure.set_size_inches(PAGE_WIDE, 1.0 + 0.34 * len(shown))
        axes = figure.add_subplot()
        axes.grid(axis="x")
        for k, (_, found) in enumerate(shown):
            axes.plot([100 * found["accuracy_low"], 100 * found["accuracy_high"]], [k, k], color=SERIES[0], linewidth=2)
            axes.plot(100 * found["accuracy"], k, "o", color=SERIES[0], markersize=6)
        axes.set_yticks(range(len(shown)), [name for name, _ in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.set_xlabel("right, %")

    about = "Share of rows that are right, with its 95 % interval."
    return [("top", "runs", "Accuracy", about, drawn)]


def _seeds(table: Sequence[Json], runs: Sequence[Json]) -> list[tuple[str, str, str, str, Draw]]:
    """Draw every seed of every method, and the mean with its interval."""
    shown = [row for row in table if row["mean"] is not None][::-1]
    if not shown:
        return []

    def drawn(figure: Any) -> None:
        figure.set_size_inches(PAGE_WIDE, 1.0 + 0.36 * len(shown))
        axes = figure.add_subplot()
        axes.grid(axis="x")
        for k, row in enumerate(shown):
            colour = SERIES[(len(shown) - 1 - k) % len(SERIES)]  # as in the curves, where the best comes first
            values = [r["test_accuracy"] for r in runs if r["method"] == row["method"] and not r.get("error")]
            axes.plot(values, [k - 0.2] * len(values), "o", color=colour, alpha=0.45, markersize=4.5, markeredgewidth=0)
            if row["low"] is not None:
                axes.plot([row["low"], row["high"]], [k, k], color=colour, linewidth=2)
            axes.plot(row["mean"], k, "D", color=colour, markersize=6)
        axes.set_yticks(range(len(shown)), [cut(row["method"], 34) for row in shown])
        axes.set_ylim(-0.7, len(shown) - 0.4)
        axes.set_xlim(*axis_ends(shown, [r for r in runs if not r.get("error")]))
        axes.set_xlabel("test accuracy, %")

    about = "Dots are seeds, diamonds are means, bars are 95 % intervals of the means."
    if any(row["low"] is not None and not 0 <= row["low"] <= row["high"] <= 100 for row in shown):
        about += " So few seeds give intervals that leave 0 to 100 %: they say nothing yet."
    return [("top", "seeds", "Every seed of every method", about, drawn)]


def _mean_curves(
    table: Sequence[Json], runs: Sequence[Json], place: Path, names: Mapping[str, str]
) -> list[tuple[str, list[int], list[float]]]:
    """Return validation accuracy over time, the mean over the seeds that were judged at the same steps."""
    curves = []
    for row in table[:MOST_CURVES]:
        accuracies: list[dict[int, float]] = []
        for run in runs:
            if run["method"] == row["method"] and not run.get("error"):
                rows = Metrics(place / f"{names[row['method']]}-{run['seed']}").read()
                accuracies.append({r["step"]: r["validation_accuracy"] for r in rows if "validation_accuracy" in r})
        steps = sorted(set.intersection(*map(set, accuracies))) if accuracies else []
        if steps:
            curves.append((row["method"], steps, [float(np.mean([f[s] for f in accuracies])) for s in steps]))
    return curves


def _curves(
    curves: Sequence[tuple[str, list[int], list[float]]], how: str = ""
) -> list[tuple[str, str, str, str, Draw]]:
    shown = [curve for curve in curves if curve[1]][:MOST_CURVES]
    if not shown:
        return []

    def drawn(figure: Any) -> None:
        figure.set_size_inches(PAGE_WIDE, 3.0)
        axes = figure.add_subplot()
        axes.grid(axis="y")
        for k, (name, steps, values) in enumerate(shown):
            mark = "o" if len(steps) == 1 else ""  # a method that is fitted at once has a point, not a curve
            axes.plot(
                steps, [100 * v for v in values], mark, linestyle="-", color=SERIES[k], lw=1.6, label=cut(name, 28)
            )
        axes.set(xlabel="step", ylabel="validation accuracy, %")
        axes.legend(frameon=False, fontsize=8, labelcolor=LIGHT["ink"])

    about = f"Share of validation rows that are right while training{how}."
    return [("curves", "curves", "Validation accuracy", about, drawn)]

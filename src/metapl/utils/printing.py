"""What the commands print: plain text and JSON. No markup is read in names, so ``[brackets]`` survive."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metapl._version import __version__
from metapl.utils.files import check_output, write_text

_MARK = b'{\n  "metapl": "'  # how a JSON result of metapl begins
MOST = 5  # problems named on the screen
ROWS = 25  # settings of a tuning on the screen


def one_line(text: object) -> str:
    """Return the text on a single line: line breaks become spaces, other control characters are escaped."""
    joined = " ".join(str(text).split())
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in joined)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return columns of equal width; the last one is wrapped to the width of the terminal."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[k]) for line in lines) for k in range(len(header) - 1)]
    indent = sum(widths) + 2 * len(widths)
    width = max(24, shutil.get_terminal_size((1000, 24)).columns - indent) if sys.stdout.isatty() else 10_000
    printed = []
    for line in lines:
        start = "".join(cell.ljust(w + 2) for cell, w in zip(line, widths))
        parts = textwrap.wrap(line[-1], width) or [""]
        printed += [(start if k == 0 else " " * indent) + part for k, part in enumerate(parts)]
    return "\n".join(line.rstrip() for line in printed)


def check_json(target: str | None, overwrite: bool) -> None:
    """Refuse a place for the JSON that cannot be written, before any work is done.

    Raises:
        UserError: as ``check_output``; the JSON of an earlier command is replaced.
    """
    if target not in (None, "-"):
        check_output(Path(str(target)), overwrite, _is_own_json)


def _is_own_json(path: Path) -> bool:
    """Return whether the file is empty, or a JSON result of an earlier command."""
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        return file.read(len(_MARK)) in (b"", _MARK)


def give(result: Any, target: str | None, text: str) -> None:
    """Print ``text`` on stdout; with a ``target``, also the result as JSON there, or instead of it (``-``).

    In a file the version stands first, so that a later command knows its own file and replaces no other.
    """
    if target == "-":
        sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")
    elif target is not None:
        facts = {"metapl": __version__, **(result if isinstance(result, Mapping) else {"result": result})}
        write_text(Path(target), json.dumps(facts, indent=2, allow_nan=False) + "\n")
    if target != "-" and text:
        print(text)


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _steps(summary: Mapping[str, Any]) -> str:
    extra = summary["extra_steps"]
    return f"{summary['steps']} steps" + (f" and {extra} of fine-tuning" if extra else "")


def training(folder: Path, summary: Mapping[str, Any], page: Path | None = None) -> str:
    """Return the end of a training in words: candidates, choice and reason, the report's ``page``, the next command."""
    rows = summary["rows"]
    took = f" in {summary['seconds']:.0f} s"
    if summary.get("resumed_at"):  # what came before is not on this clock
        took = f"; resumed at step {summary['resumed_at']}, the rest took {summary['seconds']:.1f} s"
    memory = f", with at most {max(1, summary['peak_memory'] >> 20)} MB of memory" if "peak_memory" in summary else ""
    head = f"trained {summary['method']} ({summary['model']}) for {_steps(summary)}{took}{memory}"
    lines = [head]
    judged = summary["validation"]
    word = _word(summary)
    if judged:
        cells = [(n, percent(j["accuracy"]), f"{j['log_loss']:.3f}", _mark(n, summary)) for n, j in judged.items()]
        lines.append(table(("network", "validation accuracy", "log loss", ""), cells))
        lines.append(
            f"{word}: {summary['candidate']}, by accuracy, then log loss, on {rows['validation']} validation rows"
        )
    else:
        lines.append(f"{word}: {summary['candidate']}, the method's default: there are no validation rows")
    if summary["method"] != "supervised" and summary["guard"]["mode"] != "off":
        lines.append(one_line(summary["guard"]["text"]))
    lines += [f"alarm at step {alarm['step']}: {one_line(alarm['text'])}" for alarm in summary["alarms"]]
    lines += [one_line(rollback_text(back)) for back in summary.get("rollbacks", [])]
    lines.append(f"run folder: {one_line(folder)}")
    lines += [f"report: {one_line(page)}"] if page is not None else []
    lines.append("next:")
    place = shlex.quote(str(folder))
    if rows["test"]:
        lines.append(f"  metapl evaluate {place}")
    else:
        lines.append(f"  metapl evaluate {place} LABELLED_DATA    (this run has no test rows of its own)")
    lines.append(f"  metapl predict {place} NEW_DATA --out predictions.csv")
    lines.append(f"  metapl review {place}    (label the rows that help most, in the browser)")
    return "\n".join(lines)


def rollback_text(back: Mapping[str, Any]) -> str:
    """Say that a number was not finite and how the run went on; ``back`` as in ``results.json``."""
    return (
        f"step {back['step']}: {back['cause']} is not finite; the run went back to step {back['to']} and goes on "
        f"with the learning rate {back['learning_rate']:g}"
    )


def _mark(name: str, summary: Mapping[str, Any]) -> str:
    return f"<- {_word(summary)}" if name == summary["candidate"] else ""


def _word(summary: Mapping[str, Any]) -> str:
    """Name the best candidate; the guard decides whether it stands in ``model``."""
    return "chosen" if summary["chosen"] == summary["candidate"] else f"best of {summary['method']}"


def evaluation(result: Mapping[str, Any], headline: str, where: str) -> str:
    """Return accuracy with its interval, then one line per class."""
    counts = [sum(row) for row in result["confusion"]]
    shares = result["per_class_accuracy"].items()
    cells = [(one_line(name), str(count), percent(share)) for (name, share), count in zip(shares, counts)]
    return f"{one_line(where)}: {headline}\n\n" + table(("class", "rows", "right"), cells)


def problems(found: Sequence[tuple[str, str]], listed_in: Path | None = None) -> str:
    """Return the first few unusable files, for stderr; "" if all were usable."""
    if not found:
        return ""
    lines = [f"note: left out {one_line(name)}: {one_line(why)}" for name, why in found[:MOST]]
    if len(found) > MOST:
        lines.append(f"note: and {len(found) - MOST} more")
    if listed_in is not None:
        lines.append(f"note: all {len(found)} are listed in {one_line(listed_in)}")
    return "\n".join(lines)


def demo(result: Mapping[str, Any]) -> str:
    """Return the demo's table."""
    cells = [
        (r["method"], f"{r['mean']:.1f} %", f"{r['sd']:.1f}", f"{r['worst']:.1f} %", f"{r['seconds']:.0f} s")
        for r in result["table"]
    ]
    head = ("method", "mean test accuracy", "sd", "worst seed", "time per run")
    end = f"{result['seconds_total']:.0f} s in all; results.json and demo.png are in {one_line(result['folder'])}"
    return f"{table(head, cells)}\n\n{end}"


def tuning(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return the settings that were compared, best first, the decision, and what to type next."""
    shown, chosen = summary["settings"][:ROWS], summary["chosen"]
    cells = [_compared(entry, entry["setting"] == chosen) for entry in shown]
    lines = [table(("setting", "right", "log loss", "against the default", ""), cells)]
    if len(summary["settings"]) > ROWS:
        lines.append(f"and {len(summary['settings']) - ROWS} more in results.json")
    default = ", ".join(f"{key} = {value}" for key, value in summary["default"].items())
    lines.append(f"default: {default}")
    lines.append(f"{summary['rows']} labelled rows, held out in {summary['folds']} folds; +- is a standard error")
    if not summary["complete"]:
        lines.append("the time was up before everything was tried")
    lines += ["", one_line(summary["verdict"]), "next:"]
    settings = shlex.quote(str(folder / "best.yaml"))
    lines.append(f"  metapl train {shlex.quote(summary['data'])} --config {settings}")
    return "\n".join(lines)


def _compared(entry: Mapping[str, Any], chosen: bool) -> tuple[str, ...]:
    name = one_line(" ".join(f"{key}={value}" for key, value in entry["setting"].items()) or "default")
    mark = "<- chosen" if chosen else ""
    if "error" in entry:
        return name, "-", "-", one_line(entry["error"]), mark
    difference = (
        ""
        if entry["default"] or entry["difference"] is None
        else (f"{100 * entry['difference']:+.1f} +- {100 * entry['standard_error']:.1f}")
    )
    return name, percent(entry["accuracy"]), f"{entry['log_loss']:.3f}", difference, mark


def cut(text: str, most: int = 400) -> str:
    """Return the text on one line, at most ``most`` characters."""
    line = one_line(text)
    return line if len(line) <= most else f"{line[: most - 1]}…"

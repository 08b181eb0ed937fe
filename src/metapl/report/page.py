"""From facts to a page: jinja2 escapes everything that comes from data, and the page's policy allows no script."""

from __future__ import annotations

import base64
import hashlib
import json
import shlex
from pathlib import Path
from typing import Any

import yaml

from metapl._version import __version__
from metapl.report.charts import Chart
from metapl.report.display import cut
from metapl.report.record import Record
from metapl.report.verdict import judged, percent, verdict
from metapl.utils.names import last_part

TEMPLATES = Path(__file__).parent / "templates"
MOST_CLASSES = 25  # in a confusion matrix on the page
MISTAKES = 8
SPLIT = {"source": "data", "fingerprint": "hash of the data", "seed": "seed", "sha": "hash of the split"}
FEW = 10  # rows of which a share is said in numbers of rows


def render(template: str, values: dict[str, Any]) -> str:
    """Fill a template of this folder; ``values["title"]`` must be there."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    loader = FileSystemLoader(TEMPLATES)
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["whole"] = lambda share: f"{100 * share:.0f} %"
    pages.filters["inline"] = Markup  # for the figures alone: elements that ``svg.inline`` has cleaned
    css = pages.get_template("style.css").render()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    text = pages.get_template(template).render(**values, css=Markup(css), policy=policy, version=__version__)
    return text.encode("utf-8", "replace").decode("utf-8")  # a file name that is not text may hold half a character


def run_page(record: Record, material: dict[str, Any], charts: list[Chart]) -> str:
    """Return the report of one run."""
    results, config = record.results, record.config
    figures, judged_on = judged(record, material)
    names = material.get("classes", [])
    source = material.get("source") or Path(last_part(str(config["data"]))).name
    rows, encoder = results["rows"], _encoder(config)
    facts = [
        f"network {results['model']}" + (f" on features of {encoder}" if encoder else ""),
        f"{results['steps']} steps"
        + (f" and {results['extra_steps']} of fine-tuning" if results["extra_steps"] else ""),
        f"{results['seconds']:.0f} s",
        f"seed {results['seed']}",
        f"{rows['labeled']} labelled and {rows['unlabeled']} unlabelled rows",
        f"{rows['validation'] or 'no'} validation and {rows['test'] or 'no'} test rows",
    ]
    values = {
        "title": f"{record.method} on {cut(source, 80)}",
        "facts": cut(" · ".join(facts), 300),
        "verdict": verdict(record, material),
        "figures": figures,
        "judged_on": judged_on,
        "names": names,
        "most_classes": MOST_CLASSES,
        "mistakes": _mistakes(figures, names),
        "per_class": per_class(figures, names, material.get("labels", [])),
        "material": {"grids": [], "calibration": None, "check": _NO_CHECK, "kind": "image", **material},
        "charts": charts,
        "data": shlex.quote(str(config["data"])),
        "problems": record.problems,
        **reproduction(record),
        "results": json.dumps(results, indent=2, ensure_ascii=False),
    }
    return render("run.html", values)


def train_again(record: Record) -> str:
    """Return the command that trains with the settings of a run."""
    return f"metapl train --config {shlex.quote(str(record.folder / 'config.yaml'))} --out NEW_RUN"


def reproduction(record: Record) -> dict[str, Any]:
    """Return what the section on reproducing a run takes."""
    return {
        "again": train_again(record),
        "environment": record.environment,
        "split": {words: record.split[name] for name, words in SPLIT.items() if name in record.split},
        "config": yaml.safe_dump(record.config, sort_keys=False, allow_unicode=True),
    }


def _encoder(config: dict[str, Any]) -> str:
    """Return the name of the run's encoder; settings of 0.1.0 have it as a plain text or not at all."""
    found = config.get("source", {}).get("encoder", "")
    return cut(str(found.get("name") or "" if isinstance(found, dict) else found or ""), 60)


_NO_CHECK: dict[str, Any] = {"verdict": None, "findings": [], "notes": []}


def _mistakes(figures: dict[str, Any] | None, names: list[str]) -> list[dict[str, Any]]:
    """Return the pairs of classes that are taken for each other most often."""
    found = []
    for k, counts in enumerate(figures["confusion"] if figures else []):
        for j, count in enumerate(counts):
            if j != k and count:
                found.append(
                    {"true": names[k], "answer": names[j], "count": count, "share": _share(count, sum(counts))}
                )
    return sorted(found, key=lambda mistake: -mistake["count"])[:MISTAKES]


def per_class(figures: dict[str, Any] | None, names: list[str], labels: list[int]) -> list[dict[str, Any]]:
    """Return for each class its rows, the share found, and the share of its answers that are right."""
    if not figures:
        return []
    confusion, lines = figures["confusion"], []
    for k, name in enumerate(names):
        rows, answered = sum(confusion[k]), sum(line[k] for line in confusion)
        lines.append(
            {
                "name": name,
                "labels": labels[k] if k < len(labels) else "",
                "rows": rows,
                "recall": _share(confusion[k][k], rows),
                "precision": _share(confusion[k][k], answered),
            }
        )
    return lines


def _share(count: int, rows: int) -> str:
    """Return ``88.2 %``, or of a few rows ``3 of 4``, since a share of these says too much."""
    if not rows:
        return "-"
    return percent(count / rows) if rows >= FEW else f"{count} of {rows}"

"""The model card: ``README.md`` in the model's folder, in the form that model hubs read.

It is made from the files of the run alone, so that it is the same whenever it is made. The seal of the model does not
cover it: people are meant to edit it. ``metapl evaluate`` writes it again, unless somebody has edited it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from metapl.config.settings import RunConfig, load_config
from metapl.data.modalities import modality_of
from metapl.inference.evaluate import judge
from metapl.runs.model_folder import CARD, validation_answers
from metapl.utils.files import write_text
from metapl.utils.limits import read_json
from metapl.utils.printing import cut, one_line

FILE = "README.md"
TASKS = {"images": "image-classification", "a table": "tabular-classification", "texts": "text-classification"}
MOST = 100  # classes and columns that are listed
PLAIN = frozenset(" ,-./")  # signs that mean nothing in Markdown within a line


def write_card(run: Path) -> None:
    """Write the card of a finished run.

    Raises:
        OSError, ValueError: a file of the run cannot be read, or the card cannot be written.
    """
    write_text(run / "model" / FILE, _text(run))


def is_own_card(run: Path) -> bool:
    """Return whether the card is as ``write_card`` would write it now: then nobody has edited it."""
    try:
        return (run / "model" / FILE).read_text(encoding="utf-8") == _text(run)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _evaluation(run: Path) -> dict[str, Any] | None:
    path = run / "evaluation.json"
    return read_json(path) if path.is_file() else None


def escaped(text: object, most: int = 120) -> str:
    """Return a name of the user's as Markdown shows it letter by letter: without tags, links or table cells."""
    line = cut(one_line(text), most)
    signs = (c if c.isalnum() or c in PLAIN or not c.isascii() else f"&#{ord(c)};" for c in line)
    return re.sub(r"(?i)(www)\.", r"\1&#46;", "".join(signs))


def _text(run: Path) -> str:
    config = load_config(run / "config.yaml", training=False)
    results = read_json(run / "results.json")
    card = read_json(run / "model" / CARD)
    figures = _figures(run, card)
    takes = card["encoder"]["takes"] if "encoder" in card else card["preprocessing"]
    modality = modality_of(takes["kind"])
    task = TASKS.get(modality.rows, "other")
    front = yaml.safe_dump(_front(config, results, task, figures), sort_keys=False, allow_unicode=True, width=100)
    parts = [
        f"---\n# license: name the licence of this model before you publish it\n{front}---",
        f"# {escaped(config.ref.stem)}",
        f"A classifier of {modality.row}s with {len(card['class_names'])} classes, trained by "
        f"metapl {escaped(card['metapl'])} from few labels and many unlabelled rows.",
        "## How to use it\n\n"
        "```python\nimport metapl\n\nmodel = metapl.load_model(\"FOLDER\")  # the folder of this file\n"
        "print(model.predict(rows), model.predict_proba(rows))\n```\n\n"
        "`metapl serve FOLDER` answers requests over HTTP.",
        f"Classes: {_listed(card['class_names'])}.",
        f"Rows: {_input(takes)}",
        "## Data and method\n\n" + _method(config, results, card),
        "## How good it is\n\n" + _judged(figures),
        "## What to know before you use it\n\n" + _limits(results),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _front(
    config: RunConfig, results: Mapping[str, Any], task: str, figures: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Return the head of the card, which the hub reads."""
    name = cut(one_line(config.ref.stem), 120)
    tags = ["metapl", "semi-supervised-learning", "pseudo-labels", cut(one_line(results["method"]), 60)]
    front = {"library_name": "metapl", "pipeline_tag": task, "tags": tags}
    metrics = [
        {
            "type": kind,
            "value": round(float(f[kind]), 4),
            "name": f"{kind} on {f['rows']} {f['of']}{_interval(kind, f)}",
        }
        for f in figures
        for kind in ("accuracy", "balanced_accuracy", "log_loss")
        if kind in f
    ]
    if not metrics:
        return front
    result = {"task": {"type": task}, "dataset": {"name": name, "type": name}, "metrics": metrics}
    return {**front, "model-index": [{"name": name, "results": [result]}]}


def _interval(kind: str, figures: Mapping[str, Any]) -> str:
    low, high = figures.get(f"{kind}_low"), figures.get(f"{kind}_high")
    return "" if low is None or high is None else f", 95 % interval {low:.3f} to {high:.3f}"


def _figures(run: Path, card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the figures of ``judge`` on test rows and on validation rows, where there are any."""
    judged = {"test rows": _evaluation(run)}
    answers = validation_answers(run / "model", card, len(card["class_names"]))
    if answers is not None:
        judged["validation rows"] = judge(answers.p, answers.y, tuple(card["class_names"]))
    return [{**figures, "of": of} for of, figures in judged.items() if figures is not None and figures["rows"]]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return ", ".join(escaped(name, 60) for name in names[:MOST]) + more


def _input(takes: Mapping[str, Any]) -> str:
    modality = modality_of(takes["kind"])
    columns = [column["name"] for column in takes.get("columns", ())]
    if columns:
        return f"a table with the columns {_listed(columns)}."
    size = modality.size(tuple(takes["shape"]))
    return f"{modality.rows}{f' of {size}' if size else ''}."


def _method(config: RunConfig, results: Mapping[str, Any], card: Mapping[str, Any]) -> str:
    rows, chosen = results["rows"], escaped(results["chosen"])
    lines = [
        f"- Data: {escaped(config.ref.stem)}. {rows['labeled']} rows teach with their label and {rows['unlabeled']} "
        f"without it, the former among them. {rows['validation']} validation rows and {rows['test']} test rows do "
        "not teach.",
        f"- Method: {escaped(results['method'])}, {results['steps']} steps, seed {results['seed']}.",
        f"- Network: {escaped(_last(card['model']))}; chosen: {chosen}, by {escaped(results['chosen_by'])}.",
    ]
    if "encoder" in card:
        lines.append(f"- Encoder: {escaped(_last(card['encoder']['name']))}, frozen; it is not in this folder.")
    return "\n".join(lines)


def _last(name: str) -> str:
    """Return a network's name without the folders of its path, which concern nobody else."""
    return Path(name).name


def _judged(figures: Sequence[Mapping[str, Any]]) -> str:
    if not figures:
        return "Nothing is known: this model was judged neither on test rows nor on validation rows."
    lines = ["| rows | accuracy | 95 % interval | mean over classes | log loss |", "|---|---|---|---|---|"]
    for f in figures:
        share, low, high, mean = (
            100 * f[k] for k in ("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy")
        )
        interval = f"{low:.1f} to {high:.1f}"
        lines.append(f"| {f['rows']} {f['of']} | {share:.1f} % | {interval} | {mean:.1f} % | {f['log_loss']:.3f} |")
    note = "\n\nValidation rows also chose the network, so they may promise a little too much."
    return "\n".join(lines) + (note if figures[-1]["of"] == "validation rows" else "")


def _limits(results: Mapping[str, Any]) -> str:
    method = escaped(results["method"])
    lines = [
        "- It always names one of its classes, also for a row that belongs to none of them. "
        "`metapl predict --precision` lets it abstain.",
        "- Rows of another origin than the training's may be judged much worse. Judge it on rows that you labelled.",
        "- Probabilities are not calibrated unless `model.temperature` is used.",
        *(
            f"- Alarm while {method} was trained: {escaped(alarm.get('text', ''), 400)}."
            for alarm in results.get("alarms", [])
        ),
        "- This file is not covered by the seal of the model: edit it as you like.",
    ]
    return "\n".join(lines)

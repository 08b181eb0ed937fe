"""What a report says about rows, gathered while model and data are at hand and stored as ``report.json``.

A later report is made from the stored file: it needs neither the data nor the model. Test rows are not opened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.config.photographs import CLAIM
from metapl.data.batches.subset import Subset
from metapl.data.images.parts import part_of
from metapl.data.traits import traits
from metapl.inference.evaluate import Judged, answers, calibration_error, judge, probabilities
from metapl.report.display import cut, display
from metapl.report.record import Record
from metapl.runs.model_folder import Predictor
from metapl.thresholds import fit_temperature
from metapl.training.alarms import pool_sample
from metapl.types import Array, Source, Split
from metapl.utils.files import write_json

FILE, FORMAT = "report.json", 1
SHOWN = 12  # rows in each grid
LABELED = 2000  # labelled rows asked about, at most
SURE = 0.8  # confidence in another class from which a label is suspected
CHECKED = 5000  # rows up to which the data check is made again for the report
BINS, LEAST = 10, 40  # of the reliability diagram, and rows for one at least

Card = dict[str, Any]


def gather(record: Record, predictor: Predictor, source: Source, split: Split) -> dict[str, Any]:
    """Ask the run's model about its validation, labelled and a sample of its unlabelled rows; plain JSON values."""
    names = predictor.class_names
    judged = answers(predictor, source, split.validation)
    pool_index, pool_p = _pool(record, predictor, source, split)
    some = split.labeled[:: -(-len(split.labeled) // LABELED) or 1]
    taught = answers(predictor, source, some)
    threshold = threshold_of(record)
    shown = Shown(source, names, known_labels(source, split))
    grids = [
        _sure(shown, judged, right=True),
        _sure(shown, judged, right=False),
        _near(shown, pool_index, pool_p, threshold),
        _suspects(shown, judged, taught),
        _corrected(shown, record, predictor, split),
        _changed(shown, pool_index, record.snapshots),
    ]
    made = {
        "format": FORMAT,
        "source": cut(name_of(source, record), 120),
        "kind": (traits(source).inner or source).kind,
        "classes": [cut(name, 120) for name in names],
        "labels": np.bincount(source.labels[split.labeled], minlength=len(source.class_names)).tolist(),
        "threshold": threshold,
        "validation": judge(judged.p, judged.y, names) if len(judged.y) else None,
        "calibration": calibration(judged.p, judged.y),
        "grids": [grid for grid in grids if grid["rows"]],
        "check": _check(source, split),
    }
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]  # so that stored and fresh material are alike


def name_of(source: Source, record: Record) -> str:
    """Return the name of the data; the one of a folder that only says which part it is comes with its parent's."""
    path = Path(str(record.config["data"]))
    if not part_of(source.name):
        return source.name
    return f"{path.parent.name}/{path.name}" if part_of(path.name) else path.name


def stored(folder: Path) -> dict[str, Any] | None:
    """Read what ``store`` wrote into a run folder; None if this version cannot use it."""
    try:
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == FORMAT else None


def store(folder: Path, material: dict[str, Any]) -> None:
    """Keep the material with the run."""
    write_json(folder / FILE, material)


def threshold_of(record: Record) -> float:
    """Return the confidence from which the method takes a pseudo label; 0 where it has no fixed one."""
    values = [v for k, v in record.settings.items() if k.endswith("threshold") and isinstance(v, int | float)]
    moving = any(v in ("adaptive", "soft") for k, v in record.settings.items() if k.endswith("selection"))
    usable = [float(v) for v in values if 0 < v < 1]
    return max(usable) if usable and not moving else 0.0


def _pool(record: Record, predictor: Predictor, source: Source, split: Split) -> tuple[Array, Tensor]:
    """Return the unlabelled rows that the run looked at again and again, in its order, and the chosen model's answers.

    Supervised training, which saw no unlabelled row, has none.
    """
    if record.results["method"] == "supervised" or not len(split.unlabeled):
        return split.unlabeled[:0], torch.zeros(0, len(predictor.class_names))
    index = split.unlabeled[pool_sample(len(split.unlabeled), int(record.results["seed"])).numpy()]
    return index, probabilities(predictor, source, index)


def calibration(p: Tensor, y: Tensor) -> dict[str, Any] | None:
    """Compare confidence with accuracy before and after temperature scaling; None for fewer than ``LEAST`` rows.

    ``p`` [n, C], ``y`` [n]. The temperature of each half of the rows is fitted on the other half, so the picture is of
    rows that it has not seen.
    """
    if len(y) < LEAST:
        return None
    logits, halves = p.clamp_min(1e-12).log(), (torch.arange(len(y)) % 2).bool()
    scaled = p.clone()
    for own in (halves, ~halves):
        scaled[own] = torch.softmax(logits[own] / fit_temperature(logits[~own][None], y[~own]), -1)
    return {
        "rows": len(y),
        "temperature": fit_temperature(logits[None], y),
        "before": {"error": calibration_error(p, y), "bins": _bins(p, y)},
        "after": {"error": calibration_error(scaled, y), "bins": _bins(scaled, y)},
    }


def _bins(p: Tensor, y: Tensor) -> list[list[float]]:
    """Return mean confidence, accuracy and number of rows of each bin of confidence that is not empty."""
    confidence, named = p.max(-1)
    which = (confidence * BINS).long().clamp(max=BINS - 1)
    right, found = (named == y).float(), []
    for k in range(BINS):
        if (own := which == k).any():
            found.append([float(confidence[own].mean()), float(right[own].mean()), int(own.sum())])
    return found


@dataclass(frozen=True)
class Shown:
    """Where cards come from: rows, the model's classes, and the labels that the run knows."""

    source: Source
    names: Sequence[str]
    labels: Array


def known_labels(source: Source, split: Split) -> Array:
    """Return [N] the labels that the run was given, -1 elsewhere: a label that it hides from training is not shown
    either.
    """
    labels = np.full(len(source.labels), -1, dtype=np.int64)
    for part in (split.labeled, split.validation):
        labels[part] = source.labels[part]
    return labels


def _cards(shown: Shown, index: Array, p: Tensor, notes: Sequence[str]) -> list[Card]:
    """Return one card per row, with its id, the model's answer and its label."""
    cards, source, names = [], shown.source, shown.names
    for k, (row, content) in enumerate(zip(index.tolist(), display(source, index))):
        label = int(shown.labels[row])
        answer = int(p[k].argmax())
        card: Card = {
            **content,
            "id": cut(source.ids[row], 120),
            "answer": cut(names[answer], 60),
            "confidence": float(p[k, answer]),
            "label": cut(source.class_names[label], 60) if label >= 0 else None,
            "note": notes[k] if notes else "",
        }
        cards.append({**card, "right": card["label"] == card["answer"] if label >= 0 else None})
    return cards


def _grid(title: str, about: str, rows: list[Card], name: str) -> dict[str, Any]:
    return {"name": name, "title": title, "about": about, "rows": rows}


def _sure(shown: Shown, judged: Judged, right: bool) -> dict[str, Any]:
    """Return the validation rows that the model is most sure of."""
    confidence, named = judged.p.max(-1) if len(judged.y) else (torch.zeros(0), torch.zeros(0))
    own = torch.nonzero((named == judged.y) == right).flatten()
    order = own[confidence[own].argsort(descending=True, stable=True)][: SHOWN if not right else SHOWN // 2].numpy()
    rows = _cards(shown, judged.index[order], judged.p[order], ())
    if right:
        return _grid("Most confident and right", "Validation rows. This is what the model knows best.", rows, "right")
    about = "Validation rows. Look for a wrong label, for two classes that are hardly different, or for a pattern."
    return _grid("Most confident and wrong", about, rows, "wrong")


def _near(shown: Shown, index: Array, p: Tensor, threshold: float) -> dict[str, Any]:
    """Return the unlabelled rows on the edge of being used."""
    own = np.flatnonzero(shown.labels[index] < 0)
    index, p = index[own], p[torch.from_numpy(own)]
    confidence = p.max(-1).values if len(p) else torch.zeros(0)
    if threshold:
        order = (confidence - threshold).abs().argsort(stable=True)[:SHOWN].numpy()
        title, about = "Nearest the threshold", f"Unlabelled rows whose confidence is closest to {100 * threshold:g} %."
    else:
        top = p.topk(2).values if len(p) else torch.zeros(0, 2)
        order = (top[:, 0] - top[:, 1]).argsort(stable=True)[:SHOWN].numpy()
        title, about = "Least certain", "Unlabelled rows for which the two likeliest classes are closest."
    about += " A label for one of these teaches more than a label for a row that the model already knows."
    return _grid(title, about, _cards(shown, index[order], p[order], ()), "near")


def _suspects(shown: Shown, judged: Judged, taught: Judged) -> dict[str, Any]:
    """Return labelled rows whose label the model firmly contradicts; validation rows, not trained on, come first."""
    index, notes, parts = list[int](), list[str](), list[Tensor]()
    for rows, note in ((judged, "validation row"), (taught, "trained with this label")):
        if not len(rows.y):
            continue
        confidence, named = rows.p.max(-1)
        own = torch.nonzero((named != rows.y) & (confidence >= SURE)).flatten()
        own = own[confidence[own].argsort(descending=True, stable=True)][: SHOWN - len(index)]
        index += rows.index[own.numpy()].tolist()
        notes += [note] * len(own)
        parts.append(rows.p[own])
    p = torch.cat(parts) if parts else torch.zeros(0, len(shown.names))
    about = f"Labelled rows for which the model gives another class at least {100 * SURE:.0f} %. Either may be wrong."
    return _grid("Labels to look at again", about, _cards(shown, np.array(index, dtype=np.int64), p, notes), "suspects")


def _changed(shown: Shown, index: Array, snapshots: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the unlabelled rows whose class changed most often during the run."""
    looks = [row["pool"] for row in snapshots if "pool" in row and len(row["pool"]["class"]) == len(index)]
    rows = list[Card]()
    if len(looks) > 2:
        named = np.array([look["class"] for look in looks])
        changes = (named[1:] != named[:-1]).sum(0) * (shown.labels[index] < 0)
        order = np.argsort(-changes, kind="stable")[:SHOWN]
        order = order[changes[order] > 1]
        p = torch.zeros(len(order), len(shown.names))
        for k, row in enumerate(order.tolist()):
            p[k, named[-1, row]] = looks[-1]["confidence"][row] / 1000
        paths = [" → ".join(_path(named[:, row], shown.names)) for row in order.tolist()]
        rows = _cards(shown, index[order], p, paths)
    about = "Unlabelled rows whose class the model changed most often. They lie between classes."
    return _grid("Changed most during training", about, rows, "changed")


def _corrected(shown: Shown, record: Record, predictor: Predictor, split: Split) -> dict[str, Any]:
    """Return the unlabelled rows whose class the labelled rows spoke against most."""
    scores = record.feedback(split.unlabeled)
    rows = sorted((score, row) for row, score in scores.items() if score < 0 and shown.labels[row] < 0)[:SHOWN]
    index = np.array([row for _, row in rows], dtype=np.int64)
    notes = [f"feedback {score:.3f}" for score, _ in rows]
    about = (
        "Unlabelled rows for which the labelled rows spoke against the class that the teacher gave them at the time."
    )
    cards = _cards(shown, index, probabilities(predictor, shown.source, index), notes) if rows else []
    return _grid("Corrected most by the feedback", about, cards, "corrected")


def _path(named: Array, names: Sequence[str]) -> list[str]:
    """Return the classes one after the other, repeats left out; the last six."""
    path = [int(named[0])]
    for k in named[1:].tolist():
        if k != path[-1]:
            path.append(k)
    words = [cut(names[k], 20) for k in path]
    return words if len(words) <= 6 else ["…", *words[-6:]]


def _check(source: Source, split: Split) -> dict[str, Any]:
    """Return the data check over the rows that the run trains and chooses on; for large sets only how to make it."""
    from metapl.checks import check

    inner = traits(source).inner or source
    rows = np.unique(np.concatenate([split.labeled, split.unlabeled, split.validation]))
    if len(rows) > CHECKED:
        return {"verdict": None, "findings": [], "notes": [cut(note) for note in source.notes]}
    found = check(Subset(inner, rows, known_labels(inner, split)[rows]))
    encoded = traits(source).inner is not None  # then the advice to use an encoder has been followed
    findings = [
        {"level": f.level, "text": cut(f.text, 600), "remedy": cut(f.remedy, 400), "rows": f.rows}
        for f in found.findings
        if not (encoded and f.text == CLAIM)
    ]
    return {"verdict": found.verdict, "findings": findings, "notes": [cut(note) for note in source.notes]}

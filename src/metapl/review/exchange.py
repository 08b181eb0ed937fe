"""Questions and answers for other tools: plain CSV, Label Studio (.json), cleanlab (.npz) and FiftyOne (a folder).

The folder is what FiftyOne calls a ``FiftyOneImageClassificationDataset``: ``data/NAME.png`` and JSON files that hold
``{"labels": {NAME: label}}``; NAME is the row's number. None of these tools is needed to read or write its files.
"""

from __future__ import annotations

import base64
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from metapl.errors import UserError
from metapl.report.display import display
from metapl.review.answers import Answer, AnswerFile, checked, read_answers, write_answers
from metapl.review.queue import Question, Review
from metapl.utils.files import check_output, write_text, write_with

TASKS = 1000  # rows for Label Studio and FiftyOne, at most: their contents go along
NAME, ROW = "label", "row"  # of the choices and of what is shown, in Label Studio's configuration


def export_to(review: Review, answers: AnswerFile, path: Path, overwrite: bool = False) -> str:
    """Write a new file, or folder, for another tool; its suffix says which. Return a sentence about its content.

    Raises:
        UserError: another suffix, a file that exists, a folder that does not, or rows that the tool does not show.
    """
    writers = {".csv": _csv, ".json": _label_studio, ".npz": _cleanlab, "": _fiftyone}
    if path.suffix.lower() not in writers:
        remedy = "Name it .csv (plain), .json (Label Studio), .npz (cleanlab), or without a suffix (FiftyOne)."
        raise UserError("the suffix says nothing about the format", remedy, str(path))
    check_output(path, overwrite)
    return writers[path.suffix.lower()](review, answers, path)


def import_from(review: Review, answers: AnswerFile, path: Path) -> str:
    """Take in answers from a CSV file (id, label) or an export that another tool filled in; gives a sentence on them.

    Raises:
        UserError: the file cannot be read, or names a row or a class that the data do not have.
    """
    readers: dict[str, Callable[[Review, Path], dict[str, Answer]]]
    readers = {".json": _read_label_studio, ".npz": _read_cleanlab}
    if path.is_dir():
        own = _read_fiftyone(review, path)
    elif path.suffix.lower() in readers:
        own = readers[path.suffix.lower()](review, path)
    else:
        own = read_answers(path, review.source)
    changed = answers.merge(own)
    return f"{len(own)} answers read, {changed} new or changed: {answers.path}"


def _csv(review: Review, answers: AnswerFile, path: Path) -> str:
    write_answers(path, answers.given)
    return f"{len(answers.given)} answers: {path}"


def _label_studio(review: Review, answers: AnswerFile, path: Path) -> str:
    some = review.questions[:TASKS]
    rows = display(review.source, np.array([q.index for q in some], dtype=np.int64))
    tasks = [_task(q, row, answers.given.get(q.id)) for q, row in zip(some, rows)]
    write_text(path, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    return f"{len(tasks)} tasks for Label Studio: {path}"


def _task(question: Question, row: dict[str, Any], answer: Answer | None) -> dict[str, Any]:
    """Return one task: the row as it is shown, the model's guess, and the answer if there is one."""
    content = {k: row[k] for k in ("image", "text") if k in row}
    if "cells" in row:
        content["text"] = "\n".join(f"{name}: {value}" for name, value in row["cells"])
    guess = {"score": question.confidence, "result": _choice(question.guess)}
    task: dict[str, Any] = {"data": {"id": question.id, "reason": question.reason, **content}, "predictions": [guess]}
    if answer is not None:
        task["annotations"] = [{"result": _choice(answer.label) if answer.label else []}]
    return task


def _choice(label: str) -> list[dict[str, Any]]:
    return [{"from_name": NAME, "to_name": ROW, "type": "choices", "value": {"choices": [label]}}]


def _read_label_studio(review: Review, path: Path) -> dict[str, Answer]:
    """Return the newest annotation of each task; one without a choice is an answer without a class."""
    try:
        tasks = json.loads(path.read_text(encoding="utf-8"))
        pairs = [
            (number, str(task["data"]["id"]), _chosen(task["annotations"][-1]))
            for number, task in enumerate(tasks, 1)
            if task.get("annotations")
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        what = f"the file is not an export of Label Studio ({type(error).__name__}: {error})"
        raise UserError(what, "Export as JSON, from tasks that --export made.", str(path)) from error
    return checked(path, pairs, review.source)


def _chosen(annotation: dict[str, Any]) -> str:
    results = [r for r in annotation["result"] if r.get("type") == "choices"]
    return str(results[0]["value"]["choices"][0]) if results else ""


def _cleanlab(review: Review, answers: AnswerFile, path: Path) -> str:
    """Labels [n], probabilities [n, C], ids [n] and class names [C] of the labelled and validation rows."""
    taught = review.taught
    arrays = {
        "labels": taught.y.numpy(),
        "pred_probs": taught.p.numpy(),
        "ids": np.array([review.source.ids[k] for k in taught.index.tolist()], dtype=np.str_),
        "class_names": np.array(review.class_names, dtype=np.str_),
    }
    write_with(path, lambda file: np.savez(file, allow_pickle=False, **arrays))
    return f"{len(taught.y)} labelled rows for cleanlab, most of which the model was trained on: {path}"


def _read_cleanlab(review: Review, path: Path) -> dict[str, Answer]:
    """Return the labels that differ from those of the data; -1 stands for a row without a class."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            ids, labels, names = (arrays[name].tolist() for name in ("ids", "labels", "class_names"))
        pairs = [
            (number, str(row), "" if label == -1 else _named(names, label))
            for number, (row, label) in enumerate(zip(ids, labels, strict=True), 1)
        ]
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, zipfile.BadZipFile) as error:
        what = f"the file is not made from an export for cleanlab ({type(error).__name__}: {error})"
        raise UserError(what, "Change `labels` in the file that --export made.", str(path)) from error
    source, taught = review.source, review.taught
    known = {source.ids[k]: review.class_names[y] for k, y in zip(taught.index.tolist(), taught.y.tolist())}
    return {row: answer for row, answer in checked(path, pairs, source).items() if answer.label != known.get(row)}


def _fiftyone(review: Review, answers: AnswerFile, path: Path) -> str:
    """Write images, the model's guesses (predictions.json) and the answers so far (labels.json; null = open)."""
    some = review.questions[:TASKS]
    rows = display(review.source, np.array([q.index for q in some], dtype=np.int64))
    if any("image" not in row for row in rows):
        raise UserError("FiftyOne shows images, and these rows are not", "Name a .json or .csv file.", str(path))
    (path / "data").mkdir(parents=True)
    labels, guesses = dict[str, Any](), dict[str, Any]()
    for question, row in zip(some, rows):
        name, answer = f"{question.index:06d}", answers.given.get(question.id)
        (path / "data" / f"{name}.png").write_bytes(base64.b64decode(row["image"].partition(",")[2]))
        labels[name] = answer.label if answer is not None and answer.label else None
        about = {"id": question.id, "reason": question.reason}
        guesses[name] = {"label": question.guess, "confidence": question.confidence, "attributes": about}
    for file, content in (("labels.json", labels), ("predictions.json", guesses)):
        write_text(path / file, json.dumps({"labels": content}, indent=1, ensure_ascii=False) + "\n")
    return f"{len(some)} images for FiftyOne: {path}"


def _read_fiftyone(review: Review, path: Path) -> dict[str, Answer]:
    """Return the labels of ``labels.json``; a null is a row without an answer."""
    file = path / "labels.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        names, labels = content.get("classes"), content["labels"]
        pairs = [
            (number, review.source.ids[_row(name)], _class(label, names))
            for number, (name, label) in enumerate(labels.items(), 1)
            if label is not None
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        what = f"the folder is not an export of FiftyOne ({type(error).__name__}: {error})"
        remedy = "Export as FiftyOneImageClassificationDataset, from images that --export wrote."
        raise UserError(what, remedy, str(file)) from error
    return checked(file, pairs, review.source)


def _row(name: str) -> int:
    if not (name.isascii() and name.isdigit()):
        raise ValueError(f"'{name[:80]}' is not the name of an image that --export wrote")
    return int(name)


def _class(label: Any, names: list[str] | None) -> str:
    """Return a class as FiftyOne writes it: its name, its place among ``names``, or either with more beside it."""
    value = label["label"] if isinstance(label, dict) else label
    return _named(names, value) if names is not None and isinstance(value, int) else str(value)


def _named(names: list[str], number: int) -> str:
    if number < 0:
        raise ValueError(f"class {number} does not exist")
    return str(names[number])

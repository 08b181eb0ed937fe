"""Questions and answers for other tools: plain CSV, Label Studio (.json) and cleanlab (.npz)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from metapl.errors import UserError
from metapl.report.display import display
from metapl.review.answers import Answer, Answers, checked, read_answers, write_answers
from metapl.review.queue import Question, Review
from metapl.utils.files import write_text, write_with

TASKS = 1000  # rows in a file for Label Studio, at most: their contents stand in it
NAME, ROW = "label", "row"  # of the choices and of what is shown, in Label Studio's configuration


def export_to(review: Review, answers: Answers, path: Path) -> str:
    """Write a new file for another tool; its suffix says which. Gives a sentence on what stands in it.

    Raises:
        UserError: another suffix, a file that exists, or a folder that does not.
    """
    writers = {".csv": _csv, ".json": _label_studio, ".npz": _cleanlab}
    if path.suffix.lower() not in writers:
        remedy = "Name it .csv (plain), .json (Label Studio) or .npz (cleanlab)."
        raise UserError("the suffix says nothing about the format", remedy, str(path))
    if path.exists() or not path.parent.is_dir():
        raise UserError("the file exists or its folder does not", "Name a new file in an existing folder.", str(path))
    return writers[path.suffix.lower()](review, answers, path)


def import_from(review: Review, answers: Answers, path: Path) -> str:
    """Take in answers from a CSV file (id, label) or an export of Label Studio (.json); gives a sentence on them.

    Raises:
        UserError: the file cannot be read, or names a row or a class that the data do not have.
    """
    own = _read_label_studio(review, path) if path.suffix.lower() == ".json" else read_answers(path, review.source)
    changed = answers.merge(own)
    return f"{len(own)} answers read, {changed} new or changed: {answers.path}"


def _csv(review: Review, answers: Answers, path: Path) -> str:
    write_answers(path, answers.given)
    return f"{len(answers.given)} answers: {path}"


def _label_studio(review: Review, answers: Answers, path: Path) -> str:
    some = review.questions[:TASKS]
    rows = display(review.source, np.array([q.index for q in some], dtype=np.int64))
    tasks = [_task(q, row, answers.given.get(q.id)) for q, row in zip(some, rows)]
    write_text(path, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    return f"{len(tasks)} tasks for Label Studio: {path}"


def _task(question: Question, row: dict[str, Any], answer: Answer | None) -> dict[str, Any]:
    """One task: the row as it is shown, the model's guess, and the answer where there is one."""
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


def _cleanlab(review: Review, answers: Answers, path: Path) -> str:
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

"""Which rows to ask about first: answers near a border, answers that changed, labels that the model contradicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from metapl.inference.evaluate import Judged, answers
from metapl.inference.run_evaluation import open_own
from metapl.report.pseudo_labels import PoolRow, pseudo_labels_of, read_table
from metapl.report.record import read_record
from metapl.training.result import Result
from metapl.types import Source
from metapl.utils.files import by_cell

SURE = 0.8  # confidence in another class from which a label is suspected
STABLE = 0.7  # agreement below which a row counts as changing


@dataclass(frozen=True)
class Question:
    """A row to ask about.

    Attributes:
        index: its number in the source.
        id: its id.
        guess: the class that the model names.
        confidence: calibrated, of that class.
        reason: why its answer helps, for people.
        label: the label that it has; "" for an unlabelled row.
    """

    index: int
    id: str
    guess: str
    confidence: float
    reason: str
    label: str = ""


@dataclass(frozen=True)
class Review:
    """A run opened for review.

    Attributes:
        folder: the run folder.
        source: the run's data.
        class_names: C names, in the model's order.
        questions: most useful first, each row once.
        taught: the model's answers about labelled and validation rows.
    """

    folder: Path
    source: Source
    class_names: tuple[str, ...]
    questions: tuple[Question, ...]
    taught: Judged


def open_review(folder: Path, device: str | None = None, trust_code: bool = False) -> Review:
    """Open a finished run with its data. Test rows stay closed.

    Raises:
        UserError: no finished run, or data that have changed or gone.
    """
    folder = folder.expanduser()
    summary = read_record(folder).results
    _, predictor, source, split = open_own(folder, device, trust_code)
    return review_of(Result(folder, predictor, source, split, summary))


def review_of(result: Result) -> Review:
    """Return the questions about a run whose data are open.

    Raises:
        UserError: a run in memory, or a folder that cannot be read.
    """
    folder = result.folder
    table = None if folder is None else read_table(folder)
    if folder is None or table is None:
        folder = pseudo_labels_of(result).parent
        table = read_table(folder) or []
    source, split, predictor = result.source, result.split, result.predictor
    taught = answers(predictor, source, np.concatenate([split.labeled, split.validation]))
    number = {source.ids[k]: k for k in np.setdiff1d(split.unlabeled, split.labeled).tolist()}
    pool = _pool(table, number, predictor.class_names)
    questions = _mixed(_close(pool), _suspects(source, predictor.class_names, taught), _changing(pool))
    return Review(folder, source, predictor.class_names, tuple(questions), taught)


def _pool(rows: list[PoolRow], number: dict[str, int], class_names: Sequence[str]) -> list[tuple[int, PoolRow]]:
    """Return the rows of the table by their number in the source; ``number`` has the pool rows by id.

    Ids and labels are those of the source: a CSV file has an apostrophe before some of them.
    """
    id_of, label_of = by_cell(number), by_cell(class_names)
    known = [
        replace(row, id=id_of[row.id], label=label_of.get(row.label, row.label)) for row in rows if row.id in id_of
    ]
    return [(number[row.id], row) for row in known]


def _close(pool: list[tuple[int, PoolRow]]) -> list[Question]:
    """Return all pool rows, the closest call first."""
    return _questions(pool, lambda row: row.margin, _close_reason)


def _changing(pool: list[tuple[int, PoolRow]]) -> list[Question]:
    """Return pool rows whose class changed during the training, most often first."""
    some = [(k, row) for k, row in pool if _agreement(row) < STABLE]
    return _questions(some, _agreement, _changing_reason)


def _agreement(row: PoolRow) -> float:
    return 1.0 if row.agreement is None else row.agreement


def _close_reason(row: PoolRow) -> str:
    points = round(100 * row.margin)
    apart = "less than a point" if points < 1 else "1 point" if points == 1 else f"{points} points"
    return f"The two likeliest classes are {apart} apart."


def _changing_reason(row: PoolRow) -> str:
    return f"During the training the model named {row.label} only {100 * _agreement(row):.0f} % of the time."


def _questions(
    pool: list[tuple[int, PoolRow]],
    key: Callable[[PoolRow], float],
    reason: Callable[[PoolRow], str],
) -> list[Question]:
    ordered = sorted(pool, key=lambda pair: (key(pair[1]), pair[0]))
    return [Question(k, row.id, row.label, row.confidence, reason(row)) for k, row in ordered]


def _suspects(source: Source, names: tuple[str, ...], taught: Judged) -> list[Question]:
    """Return labelled rows whose label the model firmly contradicts, firmest first."""
    if not len(taught.y):
        return []
    confidence, named = taught.p.max(-1)
    own = torch.nonzero((named != taught.y) & (confidence >= SURE)).flatten()
    own = own[confidence[own].argsort(descending=True, stable=True)]
    questions = []
    for k in own.tolist():
        label, guess, sure = names[int(taught.y[k])], names[int(named[k])], float(confidence[k])
        reason = (
            f"The label is {label}, the model is {100 * sure:.0f} % sure of {guess}. At least one of them is wrong."
        )
        row = int(taught.index[k])
        questions.append(Question(row, source.ids[row], guess, sure, reason, label))
    return questions


def _mixed(*lists: list[Question]) -> list[Question]:
    """Return the lists in turn, one row of each; a row comes once."""
    seen, mixed = set[int](), list[Question]()
    for turn in zip_longest(*lists):
        for question in turn:
            if question is not None and question.index not in seen:
                seen.add(question.index)
                mixed.append(question)
    return mixed

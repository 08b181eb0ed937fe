"""Labels for a batch of rows: the one function that every engine maps over a pool.

A batch is columns of one length. The answer has one entry per row, in the order of the rows, so that engines may split
and join as they like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from metapl.data.modalities import modality_of
from metapl.data.options import SourceOptions
from metapl.data.sources import open_batch
from metapl.data.tables.options import NONE, WRITTEN, TableOptions
from metapl.data.tables.readers.batch import BatchFile
from metapl.data.tables.readers.delimited import DECIMALS
from metapl.data.tables.roles import model_roles
from metapl.errors import UserError
from metapl.inference.predict import predict_source
from metapl.runs.model_folder import Predictor

COLUMNS = ("id", "label", "confidence", "margin")
PROBLEM = "problem"  # the column that says why a row has no label; None where it has one


def label_batch(model: Predictor, batch: Any, options: SourceOptions | None = None) -> dict[str, list[Any]]:
    """Label the rows of a batch. Nothing is kept between two calls.

    Args:
        model: as ``load_model`` gives it.
        batch: a DataFrame, a mapping of columns, or what has ``to_pydict`` (an Arrow table): the columns that the model
            was trained on, or a column of image paths or bytes, or of texts. Row ids are in the column ``id``; else an
            image's path, or the row's number in the batch.
        options: how the training read its rows; by default as it stands in the model.

    Returns:
        Lists of one length, in the order of the rows: ``id``; ``label``, the class name; ``confidence``, its calibrated
        probability; ``margin``, that minus the second-largest probability; ``problem``, why a row has no label.
        Of a row with a problem, label, confidence and margin are None.

    Raises:
        UserError: a column is missing that the model needs.
    """
    options = options or SourceOptions(table=_written(model))
    file = batch if isinstance(batch, BatchFile) else BatchFile(_columns(batch), DECIMALS[options.table.decimal])
    roles = model_roles(file.names, options.table, model.input(), file.name)
    paths = roles.contents[0] if modality_of(roles.kind).sized and file.is_text(roles.contents[0]) else None
    named = roles.id or paths
    ids = file.texts(named) if named else file.lines
    # Rows are known by their numbers from here on, or images by their paths: ids may be missing, or stand twice.
    table = replace(options.table, id=NONE, skip_bad_rows=True)
    nothing: list[Any] = [None] * file.rows
    answers = {"id": ids, **{name: [*nothing] for name in (*COLUMNS[1:], PROBLEM)}}
    _answer(_Task(model, replace(options, table=table), paths, answers), file.part(0, file.rows), 0)
    return answers


@dataclass(frozen=True)
class _Task:
    """How to label: the model, how its training read rows, the column of image paths, and where the answers go."""

    model: Predictor
    options: SourceOptions
    paths: str | None
    answers: dict[str, list[Any]]

    def enter(self, row: int, **values: Any) -> None:
        """Write into the answer of a row of the batch."""
        for name, value in values.items():
            self.answers[name][row] = value


def _answer(task: _Task, file: BatchFile, first: int) -> None:
    """Answer the rows of ``file``, whose first is row ``first`` of the batch; halve it until a bad row is alone."""
    try:
        _answer_whole(task, file, first)
    except UserError as error:
        if file.rows <= 1:
            task.enter(first, problem=error.what)
            return
        half = file.rows // 2
        _answer(task, file.part(0, half), first)
        _answer(task, file.part(half, file.rows), first + half)


def _answer_whole(task: _Task, file: BatchFile, first: int) -> None:
    if not file.rows:
        return
    source = open_batch(file, task.options, task.model.input())
    for place, reason in source.problems:
        task.enter(first + int(place), problem=str(reason))
    names = file.texts(task.paths) if task.paths else file.lines
    row_of = {name: first + k for k, name in reversed([*enumerate(names)])}
    for chunk in predict_source(task.model, source):
        for name, reason in chunk.problems:
            task.enter(row_of[name], problem=str(reason))
        top = task.model.calibrated(chunk.probabilities).topk(2).values
        for name, label, (one, two) in zip(chunk.ids, chunk.labels, top.tolist(), strict=True):
            task.enter(row_of[name], label=label, confidence=one, margin=one - two)


def _written(model: Predictor) -> TableOptions:
    written: dict[str, Any] = {name: model.files[name] for name in WRITTEN if name in model.files}
    return TableOptions(**written)


def _columns(batch: Any) -> Mapping[str, Any]:
    if isinstance(batch, Mapping):
        return batch
    if hasattr(batch, "to_pydict"):
        found: Mapping[str, Any] = batch.to_pydict()
        return found
    return {name: batch[name] for name in batch.columns}

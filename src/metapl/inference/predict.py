"""Labels for new rows: folders of images of any size, or any source, a chunk at a time.

Memory does not grow with the number of rows: each chunk is read, judged and handed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.tree import open_tree
from metapl.data.new_rows import NewRows
from metapl.data.ref import DataRef
from metapl.data.sources import SourceOptions, open_new, read_ref
from metapl.data.tables.columns import matching
from metapl.data.tables.options import WRITTEN, TableOptions
from metapl.runs.model_folder import NotFinite, Predictor
from metapl.types import Source
from metapl.utils.chunks import rows_at_once

ROWS = 4096  # rows of a source at a time
VALUES = 2**25  # numbers in them, at most: image sources keep as many
Problem = tuple[str, str]


@dataclass(frozen=True)
class Predictions:
    """One chunk of answers.

    Attributes:
        ids: n names of the rows: paths within the folder, or the source's ids.
        labels: n predicted class names.
        probabilities: [n, C] float32; column k belongs to ``Predictor.class_names[k]``.
        problems: (id, reason) of rows of this chunk that were left out.
    """

    ids: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: Tensor
    problems: tuple[Problem, ...] = ()


def predict_folder(predictor: Predictor, path: str | Path) -> Iterator[Predictions]:
    """Judge every image in a folder and the folders inside it, or one image file.

    Images are brought to the size and colours that the model was trained on. Hidden names are passed over; what
    cannot be read, or is not an image by its suffix, is reported under ``problems``. Nothing is written.

    Raises:
        UserError: no such path, no image in it, or a model that was not trained on images.
    """
    source = open_tree(Path(path).expanduser(), predictor.input())
    return _with_problems(predictor, tuple(source.problems), predict_source(predictor, source))


def _with_problems(
    predictor: Predictor, problems: tuple[Problem, ...], chunks: Iterator[Predictions]
) -> Iterator[Predictions]:
    """Yield the chunks, ``problems`` with the first; without any, yield one chunk of no rows."""
    for chunk in chunks:
        yield replace(chunk, problems=(*problems, *chunk.problems))
        problems = ()
    if problems:
        yield Predictions((), (), nothing(predictor), problems)


def predict_source(
    predictor: Predictor, source: Source | str | Path, index: np.ndarray[Any, Any] | None = None
) -> Iterator[Predictions]:
    """Judge the rows of ``source`` at ``index``, by default all of them.

    Args:
        source: rows, or what names them: a file of rows such as ``new.csv``, read as the model wants it, or whatever
            ``open_source`` takes. The columns of a table are matched by name. A file of rows is read as the answers
            are asked for, and does not have to fit into memory.
        index: of rows that are open.

    Raises:
        UserError: the rows do not have the shape or the columns that the model was trained on.
    """
    if isinstance(source, str | Path):
        written: dict[str, Any] = {name: predictor.files[name] for name in WRITTEN if name in predictor.files}
        options = SourceOptions(table=TableOptions(**written))  # taken to be written as the training's files were
        rows = open_for(predictor, read_ref(str(source)), options)
        if isinstance(rows, NewRows):
            return predict_file(predictor, rows)
        source = rows
    fit = matching(source.columns, predictor.takes.columns, source.name)
    return _source_chunks(predictor, source, fit, index)


def open_for(predictor: Predictor, ref: DataRef, options: SourceOptions) -> NewRows | Source:
    """Open new rows for a model: a file of rows to be read as ``predict_file`` goes on, anything else at once."""
    return open_new(ref, options, predictor.input(), _step(predictor))


def predict_file(predictor: Predictor, rows: NewRows) -> Iterator[Predictions]:
    """Judge the rows of a file, a stretch at a time.

    Raises:
        UserError: a row cannot serve.
    """
    for source in rows:
        yield from _with_problems(predictor, tuple(source.problems), predict_source(predictor, source))


def _step(predictor: Predictor) -> int:
    """Return the number of rows of a chunk."""
    return rows_at_once(predictor.takes.shape, ROWS, VALUES)


def _source_chunks(
    predictor: Predictor, source: Source, fit: Callable[[Tensor], Tensor], index: np.ndarray[Any, Any] | None
) -> Iterator[Predictions]:
    index = np.arange(len(source.ids)) if index is None else index
    step = _step(predictor)
    for start in range(0, len(index), step):
        known = len(source.problems)
        rows = source.readable(index[start : start + step])
        try:
            p = predictor.probabilities(fit(source.rows(rows))) if len(rows) else nothing(predictor)
        except NotFinite as error:
            source.problems.extend((source.ids[k], NO_ANSWER) for k in rows[error.rows].tolist())
            rows = np.delete(rows, error.rows)
            p = predictor.probabilities(fit(source.rows(rows))) if len(rows) else nothing(predictor)
        ids = tuple(source.ids[k] for k in rows.tolist())
        yield Predictions(ids, _names(predictor, p), p, tuple(source.problems[known:]))


NO_ANSWER = "the network has no finite answer: a value lies too far from those of the training"
HEADER = ["id", "label", "probability"]


def _names(predictor: Predictor, p: Tensor) -> tuple[str, ...]:
    return tuple(predictor.class_names[k] for k in p.argmax(-1).tolist())


def nothing(predictor: Predictor) -> Tensor:
    """Return the probabilities of no rows, [0, C]."""
    return torch.zeros(0, len(predictor.class_names))

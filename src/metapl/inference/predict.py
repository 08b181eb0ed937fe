"""Labels for new rows: folders of images of any size, or any source, a chunk at a time.

Memory does not grow with the number of rows: each chunk is read, judged and handed on.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.decode import SUFFIXES, Unreadable, decode_many
from metapl.data.images.parts import is_passed_over, why_not_image
from metapl.data.images.scan import clean, exists, missing, shown
from metapl.data.modalities import modality_of
from metapl.data.sources import SourceOptions, open_source, read_ref
from metapl.data.tables.columns import matching
from metapl.data.tables.options import WRITTEN, TableOptions
from metapl.errors import UserError
from metapl.runs.model_folder import Predictor
from metapl.types import Source
from metapl.utils.chunks import rows_at_once
from metapl.utils.files import guarded
from metapl.utils.own_folders import is_made

CHUNK = 256  # images decoded and judged at a time
ROWS = 4096  # rows of a source at a time
VALUES = 2**26  # numbers in either, at most
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
    cannot be read, or is no image by its suffix, is reported under ``problems``. Nothing is written.

    Raises:
        UserError: no such path, no image in it, or a model that was not trained on images.
    """
    path = Path(path).expanduser()
    shape = image_shape(predictor)
    if not exists(path):
        raise missing(path)
    return _folder_chunks(predictor, path, shape)  # a generator of its own, so that the checks above come at once


def predict_source(
    predictor: Predictor, source: Source | str | Path, index: np.ndarray[Any, Any] | None = None
) -> Iterator[Predictions]:
    """Judge the rows of ``source`` at ``index``, by default all of them.

    Args:
        source: rows, or what names them: a file of rows such as ``new.csv``, read as the model wants it, or whatever
            ``open_source`` takes. The columns of a table are matched by name.

    Raises:
        UserError: the rows do not have the shape or the columns that the model was trained on.
    """
    if isinstance(source, str | Path):
        written: dict[str, Any] = {name: predictor.files[name] for name in WRITTEN if name in predictor.files}
        options = SourceOptions(table=TableOptions(**written))  # taken to be written as the training's files were
        source = open_source(read_ref(str(source)), options, like=predictor.input())
    fit = matching(source.columns, predictor.takes.columns, source.name)
    return _source_chunks(predictor, source, fit, index)


def _source_chunks(
    predictor: Predictor, source: Source, fit: Callable[[Tensor], Tensor], index: np.ndarray[Any, Any] | None
) -> Iterator[Predictions]:
    index = np.arange(len(source.ids)) if index is None else index
    step = rows_at_once(predictor.takes.shape, ROWS, VALUES)
    for start in range(0, len(index), step):
        known = len(source.problems)
        rows = source.readable(index[start : start + step])
        p = predictor.probabilities(fit(source.rows(rows))) if len(rows) else nothing(predictor)
        ids = tuple(source.ids[k] for k in rows.tolist())
        yield Predictions(ids, _names(predictor, p), p, tuple(source.problems[known:]))


HEADER = ["id", "label", "probability"]


def write_predictions(chunks: Iterable[Predictions], file: Any) -> tuple[int, list[Problem]]:
    """Write ``id,label,probability`` to an open text file; the number of rows written, and the problems.

    A text that a spreadsheet would compute gets an apostrophe in front (see ``files.guarded``).
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(HEADER)
    count, problems = 0, list[Problem]()
    for chunk in chunks:
        confidence = chunk.probabilities.amax(-1).tolist()
        writer.writerows(
            [guarded(i), guarded(c), f"{p:.6f}"] for i, c, p in zip(chunk.ids, chunk.labels, confidence, strict=True)
        )
        count += len(chunk.ids)
        problems += chunk.problems
    return count, problems


def _folder_chunks(predictor: Predictor, path: Path, shape: tuple[int, int, int]) -> Iterator[Predictions]:
    found, files = 0, image_files(path)
    count = rows_at_once(shape, CHUNK, VALUES)
    while chunk := list(islice(files, count)):
        images = [(row_id, file) for row_id, file, why in chunk if not why]
        found += len(images)
        yield judge_images(predictor, images, shape, [(row_id, why) for row_id, _, why in chunk if why])
    if not found:
        remedy = f"Give a folder with images in it ({', '.join(sorted(SUFFIXES))}), or one image."
        raise UserError("there is no image here", remedy, shown(path))


def image_files(path: Path) -> Iterator[tuple[str, Path, str]]:
    """(id, file, why not) of everything in ``path``, folder by folder in sorted order; "" where it may be an image."""
    if path.is_file():
        yield clean(path.name), path, ""
        return
    denied: list[OSError] = []
    for folder, inside, names in os.walk(path, onerror=denied.append):
        here = Path(folder)
        inside[:] = sorted((n for n in inside if not is_passed_over(n)), key=clean)
        for name in inside:
            if (here / name).is_symlink():
                yield _id(here / name, path), here / name, "a linked folder is not entered"
            elif is_made(here / name):
                yield _id(here / name, path), here / name, "a folder that metapl wrote is not entered"
        inside[:] = [name for name in inside if not is_made(here / name)]
        for name in sorted((n for n in names if not is_passed_over(n)), key=clean):
            yield _id(here / name, path), here / name, why_not_image(name)
        while denied:
            yield _denied(denied.pop(), path)
    while denied:
        yield _denied(denied.pop(), path)


def _denied(error: OSError, root: Path) -> tuple[str, Path, str]:
    folder = Path(error.filename or root)
    return _id(folder, root), folder, f"folder cannot be opened ({error.strerror})"


def _id(path: Path, root: Path) -> str:
    return clean(path.relative_to(root).as_posix())


def judge_images(
    predictor: Predictor, images: Sequence[tuple[str, Path]], shape: tuple[int, int, int], problems: list[Problem]
) -> Predictions:
    """Decode and judge one chunk."""
    ids, rows = list[str](), list[Tensor]()
    decoded = decode_many([file for _, file in images], shape, resize=predictor.takes.resize)
    for (row_id, _), result in zip(images, decoded, strict=True):
        if isinstance(result, Unreadable):
            problems.append((row_id, str(result)))
        else:
            ids.append(row_id)
            rows.append(result[0])
    p = predictor.probabilities(torch.stack(rows)) if rows else nothing(predictor)
    return Predictions(tuple(ids), _names(predictor, p), p, tuple(problems))


def _names(predictor: Predictor, p: Tensor) -> tuple[str, ...]:
    return tuple(predictor.class_names[k] for k in p.argmax(-1).tolist())


def nothing(predictor: Predictor) -> Tensor:
    """The probabilities of no rows, [0, C]."""
    return torch.zeros(0, len(predictor.class_names))


def image_shape(predictor: Predictor) -> tuple[int, int, int]:
    """(channels, height, width) that images must be brought to.

    Raises:
        UserError: the model was not trained on images.
    """
    modality = modality_of(predictor.takes.kind)
    if not modality.sized:
        what = f"this model was trained on {modality.rows}, not on images"
        raise UserError(what, "Give a file of rows, such as new.csv.")
    channels, height, width = predictor.takes.shape
    return channels, height, width

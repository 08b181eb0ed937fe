"""Label new rows with a stored run, and write the answers."""

from __future__ import annotations

import codecs
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TextIO

from metapl.config.settings import RunConfig
from metapl.data.images.scan import shown
from metapl.data.new_rows import NewRows
from metapl.data.ref import DataRef
from metapl.data.sources import read_ref
from metapl.errors import UserError
from metapl.inference.answers import (
    PARQUET,
    AnswerFile,
    AnswerForm,
    CsvAnswers,
    ParquetAnswers,
    write_answers,
)
from metapl.inference.predict import Predictions, Problem, open_for, predict_file, predict_source
from metapl.inference.stored_run import Tell, open_model
from metapl.runs.folder import csv_text
from metapl.runs.model_folder import Predictor
from metapl.utils.files import check_output, write_text
from metapl.utils.progress import silent


def predict_to(
    run: Path,
    data: str,
    out: str,
    overwrite: bool,
    device: str | None,
    tell: Tell = silent,
    trust_code: bool = False,
    form: AnswerForm | None = None,
) -> tuple[int, list[Problem], Path | None]:
    """Label ``data`` (images, a file of rows, or a source) and write CSV or Parquet, or CSV to stdout for ``-``.

    The file appears when it is whole. Rows that cannot be read go to ``problems.csv`` beside it.

    Args:
        data: what to label; ``-`` reads CSV or JSON Lines from stdin.
        out: the file; a name that ends with ``.parquet`` is written as Parquet.
        form: what is written for each row; by default the class and its probability.

    Returns:
        The number of rows written, the problems, and the file that lists them.

    Raises:
        UserError: no finished run, nothing to label, or a file that exists already.
    """
    target, form = None if out == "-" else Path(out).expanduser(), form or AnswerForm()
    if target is not None:
        check_output(target, overwrite)
    config, predictor = open_model(run, device, trust_code)
    form = form.settled(predictor, tell)
    with _named_input(data) as name:
        chunks, early = _predictions(config, predictor, read_ref(name), tell)
        if target is None:
            with _stdout(whole=read_ref(name).is_table) as screen:
                count, problems = _write(chunks, screen, form, predictor)
                problems[:0] = early
                _check_any(count, problems, data)
            return count, problems, None
        aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            count, problems = _write(chunks, aside, form, predictor, target.suffix.lower() == PARQUET)
            problems[:0] = early
            _check_any(count, problems, data)
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
    return count, problems, _list_problems(target, problems)


def _write(
    chunks: Iterable[Predictions], place: Path | TextIO, form: AnswerForm, predictor: Predictor, parquet: bool = False
) -> tuple[int, list[Problem]]:
    header = form.header(len(predictor.class_names))
    with ExitStack() as stack:
        file: AnswerFile
        if isinstance(place, Path) and parquet:
            file = ParquetAnswers(place, header)
        elif isinstance(place, Path):
            file = CsvAnswers(stack.enter_context(open(place, "w", encoding="utf-8", newline="")), header)
        else:
            file = CsvAnswers(place, header)
        stack.callback(file.close)
        return write_answers(chunks, file, form, predictor.class_names)


@contextmanager
def _stdout(whole: bool) -> Iterator[TextIO]:
    """Give stdout; if ``whole``, a temporary file that is copied there at the end, or not at all after an error."""
    if not whole:
        yield sys.stdout
        return
    with tempfile.TemporaryFile("w+", encoding="utf-8", newline="") as held:
        held.isatty = sys.stdout.isatty  # type: ignore[method-assign]
        yield held
        held.seek(0)
        shutil.copyfileobj(held, sys.stdout)


@contextmanager
def _named_input(data: str) -> Iterator[str]:
    """Give ``data``, or for ``-`` the name of a temporary file with everything that stdin holds."""
    if data != "-":
        yield data
        return
    rows: Any = sys.stdin.buffer  # a buffered reader, which can look ahead
    start = rows.peek(4).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
    with tempfile.NamedTemporaryFile(prefix="stdin-", suffix=".jsonl" if start == b"{" else ".csv") as file:
        shutil.copyfileobj(rows, file)
        file.flush()
        yield file.name


def _check_any(count: int, problems: list[Problem], data: str) -> None:
    if not count:
        first = f", the first is {shown(problems[0][0])}: {problems[0][1]}" if problems else ""
        raise UserError(f"no row can be read{first}", "Check the files.", data)


def _predictions(config: RunConfig, predictor: Predictor, ref: DataRef, tell: Tell) -> tuple[Any, list[Problem]]:
    """Return the answers, chunk by chunk, and the rows that could not even be opened.

    The notes on a file of rows are given when it has been read; its bad rows come with the chunks.
    """
    rows = open_for(predictor, ref, config.source)
    if isinstance(rows, NewRows):
        return _file_predictions(predictor, rows, tell), []
    for note in rows.notes:
        tell(note)
    return predict_source(predictor, rows), list(rows.problems)


def _file_predictions(predictor: Predictor, rows: NewRows, tell: Tell) -> Iterator[Predictions]:
    yield from predict_file(predictor, rows)
    for note in rows.notes:
        tell(note)


def _list_problems(target: Path, problems: list[Problem]) -> Path | None:
    """Return ``problems.csv`` beside ``target``, or the next free name: another list is never replaced, it may be
    anyone's.
    """
    if not problems:
        return None
    names = ["problems.csv", *(f"problems-{k}.csv" for k in range(2, 10_000))]
    text = csv_text(["id", "reason"], [list(p) for p in problems])
    path = next(p for p in map(target.with_name, names) if not os.path.lexists(p) or _holds(p, text))
    write_text(path, text)
    return path


def _holds(path: Path, text: str) -> bool:
    """Return whether the file is this very text, as where the same rows are labelled again."""
    whole = text.encode()
    return path.is_file() and path.stat().st_size == len(whole) and path.read_bytes() == whole

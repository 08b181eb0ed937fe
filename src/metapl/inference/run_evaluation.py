"""Evaluate a stored run: on its own test rows, or on other labelled data."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metapl.config.paths import IN_MEMORY
from metapl.config.settings import RunConfig
from metapl.data.images.scan import shown
from metapl.data.images.store import Known
from metapl.data.modalities import modality_of
from metapl.data.ref import DataRef
from metapl.data.sources import open_source, read_ref
from metapl.data.tables.readers.files import tables_in
from metapl.errors import UserError
from metapl.hardware.device import pick_device
from metapl.inference.evaluate import Judged, answers, judge, model_class_numbers
from metapl.inference.leakage import seen_rows
from metapl.inference.model_card import is_own_card, write_card
from metapl.inference.predict import (
    Problem,
    nothing,
    predict_source,
)
from metapl.inference.stored_run import Tell, open_model
from metapl.models.own import check_trusted
from metapl.runs.folder import left_out, load_split, stored_levels, write_problems
from metapl.runs.model_folder import Predictor, load_model
from metapl.types import Array, Source, Split
from metapl.utils.files import write_json
from metapl.utils.progress import silent

OTHER = "model-not-chosen"  # in a run folder: the other side of the guard's comparison
Evaluation = tuple[dict[str, Any], list[Problem], str]


def judge_own(
    run: Path, device: str | None, trust_code: bool = False, given: str = "", tell: Tell = silent
) -> Evaluation:
    """Evaluate the run on its own test rows, and store the figures as ``evaluation.json`` in it.

    Args:
        run: its folder.
        device: where; None = auto.
        trust_code: as in ``load_model``.
        given: the user's name for the run's data, where they asked to judge by these.
        tell: called with a message where the folder cannot be written to; the figures are returned all the same.

    Returns:
        The figures of ``evaluate``, the rows that could not be read, and a name for what was judged.

    Raises:
        UserError: no finished run, changed data, or no test rows.
    """
    config, predictor, source, split = open_own(run, device, trust_code)
    if not len(split.test):
        if given:
            what = f"{shown(given)} is what this run was trained on, and it has no test rows"
            raise UserError(what, "Give labelled rows that it has not seen.", str(run))
        remedy = "Give labelled data: metapl evaluate RUN DATA."
        raise UserError("this run has no test rows", remedy, str(run))
    known = len(source.problems)
    judged = answers(predictor, source, split.test)
    result = judge(judged.p, judged.y, predictor.class_names)
    if not result["rows"]:
        raise UserError("no test row can be read", f"See {source.problems[-1][0]}: {source.problems[-1][1]}", str(run))
    fresh = is_own_card(run)
    result |= _not_chosen(run, device, trust_code, source, judged)
    try:
        write_json(run / "evaluation.json", {"data": config.data, "part": "test", **result})
        if fresh:
            write_card(run)
        write_problems(run / "problems.csv", source.problems)
    except OSError as error:  # a folder that may only be read
        tell(f"the figures are not stored in {run} ({error.strerror})")
    return result, source.problems[known:], f"the run's test rows ({shown(source.name)})"


def _not_chosen(run: Path, device: str | None, trust_code: bool, source: Source, ours: Judged) -> dict[str, Any]:
    """Return how the other side of the guard's comparison does on the same rows; empty where the run has none."""
    try:
        other = load_model(run / OTHER, pick_device(device or "auto"), trust_code=trust_code)
        theirs = answers(other, source, ours.index)
    except UserError:
        return {}
    right, also = ours.p.argmax(-1) == ours.y, theirs.p.argmax(-1) == theirs.y
    counts = {"both_right": right & also, "only_chosen_right": right & ~also, "only_other_right": ~right & also}
    return {"not_chosen": {"accuracy": float(also.double().mean()), **{k: int(v.sum()) for k, v in counts.items()}}}


def open_own(run: Path, device: str | None, trust_code: bool = False) -> tuple[RunConfig, Predictor, Source, Split]:
    """Open a finished run with its model and its own data.

    Raises:
        UserError: no finished run, or data that have changed or gone.
    """
    config, predictor = open_model(run, device, trust_code)
    _check_data(run, config)
    check_trusted(config.source.encoder.name, trust_code, str(run))
    return config, predictor, *_own_data(run, config, predictor)


def _own_data(run: Path, config: RunConfig, predictor: Predictor) -> tuple[Source, Split]:
    """Return the run's data and split. Training images are not decoded for it, if the run's list of bad ones still
    holds.
    """
    levels = stored_levels(run)
    if modality_of(predictor.takes.kind).sized:
        channels, height, width = predictor.takes.shape
        known = Known((channels, height, width), left_out(run))
        source = open_source(config.ref, config.source, known=known, levels=levels)
        with suppress(UserError):  # the list is gone, or the data changed: reported by the strict way below
            return source, load_split(run, source)
    source = open_source(config.ref, config.source, levels=levels)
    return source, load_split(run, source)


def _check_data(run: Path, config: RunConfig) -> None:
    """Refuse runs on arrays from Python, which are not stored: only Python can bring them again.

    Raises:
        UserError: the run was trained on such rows.
    """
    try:
        name = json.loads((run / "split.json").read_text(encoding="utf-8")).get("source")
    except (OSError, ValueError, AttributeError):
        return  # load_split reports it
    # A folder may have that name, and is stored as a path.
    if name == IN_MEMORY and (config.ref.name != IN_MEMORY or config.data == IN_MEMORY):
        remedy = "Use metapl.evaluate in Python, or give labelled data: metapl evaluate RUN DATA."
        raise UserError("this run was trained on arrays from Python, which are not stored with it", remedy, str(run))


def judge_other(run: Path, data: str, device: str | None, tell: Tell = silent, trust_code: bool = False) -> Evaluation:
    """Evaluate the run on ``data``; the run's own data mean its test rows, since the others were trained on.

    Args:
        run: its folder.
        data: a folder, a file of rows, or another source.
        device: where; None = auto.
        tell: is given what a user should know about how the rows were read.
        trust_code: as in ``load_model``.

    Raises:
        UserError: no finished run, or data that do not fit the model.
    """
    config, predictor = open_model(run, device, trust_code)
    ref = read_ref(data)
    if ref.same_as(config.ref):
        return judge_own(run, device, trust_code, data)
    ref = _judged_file(ref)
    named = any(ref.same_as(other) for other in _trained_files(config))
    if named:
        tell(f"{shown(ref.text)} holds rows that the model was trained on")
    rows = open_source(ref, config.source, like=predictor.input(labels=True))
    seen = "" if named else seen_rows(run, config, predictor, rows, _judged_rows(rows))
    for note in filter(None, [*rows.notes, seen]):
        tell(note)
    judged, _, where = judge_source(predictor, rows)
    if not judged["rows"]:
        first = f"The first is {shown(rows.problems[0][0])}: {rows.problems[0][1]}." if rows.problems else ""
        raise UserError("there is no row that can be read", first, shown(ref.text))
    return judged, list(rows.problems), rows.name if ref.is_folder else where


def _judged_file(ref: DataRef) -> DataRef:
    """Return the file of a folder that is judged: the test rows, else the labelled ones; any other data as they are."""
    inside = tables_in(ref.path) if ref.is_folder and ref.path is not None else {}
    return read_ref(str(inside.get("test", inside["labeled"]))) if inside else ref


def _trained_files(config: RunConfig) -> list[DataRef]:
    """Return the files of rows that a run learnt from."""
    ref = config.ref
    inside = tables_in(ref.path) if ref.is_folder and ref.path is not None else {}
    files = [str(path) for part, path in inside.items() if part != "test"]
    return [read_ref(file) for file in [*files, config.source.unlabeled] if file]


def _judged_rows(source: Source) -> Array:
    """Return the rows [n] to judge: labelled test rows, or all labelled rows if there are no test rows."""
    own = source.is_test & (source.labels >= 0)
    return np.flatnonzero(own if own.any() else source.labels >= 0)


def judge_source(predictor: Predictor, source: Source) -> tuple[dict[str, Any], list[Problem], str]:
    """Evaluate on a source's own test rows, or on all of its labelled rows where it has none; classes by name.

    Raises:
        UserError: a class that the model does not know, or no labelled row.
    """
    number = model_class_numbers(predictor, source)
    index = _judged_rows(source)
    if not len(index):
        raise UserError("there are no labelled rows", "Give labelled data.", source.name)
    known = len(source.problems)
    index = source.readable(index)
    parts = [chunk.probabilities for chunk in predict_source(predictor, source, index)]
    truth = torch.from_numpy(number[source.labels[index]])
    where = f"the {'test' if source.is_test[index].all() else 'labelled'} rows of {source.name}"
    p = torch.cat(parts) if parts else nothing(predictor)
    return judge(p, truth, predictor.class_names), source.problems[known:], where

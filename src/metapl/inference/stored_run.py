"""A stored run put to use: judged on its test rows or on other labelled data, and asked to label new rows."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.config.paths import IN_MEMORY
from metapl.config.settings import RunConfig
from metapl.data.embedded import open_source
from metapl.data.images.parts import part_of
from metapl.data.images.scan import clean, exists, missing, shown
from metapl.data.images.source import known_images
from metapl.data.images.store import Known
from metapl.data.memory.numpy_files import named_file, open_numpy_rows
from metapl.data.options import EncoderOptions, TextOptions
from metapl.data.ref import PUBLISHED
from metapl.data.sources import SOURCES, read_ref
from metapl.data.tables.files import READERS, tables_in
from metapl.data.tables.labels import known_classes
from metapl.data.tables.new_rows import open_spec
from metapl.data.texts.tokens import tokenizer_of
from metapl.errors import UserError, nearest
from metapl.inference.evaluate import class_numbers, evaluate, judge
from metapl.inference.leakage import seen_rows
from metapl.inference.predict import (
    CHUNK,
    HEADER,
    VALUES,
    Problem,
    image_files,
    image_shape,
    judge_images,
    nothing,
    open_other,
    predict_folder,
    predict_source,
    write_predictions,
)
from metapl.models.own import check_trusted
from metapl.runs.folder import csv_text, left_out, load_split, open_run, write_problems
from metapl.runs.model_folder import Predictor, load_model
from metapl.types import Source, Split
from metapl.utils.chunks import rows_at_once
from metapl.utils.device import pick_device
from metapl.utils.files import write_json, write_text
from metapl.utils.own_folders import is_made

Array = np.ndarray[Any, Any]
Tell = Callable[[str], None]
Judged = tuple[dict[str, Any], list[Problem], str]


def silent(note: str) -> None:
    """Says nothing."""


def judge_own(run: Path, device: str | None, trust_code: bool = False, given: str = "") -> Judged:
    """Evaluate the run on its own test rows, and store the figures as ``evaluation.json`` in it.

    Args:
        run: its folder.
        device: where; None = auto.
        trust_code: as in ``load_model``.
        given: the user's name for the run's data, where they asked to judge by these.

    Returns:
        The figures of ``evaluate``, the rows that could not be read, and a name for what was judged.

    Raises:
        UserError: no finished run, changed data, or no test rows.
    """
    config, predictor = _opened(run, device, trust_code)
    _check_data(run, config)
    check_trusted(config.source.encoder.name, trust_code, str(run))
    source, split = _own_data(run, config, predictor)
    if not len(split.test):
        if given:
            what = f"{shown(given)} is what this run was trained on, and none of its rows are test rows"
            raise UserError(what, "Give labelled rows that it has not seen.", str(run))
        remedy = "Give labelled data: metapl evaluate RUN DATA."
        raise UserError("this run has no test rows", remedy, str(run))
    known = len(source.problems)
    result = evaluate(predictor, source, split.test)
    if not result["rows"]:
        raise UserError("no test row can be read", f"See {source.problems[-1][0]}: {source.problems[-1][1]}", str(run))
    write_json(run / "evaluation.json", {"data": config.data, "part": "test", **result})
    write_problems(run / "problems.csv", source.problems)
    return result, source.problems[known:], f"the run's test rows ({shown(source.name)})"


def _own_data(run: Path, config: RunConfig, predictor: Predictor) -> tuple[Source, Split]:
    """The run's data and split. Training images are not decoded for it, if the run's list of bad ones still holds."""
    if predictor.takes.kind == "image":
        with known_images(Known(image_shape(predictor), left_out(run))):
            source = open_source(config.data, config.source)
        with suppress(UserError):  # the list is gone, or the data changed: told by the strict way below
            return source, load_split(run, source)
    source = open_source(config.data, config.source)
    return source, load_split(run, source)


def judge_other(run: Path, data: str, device: str | None, tell: Tell = silent, trust_code: bool = False) -> Judged:
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
    config, predictor = _opened(run, device, trust_code)
    if _same(data, config.data):
        return judge_own(run, device, trust_code, data)
    data = _judged_file(data)
    named = any(_same(data, other) for other in _trained_files(config))
    if named:
        tell(f"{shown(data)} holds rows that the model was trained on")
    rows = _rows(data, config, predictor, labels=True)
    if rows is not None:
        seen = "" if named else seen_rows(run, config, predictor, rows, _judged_rows(rows))
        for note in filter(None, [*rows.notes, seen]):
            tell(note)
        judged, found, where = judge_source(predictor, rows)
        return judged, [*rows.problems[: len(rows.problems) - len(found)], *found], where
    folder = _folder(data)
    if folder is not None:
        return judge_folder(predictor, folder)
    return judge_source(predictor, open_other(predictor, data))


def _judged_file(data: str) -> str:
    """In a folder of files of rows the one that is judged: the test rows, or the labelled ones where it has none."""
    inside = tables_in(Path(data).expanduser())
    return str(inside.get("test", inside["labeled"])) if inside else data


def _trained_files(config: RunConfig) -> list[str]:
    """The files of rows that a run learnt from."""
    place = Path(config.data).expanduser()
    inside = [str(path) for part, path in tables_in(place).items() if part != "test"]
    return [*inside, *filter(None, [config.source.unlabeled])]


def judge_folder(predictor: Predictor, root: Path) -> tuple[dict[str, Any], list[Problem], str]:
    """Evaluate on a labelled tree ``<class>/**``, its classes matched to the model's by name.

    A tree with a folder ``labelled`` is judged on its ``test`` folder, or on ``labelled`` where it has none.

    Returns:
        The figures of ``evaluate``, the images that could not be read, and the folder that was judged.

    Raises:
        UserError: a class that the model does not know, or no image.
    """
    shape, root = image_shape(predictor), _classes_folder(predictor, root)
    number = {name: k for k, name in enumerate(predictor.class_names)}
    folders = sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith(".") and not is_made(p))
    for folder in folders:
        if clean(folder.name) not in number:
            what = f"the model knows no class '{shown(folder.name)}'"
            raise UserError(what, nearest(shown(folder.name), map(shown, number)), shown(folder))
    parts, truth, problems = list[Tensor](), list[int](), list[Problem]()
    for folder in folders:
        files = image_files(folder)
        while chunk := list(islice(files, rows_at_once(shape, CHUNK, VALUES))):
            images = [(f"{clean(folder.name)}/{i}", file) for i, file, why in chunk if not why]
            problems += [(f"{clean(folder.name)}/{i}", why) for i, _, why in chunk if why]
            judged = judge_images(predictor, images, shape, [])
            parts.append(judged.probabilities)
            truth += [number[clean(folder.name)]] * len(judged.ids)
            problems += judged.problems
    if not truth:
        raise UserError("there is no readable image in class folders", "Give a folder <class>/<images>.", shown(root))
    return judge(torch.cat(parts), torch.tensor(truth), predictor.class_names), problems, shown(root)


def _judged_rows(source: Source) -> Array:
    """Its test rows that have a label, or all labelled rows where it has none."""
    own = source.is_test & (source.labels >= 0)
    return np.flatnonzero(own if own.any() else source.labels >= 0)


def judge_source(predictor: Predictor, source: Source) -> tuple[dict[str, Any], list[Problem], str]:
    """Evaluate on a source's own test rows, or on all of its labelled rows where it has none; classes by name.

    Raises:
        UserError: a class that the model does not know, or no labelled row.
    """
    number = class_numbers(predictor, source)
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


def _classes_folder(predictor: Predictor, root: Path) -> Path:
    """The folder that holds the class folders: ``root``, ``root/test`` or ``root/labelled``."""
    if not exists(root):
        raise missing(root)
    if not root.is_dir():
        raise UserError("this is a file, not a folder", "Give a folder <class>/<images>.", shown(root))
    inside = {p.name for p in root.iterdir() if p.is_dir()} - set(predictor.class_names)
    by_part = {part_of(name): name for name in sorted(inside, reverse=True)}
    labeled = next((by_part[part] for part in ("labelled", "train") if part in by_part), None)
    return root if labeled is None else root / by_part.get("test", labeled)


def predict_to(
    run: Path,
    data: str,
    out: str,
    overwrite: bool,
    device: str | None,
    tell: Tell = silent,
    trust_code: bool = False,
) -> tuple[int, list[Problem], Path | None]:
    """Label ``data`` (images, a file of rows, or a source) and write a CSV file, or to stdout for ``-``.

    The file appears when it is whole. Unreadable images go to ``problems.csv`` beside it.

    Returns:
        The number of rows written, the problems, and the file that lists them.

    Raises:
        UserError: no finished run, nothing to label, or a file that exists already.
    """
    target = None if out == "-" else Path(out).expanduser()
    _check_target(target, overwrite)
    chunks, early = _predictions(*_opened(run, device, trust_code), data, tell)
    if target is None:
        count, problems = write_predictions(chunks, sys.stdout)
        problems[:0] = early
        _check_any(count, problems, data)
        return count, problems, None
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            count, problems = write_predictions(chunks, file)
        problems[:0] = early
        _check_any(count, problems, data)
        os.replace(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    return count, problems, _list_problems(target, problems)


def _check_any(count: int, problems: list[Problem], data: str) -> None:
    if not count:
        first = f", the first is {shown(problems[0][0])}: {problems[0][1]}" if problems else ""
        raise UserError(f"no row can be read{first}", "Check the files.", data)


def _predictions(config: RunConfig, predictor: Predictor, data: str, tell: Tell) -> tuple[Any, list[Problem]]:
    """The answers, chunk by chunk, and the rows that could not even be opened."""
    rows = _rows(data, config, predictor)
    if rows is not None:
        for note in rows.notes:
            tell(note)
        return predict_source(predictor, rows), list(rows.problems)
    folder = _folder(data)
    made = (
        predict_source(predictor, open_other(predictor, data)) if folder is None else predict_folder(predictor, folder)
    )
    return made, []


def _rows(data: str, config: RunConfig, predictor: Predictor, labels: bool = False) -> Source | None:
    """The rows of a file or of a published data set, read as the model wants them; None where ``data`` is neither."""
    p = predictor.takes
    if arrays := named_file(data):
        return open_numpy_rows(arrays, p)
    name = data.partition(":")[0]
    if name not in PUBLISHED:
        return open_spec(data, config.source, p, predictor.class_names, labels=labels)
    options = replace(config.source, encoder=EncoderOptions())  # the model encodes by itself
    if p.kind == "image":
        options = replace(options, image=replace(options.image, size=f"{p.shape[1]}x{p.shape[2]}", resize=p.resize))
    elif p.tokens is not None:
        options = replace(options, text=TextOptions(p.tokens.tokenizer, p.tokens.length))
    with known_classes():
        return SOURCES[name](read_ref(data), options)


def _list_problems(target: Path, problems: list[Problem]) -> Path | None:
    """``problems.csv`` beside ``target``, or the next free name: another list is never replaced, it may be anyone's."""
    if not problems:
        return None
    names = ["problems.csv", *(f"problems-{k}.csv" for k in range(2, 10_000))]
    text = csv_text(["id", "reason"], [list(p) for p in problems])
    path = next(p for p in map(target.with_name, names) if not os.path.lexists(p) or _holds(p, text))
    write_text(path, text)
    return path


def _holds(path: Path, text: str) -> bool:
    """Whether the file is this very text, as where the same rows are labelled again."""
    whole = text.encode()
    return path.is_file() and path.stat().st_size == len(whole) and path.read_bytes() == whole


def _check_target(target: Path | None, overwrite: bool) -> None:
    if target is None:
        return
    if target.is_dir() or not target.parent.is_dir():
        raise UserError("the CSV file cannot be written there", "Name a file in an existing folder.", str(target))
    if target.exists() and not overwrite:
        raise UserError("the file exists already", "Name another, or add --overwrite.", str(target))
    if target.exists() and not _is_ours(target):
        what = "the file holds no predictions of an earlier call, so it is not written over"
        raise UserError(what, "Name another file, or move this one away.", str(target))


def _is_ours(target: Path) -> bool:
    """Whether ``write_predictions`` may have made the file; an empty one has nothing to lose."""
    head = ",".join(HEADER).encode()
    with open(target, "rb") as file:
        return file.readline(len(head) + 2).rstrip(b"\r\n") in (head, b"")


def _opened(run: Path, device: str | None, trust_code: bool) -> tuple[RunConfig, Predictor]:
    """The run's settings, without those of a method of one's own, and its model."""
    config = open_run(run, training=False)
    predictor = load_model(run / "model", pick_device(device or "auto"), trust_code=trust_code)
    if predictor.takes.tokens is not None:
        tokenizer_of(predictor.takes.tokens)  # told here, since with another one the run's own data look changed too
    return config, predictor


def _check_data(run: Path, config: RunConfig) -> None:
    """Arrays from Python are not stored with the run: only Python can bring them again.

    Raises:
        UserError: the run was trained on such rows.
    """
    try:
        name = json.loads((run / "split.json").read_text(encoding="utf-8")).get("source")
    except (OSError, ValueError, AttributeError):
        return  # told by load_split
    place = os.path.basename(config.data.rpartition(":")[2])  # a folder may have that name, and is stored as a path
    if name == IN_MEMORY and (place != IN_MEMORY or config.data == IN_MEMORY):
        remedy = "Use metapl.evaluate in Python, or give labelled data: metapl evaluate RUN DATA."
        raise UserError("this run was trained on arrays from Python, which are not stored with it", remedy, str(run))


def _folder(data: str) -> Path | None:
    """The folder or file that ``data`` means; None where it names another kind of source, or nothing at all."""
    name, colon, argument = data.partition(":")
    if name == "folder" and colon:
        return Path(argument).expanduser()
    path = Path(data).expanduser()
    return None if name in SOURCES and (colon or name != "folder") else path if exists(path) or os.sep in data else None


def _same(data: str, stored: str) -> bool:
    def plain(spec: str) -> str:
        name, colon, path = spec.partition(":")
        if name in PUBLISHED and not os.path.isdir(os.path.expanduser(path)):
            return spec
        if colon and name in SOURCES:
            kind = "folder" if f".{name}" in READERS else name  # csv:x.csv is x.csv
            return f"{kind}:{os.path.realpath(os.path.expanduser(path))}"
        return spec if spec in SOURCES else f"folder:{os.path.realpath(os.path.expanduser(spec))}"

    return plain(data) == plain(stored)

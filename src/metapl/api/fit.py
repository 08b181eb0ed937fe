"""One call from data to a trained classifier, in memory unless a folder is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from metapl.config.paths import IN_MEMORY
from metapl.config.settings import RunConfig, make_config
from metapl.data.embedded import for_encoder
from metapl.data.memory.arrays import from_arrays
from metapl.data.memory.datasets import read_dataset
from metapl.errors import UserError
from metapl.models import Factory, as_factory, given_name
from metapl.report.pseudo_labels import try_pseudo_labels
from metapl.runs.folder import new_folder
from metapl.runs.recorder import Recorder, RunFolder
from metapl.training.loop import Observer, Result, start
from metapl.types import Source
from metapl.utils.progress import Progress, Silent, make_progress


def fit(
    data: Any,
    y: Any = None,
    *,
    method: str = "mpl",
    model: str | nn.Module | Factory = "auto",
    X_unlabeled: Any = None,
    X_test: Any = None,
    y_test: Any = None,
    unlabeled: Any = None,
    labels: int | None = None,
    validation: str | float | int = "auto",
    steps: int | None = None,
    minutes: float | None = None,
    seed: int = 0,
    device: str = "auto",
    guard: str | None = None,
    options: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    progress: bool | Progress = False,
    observe: Observer | None = None,
) -> Result:
    """Train a classifier and give it back; nothing is written unless ``out`` names a folder.

    Args:
        data: rows in any of the forms that ``from_arrays`` takes (arrays, tensors, a DataFrame, texts), with labels
            ``y``; or a map-style torch ``Dataset`` of (x, y) (then X_unlabeled and X_test are such, too); or a source;
            or what stands for data on the command line (``digits``, a folder, a file).
        y: labels of ``data``; -1, None, NaN or NA marks a row without one.
        method: a name in METHODS.
        model: a name in MODELS; or an ``nn.Module``, of which every network of the run begins as a copy, weights
            included; or a function ``f(shape=..., num_classes=...)`` that gives a fresh one.
        X_unlabeled: more rows without labels. X_test, y_test: rows that only ``Result.evaluate`` opens.
        unlabeled: a further mark of a row without a label, or several as a tuple.
        labels: keep so many labels per class, drawn by seed, and hide the others.
        validation: labelled rows that judge and do not teach: "auto" (a fifth), a share, a number per class, "none".
        steps: length of the run, by default 1000, for tables and texts 300. minutes: as many steps as fit.
        seed: of the split, the weights, the batches and the views; the global random numbers are left alone.
        guard: "return", "warn" or "off": docs/guard.md.
        options: any other setting by its key, such as ``{"optim.lr": 0.1, "mpl.uda_threshold": 0.8}``.
        out: a run folder, new or empty; such a run can be stopped and resumed, and holds the table of pseudo labels.
        progress: True shows what the command line shows.
        observe: see ``train``.

    Raises:
        UserError: data or settings that cannot make a run, or a loss that is no longer finite.
        Stopped: asked to stop, with ``out`` given; without it Ctrl-C is a ``KeyboardInterrupt`` and loses the run.
    """
    named = isinstance(data, str | Path)
    network = None if isinstance(model, str) else as_factory(model)
    given = {
        "data": str(data) if named else data.name if isinstance(data, Source) else IN_MEMORY,
        "method": method,
        "model": model if isinstance(model, str) else given_name(model),
        "split.labels": labels,
        "split.validation": validation,
        "steps": steps,
        "minutes": minutes,
        "seed": seed,
        "device": device,
        "guard.mode": guard,
    }
    config = make_config(options={**given, **(options or {})})
    rows = {"y": y, "X_unlabeled": X_unlabeled, "X_test": X_test, "y_test": y_test, "unlabeled": unlabeled}
    source = None if named else _source(data, rows, config)
    if (named or isinstance(data, Source)) and (extra := [name for name, part in rows.items() if part is not None]):
        raise UserError(f"{extra[0]} is given, but the data bring their own labels", "Leave it out.", "fit")
    shown = make_progress() if progress is True else progress or Silent()
    result = start(config, lambda made: _store(out, made), source, shown, observe, network)
    if result.folder is not None and (problem := try_pseudo_labels(result)):
        shown.note(problem)
    return result


def _source(data: Any, rows: dict[str, Any], config: RunConfig) -> Source:
    if isinstance(data, Source):
        return data
    suited = for_encoder(config.source)
    words = suited.arguments
    if isinstance(data, Dataset):
        if extra := [name for name in ("y", "y_test", "unlabeled") if rows[name] is not None]:
            raise UserError(f"{extra[0]} is given, but a data set brings its own labels", "Leave it out.", "fit")
        return read_dataset((data, rows["X_unlabeled"], rows["X_test"]), **words)
    if rows["y"] is None:
        raise UserError("y is missing", "Give one label per row; -1 or None for a row without one.", "fit")
    return from_arrays(data, **rows, **words, features=config.source.table.named("features"))


def _store(out: str | Path | None, config: RunConfig) -> Recorder:
    return Recorder() if out is None else RunFolder(new_folder(Path(out), config))

"""One run of a comparison, in a process of its own: train or resume it, and judge it on its test rows once.

Stored work is kept: a judged run is read, a finished run is judged, a partial run is resumed.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metapl.comparison.peers import Peer, run_peer
from metapl.comparison.versions import check_version, made_with
from metapl.config.settings import RunConfig, load_config, save_config
from metapl.data.batches.split import make_split
from metapl.data.sources import open_source
from metapl.errors import UserError
from metapl.hardware.device import environment, peak_memory, pick_device
from metapl.inference.evaluate import evaluate
from metapl.runs import checkpoint
from metapl.runs.folder import load_split, stored_levels, write_problems
from metapl.runs.model_folder import load_model
from metapl.training.loop import Result, resume, train
from metapl.types import Source, Split
from metapl.utils.files import write_json
from metapl.utils.locks import locked

STORED = "compared.json"
FORMAT = 1


def count_judges(split: Split) -> int:
    """Return the number of rows to judge by."""
    return len(split.test)


def stored_row(folder: Path, config: RunConfig) -> dict[str, Any] | None:
    """Read the row that an earlier call stored for the run, or None.

    Raises:
        UserError: ``folder`` holds another run, or a run of another version.
    """
    try:
        row = json.loads((folder / STORED).read_text(encoding="utf-8"))
        whole = row["format"] == FORMAT and (folder / "config.yaml").is_file()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not whole:
        return None
    _check_config(folder, config)
    row = {"versions": made_with(folder), **row}  # older runs have them beside the figures only
    check_version(row["versions"]["metapl"], "the stored run", folder)
    return row


def run_one(config: RunConfig, folder: Path, source: Source | None, peer: Peer | None = None) -> dict[str, Any]:
    """Train and judge one run; return the figures, which are also stored in the run folder.

    A ``peer`` is fitted in place of the config's method; its model is not stored.

    Raises:
        UserError: bad data or settings, a loss that is no longer finite, or no test row that can be read.
        Stopped: asked to stop; the state is saved.
    """
    with locked(folder.parent / f".{folder.name}.lock", patient=True):  # a killed comparison's run may be saving still
        if (row := stored_row(folder, config)) is not None:
            return row
        if peer is not None:
            return _peer_run(peer, config, folder, source)
        result, memory = _trained(config, folder, source)
        judged = evaluate(result.predictor, result.source, result.split.test)
        if not judged["rows"]:
            raise UserError("no test row can be read", "See problems.csv.", str(folder))
        write_json(folder / "evaluation.json", {"data": config.data, "part": "test", **judged})
        write_problems(folder / "problems.csv", result.source.problems)
        made = made_with(folder, result.predictor.device)
        row = {"format": FORMAT, **_figures(result, judged), "peak_memory": memory, "versions": made}
        write_json(folder / STORED, row)
        return row


def _peer_run(peer: Peer, config: RunConfig, folder: Path, source: Source | None) -> dict[str, Any]:
    """Fit and judge a peer, and store config and figures, but no model."""
    source = open_source(config.ref if source is None else source, config.source)
    split = make_split(source, config.split, config.seed, require_unlabeled=False)
    judged = run_peer(peer, config, source, split)
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    save_config(config, folder / "config.yaml")
    write_json(folder / "env.json", environment(torch.device("cpu")))
    write_json(folder / "evaluation.json", {"data": config.data, "part": "test", **judged})
    write_problems(folder / "problems.csv", source.problems)
    row = {
        "format": FORMAT,
        "test_accuracy": 100 * judged["accuracy"],
        "test_rows": judged["rows"],
        "test_log_loss": judged["log_loss"],
        "test_balanced": 100 * judged["balanced_accuracy"],
        "seconds": judged["seconds"],
        "resumed_at": 0,
        "steps": 0,
        "extra_steps": 0,
        "chosen": peer.name,
        "split_sha": split.sha,
        "peak_memory": peak_memory(torch.device("cpu")),
        "versions": made_with(folder),
    }
    write_json(folder / STORED, row)
    return row


def _figures(result: Result, judged: dict[str, Any]) -> dict[str, Any]:
    summary = result.summary
    return {
        "test_accuracy": 100 * judged["accuracy"],
        "test_rows": judged["rows"],
        "test_log_loss": judged["log_loss"],
        "test_balanced": 100 * judged["balanced_accuracy"],
        "seconds": summary["seconds"],
        "resumed_at": summary["resumed_at"],
        "steps": summary["steps"],
        "extra_steps": summary["extra_steps"],
        "chosen": summary["chosen"],
        "split_sha": result.split.sha,
    }


def _trained(config: RunConfig, folder: Path, source: Source | None) -> tuple[Result, int | None]:
    """Return the run's result and the peak memory of its training in bytes; None if it was trained earlier."""
    if (folder / "results.json").is_file():
        _check_config(folder, config)
        levels = stored_levels(folder)
        source = open_source(config.ref if source is None else source, config.source, levels=levels)
        device = pick_device(config.device)
        summary = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        split = load_split(folder, source)
        # The comparison has trained it, with the settings that it has now: its own code is meant.
        return Result(folder, load_model(folder / "model", device, trust_code=True), source, split, summary), None
    if _can_resume(folder):
        _check_config(folder, config)
        result = resume(folder, source=source)
    else:
        if folder.exists():  # cut off before its first checkpoint
            shutil.rmtree(folder)
        # Opened here, so that photographs stay what the plan says.
        rows = open_source(config.ref if source is None else source, config.source)
        result = train(config, folder, source=rows)
    device = result.predictor.device
    return result, peak_memory(device)


def _can_resume(folder: Path) -> bool:
    try:
        checkpoint.load_latest(folder / "checkpoints")
    except UserError:
        return False
    return (folder / "config.yaml").is_file() and (folder / "split.json").is_file()


def _check_config(folder: Path, config: RunConfig) -> None:
    stored = load_config(folder / "config.yaml")
    if config.model == "auto":
        config = replace(config, model=stored.model)
    if config.precision == "auto":
        config = replace(config, precision=stored.precision)
    if config.norms == "auto":
        config = replace(config, norms=stored.norms)
    here, there = (replace(c, optim=c.optim.resolved(c.model, c.finetunes)) for c in (config, stored))
    if here != there:
        remedy = "Move the folder away to train it again."
        raise UserError("the stored run has other settings than the comparison", remedy, str(folder))

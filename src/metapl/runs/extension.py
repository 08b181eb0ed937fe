"""A finished run made ready to go on to more steps, in its own folder or in a new one."""

from __future__ import annotations

import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

from metapl.config.settings import RunConfig, save_config
from metapl.errors import UserError
from metapl.methods import fits_once
from metapl.runs import checkpoint
from metapl.runs.folder import CORRECTIONS, LOCK, Metrics, new_folder, open_run
from metapl.runs.recorder import RUN_ID, SNAPSHOT_FILE, RunFolder
from metapl.utils.files import write_json
from metapl.utils.limits import read_json
from metapl.utils.locks import locked

COPIED = ("split.json", "problems.csv", CORRECTIONS)
OUTDATED = ("evaluation.json", "report.html", "report.json", "pseudo_labels.csv", "pseudo_labels.parquet")


def extended(run: Path, steps: int, out: Path | None = None) -> Path:
    """Return a folder in which ``resume`` goes on with a finished run until its main phase has ``steps`` steps.

    It begins with the state at the end of the run's main phase; fine-tuning comes anew after the further steps.

    Args:
        run: the folder of a finished run.
        steps: of the main phase in all, more than the run has.
        out: ``run`` itself, a new or empty folder, or None for a free name in ``runs/``.

    Raises:
        UserError: the run has not finished, has as many steps, is fitted in one step, or lacks the state.
    """
    config = open_run(run)
    _check(run, config, steps)
    in_place = out is not None and out.exists() and out.resolve() == run.resolve()
    more = replace(config, steps=steps, minutes=0.0)
    with locked(run / LOCK):
        state = _state(run, config.steps)
        if in_place:
            _reopen(run, config.steps, more)
            return run
        target = new_folder(out, more)
        with locked(target / LOCK):
            _copy(run, target, config.steps, state, more)
    return target


def _check(run: Path, config: RunConfig, steps: int) -> None:
    if not (run / "results.json").is_file():
        raise UserError("the run has not finished", f"Use `metapl resume {run}`.", str(run))
    if fits_once(config.method):
        raise UserError(f"{config.method} is fitted in one step", "Train anew with other data or settings.", str(run))
    if steps <= config.steps:
        raise UserError(f"the run has {config.steps} steps already", "Give --steps a larger number.", str(run))


def _state(run: Path, step: int) -> dict[str, Any]:
    """Return the state at the end of the main phase."""
    try:
        return checkpoint.load(run / "checkpoints" / f"step-{step:08d}", RunFolder(run).run_id())
    except checkpoint.DamagedCheckpoint as error:
        remedy = "Train anew with more steps: runs of earlier versions may lack this state."
        raise UserError(f"the state of step {step} cannot be read ({error.what})", remedy, error.where) from error


def _reopen(run: Path, step: int, more: RunConfig) -> None:
    """Make the finished run an unfinished one; a kill in between leaves one that ``resume`` ends as it was."""
    (run / "results.json").unlink()
    for name in OUTDATED:
        (run / name).unlink(missing_ok=True)
    for later in checkpoint.steps(run / "checkpoints"):
        if later > step:
            shutil.rmtree(run / "checkpoints" / f"step-{later:08d}")
    save_config(more, run / "config.yaml")


def _copy(run: Path, target: Path, step: int, state: dict[str, Any], more: RunConfig) -> None:
    """Begin a run in ``target`` with what the first ``step`` steps left; it is a run from its last file on."""
    own = {**read_json(run / "env.json"), RUN_ID: uuid.uuid4().hex}
    for name in (*COPIED, Metrics(run).path.name, SNAPSHOT_FILE):  # ``resume`` drops rows later than the state
        if (run / name).is_file():
            shutil.copyfile(run / name, target / name)
    write_json(target / "env.json", own)
    checkpoint.save(target / "checkpoints", step, state, run=own[RUN_ID])
    save_config(more, target / "config.yaml")

"""The folder of a tuning: its plan, and every finished training as one line, so that it can go on where it was."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metapl.errors import UserError
from metapl.tuning.material import FoldAnswer
from metapl.tuning.space import Changes
from metapl.utils.files import write_json, write_text

TrialKey = tuple[str, int, int]
PLAN, TRIALS = "plan.json", "trials.jsonl"


def open_folder(folder: Path, plan: Mapping[str, Any]) -> bool:
    """Create ``folder`` and store the plan in it, or check that it holds the same plan; return whether it did.

    Raises:
        UserError: it holds another tuning, or anything else.
    """
    plan = json.loads(json.dumps(plan))
    if (folder / PLAN).is_file():
        _same(_read(folder / PLAN), plan, folder)
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError("the output folder is not empty", "Name another.", str(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder cannot be made ({error.strerror})", "Name another.", str(folder)) from error
    write_json(folder / PLAN, plan)
    return False


class Trials:
    """``trials.jsonl``: one line per finished training (setting, steps, fold), written at once and flushed to disk."""

    def __init__(self, folder: Path) -> None:
        self.path, self.rows = folder / TRIALS, dict[TrialKey, dict[str, Any]]()
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                if (row := _row(line)) is not None:
                    self.rows.setdefault(_key(row["setting"], row["steps"], row["fold"]), row)
            # A kill may have cut the last line short: what follows must start on a line of its own.
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows.values()))
        self.spent = max((row["elapsed"] for row in self.rows.values()), default=0.0)  # seconds of earlier starts

    def get(self, setting: Changes, steps: int, fold: int) -> dict[str, Any] | None:
        """Return the finished training, or None."""
        return self.rows.get(_key(setting, steps, fold))

    def add(self, setting: Changes, steps: int, fold: int, answer: FoldAnswer, elapsed: float) -> None:
        """Store one (``answer`` with its seconds); ``elapsed`` is the time of the whole tuning up to here."""
        row = {"setting": setting, "steps": steps, "fold": fold, **answer, "elapsed": round(elapsed, 3)}
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows[_key(setting, steps, fold)] = row


def _key(setting: Changes, steps: int, fold: int) -> TrialKey:
    return json.dumps(setting, sort_keys=True), steps, fold


def _row(line: str) -> dict[str, Any] | None:
    """Return a whole line's training; None for a damaged line, which is then trained again."""
    try:
        row: dict[str, Any] = json.loads(line)
        whole = isinstance(row["setting"], dict) and row["steps"] + row["fold"] + row["elapsed"] + row["seconds"] >= 0
        judged = "error" in row or row["right"].keys() == row["log_loss"].keys() != set()
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    return row if whole and judged else None


def _read(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the stored plan cannot be read ({error})", "Name another folder.", str(path)) from error
    return stored if isinstance(stored, dict) else {}


def _same(stored: Mapping[str, Any], plan: Mapping[str, Any], folder: Path) -> None:
    """Refuse a plan that differs, and name the first difference."""
    there, here = _flat(stored), _flat(plan)
    for key in dict.fromkeys([*here, *there]):
        if there.get(key) != here.get(key):
            what = f"this folder holds another tuning: {key} is {there.get(key)!r} there and {here.get(key)!r} now"
            raise UserError(what, "Name another folder, or repeat the command that made this one.", str(folder))


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat

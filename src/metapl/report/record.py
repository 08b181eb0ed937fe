"""A run folder read back for a report. Figures on test rows are those that ``evaluate`` has stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from metapl.errors import UserError
from metapl.runs.folder import Metrics, left_out
from metapl.runs.recorder import DIVERGED_FILE, SNAPSHOT_FILE
from metapl.utils.limits import read_json
from metapl.utils.names import last_part

Json = dict[str, Any]


@dataclass(frozen=True)
class Record:
    """The stored facts of one run.

    Attributes:
        folder: the run folder.
        config: every setting, as ``config.yaml`` has it.
        environment: versions and device.
        results: ``results.json``; empty where the run has not finished.
        evaluation: figures on test rows; None where ``metapl evaluate`` has not run.
        metrics: one entry per logged step.
        snapshots: what the model answered during the run; empty for runs of earlier versions.
        split: hash, seed and source of the split.
        problems: reason by id of every row that was left out.
        diverged: where an unfinished run diverged: step, cause and rollbacks; None if it did not.
    """

    folder: Path
    config: Json
    environment: Json
    results: Json
    evaluation: Json | None = None
    metrics: list[Json] = field(default_factory=list)
    snapshots: list[Json] = field(default_factory=list)
    split: Json = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    diverged: Json | None = None

    @property
    def method(self) -> str:
        """Return the method's name, without the module of a method of one's own."""
        return last_part(str(self.config["method"]))

    @property
    def settings(self) -> Json:
        """Return the method's own settings."""
        group = self.config["method"] if ":" not in str(self.config["method"]) else "own"
        found = self.config.get(group)
        return found if isinstance(found, dict) else {}

    def series(self, name: str) -> tuple[list[int], list[float]]:
        """Steps and values of one logged number."""
        rows = [row for row in self.metrics if isinstance(row.get(name), int | float)]
        return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]

    def feedback(self, unlabeled: np.ndarray[Any, Any]) -> dict[int, float]:
        """Return how the labelled rows judged the class of an unlabelled row, by its number in the source.

        Args:
            unlabeled: [N] the unlabelled rows of the run's split.
        """
        for shot in reversed(self.snapshots):
            if len(scores := shot.get("feedback", ())) == len(unlabeled):
                return {row: score for row, score in zip(unlabeled.tolist(), scores) if score is not None}
        return {}


def read_record(folder: Path) -> Record:
    """Read the facts of a finished run.

    Raises:
        UserError: the folder is not a finished run.
    """
    record = read_any(folder)
    if not record.results:
        raise UserError("the run has not finished", "Go on with `metapl resume`.", str(folder))
    return record


def read_any(folder: Path) -> Record:
    """Read the facts of a run, finished or not.

    Raises:
        UserError: the folder is not a run.
    """
    if not (folder / "config.yaml").is_file():
        remedy = "Give a folder that train or compare made."
        raise UserError("this is not a run folder (it has no config.yaml)", remedy, str(folder))
    try:
        results = dict(_json(folder / "results.json") or {})
        if "rows" not in results and (folder / "results.json").exists():
            raise ValueError("results.json holds no results of a run")
        return Record(
            folder=folder,
            config=dict(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))),
            environment=_json(folder / "env.json") or {},
            results=results,
            evaluation=_json(folder / "evaluation.json"),
            metrics=Metrics(folder).read(),
            snapshots=Metrics(folder, SNAPSHOT_FILE).read(),
            split=_split(_json(folder / "split.json")),
            problems=left_out(folder),
            diverged=None if results else _json(folder / DIVERGED_FILE),
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"the run folder cannot be read ({error})", "Train again.", str(folder)) from error


def _json(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


def _split(stored: Json | None) -> Json:
    """Return the stored split without the lists of rows."""
    return {k: v for k, v in (stored or {}).items() if isinstance(v, str | int)}

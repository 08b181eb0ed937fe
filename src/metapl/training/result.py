"""The result of a training."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from metapl.errors import UserError
from metapl.inference.evaluate import evaluate, probabilities
from metapl.inference.model_card import write_card
from metapl.runs.folder import LOCK, new_folder
from metapl.runs.model_folder import Predictor
from metapl.runs.recorder import Recorder, RunFolder
from metapl.types import Array, Source, Split


@dataclass(frozen=True)
class PseudoLabeledPool:
    """What the chosen network says about the rows that came without a label.

    Attributes:
        index: [n] their numbers in the source.
        ids: n names, as the source has them.
        labels: [n] class names.
        probabilities: [n, C] float32; column k belongs to ``Predictor.class_names[k]``.
    """

    index: Array
    ids: tuple[str, ...]
    labels: Array
    probabilities: Array


@dataclass(frozen=True)
class Result:
    """What a training gives back.

    Attributes:
        folder: the run folder; None for a run in memory.
        predictor: the chosen network, ready for raw rows.
        source, split: the data it was trained on.
        summary: what ``results.json`` holds.
    """

    folder: Path | None
    predictor: Predictor
    source: Source
    split: Split
    summary: dict[str, Any]
    kept: Recorder = field(default_factory=Recorder, repr=False)

    def __repr__(self) -> str:
        """Return three lines: the run and its choice, its accuracy on validation rows, and the guard's verdict."""
        summary, rows = self.summary, len(self.split.validation)
        ran = f"{summary['method']}, {summary['steps']} steps on {self.source.name}"
        place = "in memory" if self.folder is None else str(self.folder)
        judged = summary["validation"].get(summary["candidate"])
        best = summary["candidate"] + ("" if summary["chosen"] == summary["candidate"] else " (not returned)")
        right = f"{best}: accuracy {judged['accuracy']:.3f} on {rows} validation rows" if judged else ""
        guard = summary.get("guard", {})
        verdict = "guard: off" if guard.get("mode", "off") == "off" else str(guard["text"]).split(". ")[0]
        return f"Result({ran}, {place}; chosen: {summary['chosen']}\n  {right or 'no validation rows'}\n  {verdict})"

    @property
    def history(self) -> list[dict[str, Any]]:
        """Return the logged numbers, one dict per logged step."""
        return self.kept.rows()

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.predictor.class_names

    def predict_proba(self, X: Any) -> Array:
        """Return [n, C] float32 for new rows, in any of the forms that ``from_arrays`` takes.

        Raises:
            UserError: rows of another kind or shape than those of the training.
        """
        return self.predictor.predict_proba(X)

    def predict(self, X: Any) -> Array:
        """Return [n] class names for new rows; see ``predict_proba``."""
        return self.predictor.predict(X)

    def evaluate(self) -> dict[str, Any]:
        """Return the figures of ``metapl.evaluate`` on the test rows.

        Raises:
            UserError: the run has no test rows.
        """
        if not len(self.split.test):
            remedy = "Give X_test and y_test, or judge other rows by predict."
            raise UserError("this run has no test rows", remedy, self.source.name)
        return evaluate(self.predictor, self.source, self.split.test)

    def pseudo_labels(self) -> PseudoLabeledPool:
        """Return the chosen network's answers for the unlabelled rows; those that trained with their label are left
        out.
        """
        index = self.source.readable(np.setdiff1d(self.split.unlabeled, self.split.labeled))
        p = probabilities(self.predictor, self.source, index).numpy()
        return PseudoLabeledPool(index, tuple(self.source.ids[k] for k in index.tolist()), self.predictor.names(p), p)

    def save(self, folder: str | Path) -> Path:
        """Write a run folder, without checkpoints, into ``folder``, which must be new or empty.

        A run in memory has no table of pseudo labels: ``pseudo_labels()`` gives them.

        Raises:
            UserError: ``folder`` holds something or cannot be made.
        """
        place = new_folder(Path(folder))
        if self.folder is not None:
            shutil.copytree(self.folder, place, ignore=_no_checkpoints, dirs_exist_ok=True)
        else:
            self.kept.copy_to(RunFolder(place))
            write_card(place)
        return place


def _no_checkpoints(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name == "checkpoints" or name.startswith(LOCK)]

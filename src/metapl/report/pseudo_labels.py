"""Write ``pseudo_labels.csv``: what a run's model says about each row that came without a label, one line per row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.inference.evaluate import answers
from metapl.inference.run_evaluation import open_own
from metapl.report.gather import threshold_of
from metapl.report.record import Record, read_record
from metapl.runs.folder import write_csv
from metapl.thresholds import fit_temperature
from metapl.training.alarms import pool_sample
from metapl.training.result import Result
from metapl.types import Split

Array = np.ndarray[Any, Any]
FILE = "pseudo_labels.csv"
HEADER = ["id", "label", "confidence", "margin", "agreement", "accepted", "reason"]


def pseudo_labels_of(result: Result) -> Path:
    """Write the table of a run that has ended into its folder; gives the file.

    Raises:
        UserError: the run folder cannot be read.
    """
    assert result.folder is not None
    record, pool = read_record(result.folder), result.pseudo_labels()
    judged = answers(result.predictor, result.source, result.split.validation)
    p = torch.from_numpy(pool.probabilities)
    answer = _Answers(p, calibrated(p, judged.p, judged.y), _agreement(record, result.split, pool.index, p.argmax(-1)))
    path = result.folder / FILE
    write_csv(path, HEADER, _lines(pool.ids, pool.labels, answer, *_rule(record)))
    return path


def pseudo_labels_of_run(folder: Path, device: str | None = None, trust_code: bool = False) -> Path:
    """Write the table of a stored run, whose data are opened for it.

    Raises:
        UserError: no finished run, or data that have changed or gone.
    """
    _, predictor, source, split = open_own(folder, device, trust_code)
    return pseudo_labels_of(Result(folder, predictor, source, split, read_record(folder).results))


def try_pseudo_labels(result: Result) -> str:
    """Return ``pseudo_labels_of`` that never raises: gives what to say about a failure, or ""."""
    try:
        pseudo_labels_of(result)
    except Exception as error:
        return f"{FILE} could not be written ({type(error).__name__}: {error}); the run is complete"
    return ""


def calibrated(p: Tensor, validation: Tensor, y: Tensor) -> Tensor:
    """Return probabilities p [n, C] after temperature scaling.

    Args:
        p: [n, C] probabilities.
        validation: [m, C] probabilities of validation rows. Without such rows p is returned as it is.
        y: [m] their true classes.
    """
    if not len(y):
        return p
    temperature = fit_temperature(validation.clamp_min(1e-12).log()[None], y)
    return torch.softmax(p.clamp_min(1e-12).log() / temperature, -1)


@dataclass(frozen=True)
class _Answers:
    """Probabilities [n, C] as the model gives them and after calibration; agreement [n], NaN where not recorded."""

    own: Tensor
    calibrated: Tensor
    agreement: Array


def _lines(
    ids: tuple[str, ...], labels: Array, answer: _Answers, threshold: float, why_not: str
) -> list[list[str | float]]:
    if not len(ids):
        return []
    top, own = answer.calibrated.topk(2).values, answer.own.max(-1).values.tolist()
    confidence, margin = top[:, 0].tolist(), (top[:, 0] - top[:, 1]).tolist()
    lines = list[list[str | float]]()
    for k, (row, label) in enumerate(zip(ids, labels.tolist())):
        agreement = "" if np.isnan(answer.agreement[k]) else f"{answer.agreement[k]:.3f}"
        accepted, reason = "", why_not
        if threshold:
            accepted = "yes" if own[k] >= threshold else "no"
            reason = f"{own[k]:.4f} before calibration, threshold {threshold:g}"
        lines.append([row, str(label), f"{confidence[k]:.4f}", f"{margin[k]:.4f}", agreement, accepted, reason])
    return lines


def _rule(record: Record) -> tuple[float, str]:
    """Return the threshold of the run's method; or 0 and why no row is accepted or refused."""
    if record.results.get("chosen_by") == "guard":
        return 0.0, "the guard chose another model"  # the method's threshold says nothing about its answers
    return threshold_of(record), ""


def _agreement(record: Record, split: Split, index: Array, final: Tensor) -> Array:
    """Return [n] share of the snapshots in which a row had the class ``final`` [n]; NaN outside the sample."""
    share = np.full(len(index), np.nan)
    drawn = pool_sample(len(split.unlabeled), int(record.results["seed"])).numpy()
    looks = [
        row["pool"]["class"] for row in record.snapshots if len(row.get("pool", {}).get("class", ())) == len(drawn)
    ]
    if looks and len(drawn):
        place = {row: k for k, row in enumerate(split.unlabeled[drawn].tolist())}
        named = np.array(looks)  # [snapshots, sample]
        for k, row in enumerate(index.tolist()):
            if row in place:
                share[k] = (named[:, place[row]] == int(final[k])).mean()
    return share

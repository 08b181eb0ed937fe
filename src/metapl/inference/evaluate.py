"""Judge predictions. The rows of a test part are opened here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.images.scan import shown
from metapl.data.tables.columns import matching
from metapl.errors import UserError, nearest
from metapl.runs.model_folder import Predictor
from metapl.types import Source
from metapl.utils.chunks import rows_at_once

UNEVEN = 0.02  # from which difference on the balanced accuracy is worth a word
ROWS, VALUES = 4096, 2**25  # raw rows in memory at a time, and numbers in them: image sources keep as many


def probabilities(predictor: Predictor, source: Source, index: np.ndarray[Any, Any]) -> Tensor:
    """Return [n, C] probabilities of the rows at ``index``."""
    step = rows_at_once(predictor.takes.shape, ROWS, VALUES)
    fit = matching(source.columns, predictor.takes.columns, source.name)
    parts = [predictor.probabilities(fit(source.rows(index[i : i + step]))) for i in range(0, len(index), step)]
    return torch.cat(parts) if parts else torch.zeros(0, len(predictor.class_names))


@dataclass(frozen=True)
class Judged:
    """What a model answers about labelled rows.

    Attributes:
        index: [n] the rows' numbers in the source; rows that cannot be read are not among them.
        p: [n, C] probabilities.
        y: [n] int64 true classes, by the model's numbers.
    """

    index: np.ndarray[Any, Any]
    p: Tensor
    y: Tensor


def answers(predictor: Predictor, source: Source, index: np.ndarray[Any, Any]) -> Judged:
    """Return a model's answers on the labelled rows at ``index`` [n] int64; ``evaluate`` turns them into figures.

    Raises:
        UserError: a class that the model does not know, or rows that do not fit it.
    """
    number, step = model_class_numbers(predictor, source), rows_at_once(predictor.takes.shape, ROWS, VALUES)
    read, parts = [index[:0]], [probabilities(predictor, source, index[:0])]
    for start in range(0, len(index), step):  # predict each chunk while its rows are in memory
        read.append(source.readable(index[start : start + step]))
        parts.append(probabilities(predictor, source, read[-1]))
    rows = np.concatenate(read)
    return Judged(rows, torch.cat(parts), torch.from_numpy(number[source.labels[rows].astype(np.int64)]))


def evaluate(predictor: Predictor, source: Source, index: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Judge a model on the labelled rows at ``index`` [n] int64.

    The figures: accuracy with its 95 % interval and per class, confusion matrix, log loss, calibration error.

    Rows that cannot be read are left out and entered in ``source.problems``. Classes are matched by name.

    Raises:
        UserError: rows without a label, a class that the model does not know, or rows that do not fit it.
    """
    if without := int((np.asarray(source.labels)[index] < 0).sum()):
        raise UserError(f"{without} of the {len(index)} rows have no label", "Judge labelled rows alone.", source.name)
    judged = answers(predictor, source, index)
    return judge(judged.p, judged.y, predictor.class_names)


def model_class_numbers(predictor: Predictor, source: Source) -> np.ndarray[Any, Any]:
    """Return the model's number of each class of ``source``, [classes] int64.

    Raises:
        UserError: a class that the model does not know.
    """
    number = {name: k for k, name in enumerate(predictor.class_names)}
    for name in source.class_names:
        if name not in number:
            what = f"the model knows no class '{shown(name)}'"
            raise UserError(what, nearest(shown(name), map(shown, number)), source.name)
    return np.array([number[name] for name in source.class_names], dtype=np.int64)


def judge(p: Tensor, y: Tensor, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the figures of ``evaluate`` for probabilities p [n, C] and true classes y [n].

    Raises:
        UserError: a probability that is not a number, as from weights that have grown without bound.
    """
    count, C = len(y), len(class_names)
    if not count:
        return {"rows": 0}
    if not torch.isfinite(p).all():
        remedy = "The training diverged: lower optim.lr or set optim.clip=1."
        raise UserError("the network's answers are no longer finite", remedy)
    predicted = p.argmax(-1)
    confusion = torch.bincount(y * C + predicted, minlength=C * C).view(C, C)
    right = int((predicted == y).sum())
    per_class = {n: _share(confusion[k, k], confusion[k].sum()) for k, n in enumerate(class_names)}
    present = [v for v in per_class.values() if v is not None]
    low, high = wilson(right, count)
    return {
        "rows": count,
        "accuracy": right / count,
        "accuracy_low": low,
        "accuracy_high": high,
        "balanced_accuracy": sum(present) / len(present),
        "log_loss": float(-p[torch.arange(count), y].clamp_min(1e-12).log().mean()),
        "calibration_error": calibration_error(p, y),
        "per_class_accuracy": per_class,
        "confusion": confusion.tolist(),
    }


def best_of(figures: Mapping[str, tuple[float, float]]) -> str:
    """Return the name with the highest accuracy, then the lowest log loss, then the first; ``figures``: both, by
    name.
    """
    return min(figures, key=lambda name: (-figures[name][0], figures[name][1]))


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of the share ``right`` of ``count`` (Wilson 1927)."""
    share, square = right / count, z * z / count
    centre = (share + square / 2) / (1 + square)
    half = z * math.sqrt(share * (1 - share) / count + square / (4 * count)) / (1 + square)
    return max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half))  # rounding at 0 and 1


def calibration_error(p: Tensor, y: Tensor, bins: int = 15) -> float:
    """Return the expected calibration error of p [n, C] and classes y [n] (Guo et al. 2017).

    It is the mean of |confidence - accuracy| over bins of equal width, weighted by their rows.
    """
    confidence, predicted = p.max(-1)
    which = (confidence * bins).long().clamp(max=bins - 1)
    gap = torch.zeros(bins).index_add_(0, which, confidence - (predicted == y).float())
    return float(gap.abs().sum() / len(y))


def _share(part: Tensor, whole: Tensor) -> float | None:
    return int(part) / int(whole) if whole else None


def summary(result: Mapping[str, Any]) -> str:
    """Return one line for people; the mean over classes stands beside the accuracy where the two differ."""
    if not result["rows"]:
        return "no rows"
    low, high, balanced = (100 * result[f"{name}"] for name in ("accuracy_low", "accuracy_high", "balanced_accuracy"))
    text = f"{100 * result['accuracy']:.2f} % of {result['rows']} rows (95 % interval {low:.1f} to {high:.1f})"
    apart = abs(result["balanced_accuracy"] - result["accuracy"]) >= UNEVEN
    return f"{text}, {balanced:.2f} % as the mean over classes" if apart else text

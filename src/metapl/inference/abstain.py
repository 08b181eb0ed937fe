"""From which probability a model's answers are right often enough: a threshold for a target precision.

T1  precision(k) = (right_k + 1/2) / (k + 1) among the k surest validation rows; the threshold is the probability of the
    last row of the largest k for which this is at least the target. Ties stand together.

The half row on both sides keeps a few lucky rows from promising too much (Jeffreys' prior).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from metapl.errors import UserError
from metapl.inference.evaluate import wilson
from metapl.runs.model_folder import Predictor, ValidationAnswers


@dataclass(frozen=True)
class AbstainThreshold:
    """A threshold, and what validation rows say about it.

    Attributes:
        value: the lowest probability that is answered.
        answered, right: validation rows at or above it, and those of them that are right.
        rows: validation rows in all.
    """

    value: float
    answered: int
    right: int
    rows: int

    def __str__(self) -> str:
        low, high = wilson(self.right, self.answered)
        return (
            f"answers from a probability of {self.value:.4f} on: of {self.rows} validation rows {self.answered} "
            f"({100 * self.answered / self.rows:.0f} %) are answered and {self.right} of these right "
            f"({100 * self.right / self.answered:.1f} %, 95 % interval {100 * low:.0f} to {100 * high:.0f})"
        )


def threshold_for(predictor: Predictor, precision: float, where: str = "--precision") -> AbstainThreshold:
    """Return the lowest threshold whose answers are right as often as ``precision`` asks for (T1).

    It is chosen by the answers for validation rows that are stored with the model.

    Raises:
        UserError: no such rows, or no threshold is known to reach the target.
    """
    if not 0 < precision < 1:
        raise UserError(f"the target precision is {precision:g}", "Give a share between 0 and 1, such as 0.95.", where)
    if predictor.validation is None:
        remedy = "Train with --validation N, or give --abstain-below P."
        raise UserError("no answers for validation rows are stored with this model", remedy, where)
    found, best = _threshold(predictor.validation, precision)
    if found is None:
        what = f"no threshold is known to reach {100 * precision:g} %: {len(predictor.validation.y)} validation rows"
        remedy = "Ask for less, or label more rows (validation rows among them)."
        raise UserError(f"{what} vouch for {100 * best:.1f} % at most", remedy, where)
    return found


def _threshold(answers: ValidationAnswers, precision: float) -> tuple[AbstainThreshold | None, float]:
    """Return the threshold, or None, and the best precision that any threshold reaches."""
    confidence, named = answers.p.max(-1)
    order = confidence.argsort(descending=True, stable=True)
    confidence, right = confidence[order], (named == answers.y)[order].double().cumsum(0)
    count = torch.arange(1, len(right) + 1)
    last = torch.cat([confidence[1:] < confidence[:-1], torch.tensor([True])])  # of rows with this probability
    reached = ((right + 0.5) / (count + 1)).masked_fill(~last, 0.0)
    good = torch.nonzero(reached >= precision).flatten()
    if not len(good):
        return None, float(reached.max())
    k = int(good[-1])
    return AbstainThreshold(float(confidence[k]), k + 1, int(right[k]), len(right)), float(reached.max())

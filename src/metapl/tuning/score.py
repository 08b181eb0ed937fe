"""Score settings on the held-out rows, and decide whether a difference is more than noise.

For a setting s and the default d, both judged on the same folds with the same seeds:

T1  accuracy(s) = share of all held-out rows that are right; log loss breaks ties
T2  difference  = accuracy(s) - accuracy(d)
T3  its standard error is the larger of two: over the K folds, sd(difference in fold k) / sqrt(K), which
    includes the randomness of a training but is coarse for few folds; and over the n rows,
    sd(right_s[i] - right_d[i]) / sqrt(n)
T4  the best of m settings is taken if its difference exceeds z standard errors, z = max(1, Q((m - 3/8) / (m + 1/4))):
    the one-standard-error rule in favour of the default, and not below what the largest of m differences of pure
    noise comes to on average (Q is the normal quantile; Blom's approximation)
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from metapl.tuning.material import FoldAnswer
from metapl.tuning.search import Rank
from metapl.tuning.space import Changes


@dataclass(frozen=True)
class Score:
    """The cross-validation of one setting.

    Attributes:
        setting: the settings that differ from the run's own; empty for the default.
        steps: of each training.
        network: which of the method's candidates is judged.
        right: per fold, whether each held-out row is right.
        log_losses: per fold, the mean over its held-out rows.
        seconds: of all its trainings together.
        error: why the training failed; the figures are then empty.
    """

    setting: Changes
    steps: int
    network: str
    right: tuple[tuple[bool, ...], ...]
    log_losses: tuple[float, ...]
    seconds: float
    error: str = ""

    @property
    def rows(self) -> int:
        """Return the number of held-out rows in all folds."""
        return sum(map(len, self.right))

    @property
    def accuracy(self) -> float:
        """Return the share of held-out rows that are right (T1)."""
        return sum(map(sum, self.right)) / self.rows if self.right else math.nan

    @property
    def log_loss(self) -> float:
        """Return the mean over all held-out rows."""
        total = sum(len(fold) * loss for fold, loss in zip(self.right, self.log_losses))
        return total / self.rows if self.right else math.nan

    @property
    def fold_accuracy(self) -> tuple[float, ...]:
        """Return the accuracy in each fold."""
        return tuple(sum(fold) / len(fold) for fold in self.right)

    @property
    def spread(self) -> float:
        """Return the standard error of the accuracy over folds, without pairing."""
        return statistics.stdev(self.fold_accuracy) / math.sqrt(len(self.right)) if self.right else math.nan

    @property
    def rank(self) -> Rank:
        """Return a key by which better settings sort higher."""
        return (-math.inf, -math.inf) if self.error else (self.accuracy, -self.log_loss)


def make_score(setting: Changes, steps: int, answers: Sequence[FoldAnswer], seconds: float, choose: bool) -> Score:
    """Return the score of a setting from the answers of its folds.

    Args:
        choose: judge the candidate network that is best over all folds, as ``train`` chooses on validation rows;
            otherwise the method's preferred one.
    """
    errors = [answer["error"] for answer in answers if "error" in answer]
    if errors:
        return Score(setting, steps, "", (), (), seconds, errors[0])
    scores = [_of_network(name, setting, steps, answers, seconds) for name in answers[0]["right"]]
    return max(scores, key=lambda score: score.rank) if choose else scores[0]


def _of_network(name: str, setting: Changes, steps: int, answers: Sequence[FoldAnswer], seconds: float) -> Score:
    right = tuple(tuple(bit == "1" for bit in answer["right"][name]) for answer in answers)
    return Score(setting, steps, name, right, tuple(answer["log_loss"][name] for answer in answers), seconds)


def paired_difference(score: Score, default: Score) -> tuple[float, float]:
    """Return the difference of two accuracies on the same rows (T2) and its standard error (T3)."""
    rows = [float(a) - float(b) for one, other in zip(score.right, default.right) for a, b in zip(one, other)]
    folds = [a - b for a, b in zip(score.fold_accuracy, default.fold_accuracy)]
    errors = [statistics.stdev(v) / math.sqrt(len(v)) for v in (rows, folds) if len(v) > 1]
    return sum(rows) / len(rows), max(errors, default=math.inf)


def needed(count: int) -> float:
    """Return z for the best of ``count`` settings beside the default (T4)."""
    return max(1.0, statistics.NormalDist().inv_cdf((count - 0.375) / (count + 0.25))) if count else 1.0


@dataclass(frozen=True)
class Choice:
    """The chosen setting, and the figures behind the choice.

    Attributes:
        best: highest accuracy, then lowest log loss.
        chosen: ``best``, or the default if the difference is within noise.
        difference, standard_error: of ``best`` against the default (T2, T3); None without a default to compare with.
        needed: the number of standard errors that the difference had to exceed (T4).
    """

    best: Score
    chosen: Score
    difference: float | None
    standard_error: float | None
    needed: float


def ranked(scores: Sequence[Score]) -> list[Score]:
    """Return the scores, best first; the default stands before its equals, failures last."""
    return sorted(scores, key=lambda s: (s.rank, not s.setting), reverse=True)


def decide(scores: Sequence[Score]) -> Choice | None:
    """Choose a setting by T4; None if every setting failed."""
    sound = [score for score in ranked(scores) if not score.error]
    if not sound:
        return None
    best, default = sound[0], next((s for s in sound if not s.setting), None)
    z = needed(len(sound) - 1)
    if default is None:
        return Choice(best, best, None, None, z)
    difference, error = paired_difference(best, default)
    beyond = difference > z * error * (1 + 1e-9)  # one row more is exactly one standard error: not beyond it
    return Choice(best, best if beyond else default, difference, error, z)


def entry(score: Score, scores: Sequence[Score]) -> dict[str, Any]:
    """Return one setting as plain JSON values; ``scores`` hold the default to compare with."""
    head = {"setting": score.setting, "default": not score.setting, "steps": score.steps}
    if score.error:
        return {**head, "error": score.error}
    default = next((s for s in scores if not s.setting and not s.error), None)
    difference, error = paired_difference(score, default) if default else (None, None)
    return {
        **head,
        "accuracy": score.accuracy,
        "log_loss": score.log_loss,
        "network": score.network,
        "rows": score.rows,
        "fold_accuracy": list(score.fold_accuracy),
        "difference": difference,
        "standard_error": error,
    }

"""What the held-out rows say: against plain formulas, and the rule that keeps the default."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from metapl.tuning.score import Score, decide, make_score, needed, paired_difference, ranked


def score_of(text: str, setting: dict[str, Any] | None = None, log_loss: float = 1.0) -> Score:
    """``"101 11"``: two folds of three and two rows."""
    right = tuple(tuple(c == "1" for c in fold) for fold in text.split())
    return Score(setting or {}, 10, "ema", right, (log_loss,) * len(right), 1.0)


def test_accuracy_and_spread() -> None:
    score = score_of("1110 110 000")
    assert score.accuracy == 0.5
    assert score.rows == 10
    assert score.fold_accuracy == (0.75, 2 / 3, 0.0)
    assert score.spread == pytest.approx(np.std([0.75, 2 / 3, 0.0], ddof=1) / math.sqrt(3))


def test_log_loss_is_over_rows_not_folds() -> None:
    answers = [
        {"right": {"a": "111"}, "log_loss": {"a": 1.0}},
        {"right": {"a": "1"}, "log_loss": {"a": 5.0}},
    ]
    assert make_score({}, 10, answers, 0.0, True).log_loss == 2.0


def test_the_network_is_chosen_over_all_folds_or_not_at_all() -> None:
    answers = [
        {"right": {"ema": "100", "tuned": "011"}, "log_loss": {"ema": 1.0, "tuned": 1.0}},
        {"right": {"ema": "110", "tuned": "110"}, "log_loss": {"ema": 1.0, "tuned": 1.0}},
    ]
    chosen, preferred = (make_score({}, 10, answers, 0.0, choose) for choose in (True, False))
    assert (chosen.network, chosen.accuracy) == ("tuned", 4 / 6)
    assert (preferred.network, preferred.accuracy) == ("ema", 3 / 6)
    failed = make_score({}, 10, [answers[0], {"error": "diverged"}], 0.0, True)
    assert failed.error == "diverged"
    assert failed.rank < chosen.rank


def test_the_standard_error_is_the_larger_of_folds_and_rows() -> None:
    # One more right in each fold: the folds agree wholly, the rows do not.
    a, b = score_of("1110 1110"), score_of("1100 1100")
    difference, error = paired_difference(a, b)
    assert difference == 0.25
    assert error == pytest.approx(np.std([0, 0, 1, 0] * 2, ddof=1) / math.sqrt(8))
    # All the gain in one fold: now the folds are the noisier ones.
    a, b = score_of("1111 0000"), score_of("0000 0000")
    assert paired_difference(a, b)[1] == pytest.approx(np.std([1, 0], ddof=1) / math.sqrt(2))
    assert paired_difference(b, a)[0] == -0.5
    assert paired_difference(a, a) == (0.0, 0.0)


def test_the_bar_rises_with_the_number_tried() -> None:
    assert needed(0) == needed(1) == needed(3) == 1.0
    draws = np.random.default_rng(0).standard_normal((20_000, 50))
    for count in (5, 10, 20, 50):
        assert needed(count) == pytest.approx(max(1.0, draws[:, :count].max(1).mean()), abs=0.03)


def test_within_noise_the_default_stays() -> None:
    default = score_of("1100 1100 1100 1100 1100")
    lucky = score_of("1110 1100 1100 1100 1100", {"optim.lr": 0.1})
    verdict = decide([lucky, default])
    assert verdict is not None
    assert (verdict.best, verdict.chosen) == (lucky, default)
    better = score_of("1110 1110 1110 1110 1110", {"optim.lr": 0.1})
    verdict = decide([default, better])
    assert verdict is not None
    assert verdict.chosen is better
    assert verdict.difference == 0.25
    # The same gain is not enough for the best of very many.
    slight = score_of("1110 1110 1100 1100 1100", {"optim.lr": 0.1})
    others = [score_of("1100 1100 1100 1100 1100", {"optim.lr": k}, 2.0) for k in range(2, 60)]
    few, many = decide([default, slight]), decide([default, slight, *others])
    assert few is not None
    assert many is not None
    assert few.chosen is few.best is many.best is slight
    assert many.chosen is default


def test_order_ties_and_failures() -> None:
    default, same = score_of("110 011"), score_of("110 110", {"optim.lr": 1})
    calmer = score_of("110 110", {"optim.lr": 2}, 0.5)
    failed = Score({"optim.lr": 9}, 10, "", (), (), 1.0, "diverged")
    assert ranked([failed, same, default, calmer]) == [calmer, default, same, failed]
    bad = Score({}, 10, "", (), (), 1.0, "diverged")
    verdict = decide([bad, same])
    assert verdict is not None
    assert verdict.chosen is same
    assert verdict.difference is None
    assert decide([bad, failed]) is None

"""Accuracy, interval, calibration, confusion, against naive counts."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.inference.evaluate import calibration_error, evaluate, judge, probabilities, summary, wilson
from metapl.runs.model_folder import Predictor

NAMES = ("a", "b", "c", "d")


def draw(n: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(n)
    p = torch.softmax(2 * torch.randn(n, classes, generator=generator), -1)
    return p, torch.randint(classes, (n,), generator=generator)


def test_figures_against_a_naive_loop() -> None:
    p, y = draw(57)
    got = judge(p, y, NAMES)
    confusion = [[0] * 4 for _ in range(4)]
    loss = 0.0
    for row, label in zip(p.tolist(), y.tolist()):
        confusion[label][row.index(max(row))] += 1
        loss -= math.log(row[label]) / 57
    assert got["rows"] == 57
    assert got["confusion"] == confusion
    assert got["accuracy"] == sum(confusion[k][k] for k in range(4)) / 57
    per_class = [confusion[k][k] / sum(confusion[k]) for k in range(4)]
    assert list(got["per_class_accuracy"].values()) == per_class
    assert got["balanced_accuracy"] == pytest.approx(sum(per_class) / 4, rel=1e-12)
    assert got["log_loss"] == pytest.approx(loss, rel=1e-5)
    assert (got["accuracy_low"], got["accuracy_high"]) == wilson(round(57 * got["accuracy"]), 57)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (940, 1000), (1, 10_000)])
def test_wilson_equals_scipy(right: int, count: int) -> None:
    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    low, high = wilson(right, count)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=2e-5)
    assert 0 <= low <= right / count <= high <= 1


@pytest.mark.parametrize("bins", [1, 5, 15])
def test_calibration_error_equals_a_naive_loop(bins: int) -> None:
    p, y = draw(203)
    total = 0.0
    for k in range(bins):
        rows = [
            (max(r), r.index(max(r)) == label)
            for r, label in zip(p.tolist(), y.tolist())
            if k == min(int(np.float32(max(r)) * np.float32(bins)), bins - 1)
        ]
        if rows:
            confidence = sum(c for c, _ in rows) / len(rows)
            accuracy = sum(good for _, good in rows) / len(rows)
            total += len(rows) / 203 * abs(confidence - accuracy)
    assert calibration_error(p, y, bins) == pytest.approx(total, abs=1e-5)


def test_calibration_error_of_known_cases() -> None:
    sure = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    assert calibration_error(sure, torch.tensor([0, 0, 0, 0])) == 0.0
    assert calibration_error(sure, torch.tensor([0, 0, 0, 1])) == pytest.approx(0.25)
    assert calibration_error(torch.full((4, 2), 0.5), torch.tensor([0, 1, 0, 1])) == pytest.approx(0.0)


def test_perfect_and_hopeless() -> None:
    y = torch.arange(8) % 4
    right = torch.nn.functional.one_hot(y, 4).float()
    got = judge(right, y, NAMES)
    assert got["accuracy"] == got["balanced_accuracy"] == got["accuracy_high"] == 1.0
    assert got["log_loss"] == pytest.approx(0.0)
    wrong = judge(right.roll(1, 1), y, NAMES)
    assert wrong["accuracy"] == wrong["accuracy_low"] == 0.0
    assert math.isfinite(wrong["log_loss"])


def test_a_class_without_rows_has_no_accuracy() -> None:
    p, _ = draw(6)
    got = judge(p, torch.tensor([0, 0, 1, 1, 1, 3]), NAMES)
    assert got["per_class_accuracy"]["c"] is None
    known = [v for v in got["per_class_accuracy"].values() if v is not None]
    assert got["balanced_accuracy"] == sum(known) / 3


def test_two_classes_and_one_row() -> None:
    got = judge(torch.tensor([[0.4, 0.6]]), torch.tensor([1]), ("no", "yes"))
    assert got["confusion"] == [[0, 0], [0, 1]]
    assert got["per_class_accuracy"] == {"no": None, "yes": 1.0}
    p, y = draw(31, 2)
    got = judge(p, y, ("no", "yes"))
    assert np.array(got["confusion"]).shape == (2, 2)
    assert np.array(got["confusion"]).sum() == 31


def test_empty() -> None:
    empty = judge(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), NAMES)
    assert empty == {"rows": 0}
    assert summary(empty) == "no rows"
    assert summary(judge(torch.tensor([[0.4, 0.6]]), torch.tensor([1]), ("n", "y"))).startswith("100.00 % of 1 rows")
    p = torch.tensor([[0.9, 0.1]] * 9 + [[0.9, 0.1]])
    uneven = summary(judge(p, torch.tensor([0] * 9 + [1]), ("n", "y")))
    assert uneven.startswith("90.00 % of 10 rows")
    assert uneven.endswith(", 50.00 % as the mean over classes")


class Parity(nn.Module):
    """Says class 1 where the mean of the (normalised) row is above zero."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1)
        return torch.stack([-mean, mean], 1)


def table(count: int) -> MemorySource:
    data = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).repeat(count, 1)[:count].contiguous()
    labels = np.arange(count) % 2
    labels[:3] = 1 - labels[:3]  # three mistakes
    return MemorySource("table", "table", data, labels, ("low", "high"))


def test_evaluate_reads_the_rows_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("metapl.inference.evaluate"), "ROWS", 7)  # many chunks
    source = table(40)
    model = Parity().train()
    predictor = Predictor(model, fit_preprocessing(source, np.arange(40)), source.class_names, torch.device("cpu"))
    assert evaluate(predictor, source, np.arange(40))["accuracy"] == 37 / 40
    assert evaluate(predictor, source, np.arange(3))["accuracy"] == 0
    assert evaluate(predictor, source, np.arange(3, 40))["accuracy"] == 1
    assert evaluate(predictor, source, np.zeros(0, dtype=np.int64)) == {"rows": 0}
    assert model.training, "the mode is put back"
    p = probabilities(predictor, source, np.arange(15))
    assert p.shape == (15, 2)
    torch.testing.assert_close(p.sum(1), torch.ones(15))
    assert torch.equal(p[8], probabilities(predictor, source, np.array([8]))[0])


def test_rows_without_a_label_are_not_judged() -> None:
    source = table(40)
    predictor = Predictor(Parity(), fit_preprocessing(source, np.arange(40)), source.class_names, torch.device("cpu"))
    source.labels[5] = -1
    with pytest.raises(UserError, match="1 of the 40 rows have no label"):
        evaluate(predictor, source, np.arange(40))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_answers_that_are_no_numbers_are_told(bad: float) -> None:
    p = torch.tensor([[0.5, 0.5], [bad, 0.5]])
    with pytest.raises(UserError, match="no longer finite"):
        judge(p, torch.tensor([0, 1]), ("a", "b"))

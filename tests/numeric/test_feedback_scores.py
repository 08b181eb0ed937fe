"""The score of a row (F1 in ``methods/parts.py``) against the derivative written out by hand, row by row."""

from __future__ import annotations

import pytest
import torch

from metapl.feedback import exact_loss, official_loss, sampled_loss
from metapl.methods.parts import FeedbackScores

B, C, N = 6, 4, 9


def test_scores_equal_the_derivative_by_hand() -> None:
    g = torch.Generator().manual_seed(0)
    scores, expected = FeedbackScores(N), dict[int, list[float]]()
    for index in (torch.arange(B), torch.tensor([1, 4, 7, 4, 5, 0])):  # a row may come twice
        z = torch.randn(B, C, generator=g, dtype=torch.float64, requires_grad=True)
        r = torch.randn(B, C, generator=g, dtype=torch.float64)
        feedback = exact_loss(torch.softmax(z, -1), r)
        scores.add(feedback, z, index)
        feedback.backward()  # the graph is still there
        assert z.grad is not None
        for i, row in enumerate(index.tolist()):
            p = torch.softmax(z.detach()[i], -1)
            c = int(p.argmax())
            mean = sum(float(p[k] * r[i, k]) for k in range(C))
            expected.setdefault(row, []).append(float(p[c]) * (mean - float(r[i, c])))
    found = scores.mean().tolist()
    for row in range(N):
        values = expected.get(row)
        assert found[row] == pytest.approx(sum(values) / len(values), abs=1e-12) if values else found[row] != found[row]


def test_scores_of_sampled_feedback() -> None:
    """The gain speaks for the label that was drawn, and against the class named where another one was drawn."""
    z = torch.tensor([[2.0, 0.0, 0.0], [2.0, 0.0, 0.0]], requires_grad=True)
    scores, gain, p = FeedbackScores(2), torch.tensor(0.5), torch.softmax(torch.tensor([2.0, 0.0, 0.0]), 0)
    scores.add(sampled_loss(z, torch.tensor([0, 1]), gain), z, torch.arange(2))
    assert scores.mean().tolist() == pytest.approx([0.5 * (1 - float(p[0])), -0.5 * float(p[0])])


def test_the_control_without_a_gradient_scores_nothing() -> None:
    z = torch.randn(5, 3, requires_grad=True)
    scores = FeedbackScores(5)
    scores.add(official_loss(z, torch.tensor(2.0)), z, torch.arange(5))
    assert scores.mean().abs().max() < 1e-6


def test_states_without_scores_change_nothing() -> None:
    scores = FeedbackScores(2)
    scores.load_state_dict({"total": torch.tensor([3.0, 0.0]), "count": torch.tensor([2.0, 0.0])})
    scores.load_state_dict({})
    assert scores.mean()[0] == 1.5
    assert torch.isnan(scores.mean()[1])

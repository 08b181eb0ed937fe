"""The one-sided difference of E4: close to the forward-mode derivative, and it repeats the student's own forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metapl import feedback as fb

DROPPED = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 4))
KINKED = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def _setting(network: nn.Module, dtype: torch.dtype) -> tuple[fb.Before, torch.Tensor, fb.Tensors, torch.Tensor]:
    """Snapshot, rows, a direction, and the logits of the student's own forward."""
    torch.manual_seed(0)
    network.to(dtype).train()
    x = torch.randn(40, 6, dtype=dtype)
    before = fb.snapshot(network)
    output = network(x)
    torch.randn(3)  # the random state moves on before the derivative is taken
    return before, x, {n: torch.randn_like(p) for n, p in network.named_parameters()}, output


def test_smooth_network_with_dropout_float64() -> None:
    before, x, direction, output = _setting(DROPPED, torch.float64)
    exact = fb.log_prob_derivative(DROPPED, before, x, direction, "forward")
    close = fb.log_prob_derivative(DROPPED, before, x, direction, "one_sided", output)
    assert float((close - exact).norm() / exact.norm()) < 1e-4
    assert torch.equal(close, fb.log_prob_derivative(DROPPED, before, x, direction, "one_sided"))


def test_kinked_network_float32() -> None:
    before, x, direction, output = _setting(KINKED, torch.float32)
    exact = fb.log_prob_derivative(KINKED, before, x, direction, "forward")
    close = fb.log_prob_derivative(KINKED, before, x, direction, "one_sided", output)
    assert float(F.cosine_similarity(close.flatten(), exact.flatten(), dim=0)) > 0.999


@pytest.mark.parametrize("output", [True, False])
def test_zero_direction(output: bool) -> None:
    before, x, direction, logits = _setting(KINKED, torch.float32)
    nothing = {n: torch.zeros_like(v) for n, v in direction.items()}
    r = fb.log_prob_derivative(KINKED, before, x, nothing, "one_sided", logits if output else None)
    assert torch.equal(r, torch.zeros_like(r))

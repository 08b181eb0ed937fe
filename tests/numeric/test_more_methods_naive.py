"""Whole training steps of the later methods against a second implementation that shares no code with the first.

The hand-written net, its player and the comparison are those of ``test_methods_naive``; everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_methods_naive import B_L, OPTIM, RUN, STEPS, Player, batch, ce, compare, forward, gradient, log_p, net
from torch import Tensor

from metapl.methods import METHODS
from metapl.types import Context, SemiBatch

C = 3
Report = dict[str, float]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(name: str, settings: dict[str, Any], **context: Any) -> tuple[Any, Any]:
    torch.manual_seed(7)
    config = METHODS[name].Config(**settings)
    return METHODS[name](config, Context(net, C, OPTIM, STEPS, **context)), config


def player_of(learner: Any, **how: Any) -> Player:
    return Player({n: p.detach().clone() for n, p in learner.model.named_parameters()}, OPTIM.lr, **how)


def judged(w: dict[str, Tensor], stats: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits in eval mode: BatchNorm by the stored statistics."""
    h = x @ w["0.weight"].T + w["0.bias"]
    h = (h - stats["mean"]) / torch.sqrt(stats["var"] + 1e-5) * w["1.weight"] + w["1.bias"]
    return torch.tanh(h) @ w["3.weight"].T + w["3.bias"]


def same(report: Any, expected: Report) -> None:
    for key, value in expected.items():
        assert report[key].item() == pytest.approx(value, rel=1e-9, abs=1e-12), key


# ---- mean_teacher ----------------------------------------------------------------------------------------------


def mean_teacher_step(player: Player, c: Any, b: SemiBatch, t: int) -> Report:
    assert b.u_weak is not None
    assert b.u_strong is not None
    mine, other = (b.u_strong, b.u_weak) if c.student_view == "strong" else (b.u_weak, b.u_strong)
    if c.teacher_mode == "eval":
        told = judged(player.average, player.average_stats, other)
    else:
        told = forward(player.average, other)[0]
    q = torch.exp(log_p(told))
    w = player.leaf()
    z = player.see(torch.cat([b.x_l, mine]))
    p = torch.exp(log_p(z[B_L:]))
    term = torch.zeros(())
    for i in range(len(p)):
        for k in range(C):
            if c.consistency == "mse":
                term = term + (p[i, k] - q[i, k]) ** 2 / len(p)
            else:
                term = term + q[i, k] * (torch.log(q[i, k]) - torch.log(p[i, k])) / len(p)
    supervised = ce(z[:B_L], b.y_l, c.label_smoothing)
    x = min(1.0, t / round(c.ramp * STEPS)) if c.ramp else 1.0
    loss = supervised + c.weight * math.exp(-5 * (1 - x) ** 2) * term
    player.step(gradient(loss, w), t)
    return {"loss": loss.item(), "supervised": supervised.item(), "unlabeled": term.item()}


@pytest.mark.parametrize(
    "settings",
    [
        {"ramp": 0.4, "weight": 3.0},
        {"ramp": 0.0, "weight": 3.0, "student_view": "weak", "label_smoothing": 0.1, "teacher_mode": "eval"},
        {"ramp": 0.4, "weight": 2.0, "consistency": "kl"},
    ],
    ids=str,
)
def test_mean_teacher(settings: dict[str, Any]) -> None:
    method, config = make("mean_teacher", settings)
    player = player_of(method.net)
    for t in range(RUN):
        report = method.step(batch(t), t).values
        same(report, mean_teacher_step(player, config, batch(t), t))
        compare(player, method.net)
    assert method.eval_model() is method.net.ema.model

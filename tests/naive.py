"""A network, its optimiser and its averages written out by hand, for tests that compare whole training steps.

It shares no code with the package; everything is plain tensors and loops. The tests run it in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from metapl.optim import OptimConfig
from metapl.types import SemiBatch

C, FEATURES, UNITS, B_L, B_U, STEPS, RUN = 3, 5, 7, 4, 6, 9, 5
Tensors = dict[str, Tensor]
OPTIM = OptimConfig(lr=0.3, momentum=0.8, weight_decay=0.02, warmup=2, ema=0.6)
LAYERS = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
TOLERANCE = 1e-10


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, UNITS), nn.BatchNorm1d(UNITS), nn.Tanh(), nn.Linear(UNITS, C))


def batch(t: int) -> SemiBatch:
    g = torch.Generator().manual_seed(100 + t)
    x_l, weak, noise = (torch.randn(n, FEATURES, generator=g) for n in (B_L, B_U, B_U))
    y = torch.randint(C, (B_L,), generator=g)
    return SemiBatch(x_l, y, 2 * weak, 2 * weak + 0.3 * noise, torch.arange(B_U))


def forward(w: Tensors, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and the mean and unbiased variance that BatchNorm saw."""
    h = x @ w["0.weight"].T + w["0.bias"]
    n = len(h)
    mean = h.sum(0) / n
    variance = ((h - mean) ** 2).sum(0) / n
    h = (h - mean) / torch.sqrt(variance + 1e-5) * w["1.weight"] + w["1.bias"]
    return torch.tanh(h) @ w["3.weight"].T + w["3.bias"], mean.detach(), (variance * n / (n - 1)).detach()


def judged(w: dict[str, Tensor], stats: dict[str, Tensor], x: Tensor) -> Tensor:
    """Logits in eval mode: BatchNorm by the stored statistics."""
    h = x @ w["0.weight"].T + w["0.bias"]
    h = (h - stats["mean"]) / torch.sqrt(stats["var"] + 1e-5) * w["1.weight"] + w["1.bias"]
    return torch.tanh(h) @ w["3.weight"].T + w["3.bias"]


def log_p(z: Tensor) -> Tensor:
    return z - torch.log(torch.exp(z).sum(1, keepdim=True))


def ce(z: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    total = torch.zeros(())
    for row, label in zip(log_p(z), y.tolist()):
        for c in range(C):
            total = total - ((1 - smoothing) * (c == label) + smoothing / C) * row[c]
    return total / len(z)


def soft_ce(z: Tensor, q: Tensor) -> Tensor:
    return -(q * log_p(z)).sum() / len(z)


@dataclass
class Player:
    """One network as plain tensors: weights, velocity, BatchNorm's statistics, and the averages of weights and those.

    A player that ``measures`` has statistics of its own beside the averaged weights instead of averaged ones.
    """

    w: Tensors
    lr: float
    measures: bool = False
    velocity: Tensors = field(default_factory=dict)
    stats: Tensors = field(default_factory=dict)
    average: Tensors = field(default_factory=dict)
    average_stats: Tensors = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.velocity = {n: torch.zeros_like(v) for n, v in self.w.items()}
        self.stats = {"mean": torch.zeros(UNITS), "var": torch.ones(UNITS)}
        self.average, self.average_stats = dict(self.w), dict(self.stats)

    def leaf(self) -> Tensors:
        self.w = {n: v.detach().clone().requires_grad_() for n, v in self.w.items()}
        return self.w

    def see(self, x: Tensor) -> Tensor:
        """A training forward: the statistics move by a tenth."""
        z, mean, variance = forward(self.w, x)
        self.stats = {"mean": 0.9 * self.stats["mean"] + 0.1 * mean, "var": 0.9 * self.stats["var"] + 0.1 * variance}
        return z

    def measure(self, x: Tensor) -> None:
        _, mean, variance = forward(self.average, x)
        old = self.average_stats
        self.average_stats = {"mean": 0.9 * old["mean"] + 0.1 * mean, "var": 0.9 * old["var"] + 0.1 * variance}

    def rate(self, t: int) -> float:
        if t < OPTIM.warmup:
            return self.lr * (t + 1) / (OPTIM.warmup + 1)
        return self.lr / 2 * (1 + math.cos(math.pi * (t - OPTIM.warmup) / (STEPS - OPTIM.warmup)))

    def moved(self, grads: Tensors, t: int) -> Tensors:
        """The weights after heavy-ball momentum with coupled decay on matrices alone; differentiable."""
        out = {}
        for n, v in self.w.items():
            decay = OPTIM.weight_decay if n.endswith("weight") and not n.startswith("1") else 0.0
            out[n] = v - self.rate(t) * (OPTIM.momentum * self.velocity[n] + grads[n] + decay * v)
        return out

    def step(self, grads: Tensors, t: int) -> None:
        new = {n: v.detach() for n, v in self.moved(grads, t).items()}
        self.velocity = {n: (self.w[n].detach() - new[n]) / self.rate(t) for n in new}
        self.w = new
        d = min(OPTIM.ema, (t + 1) / (t + 10))
        self.average = {n: d * self.average[n] + (1 - d) * new[n] for n in new}
        if not self.measures:
            self.average_stats = {n: d * v + (1 - d) * self.stats[n] for n, v in self.average_stats.items()}


def gradient(loss: Tensor, w: Tensors, **how: Any) -> Tensors:
    return dict(zip(w, torch.autograd.grad(loss, list(w.values()), **how)))


def rise(t: int, share: float) -> float:
    length = round(share * STEPS)
    return 1.0 if length == 0 else min(1.0, t / length)


def kept(z: Tensor, threshold: float) -> list[int]:
    p = torch.exp(log_p(z.detach()))
    return [i for i in range(len(z)) if p[i].max() >= threshold]


def uda_term(z_weak: Tensor, z_strong: Tensor, threshold: float, temperature: float) -> Tensor:
    total = torch.zeros(())
    for i in kept(z_weak, threshold):
        q = torch.exp(log_p(z_weak[i : i + 1].detach() / temperature))
        total = total + soft_ce(z_strong[i : i + 1], q)
    return total / len(z_weak)


def hard_term(z_weak: Tensor, z_learn: Tensor, threshold: float) -> Tensor:
    total = torch.zeros(())
    for i in kept(z_weak, threshold):
        total = total - log_p(z_learn[i : i + 1])[0, int(z_weak[i].argmax())]
    return total / len(z_weak)


def compare(player: Player, learner: Any) -> None:
    for weights, stats, model in (
        (player.w, player.stats, learner.model),
        (player.average, player.average_stats, learner.ema.model),
    ):
        state = model.state_dict()
        for n in LAYERS:
            assert (state[n] - weights[n]).abs().max() < TOLERANCE, n
        assert (state["1.running_mean"] - stats["mean"]).abs().max() < TOLERANCE
        assert (state["1.running_var"] - stats["var"]).abs().max() < TOLERANCE


def player_of(learner: Any, lr: float = OPTIM.lr, measures: bool = False) -> Player:
    return Player({n: p.detach().clone() for n, p in learner.model.named_parameters()}, lr, measures)

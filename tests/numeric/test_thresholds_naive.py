"""Methods with moving thresholds against loops over plain numbers, in float64, step by step.

The network, its optimiser and its averages are the hand-written ones of ``test_methods_naive``; the rules here are
written from the papers, row by row and class by class, and share no code with ``metapl.thresholds``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_methods_naive import _float64  # noqa: F401 (a fixture that every test here uses)
from torch import Tensor

from metapl.methods import METHODS
from metapl.types import Context, SemiBatch
from naive import (
    B_L,
    B_U,
    OPTIM,
    STEPS,
    C,
    batch,
    ce,
    compare,
    gradient,
    log_p,
    net,
    player_of,
    rise,
    soft_ce,
)

POOL, RUN = 8, 9  # a small pool, so that its rows come again
Rows = list[list[float]]
Rule = Callable[[Rows, list[int]], list[float]]


def semi(t: int) -> SemiBatch:
    """The batch of ``test_methods_naive`` with rows of the pool that repeat, from step to step and within one."""
    g = torch.Generator().manual_seed(500 + t)
    return replace(batch(t), u_index=torch.randint(POOL, (B_U,), generator=g))


def top(row: list[float]) -> int:
    return max(range(C), key=lambda c: row[c])


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


class Flex:
    """Zhang et al. 2021: what was remembered before the batch judges it; then the batch is remembered."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.memory: dict[int, int] = {}

    def __call__(self, p: Rows, index: list[int]) -> list[float]:
        learnt = [sum(1 for label in self.memory.values() if label == c) for c in range(C)]
        unused = POOL - sum(learnt)
        weights = []
        for row in p:
            beta = learnt[top(row)] / max(*learnt, unused)
            weights.append(1.0 if max(row) > beta / (2 - beta) * self.threshold else 0.0)
        for row, i in zip(p, index):
            if max(row) > self.threshold:
                self.memory[i] = top(row)
        return weights


class Free:
    """Wang et al. 2023, self-adaptive thresholds, and the histogram that the fairness loss wants."""

    def __init__(self, decay: float) -> None:
        self.decay, self.tau = decay, 1 / C
        self.mean_p, self.shares = [1 / C] * C, [1 / C] * C

    def __call__(self, p: Rows, index: list[int]) -> list[float]:
        d = self.decay
        self.tau = d * self.tau + (1 - d) * mean([max(row) for row in p])
        for c in range(C):
            self.mean_p[c] = d * self.mean_p[c] + (1 - d) * mean([row[c] for row in p])
            self.shares[c] = d * self.shares[c] + (1 - d) * mean([float(top(row) == c) for row in p])
        local = [self.mean_p[c] / max(self.mean_p) * self.tau for c in range(C)]
        return [1.0 if max(row) > local[top(row)] else 0.0 for row in p]

    def unfair(self, z_strong: Tensor, w: list[float]) -> Tensor:
        taken = [i for i in range(B_U) if w[i]]
        Q = torch.exp(log_p(z_strong))
        found: dict[int, Tensor] = {}
        for c in range(C):
            count = sum(1 for i in taken if int(Q[i].argmax()) == c)
            if count:
                found[c] = sum((Q[i, c] for i in taken), torch.zeros(())) / count
        total = sum(found.values(), torch.zeros(()))
        target = [self.mean_p[c] / self.shares[c] for c in range(C)]
        terms = [target[c] / sum(target) * torch.log(value / total) for c, value in found.items()]
        return sum(terms, torch.zeros(()))


class Gauss:
    """Chen et al. 2023: truncated Gaussian and uniform alignment."""

    def __init__(self, decay: float, n_sigma: float = 2.0, align: bool = True) -> None:
        self.decay, self.n_sigma, self.align = decay, n_sigma, align
        self.mu, self.variance = 1 / C, 1.0
        self.mean_p: list[float] | None = None

    def __call__(self, p: Rows, index: list[int]) -> list[float]:
        d = self.decay
        if self.align:
            now = [mean([row[c] for row in p]) for c in range(C)]
            self.mean_p = [d * a + (1 - d) * b for a, b in zip(self.mean_p, now)] if self.mean_p else now
            p = [[row[c] * (1 / C) / self.mean_p[c] for c in range(C)] for row in p]
            p = [[v / sum(row) for v in row] for row in p]
        q = [max(row) for row in p]
        spread = sum((v - mean(q)) ** 2 for v in q) / (len(q) - 1)
        self.mu = d * self.mu + (1 - d) * mean(q)
        self.variance = d * self.variance + (1 - d) * spread
        sigma = 2 * math.sqrt(self.variance) / self.n_sigma  # n_sigma 2: two sigmas where one would stand
        return [1.0 if v >= self.mu else math.exp(-((v - self.mu) ** 2) / (2 * (sigma / 2) ** 2)) for v in q]


def fixed(threshold: float) -> Rule:
    return lambda p, index: [1.0 if max(row) >= threshold else 0.0 for row in p]


def surest(target: float, T: float = 1.0) -> Rule:
    """The surest rows, as many as keep their mean calibrated confidence at the target."""

    def rule(p: Rows, index: list[int]) -> list[float]:
        q = [max(row) ** (1 / T) / sum(v ** (1 / T) for v in row) for row in p]
        order, weights, total = sorted(range(len(q)), key=lambda i: -q[i]), [0.0] * len(q), 0.0
        for count, i in enumerate(order, 1):
            total += q[i]
            if total / count < target:
                break
            weights[i] = 1.0
        return weights

    return rule


CASES: list[tuple[str, dict[str, Any], Callable[[], Rule]]] = [
    ("flexmatch", {"threshold": 0.5, "weight": 0.7, "label_smoothing": 0.1}, lambda: Flex(0.5)),
    ("flexmatch", {"threshold": 0.85}, lambda: Flex(0.85)),
    ("freematch", {"decay": 0.8, "weight": 0.7, "fairness": 0.3, "label_smoothing": 0.1}, lambda: Free(0.8)),
    ("freematch", {}, lambda: Free(0.999)),
    ("freematch", {"decay": 0.5, "fairness": 0.0}, lambda: Free(0.5)),
    ("freematch", {"decay": 0.5, "weight": 0.0, "fairness": 1.0}, lambda: Free(0.5)),
    ("softmatch", {"decay": 0.8, "weight": 0.7, "label_smoothing": 0.1}, lambda: Gauss(0.8)),
    ("softmatch", {}, lambda: Gauss(0.999)),
    ("softmatch", {"decay": 0.6, "n_sigma": 1.0, "align": False}, lambda: Gauss(0.6, 1.0, False)),
    ("fixmatch", {"threshold": 0.6, "selection": "curriculum"}, lambda: Flex(0.6)),
    ("fixmatch", {"selection": "adaptive", "selection_decay": 0.7}, lambda: Free(0.7)),
    ("pseudo_label", {"selection": "soft", "selection_decay": 0.7, "ramp": 0.5}, lambda: Gauss(0.7, align=False)),
    ("uda", {"selection": "adaptive", "selection_decay": 0.7, "temperature": 0.5}, lambda: Free(0.7)),
    ("uda", {"threshold": 0.6}, lambda: fixed(0.6)),
    ("uda", {"threshold": "precision=0.6"}, lambda: surest(0.6)),
    ("fixmatch", {"threshold": "precision=0.7"}, lambda: surest(0.7)),
    ("pseudo_label", {"threshold": "precision=0.65"}, lambda: surest(0.65)),
]


@pytest.mark.parametrize(("name", "settings", "make_rule"), CASES, ids=lambda v: str(v) if not callable(v) else "")
def test_steps(name: str, settings: dict[str, Any], make_rule: Callable[[], Rule]) -> None:
    walk(name, settings, make_rule())


@pytest.mark.parametrize(("T", "target"), [(0.6, 0.8), (1.8, 0.55)])
def test_steps_with_a_fitted_temperature(T: float, target: float) -> None:
    walk("fixmatch", {"threshold": f"precision={target}"}, surest(target, T), T)


def walk(name: str, settings: dict[str, Any], rule: Rule, T: float | None = None) -> None:
    torch.manual_seed(7)
    config = METHODS[name].Config(**settings)
    method = METHODS[name](config, Context(net, C, OPTIM, STEPS, POOL))
    if T is not None:
        method.selection.load_state_dict({"temperature": torch.tensor(T)})
    player, seen = player_of(method.net), list[float]()
    for t in range(RUN):
        b, w = semi(t), player.leaf()
        views = (b.x_l, b.u_weak, b.u_strong if "strong" in method.needs else None)
        z = player.see(torch.cat([v for v in views if v is not None]))
        z_l, z_weak, z_last = z[:B_L], z[B_L : B_L + B_U], z[-B_U:]
        p = torch.exp(log_p(z_weak.detach())).tolist()
        weights = rule(p, b.u_index.tolist())
        seen += weights

        unlabeled = torch.zeros(())
        for i, weight in enumerate(weights):
            if name == "uda":
                target = torch.exp(log_p(z_weak[i : i + 1].detach() / config.temperature))
                unlabeled = unlabeled + weight * soft_ce(z_last[i : i + 1], target) / B_U
            else:
                unlabeled = unlabeled - weight * log_p(z_last[i : i + 1])[0, top(p[i])] / B_U
        supervised = ce(z_l, b.y_l, config.label_smoothing)
        expected = {"supervised": supervised, "unlabeled": unlabeled, "mask_rate": torch.tensor(mean(weights))}
        loss = supervised + config.weight * rise(t, getattr(config, "ramp", 0.0)) * unlabeled
        if getattr(config, "fairness", 0.0):
            assert isinstance(rule, Free)
            expected["unfair"] = rule.unfair(z_last, weights)
            loss = loss + config.fairness * expected["unfair"]
        player.step(gradient(loss, w), t)

        report = method.step(b, t).values
        compare(player, method.net)
        for key, value in {**expected, "loss": loss}.items():
            assert report[key].item() == pytest.approx(value.item(), rel=1e-9, abs=1e-12), (key, t)
        assert set(report) - set(expected) - {"loss"} == set(method.selection.report())
    if settings:  # the papers' decay is too slow for nine steps: every row counts
        assert 0 < sum(seen) < RUN * B_U, "some rows count and some do not"
    if isinstance(rule, Gauss) and settings:
        assert any(0.01 < v < 0.99 for v in seen)
    same_state(method, rule)


def same_state(method: Any, rule: Rule) -> None:
    """What the object remembers in the end is what the loop does."""
    state = method.selection.state_dict()
    if isinstance(rule, Flex):
        assert state["labels"].tolist() == [rule.memory.get(i, -1) for i in range(POOL)]
        assert len(set(rule.memory.values())) > 1, "more than one class was learnt"
    elif isinstance(rule, Free):
        assert state["tau"].item() == pytest.approx(rule.tau, rel=1e-12)
        assert state["mean_p"].tolist() == pytest.approx(rule.mean_p, rel=1e-12)
        if getattr(method.config, "fairness", 0.0):
            assert method.shares.tolist() == pytest.approx(rule.shares, rel=1e-12)
    elif isinstance(rule, Gauss):
        assert state["mean"].item() == pytest.approx(rule.mu, rel=1e-12)
        assert state["variance"].item() == pytest.approx(rule.variance, rel=1e-12)
        assert state["mean_p"].tolist() == pytest.approx(rule.mean_p or [0.0] * C, rel=1e-12)


def test_the_fairness_loss_is_a_matter_of_gradient_too() -> None:
    """The comparison above could not pass without it: it moves the weights by far more than 1e-10."""
    ends = []
    for fairness in (0.0, 0.3):
        torch.manual_seed(7)
        config = METHODS["freematch"].Config(decay=0.8, fairness=fairness)
        method = METHODS["freematch"](config, Context(net, C, OPTIM, STEPS, POOL))
        for t in range(RUN):
            method.step(semi(t), t)
        ends.append(method.net.model.state_dict())
    assert max((ends[0][n] - ends[1][n]).abs().max() for n in ends[0]) > 1e-3


def test_the_fairness_loss_without_accepted_or_present_classes() -> None:
    """No row accepted: 0, no gradient. One class present: its share is 1, log 1 = 0."""
    from metapl.methods.freematch import unfair

    uniform = torch.full((C,), 1 / C)
    z = torch.randn(B_U, C, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for w in (torch.zeros(B_U), (z.argmax(-1) == int(z[0].argmax())).double()):
        loss = unfair(z, w, uniform, uniform)
        (grad,) = torch.autograd.grad(loss, z)
        assert loss.item() == pytest.approx(0, abs=1e-15)
        assert grad.abs().max() < 1e-15
    (grad,) = torch.autograd.grad(unfair(z, torch.ones(B_U), uniform, uniform), z)
    assert grad.abs().max() > 1e-3

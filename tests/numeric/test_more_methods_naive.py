"""Whole training steps of the later methods against a second implementation that shares no code with the first.

The hand-written net, its player and the comparison are those of ``naive``; everything is float64.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metapl.methods import METHODS
from metapl.types import Context, SemiBatch
from naive import (
    B_L,
    B_U,
    FEATURES,
    OPTIM,
    RUN,
    STEPS,
    Player,
    batch,
    ce,
    compare,
    forward,
    gradient,
    judged,
    log_p,
    net,
    soft_ce,
    uda_term,
)

C, N = 3, 10
Report = dict[str, float]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make(name: str, settings: dict[str, Any], **context: Any) -> tuple[Any, Any]:
    torch.manual_seed(7)
    config = METHODS[name].Config(**settings)
    build = context.pop("build", net)
    return METHODS[name](config, Context(build, C, OPTIM, STEPS, **context)), config


def player_of(learner: Any, **how: Any) -> Player:
    return Player({n: p.detach().clone() for n, p in learner.model.named_parameters()}, OPTIM.lr, **how)


@dataclass
class Paced(Player):
    """A player whose schedule has a length of its own."""

    length: int = STEPS

    def rate(self, t: int) -> float:
        if t < OPTIM.warmup:
            return self.lr * (t + 1) / (OPTIM.warmup + 1)
        done = (t - OPTIM.warmup) / max(1, self.length - OPTIM.warmup)
        return self.lr / 2 * (1 + math.cos(math.pi * done))


class Pool:
    """Unlabelled rows in two chunks; each batch's rows are some of them."""

    def __init__(self) -> None:
        self.x = 2 * torch.randn(N, FEATURES, generator=torch.Generator().manual_seed(5))

    def __call__(self, view: str = "plain", draw: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        assert view == "plain"
        for part in torch.arange(N).split(7):
            yield part, self.x[part]


class Builder:
    """Makes networks and notes the weights that each began with."""

    def __init__(self) -> None:
        self.made: list[dict[str, Tensor]] = []

    def __call__(self) -> nn.Module:
        model = net()
        self.made.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return model


def picked(t: int) -> SemiBatch:
    """A batch whose unlabelled rows are rows of the pool."""
    b, g = batch(t), torch.Generator().manual_seed(900 + t)
    return replace(b, u_index=torch.randint(N, (B_U,), generator=g))


def same(report: Any, expected: Report) -> None:
    for key, value in expected.items():
        assert report[key].item() == pytest.approx(value, rel=1e-9, abs=1e-12), key


# ---- self_training ---------------------------------------------------------------------------------------------


def shares(p: Tensor, threshold: float, balance: bool) -> list[float]:
    """Each row's weight: sure or not; or, balanced, the surest of each class, few ones as if repeated."""
    q, y = p.max(1).values.tolist(), p.argmax(1).tolist()
    sure = [i for i in range(len(p)) if q[i] >= threshold]
    if not balance:
        return [float(i in sure) for i in range(len(p))]
    weights = [0.0] * len(p)
    each = len(sure) // len({y[i] for i in sure}) if sure else 0
    for c in range(C):
        of_class = sorted((i for i in sure if y[i] == c), key=lambda i: -q[i])[:each]
        for i in of_class:
            weights[i] = each / len(of_class)
    return weights


def self_training_step(
    player: Paced, c: Any, b: SemiBatch, t: int, labels: tuple[Tensor, list[float]] | None
) -> Report:
    """N3 at step t of the round."""
    w = player.leaf()
    view = b.u_strong if c.student_view == "strong" else b.u_weak
    assert view is not None
    z = player.see(torch.cat([b.x_l, view]) if labels else b.x_l)
    supervised = ce(z[:B_L], b.y_l, c.label_smoothing)
    term = torch.zeros(())
    if labels:
        for i, row in enumerate(b.u_index.tolist()):
            target = labels[0][row] if c.labels == "soft" else (torch.arange(C) == labels[0][row].argmax()).double()
            term = term + labels[1][row] * soft_ce(z[B_L + i : B_L + i + 1], target) / B_U
    loss = supervised + c.weight * term
    player.step(gradient(loss, w), t)
    if labels and player.measures:
        player.measure(b.u_weak)
    return {"loss": loss.item(), "supervised": supervised.item(), "unlabeled": term.item()}


@pytest.mark.parametrize(
    "settings",
    [
        {"rounds": 3, "weight": 0.7},
        {"rounds": 3, "labels": "hard", "threshold": 0.4, "balance": True, "label_smoothing": 0.1},
        {"rounds": 2, "labels": "hard", "threshold": 0.5, "student_view": "weak", "keep_weights": True},
        {"rounds": 4, "threshold": 0.4, "balance": True, "student_view": "weak"},
    ],
    ids=str,
)
def test_self_training(settings: dict[str, Any]) -> None:
    pool, build = Pool(), Builder()
    method, config = make("self_training", settings, pool=pool, pool_size=N, build=build)
    starts = [k * STEPS // config.rounds for k in range(config.rounds)]
    player, labels = Paced(dict(build.made[0]), OPTIM.lr, length=starts[1]), None
    seen = set()
    for t in range(STEPS):
        report = method.step(picked(t), t).values
        if t in starts[1:]:
            p = torch.exp(log_p(judged(player.average, player.average_stats, pool.x)))
            labels = (p, shares(p, config.threshold, config.balance))
            length = [*starts, STEPS][starts.index(t) + 1] - t
            begin, stats = (player.average, player.average_stats) if config.keep_weights else (build.made[-1], None)
            player = Paced(dict(begin), OPTIM.lr, config.student_view == "strong", length=length)
            if stats is not None:
                player.stats, player.average_stats = dict(stats), dict(stats)
        local = t - max(s for s in starts if s <= t)
        same(report, self_training_step(player, config, picked(t), local, labels))
        compare(player, method.net)
        seen |= set(labels[1]) if labels else set()
        assert report["round"].item() == sum(s <= t for s in starts) - 1
    assert len(build.made) == config.rounds
    assert config.threshold == 0 or 0 in seen, "some rows are left out"
    assert not config.balance or len(seen - {0.0, 1.0}) > 0, "some rows count more"


# ---- co_training -----------------------------------------------------------------------------------------------


def taught(p: Tensor, c: Any) -> list[int]:
    """Rows whose label is passed on."""
    q, y = p.max(1).values.tolist(), p.argmax(1).tolist()
    if c.select == "threshold":
        return [i for i in range(len(p)) if q[i] >= c.threshold]
    rows = []
    for k in range(C):
        rows += sorted((i for i in range(len(p)) if y[i] == k), key=lambda i: -q[i])[: round(c.share * B_U / C)]
    return rows


def co_training_step(players: list[Player], sees: list[Tensor], c: Any, b: SemiBatch, t: int) -> Report:
    """C1 to C3; ``sees`` [features] says by 0 and 1 what each net sees."""
    assert b.u_weak is not None
    assert b.u_strong is not None
    strong = c.learn_view == "strong"
    views = torch.cat([b.x_l, b.u_weak, b.u_strong] if strong else [b.x_l, b.u_weak])
    w = [player.leaf() for player in players]
    z = [player.see(views * seen) for player, seen in zip(players, sees)]
    p = [torch.exp(log_p(z_k[B_L : B_L + B_U].detach())) for z_k in z]
    rise = min(1.0, t / round(c.ramp * STEPS)) if c.ramp else 1.0
    report = {"loss": 0.0, "supervised": 0.0, "unlabeled": 0.0, "mask_rate": 0.0}
    grads = []
    for k, o in ((0, 1), (1, 0)):
        term = torch.zeros(())
        for i in taught(p[o], c):
            term = term - log_p(z[k][len(views) - B_U + i][None])[0, int(p[o][i].argmax())] / B_U
        supervised = ce(z[k][:B_L], b.y_l, c.label_smoothing)
        loss = supervised + c.weight * rise * term
        grads.append(gradient(loss, w[k]))
        values = (loss.item(), supervised.item(), term.item(), len(taught(p[k], c)) / B_U)
        report = {n: v + new / 2 for (n, v), new in zip(report.items(), values)}
    for player, grad in zip(players, grads):
        player.step(grad, t)
    return report | {"agreement": (p[0].argmax(1) == p[1].argmax(1)).double().mean().item()}


@pytest.mark.parametrize(
    "settings",
    [
        {"select": "threshold", "threshold": 0.45, "weight": 0.7, "label_smoothing": 0.1},
        {"share": 0.5, "ramp": 0.4},
        {"share": 0.6, "learn_view": "weak", "views": "features"},
    ],
    ids=str,
)
def test_co_training(settings: dict[str, Any]) -> None:
    method, config = make("co_training", settings, row_shape=(FEATURES,))
    split, sees = config.views == "features", [torch.ones(FEATURES)] * 2
    nets = [learner.model.model if split else learner.model for learner in (method.net, method.second)]
    if split:
        sees = [learner.model.mask.double() for learner in (method.net, method.second)]
        assert [int(s.sum()) for s in sees] == [3, 2]
        assert torch.equal(sees[0] + sees[1], torch.ones(FEATURES))
    players = [Player({n: p.detach().clone() for n, p in model.named_parameters()}, OPTIM.lr) for model in nets]
    rates = 0.0
    for t in range(RUN):
        report = method.step(batch(t), t).values
        expected = co_training_step(players, sees, config, batch(t), t)
        same(report, expected)
        rates += expected["mask_rate"] / RUN
        for player, learner in zip(players, (method.net, method.second)):
            averaged = learner.ema.model.model if split else learner.ema.model
            model = learner.model.model if split else learner.model
            compare(player, SimpleNamespace(model=model, ema=SimpleNamespace(model=averaged)))
    assert 0 < rates < 1, "some rows are taught and some are not"
    # the result: the mean of both averages' probabilities
    x = batch(50).x_l
    p = [torch.exp(log_p(judged(pl.average, pl.average_stats, x * s))) for pl, s in zip(players, sees)]
    combined = method.candidates()["average"]
    assert not combined.training
    torch.testing.assert_close(torch.softmax(combined(x), -1), (p[0] + p[1]) / 2, rtol=1e-10, atol=1e-12)
    assert torch.exp(combined(x)).sum(-1).tolist() == pytest.approx([1.0] * len(x)), "log-probabilities"


# ---- self_mpl --------------------------------------------------------------------------------------------------


def inner_step(player: Player, grads: dict[str, Tensor], t: int) -> None:
    """An update that is not averaged."""
    average, stats = player.average, player.average_stats
    player.step(grads, t)
    player.average, player.average_stats = average, stats


def self_mpl_step(player: Player, c: Any, b: SemiBatch, t: int, draw: Tensor, baseline: float) -> tuple[Report, float]:
    """S1 to S5, the feedback by brute force: the labels come from a second copy of the weights, phi."""
    assert b.u_weak is not None
    assert b.u_strong is not None
    w, x = player.leaf(), torch.cat([b.u_weak, b.u_strong])
    phi = {n: v.detach().clone().requires_grad_() for n, v in w.items()}
    z = player.see(x)
    z_label = forward(phi, x)[0][:B_U]
    p = torch.exp(log_p(z_label))
    own = ce(z[B_U:], draw) if c.feedback == "sampled" else soft_ce(z[B_U:], p)
    grads = {n: c.pseudo_weight * g for n, g in gradient(own, w, create_graph=True).items()}
    old = ce(forward(w, b.x_l)[0], b.y_l).item()
    after = ce(forward(player.moved(grads, t), b.x_l)[0], b.y_l)
    report = {"unlabeled": own.item(), "agreement": (z[:B_U].argmax(1) == z[B_U:].argmax(1)).double().mean().item()}
    heard = {n: torch.zeros_like(v) for n, v in w.items()}
    if c.feedback != "none":
        report["student_labeled"] = after.item()
    if c.feedback == "exact":
        heard = {n: g / player.rate(t) for n, g in gradient(after, phi, retain_graph=True).items()}
    elif c.feedback == "sampled":
        gain = old - after.item() - baseline
        baseline = c.baseline * baseline + (1 - c.baseline) * (old - after.item()) if c.baseline else 0.0
        term = gain * ce(z_label, draw)
        heard = gradient(term, phi)
        report |= {"gain": gain, "feedback": term.item()}
    inner_step(player, {n: g.detach() for n, g in grads.items()}, t)

    w = player.leaf()
    z = player.see(torch.cat([b.x_l, x]))
    supervised = ce(z[:B_L], b.y_l, c.label_smoothing)
    uda = uda_term(z[B_L : B_L + B_U], z[-B_U:], c.uda_threshold, c.uda_temperature)
    rise = min(1.0, t / round(c.uda_ramp * STEPS)) if c.uda_ramp else 1.0
    total = gradient(supervised + c.uda_weight * rise * uda, w)
    player.step({n: g + c.feedback_weight * heard[n] for n, g in total.items()}, t)
    return report | {"supervised": supervised.item(), "uda": uda.item()}, baseline


@pytest.mark.parametrize(
    "settings",
    [
        {"feedback": "exact", "feedback_weight": 0.8},
        {"feedback": "exact", "feedback_weight": 2.0, "pseudo_weight": 0.4, "label_smoothing": 0.1, "uda_ramp": 0.5},
        {"feedback": "sampled", "feedback_weight": 3.0, "baseline": 0.7},
        {"feedback": "sampled", "feedback_weight": 3.0, "baseline": 0.0, "pseudo_weight": 0.4},
        {"feedback": "none"},
    ],
    ids=str,
)
def test_self_mpl(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method, config = make("self_mpl", {"uda_threshold": 0.45, "uda_temperature": 0.6, **settings})
    player, baseline, draw = player_of(method.net), 0.0, torch.arange(B_U) % C
    monkeypatch.setattr("metapl.methods.self_mpl.sample_labels", lambda p: draw)
    for t in range(RUN):
        report = method.step(batch(t), t).values
        expected, baseline = self_mpl_step(player, config, batch(t), t, draw, baseline)
        same(report, expected)
        compare(player, method.net)
        assert ("feedback" in report) == (config.feedback != "none")
    assert method.baseline.value.item() == pytest.approx(baseline, abs=1e-12)


def test_what_the_labels_hear_matters_here() -> None:
    """The comparison above could not pass without the feedback."""
    found = []
    for feedback in ("exact", "none"):
        method, _ = make("self_mpl", {"feedback": feedback, "feedback_weight": 0.8})
        for t in range(RUN):
            method.step(batch(t), t)
        found.append(method.net.model.state_dict())
    assert max((found[0][n] - found[1][n]).abs().max() for n in found[0] if "weight" in n) > 1e-3


# ---- mpl_reduced -----------------------------------------------------------------------------------------------


def calibrated(k: dict[str, Tensor], stored: Tensor) -> Tensor:
    h = torch.exp(stored) @ k["hidden.weight"].T + k["hidden.bias"]
    return torch.exp(log_p(stored + torch.clamp(h, min=0) @ k["out.weight"].T + k["out.bias"]))


def reduced_teacher_step(player: Paced, c: Any, b: SemiBatch, t: int) -> Report:
    assert b.u_weak is not None
    assert b.u_strong is not None
    w = player.leaf()
    z = player.see(torch.cat([b.x_l, b.u_weak, b.u_strong]))
    supervised = ce(z[:B_L], b.y_l, c.label_smoothing)
    uda = uda_term(z[B_L : B_L + B_U], z[-B_U:], c.uda_threshold, c.uda_temperature)
    player.step(gradient(supervised + c.uda_weight * uda, w), t)
    return {"supervised": supervised.item(), "uda": uda.item()}


def reduced_student_step(student: Paced, calibrator: Paced, c: Any, b: SemiBatch, t: int, pool_log_p: Tensor) -> Report:
    """R3 to R5, the feedback by brute force through the student's step."""
    assert b.u_weak is not None
    assert b.u_strong is not None
    w, k = student.leaf(), calibrator.leaf()
    stored = torch.stack([pool_log_p[i] for i in b.u_index.tolist()])
    p = calibrated(k, stored) if k else torch.exp(stored)
    loss = soft_ce(student.see(b.u_strong), p)
    grads = gradient(loss, w, create_graph=True)
    after = ce(forward(student.moved(grads, t), b.x_l)[0], b.y_l)
    report = {"student": loss.item()}
    if c.feedback == "exact":
        truth = gradient(after, k, retain_graph=True)
        calibrator.step({n: c.feedback_weight / student.rate(t) * g for n, g in truth.items()}, t)
        report["student_labeled"] = after.item()
    student.step({n: g.detach() for n, g in grads.items()}, t)
    student.measure(b.u_weak)
    return report


@pytest.mark.parametrize(
    "settings",
    [
        {"feedback": "exact", "feedback_weight": 20.0, "calibrator_units": 4, "calibrator_lr": 0.5},
        {"feedback": "exact", "feedback_weight": 0.8, "teacher_share": 0.25, "label_smoothing": 0.1},
        {"feedback": "none", "uda_weight": 0.5},
    ],
    ids=str,
)
def test_mpl_reduced(settings: dict[str, Any]) -> None:
    pool, build = Pool(), Builder()
    given = {"uda_threshold": 0.45, "uda_temperature": 0.6, **settings}
    method, config = make("mpl_reduced", given, pool=pool, pool_size=N, build=build)
    switch = round(config.teacher_share * STEPS)
    player = Paced(dict(build.made[0]), OPTIM.lr, length=switch)
    learns = config.feedback == "exact"
    small = dict(method.calibrator.model.named_parameters()) if learns else {}
    small = {n: q.detach().clone() for n, q in small.items()}
    assert not learns or small["out.weight"].abs().max() == 0
    calibrator = Paced(small, config.calibrator_lr or OPTIM.lr, length=STEPS - switch)
    stored = torch.zeros(0)
    for t in range(STEPS):
        report = method.step(picked(t), t).values
        if t == switch:
            stored = log_p(judged(player.average, player.average_stats, pool.x))
            player = Paced(dict(build.made[-1]), OPTIM.lr, measures=True, length=STEPS - switch)
        if t < switch:
            same(report, reduced_teacher_step(player, config, picked(t), t))
        else:
            same(report, reduced_student_step(player, calibrator, config, picked(t), t - switch, stored))
        compare(player, method.net)
        for n, value in calibrator.w.items():
            assert (method.calibrator.model.get_parameter(n) - value).abs().max() < 1e-10, n
    assert len(build.made) == 2
    assert not learns or calibrator.w["out.weight"].abs().max() > 1e-4

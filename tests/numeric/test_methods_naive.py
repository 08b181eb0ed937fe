"""Whole training steps against a second implementation that shares no code with the first, in float64.

The net, BatchNorm, the optimisers, the schedule, the averages and the update order are written out by hand from the
equations; mpl's exact feedback is brute-force autograd through the student's momentum step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metapl.methods import METHODS
from metapl.optim import OptimConfig
from metapl.types import Context, SemiBatch

C, FEATURES, UNITS, B_L, B_U, STEPS, RUN = 3, 5, 7, 4, 6, 9, 5
Tensors = dict[str, Tensor]
OPTIM = OptimConfig(lr=0.3, momentum=0.8, weight_decay=0.02, warmup=2, ema=0.6)
LAYERS = ("0.weight", "0.bias", "1.weight", "1.bias", "3.weight", "3.bias")
TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, UNITS), nn.BatchNorm1d(UNITS), nn.Tanh(), nn.Linear(UNITS, C))


def batch(t: int) -> SemiBatch:
    g = torch.Generator().manual_seed(100 + t)
    x_l, weak, noise = (torch.randn(n, FEATURES, generator=g) for n in (B_L, B_U, B_U))
    y = torch.randint(C, (B_L,), generator=g)
    return SemiBatch(x_l, y, 2 * weak, 2 * weak + 0.3 * noise, torch.arange(B_U))


# ---- the second implementation ---------------------------------------------------------------------------------


def forward(w: Tensors, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and the mean and unbiased variance that BatchNorm saw."""
    h = x @ w["0.weight"].T + w["0.bias"]
    n = len(h)
    mean = h.sum(0) / n
    variance = ((h - mean) ** 2).sum(0) / n
    h = (h - mean) / torch.sqrt(variance + 1e-5) * w["1.weight"] + w["1.bias"]
    return torch.tanh(h) @ w["3.weight"].T + w["3.bias"], mean.detach(), (variance * n / (n - 1)).detach()


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


def one_net_step(player: Player, name: str, c: Any, b: SemiBatch, t: int) -> dict[str, float]:
    w = player.leaf()
    views = [b.x_l, b.u_weak] + ([b.u_strong] if name != "pseudo_label" else [])
    z = player.see(torch.cat([v for v in views if v is not None]))
    z_l, z_weak, z_last = z[:B_L], z[B_L : B_L + B_U], z[-B_U:]
    if name == "uda":
        unlabeled = uda_term(z_weak, z_last, c.threshold, c.temperature)
    else:
        unlabeled = hard_term(z_weak, z_last, c.threshold)
    weight = c.weight * (1.0 if name == "fixmatch" else rise(t, c.ramp))
    supervised = ce(z_l, b.y_l, c.label_smoothing)
    loss = supervised + weight * unlabeled
    player.step(gradient(loss, w), t)
    share = len(kept(z_weak, c.threshold)) / B_U
    return {"loss": loss.item(), "supervised": supervised.item(), "unlabeled": unlabeled.item(), "mask_rate": share}


def mpl_step(
    teacher: Player, student: Player, c: Any, b: SemiBatch, t: int, labels: Tensor, baseline: float
) -> tuple[dict[str, float], float]:
    """E1 to E6; ``labels`` is the draw for ``sampled``. Gives the report and the new baseline."""
    assert b.u_weak is not None
    assert b.u_strong is not None
    w_t, w_s = teacher.leaf(), student.leaf()
    z = teacher.see(torch.cat([b.x_l, b.u_weak, b.u_strong]))
    z_l, z_weak, z_strong = z[:B_L], z[B_L : B_L + B_U], z[-B_U:]
    label_z = z_weak if c.label_view == "weak" else z_strong
    p = torch.exp(log_p(label_z))
    old_labelled = ce(forward(w_s, b.x_l)[0], b.y_l).item()

    # the student's step, with its graph kept where the truth is wanted
    z_s = student.see(b.u_strong)
    inner = ce(z_s, labels) if c.feedback == "sampled" else soft_ce(z_s, p)
    grads = gradient(inner, w_s, create_graph=True)
    z_after = forward(student.moved(grads, t), b.x_l)[0]
    after = ce(z_after, b.y_l)
    spoken = after if c.feedback_rows == "even" else trusted_ce(z_after, b.y_l)

    supervised = ce(z_l, b.y_l, c.label_smoothing)
    uda = uda_term(z_weak, z_strong, c.uda_threshold, c.uda_temperature)
    loss = supervised + c.uda_weight * rise(t, c.uda_ramp) * uda
    total = gradient(loss, w_t, retain_graph=True)
    report = {"supervised": supervised.item(), "uda": uda.item(), "student": inner.item()}
    since = t - round(c.feedback_start * STEPS)
    on = rise(since, c.feedback_ramp) if since >= 0 else 0.0
    heard = c.feedback if since >= 0 else "none"
    if heard == "exact":
        truth = gradient(spoken, w_t, retain_graph=True)
        if c.feedback_cap:  # r = B / eta * d after / d p, scaled down to the cap
            spread = (torch.autograd.grad(spoken, p, retain_graph=True)[0] * B_U / student.rate(t)).std().item()
            report |= {"feedback_spread": spread}
            on *= min(1.0, c.feedback_cap / spread)
        total = {n: g + on * c.feedback_weight / student.rate(t) * truth[n] for n, g in total.items()}
    elif heard == "sampled":
        gain = old_labelled - after.item() - baseline
        baseline = c.baseline * baseline + (1 - c.baseline) * (old_labelled - after.item()) if c.baseline else 0.0
        term = gain * ce(label_z, labels)
        total = {n: total[n] + on * c.feedback_weight * g for n, g in gradient(term, w_t).items()}
        report |= {"gain": gain} | {"feedback": term.item()}
    if heard != "none":
        report["student_labeled"] = after.item()
    student.step({n: g.detach() for n, g in grads.items()}, t)
    student.measure(b.u_weak)
    teacher.step(total, t)
    return report, baseline


def trusted_ce(z: Tensor, y: Tensor) -> Tensor:
    """Each row's loss times its probability over the mean probability of its class' rows, which are held fixed; rows
    of a class with fewer than three count alike."""
    rows = range(len(y))
    p = [float(torch.exp(log_p(z[i : i + 1]))[0, int(y[i])].detach()) for i in rows]
    total = torch.zeros(())
    for i in rows:
        fellows = [p[j] for j in rows if int(y[j]) == int(y[i])]
        weight = p[i] / (sum(fellows) / len(fellows)) if len(fellows) >= 3 else 1.0
        total = total + weight * ce(z[i : i + 1], y[i : i + 1])
    return total / len(y)


# ---- the comparison --------------------------------------------------------------------------------------------


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


def make(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(7)
    config = METHODS[name].Config(**settings)
    return METHODS[name](config, Context(net, C, OPTIM, STEPS)), config


def player_of(learner: Any, lr: float = OPTIM.lr, measures: bool = False) -> Player:
    return Player({n: p.detach().clone() for n, p in learner.model.named_parameters()}, lr, measures)


SINGLE = [
    ("fixmatch", {"threshold": 0.45, "weight": 0.7, "label_smoothing": 0.1}),
    ("uda", {"threshold": 0.45, "temperature": 0.5, "weight": 0.7, "ramp": 0.5}),
    ("uda", {"threshold": 0.0, "temperature": 2.0}),
    ("pseudo_label", {"threshold": 0.45, "weight": 0.7, "ramp": 0.5, "label_smoothing": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), SINGLE)
def test_one_network_methods(name: str, settings: dict[str, Any]) -> None:
    method, config = make(name, settings)
    player = player_of(method.net)
    rates = []
    for t in range(RUN):
        report = method.step(batch(t), t).values
        expected = one_net_step(player, name, config, batch(t), t)
        compare(player, method.net)
        rates.append(expected["mask_rate"])
        assert set(report) == set(expected)
        for key, value in expected.items():
            assert report[key].item() == pytest.approx(value, rel=1e-9, abs=1e-12), key
    assert config.threshold == 0 or 0 < sum(rates) < RUN, "some rows pass and some do not"


def crowded(t: int) -> SemiBatch:
    """Every other batch has three rows of one class, so that one of them can be outvoted."""
    b = batch(t)
    return replace(b, y_l=torch.tensor([1, 1, 0, 1])) if t % 2 else b


MPL = [
    {"feedback": "none"},
    {"feedback": "none", "label_view": "strong", "uda_weight": 0.5, "uda_ramp": 0.5, "label_smoothing": 0.1},
    {"feedback": "exact", "feedback_weight": 0.8},
    {"feedback": "exact", "feedback_weight": 0.8, "feedback_rows": "even"},
    {"feedback": "exact", "feedback_weight": 0.8, "feedback_start": 0.2, "feedback_ramp": 0.3},
    {"feedback": "exact", "feedback_weight": 0.8, "feedback_cap": 0.05},
    {"feedback": "exact", "feedback_weight": 2.0, "label_view": "strong", "teacher_lr": 0.1, "feedback_start": 0.2},
    {"feedback": "sampled", "feedback_weight": 3.0, "baseline": 0.0},
    {"feedback": "sampled", "feedback_weight": 3.0, "baseline": 0.7, "feedback_start": 0.2},
]


@pytest.mark.parametrize("settings", MPL, ids=str)
def test_mpl(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    method, config = make("mpl", {"uda_threshold": 0.45, "uda_temperature": 0.6, "finetune_steps": 2, **settings})
    teacher = player_of(method.teacher, config.teacher_lr or OPTIM.lr)
    student = player_of(method.student, measures=True)
    baseline, labels = 0.0, torch.arange(B_U) % C
    monkeypatch.setattr("metapl.methods.mpl.sample_labels", lambda p: labels)
    for t in range(RUN):
        report = method.step(crowded(t), t).values
        expected, baseline = mpl_step(teacher, student, config, crowded(t), t, labels, baseline)
        compare(student, method.student)
        compare(teacher, method.teacher)
        for key, value in expected.items():
            assert report[key].item() == pytest.approx(value, rel=1e-9, abs=1e-12), key
        assert ("feedback" in report) == (config.feedback != "none" and t >= round(config.feedback_start * STEPS))
    assert method.baseline.value.item() == pytest.approx(baseline, abs=1e-12)


@pytest.mark.parametrize("other", [{"feedback": "none"}, {"feedback_rows": "even"}], ids=str)
def test_the_exact_feedback_matters_here(other: dict[str, Any]) -> None:
    """The comparison above could not pass without the feedback, nor without trust in its rows: either moves the teacher
    by far more than 1e-10."""
    teachers = []
    for settings in ({}, other):
        method, _ = make("mpl", {"feedback_weight": 0.8, "uda_threshold": 0.45, **settings})
        for t in range(RUN):
            method.step(crowded(t), t)
        teachers.append(method.teacher.model.state_dict())
    assert max((teachers[0][n] - teachers[1][n]).abs().max() for n in LAYERS) > 1e-3


def test_fine_tuning() -> None:
    """E7: plain gradient descent from the student's average, its statistics moving on."""
    method, config = make("mpl", {"finetune_steps": 3, "finetune_lr": 0.2})
    for t in range(STEPS):
        method.step(batch(t), t)
    state = method.student.ema.model.state_dict()
    player = Player({n: state[n].clone() for n in LAYERS}, 0.0)
    player.stats = {"mean": state["1.running_mean"].clone(), "var": state["1.running_var"].clone()}
    for t in range(STEPS, STEPS + 3):
        report = method.step(batch(t), t).values
        w = player.leaf()
        loss = ce(player.see(batch(t).x_l), batch(t).y_l)
        player.w = {n: (w[n] - config.finetune_lr * g).detach() for n, g in gradient(loss, w).items()}
        assert report["finetune"].item() == pytest.approx(loss.item(), rel=1e-10)
    tuned = method.finetuner.model.state_dict()
    for n in LAYERS:
        assert (tuned[n] - player.w[n]).abs().max() < TOLERANCE, n
    assert (tuned["1.running_mean"] - player.stats["mean"]).abs().max() < TOLERANCE
    assert (tuned["1.running_var"] - player.stats["var"]).abs().max() < TOLERANCE

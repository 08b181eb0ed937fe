"""Whole training steps against a second implementation that shares no code with the first, in float64.

The net, BatchNorm, the optimiser, the schedule and the averages are those of ``naive``; mpl's exact feedback is
brute-force autograd through the student's momentum step. A method whose row in ``methods_table`` has a naive loss is
tested by it here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from metapl.methods import METHODS
from metapl.types import Context, SemiBatch
from methods_table import ROWS, Row
from naive import (
    B_L,
    B_U,
    LAYERS,
    OPTIM,
    RUN,
    STEPS,
    TOLERANCE,
    C,
    Player,
    batch,
    ce,
    compare,
    forward,
    gradient,
    hard_term,
    kept,
    log_p,
    net,
    player_of,
    rise,
    soft_ce,
    uda_term,
)


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


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


def make(name: str, settings: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(7)
    config = METHODS[name].Config(**settings)
    return METHODS[name](config, Context(net, C, OPTIM, STEPS)), config


@pytest.mark.parametrize("row", [row for row in ROWS if row.naive], ids=lambda row: row.name)
def test_a_rows_naive_loss(row: Row) -> None:
    """Loss, weights, averages and statistics of every step are those of the naive loss in the table."""
    assert row.naive is not None
    method, config = make(row.method, dict(row.settings))
    player = player_of(method.net)
    for t in range(RUN):
        report = method.step(batch(t), t).values
        weights = player.leaf()
        loss = row.naive(player, config, batch(t), t)
        player.step(gradient(loss, weights), t)
        compare(player, method.net)
        assert report["loss"].item() == pytest.approx(loss.item(), rel=1e-9, abs=1e-12)


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

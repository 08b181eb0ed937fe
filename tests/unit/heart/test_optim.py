"""Schedule, ramp, parameter groups, clipping and the moving average."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from metapl.config.settings import make_config
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.batches.split import make_split
from metapl.data.memory.arrays import from_arrays
from metapl.errors import UserError
from metapl.optim import EMA, Learner, OptimConfig, learning_rate, make_optimizer, predict_logits, ramp
from metapl.training.job import build_job
from metapl.training.prepared import Prepared

COSINE = OptimConfig(lr=1.0, warmup=0)
WARM = OptimConfig(lr=1.0, warmup=4)
FLAT = OptimConfig(lr=1.0, warmup=4, schedule="constant")
RATES = [
    (COSINE, 0, 10, 1.0),
    (COSINE, 5, 10, 0.5),
    (COSINE, 9, 10, 0.5 * (1 + math.cos(0.9 * math.pi))),
    (COSINE, 10, 10, 0.0),  # past the end: stays at zero
    (COSINE, 1000, 10, 0.0),
    (COSINE, 0, 1, 1.0),  # a run of one step is not wasted
    (WARM, 0, 12, 0.2),
    (WARM, 3, 12, 0.8),
    (WARM, 4, 12, 1.0),
    (WARM, 8, 12, 0.5),
    (WARM, 12, 12, 0.0),
    (WARM, 3, 4, 0.8),  # warm-up as long as the run
    (WARM, 4, 4, 1.0),
    (WARM, 2, 1, 0.6),  # warm-up longer than the run
    (WARM, 5, 1, 0.0),
    (FLAT, 1, 12, 0.4),
    (FLAT, 4, 12, 1.0),
    (FLAT, 500, 12, 1.0),
]


@pytest.mark.parametrize(("config", "t", "steps", "expected"), RATES)
def test_learning_rate(config: OptimConfig, t: int, steps: int, expected: float) -> None:
    assert learning_rate(config, t, steps) == pytest.approx(expected, abs=1e-12)


def test_learning_rate_rises_then_falls() -> None:
    rates = [learning_rate(WARM, t, 40) for t in range(41)]
    assert all(r >= 0 for r in rates)
    assert rates[:5] == sorted(rates[:5])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert max(rates) == 1.0


@pytest.mark.parametrize(
    ("t", "length", "expected"), [(0, 0, 1), (7, 0, 1), (0, 4, 0), (1, 4, 0.25), (4, 4, 1), (9, 4, 1), (3, -1, 1)]
)
def test_ramp(t: int, length: int, expected: float) -> None:
    assert ramp(t, length) == expected


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_parameter_groups(name: Any) -> None:
    model = net()
    model[0].bias.requires_grad_(False)
    optimizer = make_optimizer(model, OptimConfig(name=name, weight_decay=0.1, momentum=0.7))
    decayed, plain = optimizer.param_groups
    assert {id(p) for p in decayed["params"]} == {id(model[0].weight), id(model[4].weight)}
    assert {id(p) for p in plain["params"]} == {id(model[1].weight), id(model[1].bias), id(model[4].bias)}
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)
    assert optimizer.defaults.get("momentum", optimizer.defaults.get("betas", (0,))[0]) == 0.7


def test_one_kind_of_parameter_alone() -> None:
    assert len(make_optimizer(nn.Linear(3, 2, bias=False), OptimConfig()).param_groups) == 1
    assert len(make_optimizer(nn.BatchNorm1d(3), OptimConfig()).param_groups) == 1


@pytest.mark.parametrize(("momentum", "expected"), [(0.9, True), (0.0, False)])
def test_nesterov_needs_momentum(momentum: float, expected: bool) -> None:
    optimizer = make_optimizer(net(), OptimConfig(nesterov=True, momentum=momentum))
    assert optimizer.param_groups[0]["nesterov"] is expected


@pytest.mark.parametrize(
    "bad", [{"lr": -0.1}, {"momentum": 1.0}, {"weight_decay": -1}, {"clip": -1}, {"warmup": -1}, {"ema": 1.0}]
)
def test_values_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"optim.{next(iter(bad))}"):
        OptimConfig(**bad)


def test_ema_equals_a_naive_loop_and_takes_buffers_along() -> None:
    """average <- d average + (1 - d) value, d = min(decay, (t + 1) / (t + 10)); counters are copied."""
    torch.manual_seed(0)
    model, decay = net(), 0.5
    ema = EMA(model, decay)
    naive = {n: v.clone().double() for n, v in model.state_dict().items()}
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())
    for t in range(20):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
        model.train()(torch.randn(6, 1, 4, 4))
        ema.update(model, t)
        d = min(decay, (t + 1) / (t + 10))
        for n, v in model.state_dict().items():
            naive[n] = v.double() if n.endswith("tracked") else d * naive[n] + (1 - d) * v.double()
    for n, v in ema.model.state_dict().items():
        torch.testing.assert_close(v.double(), naive[n], rtol=1e-5, atol=1e-6)
        if n.endswith("tracked"):
            assert v.item() == 20
    assert not torch.equal(ema.model[1].running_mean, model[1].running_mean)


def test_ema_leaves_the_model_alone_and_shares_nothing() -> None:
    model = net()
    before, ema = copy.deepcopy(model.state_dict()), EMA(model, 0.9)
    for p in ema.model.parameters():
        p.data.add_(1)
    ema.update(model, 3)
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


def test_ema_with_statistics_of_its_own() -> None:
    """Weights are averaged; the statistics are those of the averaged weights on the rows given to ``measure``."""
    torch.manual_seed(0)
    model = nn.Sequential(net(), nn.Dropout(0.5))
    plain, own = EMA(model, 0.5), EMA(model, 0.5, own_statistics=True)
    mean, var = torch.zeros(4), torch.ones(4)
    for t in range(3):
        with torch.no_grad():
            for p in model.parameters():
                p += 0.1 * torch.randn_like(p)
        model.train()(torch.randn(6, 1, 4, 4) + 3)
        x, state = torch.randn(6, 1, 4, 4), torch.get_rng_state()
        for ema in (plain, own):
            ema.update(model, t)
            ema.measure(x)
        assert torch.equal(state, torch.get_rng_state()), "no random draw"
        h = own.model[0][0](x).transpose(0, 1).flatten(1).detach()
        mean, var = 0.9 * mean + 0.1 * h.mean(1), 0.9 * var + 0.1 * h.var(1)
        assert not any(m.training for m in own.model.modules())
    norm = own.model[0][1]
    torch.testing.assert_close(norm.running_mean, mean)
    torch.testing.assert_close(norm.running_var, var)
    assert norm.num_batches_tracked.item() == 3
    for a, b in zip(own.model.parameters(), plain.model.parameters()):
        assert torch.equal(a, b)
    assert not torch.equal(plain.model[0][1].running_mean, norm.running_mean), "without the switch: averaged"


def test_statistics_are_measured_in_the_steps_before_a_look_alone() -> None:
    """What is left out would have had a weight below 1 % at the look."""
    torch.manual_seed(0)
    model, steps = net(), 120
    always, before = EMA(model, 0.5, own_statistics=True), EMA(model, 0.5, own_statistics=True)
    for t in range(steps):
        x = torch.randn(6, 1, 4, 4) + t / steps
        always.measure(x)
        before.measure(x, steps_to_look=steps - 1 - t)
    every, last = always.model[1], before.model[1]
    assert (every.num_batches_tracked.item(), last.num_batches_tracked.item()) == (120, 50)
    torch.testing.assert_close(last.running_mean, every.running_mean, rtol=0.01, atol=0.01)
    torch.testing.assert_close(last.running_var, every.running_var, rtol=0.01, atol=0.01)


def test_all_statistics_count_where_a_norm_weighs_its_batches_alike() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, momentum=None))
    ema = EMA(model, 0.5, own_statistics=True)
    ema.measure(torch.randn(6, 2), steps_to_look=10**6)
    assert ema.model[1].num_batches_tracked.item() == 1


def test_a_run_says_how_far_its_next_look_is() -> None:
    source = from_arrays(torch.randn(40, 3).numpy(), [k % 2 for k in range(40)])
    given = {"method": "mpl", "device": "cpu", "split.labels": 5, "split.validation": "none", "steps": 100}
    config = make_config("arrays", options={**given, "loop.eval_every": 30})
    split = make_split(source, config.split, 0)
    job = build_job(config, Prepared(source, split, fit_preprocessing(source, split.labeled), torch.device("cpu")))
    found = [job.method.steps_to_look(t) for t in (0, 28, 29, 30, 89, 90, 99)]  # type: ignore[attr-defined]
    assert found == [29, 1, 0, 29, 0, 9, 0]


def test_ema_decay_zero_is_the_model() -> None:
    model = net()
    ema = EMA(model, 0.0)
    with torch.no_grad():
        model[4].weight += 1
    ema.update(model, 5)
    assert all(torch.equal(v, model.state_dict()[n]) for n, v in ema.model.state_dict().items())


@pytest.mark.parametrize(("clip", "expected"), [(0.0, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping(clip: float, expected: float) -> None:
    """A gradient of norm 5 moves the weights by at most lr * clip; the factor is kept for the feedback."""
    model = nn.Linear(2, 1, bias=False)
    config = OptimConfig(lr=1.0, momentum=0.0, weight_decay=0.0, clip=clip, schedule="constant")
    learner, start = Learner(model, config, 10), model.weight.detach().clone()
    learner.step((model.weight * torch.tensor([[3.0, 4.0]])).sum(), 0)
    assert (start - model.weight).norm().item() == pytest.approx(expected, rel=1e-5)
    if clip:
        assert learner.clip_scale is not None
        assert learner.clip_scale.item() == pytest.approx(expected / 5.0, rel=1e-5)
    else:
        assert learner.clip_scale is None


def test_learner_sets_the_rate_of_each_step_and_drops_old_gradients() -> None:
    model = nn.Linear(2, 1, bias=False)
    config = OptimConfig(lr=0.1, momentum=0.0, weight_decay=0.0, warmup=1)
    learner = Learner(model, config, 5)
    for t in range(6):
        before = model.weight.detach().clone()
        learner.step(model.weight.sum(), t)
        rate = learning_rate(config, t, 5)
        torch.testing.assert_close(before - model.weight, torch.full((1, 2), rate), rtol=1e-4, atol=1e-7)


def test_learner_joins_views_in_one_forward() -> None:
    """BatchNorm sees all views together; the pieces come back in order."""
    learner = Learner(net(), OptimConfig(), 5)
    a, b = torch.randn(3, 1, 4, 4), torch.randn(5, 1, 4, 4)
    twin = copy.deepcopy(learner.model)
    z_a, z_b = learner(a, b)
    assert torch.equal(torch.cat([z_a, z_b]), twin(torch.cat([a, b])))
    (alone,) = learner(a)
    assert not torch.equal(alone, z_a)
    assert learner.model[1].num_batches_tracked.item() == 2


def test_predict_logits_uses_batch_statistics_and_leaves_no_trace() -> None:
    model, x = net().train(), torch.randn(6, 1, 4, 4)
    before = copy.deepcopy(model.state_dict())
    z = predict_logits(model, x)
    assert not z.requires_grad
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())
    assert torch.equal(z, model(x))
    assert not torch.equal(z, model.eval()(x))


def test_learner_state_round_trip() -> None:
    torch.manual_seed(1)
    one, x = Learner(net(), OptimConfig(), 9), torch.randn(6, 1, 4, 4)
    one.step(one.model(x).square().mean(), 0)
    other = Learner(net(), OptimConfig(), 9)
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for learner in (one, other):
        learner.step(learner.model(x).square().mean(), 1)
    for n, v in one.model.state_dict().items():
        assert torch.equal(v, other.model.state_dict()[n])
    for n, v in one.ema.model.state_dict().items():
        assert torch.equal(v, other.ema.model.state_dict()[n])


@pytest.mark.parametrize(
    ("given", "model", "name", "lr"),
    [
        ({}, "", "sgd", 0.05),
        ({}, "small_cnn", "sgd", 0.05),
        ({}, "ngram", "adamw", 0.01),
        ({"lr": 0.3}, "ngram", "adamw", 0.3),
        ({"name": "sgd"}, "ngram", "sgd", 0.05),
        ({"name": "adamw"}, "mlp", "adamw", 0.001),
        ({"name": "adamw", "lr": 0.2}, "mlp", "adamw", 0.2),
    ],
)
def test_the_optimiser_that_auto_stands_for(given: dict[str, Any], model: str, name: str, lr: float) -> None:
    found = OptimConfig(**given, clip=2.0).resolved(model)
    assert found == OptimConfig(name=name, lr=lr, clip=2.0, weight_decay=5e-4)
    assert found.resolved("ngram") == found


@pytest.mark.parametrize(
    ("kind", "optimizer", "lr"), [("text", torch.optim.AdamW, 0.01), ("table", torch.optim.SGD, 0.05)]
)
def test_a_run_is_stepped_by_what_auto_stands_for(kind: str, optimizer: type, lr: float) -> None:
    words = [f"{'red' if k % 2 else 'blue'} thing {k}" for k in range(40)]
    rows: Any = words if kind == "text" else torch.randn(40, 3).numpy()
    source = from_arrays(rows, [k % 2 for k in range(40)])
    config = make_config("arrays", options={"method": "supervised", "device": "cpu", "split.labels": 5, "steps": 3})
    split = make_split(source, config.split, 0)
    job = build_job(config, Prepared(source, split, fit_preprocessing(source, split.labeled), torch.device("cpu")))
    made = job.method.net  # type: ignore[attr-defined]
    assert type(made.optimizer) is optimizer
    assert made.config.lr == lr


def test_the_head_of_an_encoder_has_a_rate_and_a_decay_of_its_own() -> None:
    for model, expected in (("head", (0.01, 0.05)), ("mlp", (0.05, 5e-4)), ("ngram", (0.01, 5e-4))):
        found = OptimConfig().resolved(model)
        assert (found.lr, found.weight_decay) == expected
    assert OptimConfig(lr=0.2, weight_decay=0.0).resolved("head") == OptimConfig("sgd", lr=0.2, weight_decay=0.0)

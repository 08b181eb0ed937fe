"""What is particular to a method: rounds and phases, labels of the whole pool, networks that come and go."""

from __future__ import annotations

import copy
import gc
import weakref
from itertools import pairwise
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

from metapl.optim import EMA, Learner, OptimConfig
from metapl.pseudo_labels import class_balance, label_pool, surest_per_class
from metapl.types import Context
from methods_table import BY_NAME, STEPS, NoisyNet, assert_same, build, networks, plain_net, run, through_disk

IN_PARTS = [
    "mpl_reduced",
    "mpl_reduced-adamw-clip",
    "self_training",
    "self_training-weak-balanced",
    "self_training-goes-on",
]


@pytest.mark.parametrize("name", IN_PARTS)
def test_a_run_in_parts_resumes_at_every_step(name: str, tmp_path: Any) -> None:
    """Also right before a part begins, right after, and into an object that is further on."""
    straight, stream = build(BY_NAME[name])
    states, reports = [], []
    for t in range(STEPS):
        states.append(copy.deepcopy(straight.state_dict()))
        reports += run(straight, stream, t, t + 1)
    resumed, _ = build(BY_NAME[name])
    for cut in (3, 1, *range(2, STEPS)):  # one object throughout: each load finds it at the end of the run
        resumed.load_state_dict(through_disk(states[cut], tmp_path))
        assert_same(resumed.state_dict(), states[cut])
        assert_same(run(resumed, stream, cut, STEPS), reports[cut:])
        assert_same(resumed.state_dict(), straight.state_dict())


@pytest.mark.parametrize("name", IN_PARTS)
def test_steps_from_the_end_can_be_timed(name: str) -> None:
    """How a run sized in minutes measures: the last steps of the main phase, backwards, on a fresh object."""
    method, stream = build(BY_NAME[name])
    for t in reversed(range(STEPS)):
        (report,) = run(method, stream, t, t + 1)
        assert all(torch.isfinite(v) for v in report.values())


def test_each_round_has_a_fresh_student_and_a_schedule_of_its_own() -> None:
    method, stream = build(BY_NAME["self_training"], {"rounds": 4}, schedule="constant")
    nets, rates, rounds = [], [], []
    for t in range(STEPS):
        (report,) = run(method, stream, t, t + 1)
        learner: Any = vars(method)["net"]
        nets.append(learner.model)
        rates.append(learner.optimizer.param_groups[0]["lr"])
        rounds.append(int(report["round"]))
        assert learner.steps == STEPS // 4
        assert (report["unlabeled"] > 0) == (t >= STEPS // 4)
    assert rounds == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [a is b for a, b in pairwise(nets)] == [True, False] * 3 + [True]
    assert len(set(rates)) == 1
    method, stream = build(BY_NAME["self_training"], {"rounds": 4}, schedule="cosine")
    found = []
    for t in range(STEPS):
        run(method, stream, t, t + 1)
        found.append(vars(method)["net"].optimizer.param_groups[0]["lr"])
    assert found[::2] == [found[0]] * 4
    assert found[1::2] == [pytest.approx(found[0] / 2)] * 4


def test_more_rounds_than_steps_are_one_round_per_step() -> None:
    method, stream = build(BY_NAME["self_training"], {"rounds": 3 * STEPS})
    assert [int(r["round"]) for r in run(method, stream, 0, STEPS)] == list(range(STEPS))


def test_a_student_can_go_on_from_its_teacher() -> None:
    fresh, stream = build(BY_NAME["self_training"], net=plain_net)
    going, _ = build(BY_NAME["self_training"], {"keep_weights": True}, net=plain_net)
    for method, near in ((fresh, False), (going, True)):
        run(method, stream, 0, 2)
        teacher = copy.deepcopy(vars(method)["net"].ema.model)
        run(method, stream, 2, 3)
        moved = [(a - b).abs().max() for a, b in zip(networks(method)["net"].parameters(), teacher.parameters())]
        assert (max(moved) < 0.2) == near, moved


def test_the_whole_pool_is_labeled_in_order() -> None:
    _, stream = build(BY_NAME["supervised"])
    model = plain_net().eval()
    context = Context(plain_net, 10, OptimConfig(), STEPS, stream.pool_size, stream.pool)
    p = label_pool(model, context)
    assert p.shape == (stream.pool_size, 10)
    assert not p.requires_grad
    rows = torch.cat([x for _, x in stream.pool("plain")])
    torch.testing.assert_close(p, torch.softmax(model(rows), -1).detach(), rtol=1e-4, atol=1e-6)
    with pytest.raises(ValueError, match="pool"):
        label_pool(model, Context(plain_net, 10, OptimConfig(), STEPS))


def certain(y: list[int], q: list[float], classes: int = 3) -> Tensor:
    p = torch.tensor(q)[:, None].expand(-1, classes)
    p = (1 - p) / (classes - 1)
    p[torch.arange(len(y)), torch.tensor(y)] = torch.tensor(q)
    return p


def test_class_balance() -> None:
    p = certain([0, 0, 0, 0, 1, 1, 2], [0.9, 0.6, 0.8, 0.7, 0.9, 0.5, 0.4])
    everyone = torch.ones(7)
    # 7 rows, 3 classes: 2 each; of class 0 the two surest, the one of class 2 counts twice
    assert class_balance(p, everyone).tolist() == [1, 0, 1, 0, 1, 1, 2]
    assert class_balance(p, (p.amax(-1) >= 0.45).float()).tolist() == [1, 0, 1, 1, 1.5, 1.5, 0]  # 6 rows, 2 classes
    assert class_balance(p, torch.zeros(7)).tolist() == [0] * 7
    assert class_balance(p, everyone.double()).dtype == torch.float64
    alone = torch.tensor([0, 0, 0, 0, 0, 1.0, 0])
    assert class_balance(p, alone).tolist() == alone.tolist()


def test_surest_per_class() -> None:
    p = certain([0, 0, 0, 1, 1, 2], [0.6, 0.9, 0.7, 0.5, 0.8, 0.4])
    assert surest_per_class(p, 0).tolist() == [0] * 6
    assert surest_per_class(p, 1).tolist() == [0, 1, 0, 0, 1, 1]
    assert surest_per_class(p, 2).tolist() == [0, 1, 1, 1, 1, 1]
    assert surest_per_class(p, 50).tolist() == [1] * 6
    assert surest_per_class(p[:1], 2).tolist() == [1]
    assert surest_per_class(p.double(), 1).dtype == torch.float64


def test_the_two_nets_begin_apart_and_are_averaged() -> None:
    method, stream = build(BY_NAME["co_training"], net=plain_net)
    first, second = networks(method)["net"], networks(method)["second"]
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()) if a.ndim > 1)
    run(method, stream, 0, STEPS)
    found = method.candidates()
    assert list(found) == ["average", "first", "second"]
    x = stream(0, frozenset()).x_l
    p = [torch.softmax(found[n](x), -1) for n in found]
    torch.testing.assert_close(p[0], (p[1] + p[2]) / 2)
    method.eval_model().train(False)
    assert not any(m.training for model in found.values() for m in model.modules())


# ---- mpl_reduced -----------------------------------------------------------------------------------------------


class Counted(NoisyNet):
    """A network that is counted while it lives. A deep copy (an average) is none: it is built by nobody."""

    alive: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()

    def __init__(self) -> None:
        super().__init__()
        self.alive.add(self)


def test_there_is_one_big_network_at_a_time() -> None:
    """Without help from the garbage collector: the teacher and its optimiser are gone before the student is made."""
    seen: list[int] = []

    def make() -> nn.Module:
        seen.append(len(Counted.alive))
        return Counted()

    gc.disable()
    try:
        Counted.alive.clear()
        method, stream = build(BY_NAME["mpl_reduced"], net=make)
        optimizer = weakref.ref(vars(method)["net"].optimizer)
        for t in range(STEPS + method.extra_steps):
            run(method, stream, t, t + 1)
            assert len(Counted.alive) == 1
        assert optimizer() is None
        assert seen == [0, 0]
        held = [m for m in networks(method).values() if isinstance(m, Counted)]
        assert len(held) == 2, "the student, and the copy that fine-tuning steps without an optimiser"
        keeping, _ = build(BY_NAME["mpl-exact"], net=make)
        assert len(Counted.alive) == 3, "the count can find two: mpl holds a teacher and a student"
        assert keeping
    finally:
        gc.enable()


def test_the_calibrator_starts_as_the_identity_and_moves_under_feedback() -> None:
    method, stream = build(BY_NAME["mpl_reduced"], {"calibrator_lr": 0.5}, net=plain_net)
    shifts = [float(r["shift"]) for r in run(method, stream, 0, STEPS) if "shift" in r]
    assert len(shifts) == 5
    assert shifts[0] < 1e-6
    assert shifts[-1] > 1e-4
    plain, _ = build(BY_NAME["mpl_reduced-none"], net=plain_net)
    assert list(networks(plain)) == ["net"], "without feedback there is nothing to calibrate by"


def test_a_stored_probability_of_zero_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    sure = torch.zeros(build(BY_NAME["mpl_reduced"])[1].pool_size, 10)
    sure[:, 3] = 1.0
    monkeypatch.setattr("metapl.methods.mpl_reduced.label_pool", lambda model, context: sure)
    method, stream = build(BY_NAME["mpl_reduced"])
    for report in run(method, stream, 0, STEPS):
        assert all(torch.isfinite(v) for v in report.values())
    assert torch.isfinite(torch.cat([p.flatten() for p in networks(method)["calibrator"].parameters()])).all()


def test_the_candidates_say_whose_average_it_is() -> None:
    method, stream = build(BY_NAME["mpl_reduced"])
    run(method, stream, 0, 3)
    assert list(method.candidates()) == ["teacher_ema"]
    run(method, stream, 3, STEPS)
    assert list(method.candidates()) == ["student_ema"]
    run(method, stream, STEPS, STEPS + 1)
    assert list(method.candidates()) == ["student_ema", "student_finetuned"]


# ---- self_mpl --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["self_mpl", "self_mpl-sampled", "self_mpl-adamw-clip"])
def test_two_updates_and_one_average_per_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method, stream = build(BY_NAME[name], net=plain_net)
    net: Any = vars(method)["net"]
    events: list[str] = []
    update, average = Learner.update, EMA.update

    def updated(self: Learner, loss: Tensor, t: int) -> None:
        before = copy.deepcopy(self.model.state_dict())
        update(self, loss, t)
        events.append(
            "update" if not torch.equal(before["head.weight"], self.model.state_dict()["head.weight"]) else "-"
        )

    def averaged(self: EMA, model: nn.Module, t: int) -> None:
        average(self, model, t)
        events.append("average")

    monkeypatch.setattr(Learner, "update", updated)
    monkeypatch.setattr(EMA, "update", averaged)
    run(method, stream, 0, 2)
    assert events == ["update", "update", "average"] * 2
    steps = [int(s["step"]) for s in net.optimizer.state.values() if "step" in s]
    assert set(steps) <= {4}


@pytest.mark.parametrize("feedback", ["exact", "sampled", "none"])
def test_nothing_of_the_first_update_is_held_through_the_second(feedback: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What autograd keeps of a forward, its activations, is gone before the next one: the peak is that of one."""

    class Held:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    alive: weakref.WeakSet[Held] = weakref.WeakSet()
    found: list[int] = []
    forward = Learner.__call__

    def pack(tensor: Tensor) -> Held:
        alive.add(held := Held(tensor.detach()))  # an output would hold its own graph
        return held

    def looked(self: Learner, *views: Tensor) -> tuple[Tensor, ...]:
        found.append(sum(held.tensor.numel() for held in alive))
        return forward(self, *views)

    method, stream = build(BY_NAME["self_mpl"], {"feedback": feedback, "derivative": "difference"}, net=plain_net)
    batch = stream(0, method.needs)
    monkeypatch.setattr(Learner, "__call__", looked)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        method.step(batch, 0)
    assert found == [0]


def test_the_first_update_is_gradient_descent_on_the_own_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against autograd on the same batch: no gradient through the labels, the weight as stated."""
    method, stream = build(BY_NAME["self_mpl"], {"pseudo_weight": 0.5, "uda_weight": 0.0}, net=plain_net)
    batch, twin = stream(0, method.needs), copy.deepcopy(networks(method)["net"])
    assert batch.u_weak is not None
    assert batch.u_strong is not None
    z, z_strong = twin(torch.cat([batch.u_weak, batch.u_strong])).chunk(2)
    loss = -(torch.softmax(z.detach(), -1) * torch.log_softmax(z_strong, -1)).sum(-1).mean()
    wanted = torch.autograd.grad(0.5 * loss, list(twin.parameters()))
    found: list[tuple[Tensor, ...]] = []
    update = Learner.update

    def noted(self: Learner, loss: Tensor, t: int) -> None:
        found.append(torch.autograd.grad(loss, list(self.model.parameters()), retain_graph=True))
        update(self, loss, t)

    monkeypatch.setattr(Learner, "update", noted)
    method.step(batch, 0)
    for got, want in zip(found[0], wanted):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-6)

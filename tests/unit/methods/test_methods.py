"""Every method trains, resumes bit for bit, reduces to supervised training, and moves only what each term owns."""

from __future__ import annotations

import copy
import math
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metapl.errors import UserError
from metapl.losses import cross_entropy
from metapl.methods import METHODS, fits_once, method_class
from metapl.optim import Learner
from metapl.types import SemiBatch
from metapl.utils.fields import Range, notes_of
from methods_table import (
    BY_NAME,
    ROWS,
    STEPS,
    Row,
    Term,
    assert_same,
    build,
    networks,
    noisy_net,
    plain_net,
    run,
    tensors,
    through_disk,
)

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda r: r.name)
SUPERVISED = BY_NAME["supervised"]


def test_every_method_has_a_row() -> None:
    trained = [name for name in METHODS if not fits_once(name)]
    assert {row.method for row in ROWS} == set(trained)
    for name in trained:
        terms = [t.name for row in ROWS if row.method == name for t in row.terms]
        assert "supervised" in terms, f"{name}: no row says which network the labelled loss moves"
        assert any(row.off for row in ROWS if row.method == name), f"{name}: no row reduces it to supervised training"


def test_unknown_method_is_refused() -> None:
    with pytest.raises(UserError, match="Did you mean 'fixmatch'"):
        method_class("fixmach")


@every_row
def test_trains(row: Row) -> None:
    method, stream = build(row)
    start = copy.deepcopy({n: m.state_dict() for n, m in networks(method).items()})
    reports = run(method, stream, 0, STEPS + method.extra_steps)
    for t, report in enumerate(reports):
        assert "loss" in report
        for name, value in report.items():
            assert value.ndim == 0, name
            assert not value.requires_grad, name
            assert torch.isfinite(value), f"{name} at step {t}"
    if method.needs:
        assert all("student" in r or "unlabeled" in r for r in reports[STEPS // 2 : STEPS])
    for name, before in start.items():
        after = networks(method)[name].state_dict()
        still = [k for k in before if torch.equal(before[k], after[k])]
        assert not still, f"{name} did not move in {still}"
    images = stream(0, frozenset()).x_l
    for model in [method.eval_model(), *method.candidates().values()]:
        assert torch.isfinite(model.eval()(images)).all()


@every_row
def test_resume_is_bit_for_bit(row: Row, tmp_path: Any) -> None:
    """k steps, through a file into a new object, then the rest: every tensor and the reports equal the unbroken run."""
    straight, stream = build(row)
    total = STEPS + straight.extra_steps
    kept, reports = {}, []
    for t in range(total):
        reports += run(straight, stream, t, t + 1)
        kept[t + 1] = copy.deepcopy(straight.state_dict())
    cuts = [1, STEPS // 2, *([STEPS, STEPS + 2] if straight.extra_steps else [])]
    for cut in cuts:
        resumed, _ = build(row)
        run(resumed, stream, 2, 3)  # a new object need not be fresh
        resumed.load_state_dict(through_disk(kept[cut], tmp_path))
        assert_same(resumed.state_dict(), kept[cut])
        again = run(resumed, stream, cut, total)
        assert_same(again, reports[cut:])
        assert_same(resumed.state_dict(), straight.state_dict())
        assert list(resumed.candidates()) == list(straight.candidates())
        for name, model in everything(straight).items():  # what the state left out would show here
            assert_same(everything(resumed)[name].state_dict(), model.state_dict())


def test_a_state_holds_no_aliases_that_training_changes(tmp_path: Any) -> None:
    method, stream = build(BY_NAME["mpl-exact"])
    run(method, stream, 0, 2)
    saved = through_disk(method.state_dict(), tmp_path)
    before = {k: v.clone() for k, v in tensors(saved).items()}
    run(method, stream, 2, 4)
    assert all(torch.equal(v, before[k]) for k, v in tensors(saved).items())
    changed = [k for k, v in tensors(method.state_dict()).items() if not torch.equal(v, before[k])]
    assert changed, "the comparison can fail"


REDUCTIONS = [(row, off) for row in ROWS for off in row.off]


@pytest.mark.parametrize(("row", "off"), REDUCTIONS, ids=lambda v: v.name if isinstance(v, Row) else str(dict(v)))
def test_reduces_to_supervised_exactly(row: Row, off: dict[str, Any]) -> None:
    """Parameters, buffers, optimiser and EMA after the whole main phase; dropout and BatchNorm included."""
    reference, stream = build(SUPERVISED, **row.optim)
    run(reference, stream, 0, STEPS)
    method, _ = build(row, off)
    run(method, stream, 0, STEPS)
    learner = vars(method)[row.twin]
    assert isinstance(learner, Learner)
    assert_same(learner.state_dict(), vars(reference)["net"].state_dict())


@pytest.mark.parametrize("row", [r for r in ROWS if r.off and r.method != "supervised"], ids=lambda r: r.name)
def test_without_the_reduction_it_differs(row: Row) -> None:
    reference, stream = build(SUPERVISED, **row.optim)
    method, _ = build(row)
    for one in (reference, method):
        run(one, stream, 0, STEPS)
    one, other = vars(method)[row.twin].state_dict(), vars(reference)["net"].state_dict()
    different = [n for n, v in tensors(one).items() if not torch.equal(v, tensors(other)[n])]
    assert len(different) > 10


WITHOUT_FEEDBACK = {  # row, settings and network of each method that is UDA without its feedback
    "mpl": ("mpl-none", {}, "teacher"),
    "self_mpl": ("self_mpl", {"pseudo_weight": 0.0}, "net"),
    "mpl_reduced": ("mpl_reduced", {"teacher_share": 1.0}, "net"),
}


@pytest.mark.parametrize("selection", ["fixed", "curriculum", "adaptive", "soft", "precision"])
@pytest.mark.parametrize("name", WITHOUT_FEEDBACK)
def test_without_feedback_it_is_uda(name: str, selection: str) -> None:
    row, off, network = WITHOUT_FEEDBACK[name]
    settings: dict[str, Any] = {"threshold": 0.3, "temperature": 0.7, "weight": 0.8}
    settings |= {} if name == "mpl_reduced" else {"ramp": 0.5}
    more = {"selection": selection, "selection_decay": 0.5}
    settings |= {"threshold": "precision=0.3"} if selection == "precision" else more
    uda, stream = build(BY_NAME["uda"], {"ramp": 0.0, **settings})
    other, _ = build(BY_NAME[row], {f"uda_{k}": v for k, v in settings.items()} | off)
    reports = [run(method, stream, 0, STEPS) for method in (uda, other)]
    assert_same(vars(other)[network].state_dict(), vars(uda)["net"].state_dict())
    assert [r["mask_rate"] for r in reports[0]] == [r["mask_rate"] for r in reports[1]]
    assert any(r["mask_rate"] > 0 for r in reports[0]), "the term acts"


def test_the_official_term_does_not_move_the_teacher() -> None:
    """The control: as ``none``, up to rounding."""
    states = []
    for name in ("mpl-official", "mpl-none"):
        method, stream = build(BY_NAME[name], {"feedback_weight": 10.0})
        run(method, stream, 0, STEPS)
        states.append(dict(networks(method)["teacher"].named_parameters()))
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=0, atol=1e-5)


# ---- who moves whom -------------------------------------------------------------------------------------------

# Fine-tuning has no Learner: test_fine_tuning_moves_the_copy_alone looks at it.
OWNERS = [(row, term) for row in ROWS for term in row.terms if term.name != "finetune"]
WARM = STEPS // 2  # steps made before the look, so that no term is at its start by chance


def _ids(value: Any) -> str:
    if isinstance(value, Term):
        return f"{value.name}-{value.settings.get('feedback', '')}".strip("-")
    return str(value.name)


class Looks:
    """Stands in for ``Learner.step``: notes how the loss pulls at every network, then steps as usual."""

    def __init__(self, method: Any) -> None:
        self.method, self.step = method, Learner.step
        self.pulls: dict[str, dict[str, float]] = {}

    def __call__(self, learner: Learner, loss: Tensor, t: int, first: int = 0) -> None:
        player = next(n for n, v in vars(self.method).items() if v is learner)
        self.pulls[player] = {n: pull(loss, m) for n, m in everything(self.method).items()}
        self.step(learner, loss, t)


def everything(method: Any) -> dict[str, nn.Module]:
    """All networks, the averages too."""
    return networks(method) | {f"{n} ema": v.ema.model for n, v in vars(method).items() if isinstance(v, Learner)}


def pull(loss: Tensor, model: nn.Module) -> float:
    weights = [p for p in model.parameters() if p.requires_grad]
    if not weights or not loss.requires_grad:
        return 0.0
    grads = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return max(0.0 if g is None else float(g.abs().max()) for g in grads)


def silence(monkeypatch: pytest.MonkeyPatch, row: Row, y_l: Tensor) -> None:
    """Take the labelled term out of the method's loss, and only that."""
    modules = {sys.modules[cls.__module__] for cls in METHODS[row.method].__mro__}
    modules = {m for m in modules if hasattr(m, "cross_entropy")}
    assert modules

    def without(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        return logits.sum() * 0.0 if y is y_l else cross_entropy(logits, y, smoothing)

    for module in modules:
        monkeypatch.setattr(module, "cross_entropy", without)


@pytest.mark.parametrize(("row", "term"), OWNERS, ids=_ids)
def test_each_term_moves_its_owner_and_nobody_else(row: Row, term: Term, monkeypatch: pytest.MonkeyPatch) -> None:
    # The labelled term is looked at where all others are off, and is then the whole loss.
    off = {} if term.silence_supervised else dict(row.off[0])
    method, stream = build(row, {**off, **term.settings}, net=plain_net)
    run(method, stream, 0, WARM)
    batch = stream(WARM, method.needs)
    if term.silence_supervised and term.owner != "student":
        silence(monkeypatch, row, batch.y_l)
    looks = Looks(method)
    monkeypatch.setattr(Learner, "step", lambda self, loss, t, first=0: looks(self, loss, t))
    report = method.step(batch, WARM).values
    assert term.name in report
    pulls = looks.pulls[term.owner]
    assert pulls[term.owner] > 1e-7
    assert {n: v for n, v in pulls.items() if n != term.owner and v} == {}
    if not term.silence_supervised:
        assert torch.equal(report["loss"], report["supervised"])


@pytest.mark.parametrize("row", [r for r in ROWS if r.method == "mpl" and not r.settings.get("finetune_steps", 0)])
def test_silenced_and_quiet_nothing_moves_the_teacher(row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    """The isolation used above really leaves nothing: without its one term, the loss has no gradient."""
    method, stream = build(row, {"feedback": "none", "uda_weight": 0.0}, net=plain_net)
    batch = stream(0, method.needs)
    silence(monkeypatch, row, batch.y_l)
    looks = Looks(method)
    monkeypatch.setattr(Learner, "step", lambda self, loss, t, first=0: looks(self, loss, t))
    method.step(batch, WARM)
    assert set(looks.pulls["teacher"].values()) == {0.0}
    assert looks.pulls["student"]["student"] > 0


def test_fine_tuning_moves_the_copy_alone() -> None:
    method, stream = build(BY_NAME["mpl-exact"], net=noisy_net)
    run(method, stream, 0, STEPS)
    assert list(method.candidates()) == ["mean", "student_ema", "teacher_ema"]
    before = copy.deepcopy({k: v for k, v in method.state_dict().items() if k != "finetuned"})
    start = copy.deepcopy(vars(method)["student"].ema.model.state_dict())
    gradients = {n: p.grad for m in ("teacher", "student") for n, p in networks(method)[m].named_parameters()}
    (report,) = run(method, stream, STEPS, STEPS + 1)
    assert set(report) == {"loss", "finetune"}
    assert_same({k: v for k, v in method.state_dict().items() if k != "finetuned"}, before)
    for m in ("teacher", "student"):
        for n, p in networks(method)[m].named_parameters():
            assert m == "teacher" or p.grad is gradients[n]
    moved = networks(method)["finetuned"].state_dict()
    assert not [k for k in start if torch.equal(start[k], moved[k])]
    assert list(method.candidates()) == ["mean", "student_ema", "student_finetuned", "teacher_ema"]
    assert method.eval_model() is networks(method)["finetuned"]


def _unlabeled_gradient(row: Row, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]) -> Any:
    """The gradient that the unlabelled term gives, and what a naive reading of the equation needs."""
    method, stream = build(row, settings, net=plain_net)
    run(method, stream, 0, WARM)
    batch = stream(WARM, method.needs)
    silence(monkeypatch, row, batch.y_l)
    net = networks(method)["net"]
    twin = copy.deepcopy(net)
    found: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(
        Learner, "step", lambda self, loss, t, first=0: found.append(torch.autograd.grad(loss, [*net.parameters()]))
    )
    method.step(batch, WARM)
    return twin, batch, found[0]


def _naive(method: str, net: nn.Module, batch: SemiBatch, *, detach: bool) -> tuple[Tensor, ...]:
    """One term, row by row; ``detach=False`` leaves the way through the target open."""
    assert batch.u_weak is not None
    views = [batch.x_l, batch.u_weak] + ([] if batch.u_strong is None else [batch.u_strong])
    z = net(torch.cat(views))
    b, count = len(batch.x_l), len(batch.u_weak)
    z_weak, z_learn = z[b : b + count], z[-count:]
    total = torch.zeros(())
    for i in range(count):
        log_p = F.log_softmax(z_learn[i], 0)
        if method == "uda":
            target = F.softmax(z_weak[i] / 0.5, 0)
            total = total - ((target.detach() if detach else target) * log_p).sum()
        else:
            total = total - log_p[int(z_weak[i].argmax())]
    return torch.autograd.grad(total / count, [*net.parameters()])


@pytest.mark.parametrize("name", ["pseudo_label", "uda", "fixmatch"])
def test_the_unlabelled_term_does_not_pull_through_its_target(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"threshold": 0.0} | ({"temperature": 0.5} if name == "uda" else {})
    settings |= {} if name == "fixmatch" else {"ramp": 0.0}
    net, batch, found = _unlabeled_gradient(BY_NAME[name], monkeypatch, settings)
    for got, wanted in zip(found, _naive(name, copy.deepcopy(net), batch, detach=True)):
        torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6)
    if name == "uda":
        through = _naive(name, copy.deepcopy(net), batch, detach=False)
        assert any((a - b).abs().max() > 1e-3 for a, b in zip(found, through)), "the comparison can fail"


@pytest.mark.parametrize("name", METHODS)
def test_settings_just_out_of_range_are_refused(name: str) -> None:
    for key, limits in notes_of(METHODS[name].Config, Range).items():
        outside = (
            limits.low if limits.above else limits.low - 1,
            limits.high if limits.below else limits.high + 1,
        )
        for value in filter(math.isfinite, outside):
            with pytest.raises(UserError, match=rf"{name}\.{key}"):
                METHODS[name].Config(**{key: int(value)})


def test_settings_that_do_not_go_together_are_refused() -> None:
    bad: list[tuple[str, dict[str, Any]]] = [
        ("pseudo_label", {"schedule": "epoch", "selection": "soft"}),
        ("fixmatch", {"selection": "curriculum", "threshold": 1.01}),
        ("flexmatch", {"threshold": 1.01}),
    ]
    for name, settings in bad:
        with pytest.raises(UserError, match=name):
            METHODS[name].Config(**settings)


def test_mpl_returns_the_mean_of_both_networks() -> None:
    """E8, by hand; a teacher that is another network, or not offered, leaves the student alone."""
    method, stream = build(BY_NAME["mpl-exact"])
    run(method, stream, 0, STEPS)
    found, x = method.candidates(), stream(0, method.needs).x_l
    with torch.no_grad():
        both = [torch.softmax(found[name](x), -1) for name in ("student_ema", "teacher_ema")]
        torch.testing.assert_close(torch.softmax(found["mean"](x), -1), (both[0] + both[1]) / 2)
    assert not torch.equal(both[0], both[1])
    alone, _ = build(Row("student-alone", "mpl", {"offer_teacher": False}))
    assert list(alone.candidates()) == ["student_ema"]

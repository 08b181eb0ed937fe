"""The teacher's feedback gradient against brute force: autograd through the student's step, in float64."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metapl import feedback as fb
from metapl.diagnostics import teacher_feedback_gradient
from metapl.errors import UserError
from metapl.models import NGram
from metapl.types import Tokens

C = 3
Tensors = dict[str, Tensor]


class Encoder(nn.Module):
    """A small Transformer encoder over [B, tokens, features]."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.body, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(8, C)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 10), nn.ReLU(), nn.Linear(10, C))


def cnn() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, C))


def cnn_bn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, C)
    )


class Texts(nn.Module):
    """The package's net for texts over rows of ids, a small one; noise as the shared problem draws it becomes ids."""

    def __init__(self) -> None:
        super().__init__()
        self.net = NGram(Tokens("words", 8), C, buckets=64, width=4, hidden=8, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x.abs() * 4).to(torch.int64) << 14)  # 0, padding, among them


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (1, 4, 4)),
    "cnn": (cnn, (1, 4, 4)),
    "cnn_batchnorm": (cnn_bn, (1, 4, 4)),
    "transformer": (Encoder, (3, 8)),
    "texts": (Texts, (8,)),
}


@pytest.fixture(autouse=True)
def _float64():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def problem(net: str, b: int = 5, B: int = 6):
    build, shape = NETS[net]
    teacher, student = build(), build()
    x_l, x_t, x_s = torch.randn(b, *shape), torch.randn(B, *shape), torch.randn(B, *shape)
    return teacher, student, x_l, torch.arange(b) % C, x_t, x_s


def buffers_of(module: nn.Module) -> Tensors:
    return {n: v.clone() for n, v in module.named_buffers()}


def new_parameters(name: str, theta: Tensors, grads: Tensors, lr: float, decay: float, state: dict) -> Tensors:
    """One optimiser step as a naive differentiable formula; ``state[n]`` = (momentum, second moment, steps made)."""
    out = {}
    for n, p in theta.items():
        m, v, k = state.get(n, (torch.zeros_like(p), torch.zeros_like(p), 0))
        if name == "adamw":
            b1, b2 = 0.9, 0.999
            second = (b2 * v + (1 - b2) * grads[n] ** 2).detach() / (1 - b2 ** (k + 1))  # held fixed
            first = (b1 * m + (1 - b1) * grads[n]) / (1 - b1 ** (k + 1))
            out[n] = p * (1 - lr * decay) - lr * first / (second.sqrt() + 1e-8)
            continue
        mu = 0.0 if name == "sgd" else 0.9
        g = grads[n] + decay * p
        velocity = mu * m + g
        out[n] = p - lr * (g + mu * velocity if name == "nesterov" else velocity)
    return out


def brute_force(teacher, student, x_l, y_l, x_t, x_s, lr, name="sgd", decay=0.0, state=None) -> tuple[Tensors, Tensor]:
    """d L_l(theta') / d teacher by a second-order graph through the student's step."""
    theta = {n: p.detach().clone().requires_grad_() for n, p in student.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        p = torch.softmax(teacher(x_t), -1)
        log_s = F.log_softmax(functional_call(student, {**theta, **buffers_of(student)}, (x_s,)), -1)
        inner = -(p * log_s).sum(-1).mean()
        grads = dict(zip(theta, torch.autograd.grad(inner, list(theta.values()), create_graph=True)))
        moved = new_parameters(name, theta, grads, lr, decay, state or {})
        loss = F.cross_entropy(functional_call(student, {**moved, **buffers_of(student)}, (x_l,)), y_l)
        names, weights = zip(*teacher.named_parameters())
        return dict(zip(names, torch.autograd.grad(loss, weights))), loss


def relative_error(a: Tensors, b: Tensors) -> float:
    assert a.keys() == b.keys()
    difference = sum(((a[n] - b[n]) ** 2).sum() for n in a)
    return float((difference / sum((b[n] ** 2).sum() for n in b)).sqrt())


@pytest.mark.parametrize("lr", [1e-4, 1e-2, 0.3, 1.0])
@pytest.mark.parametrize("net", NETS)
def test_exact_equals_autograd_through_the_step(net, lr):
    p = problem(net)
    expected, _ = brute_force(*p, lr)
    assert sum((g**2).sum() for g in expected.values()) > 0
    assert relative_error(teacher_feedback_gradient(*p, lr), expected) < 1e-9


@pytest.mark.parametrize("lr", [1e-4, 1e-2, 0.3, 1.0])
@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adamw"])
@pytest.mark.parametrize("net", NETS)
def test_exact_holds_for_every_optimizer(net, optimizer, decay, lr):
    p = problem(net)
    expected, _ = brute_force(*p, lr, optimizer, decay)
    got = teacher_feedback_gradient(*p, lr, optimizer=optimizer, weight_decay=decay)
    assert relative_error(got, expected) < 1e-9


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adamw"])
def test_exact_holds_in_the_middle_of_a_run(optimizer):
    """With a warm optimiser: past momentum and a past second moment."""
    teacher, student, *rest = problem("cnn_batchnorm")
    parameters = list(student.parameters())
    if optimizer == "adamw":
        opt = torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.1)
    else:
        opt = torch.optim.SGD(parameters, 0.02, momentum=0.9, nesterov=optimizer == "nesterov", weight_decay=0.1)
    for _ in range(3):
        opt.zero_grad()
        F.cross_entropy(student(rest[0]), rest[1]).backward()
        opt.step()
    state = {}
    for n, q in student.named_parameters():
        s = opt.state[q]
        if optimizer == "adamw":
            state[n] = (s["exp_avg"].clone(), s["exp_avg_sq"].clone(), int(s["step"]))
        else:
            state[n] = (s["momentum_buffer"].clone(), None, 3)
    before = {n: v.clone() for n, v in student.state_dict().items()}
    got = teacher_feedback_gradient(teacher, student, *rest, 0.02, optimizer=opt)
    expected, _ = brute_force(teacher, student, *rest, 0.02, optimizer, 0.1, state)
    assert relative_error(got, expected) < 1e-9
    for n, v in student.state_dict().items():  # the networks handed in are not touched
        if "running" not in n and "tracked" not in n:
            assert torch.equal(v, before[n])


def test_first_order_feedback_would_not_pass():
    """r along the OLD student's gradient differs from the truth by O(lr): the 1e-9 above is a real bar."""
    p = problem("cnn")
    small, _ = brute_force(*p, 1e-4)
    large, _ = brute_force(*p, 1.0)
    scaled = {n: g * 1e4 for n, g in small.items()}
    assert relative_error(scaled, large) > 1e-3


@pytest.mark.parametrize("net", NETS)
def test_central_difference_agrees_with_forward_mode(net):
    p = problem(net)
    forward = teacher_feedback_gradient(*p, 0.05, derivative="forward")
    difference = teacher_feedback_gradient(*p, 0.05, derivative="difference")
    assert 0 < relative_error(difference, forward) < 1e-6


def test_layer_without_forward_mode_falls_back_and_says_so():
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bag, self.head = nn.EmbeddingBag(20, 6), nn.Linear(6, C)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.tanh(self.bag(x)))

    teacher, student = Bag(), Bag()
    x_l, x_t = torch.randint(20, (5, 4)), torch.randint(20, (6, 4))
    p = (teacher, student, x_l, torch.arange(5) % C, x_t, x_t)
    with pytest.warns(UserWarning, match="central difference"):
        got = teacher_feedback_gradient(*p, 0.1)
    # EmbeddingBag has no double backward either: judge against a difference quotient of the loss itself.
    name, weight = "head.bias", teacher.head.bias
    numeric = torch.zeros_like(weight)
    for k in range(C):
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight[k] += sign * 1e-5
            moved = {n: q.detach().clone() for n, q in student.named_parameters()}
            inner = -(torch.softmax(teacher(x_t), -1).detach() * F.log_softmax(student(x_t), -1)).sum(-1).mean()
            for (n, q), g in zip(student.named_parameters(), torch.autograd.grad(inner, list(student.parameters()))):
                moved[n] = q.detach() - 0.1 * g
            sides.append(F.cross_entropy(functional_call(student, moved, (x_l,)), p[3]).item())
            with torch.no_grad():
                weight[k] -= sign * 1e-5
        numeric[k] = (sides[0] - sides[1]) / 2e-5
    assert relative_error({name: got[name]}, {name: numeric}) < 1e-5


@pytest.mark.parametrize("lr", [0.05, 0.7])
def test_sampled_is_unbiased_on_an_enumerable_toy(lr):
    """2 rows, 3 classes: the mean over all 9 label draws is the gradient of the expected loss, sign and size."""
    teacher, student, x_l, y_l, x_t, x_s = problem("cnn_batchnorm", B=2)
    draws = [torch.tensor(d) for d in itertools.product(range(C), repeat=2)]
    probs = torch.softmax(teacher(x_t), -1)

    def loss_after(y: Tensor) -> Tensor:
        theta = dict(student.named_parameters())
        out = functional_call(student, {**theta, **buffers_of(student)}, (x_s,))
        grads = torch.autograd.grad(F.cross_entropy(out, y), list(theta.values()))
        moved = {n: q.detach() - lr * g for (n, q), g in zip(theta.items(), grads)}
        return F.cross_entropy(functional_call(student, {**moved, **buffers_of(student)}, (x_l,)), y_l).detach()

    expected_loss = sum(probs[0, d[0]] * probs[1, d[1]] * loss_after(d) for d in draws)
    names, weights = zip(*teacher.named_parameters())
    expected = dict(zip(names, torch.autograd.grad(expected_loss, weights, retain_graph=True)))
    mean = {n: torch.zeros_like(w) for n, w in zip(names, weights)}
    for d in draws:
        one = teacher_feedback_gradient(teacher, student, x_l, y_l, x_t, x_s, lr, feedback="sampled", labels=d)
        for n in mean:
            mean[n] += (probs[0, d[0]] * probs[1, d[1]]).detach() * one[n]
    assert relative_error(mean, expected) < 1e-9


def test_sampled_draws_from_the_teacher():
    """Without ``labels`` the draw is the teacher's: the mean of many draws points along the enumerated mean."""
    p = problem("mlp", B=2)
    many = [teacher_feedback_gradient(*p, 0.5, feedback="sampled") for _ in range(600)]
    mean = {n: torch.stack([m[n] for m in many]).mean(0) for n in many[0]}
    draws = list(itertools.product(range(C), repeat=2))
    probs = torch.softmax(p[0](p[4]), -1).detach()
    truth = {n: torch.zeros_like(v) for n, v in mean.items()}
    for d in draws:
        one = teacher_feedback_gradient(*p, 0.5, feedback="sampled", labels=torch.tensor(d))
        for n in truth:
            truth[n] += probs[0, d[0]] * probs[1, d[1]] * one[n]
    assert relative_error(mean, truth) < 0.5


def test_official_and_none_are_zero():
    p = problem("cnn_batchnorm")
    scale = max(g.abs().max() for g in teacher_feedback_gradient(*p, 0.3).values())
    assert all((g == 0).all() for g in teacher_feedback_gradient(*p, 0.3, feedback="none").values())
    assert all(g.abs().max() < 1e-12 * scale for g in teacher_feedback_gradient(*p, 0.3, feedback="official").values())


def test_dropout_repeats_itself_in_the_look_back():
    """With dropout in the student, r belongs to the masks the student was trained with."""
    teacher, student, *rest = problem("mlp")
    student = nn.Sequential(*list(student)[:3], nn.Dropout(0.5), *list(student)[3:])
    torch.manual_seed(5)
    got = teacher_feedback_gradient(teacher, student, *rest, 0.1)
    torch.manual_seed(5)
    expected, _ = brute_force(teacher, student, *rest, 0.1)  # same order of draws: x_s first, then x_l
    assert relative_error(got, expected) < 1e-9


def test_clipping_is_part_of_the_chain():
    teacher, student, x_l, y_l, x_t, x_s = problem("mlp")
    lr, limit = 0.5, 0.01
    p = torch.softmax(teacher(x_t), -1)
    theta = {n: q.detach().clone().requires_grad_() for n, q in student.named_parameters()}
    inner = -(p * F.log_softmax(functional_call(student, theta, (x_s,)), -1)).sum(-1).mean()
    grads = torch.autograd.grad(inner, list(theta.values()), create_graph=True)
    norm = torch.sqrt(sum((g**2).sum() for g in grads))
    assert norm > limit
    moved = {n: q - lr * g * limit / norm for (n, q), g in zip(theta.items(), grads)}
    loss = F.cross_entropy(functional_call(student, moved, (x_l,)), y_l)
    names, weights = zip(*teacher.named_parameters())
    expected = dict(zip(names, torch.autograd.grad(loss, weights, retain_graph=True)))

    before = fb.snapshot(student)
    clipped = {n: (g * limit / norm).detach() for n, g in zip(theta, grads)}
    with torch.no_grad():
        for n, q in student.named_parameters():
            q -= lr * clipped[n]
    _, g_l = fb.labeled_gradient(student, before, x_l, y_l)
    direction = fb.clip_adjoint({n: lr * g for n, g in g_l.items()}, clipped, (limit / norm).detach())
    meta = fb.exact_loss(p, fb.log_prob_derivative(student, before, x_s, direction))
    assert relative_error(dict(zip(names, torch.autograd.grad(meta, weights))), expected) < 1e-9


def test_unknown_names_are_refused():
    p = problem("mlp")
    with pytest.raises(UserError, match="Did you mean 'exact'"):
        teacher_feedback_gradient(*p, 0.1, feedback="exakt")
    with pytest.raises(UserError, match="Did you mean 'adamw'"):
        teacher_feedback_gradient(*p, 0.1, optimizer="adam")
    with pytest.raises(UserError, match="RMSprop"):
        teacher_feedback_gradient(*p, 0.1, optimizer=torch.optim.RMSprop(p[1].parameters()))


@pytest.mark.parametrize("derivative", ["forward", "difference"])
def test_an_optimizer_over_part_of_the_student(derivative):
    """Parameters that the optimiser does not hold stay put."""
    teacher, student, *rest = problem("mlp")
    head = list(student[-1].parameters())
    got = teacher_feedback_gradient(
        teacher, student, *rest, 0.1, optimizer=torch.optim.SGD(head, lr=0.1), derivative=derivative
    )
    for p in student.parameters():
        p.requires_grad_(any(p is q for q in head))
    expected = teacher_feedback_gradient(teacher, student, *rest, 0.1)
    assert relative_error(got, expected) < 1e-6


# ---- which labelled rows are believed (E3') -----------------------------------------------------------------------


def test_trust_by_hand() -> None:
    y = torch.tensor([0, 0, 1, 0, 1, 2])
    p = torch.tensor([0.9, 0.6, 0.3, 0.03, 0.1, 0.002])  # the fourth row is contradicted where its class is agreed with
    expected = torch.tensor([0.9 / 0.51, 0.6 / 0.51, 1.0, 0.03 / 0.51, 1.0, 1.0])  # two rows hold no majority
    torch.testing.assert_close(fb.trust(-torch.log(p), y), expected)


def test_trust_leaves_a_class_that_is_lost_as_loud_as_the_others() -> None:
    y, losses = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([0.1, 0.3, 0.2, 300.0, 301.0, 299.0])
    weights = fb.trust(losses, y)
    assert weights.isfinite().all()
    torch.testing.assert_close(weights[3:].sum(), torch.tensor(3.0))
    torch.testing.assert_close(fb.trust(losses + 9.0 * y, y), weights)


def test_trusted_rows_change_the_gradient_and_not_the_loss_that_is_told() -> None:
    _, student, x_l, y_l, _, _ = problem("mlp", b=9)
    before = fb.snapshot(student)
    plain, even = fb.labeled_gradient(student, before, x_l, y_l)
    told, heard = fb.labeled_gradient(student, before, x_l, y_l, "trusted")
    assert told == plain
    each = F.cross_entropy(student(x_l), y_l, reduction="none")
    loss = (fb.trust(each.detach(), y_l) * each).mean()
    expected = dict(zip(even, torch.autograd.grad(loss, list(student.parameters()))))
    for name, value in expected.items():
        torch.testing.assert_close(heard[name], value)
    assert any((heard[n] - even[n]).abs().max() > 1e-3 for n in even)

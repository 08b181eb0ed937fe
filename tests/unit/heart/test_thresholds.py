"""Each threshold at its edges: one row, nobody sure, one class, confidences 0 and 1, rows seen never or twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.optim import OptimConfig
from metapl.thresholds import Adaptive, Curriculum, Fixed, Soft, Threshold, check_threshold, make_threshold
from metapl.types import Context

C, N = 3, 8
KINDS: dict[str, Any] = {
    "all": Threshold,
    "fixed": lambda: Fixed(0.8),
    "curriculum": lambda: Curriculum(0.8, C, N),
    "adaptive": lambda: Adaptive(C, 0.5),
    "soft": lambda: Soft(C, 0.5),
    "soft-aligned": lambda: Soft(C, 0.5, align=True),
}
each = pytest.mark.parametrize("kind", KINDS)


def rows(*confidences: float, classes: tuple[int, ...] | None = None) -> Tensor:
    """[B, 3] probabilities with these confidences, row i of class i (or ``classes``); the rest is spread evenly."""
    p = torch.tensor(confidences)[:, None].expand(-1, C)
    p = (1 - p) / (C - 1)
    for i, q in enumerate(confidences):
        p[i, classes[i] if classes else i % C] = q
    return p


def ask(threshold: Threshold, p: Tensor, *index: int) -> list[float]:
    at = torch.tensor(index) if index else torch.arange(len(p))
    return threshold.weights(p, at, 0).tolist()


def random_batch(seed: int, count: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return torch.softmax(3 * torch.randn(count, C, generator=g), -1), torch.randint(N, (count,), generator=g)


# ---- what all share ---------------------------------------------------------------------------------------------


@each
def test_weights_are_shares_without_gradient_in_the_rows_own_precision(kind: str) -> None:
    threshold = KINDS[kind]()
    for seed, dtype in enumerate((torch.float32, torch.float64, torch.float64)):
        p, index = random_batch(seed)
        w = threshold.weights(p.to(dtype).requires_grad_(), index, seed)
        assert w.dtype == dtype
        assert w.shape == (6,)
        assert not w.requires_grad
        assert ((w >= 0) & (w <= 1)).all()
        for value in threshold.report().values():
            assert value.ndim == 0
            assert not value.requires_grad


@each
def test_the_state_carries_on_exactly(kind: str) -> None:
    one, other = KINDS[kind](), KINDS[kind]()
    for seed in range(3):
        one.weights(*random_batch(seed), seed)
    before = {k: v.clone() for k, v in one.state_dict().items()}
    other.weights(*random_batch(9), 0)  # a used object takes the state too
    other.load_state_dict(one.state_dict())
    for seed in range(3, 6):
        p, index = random_batch(seed)
        assert torch.equal(one.weights(p, index, seed), other.weights(p, index, seed))
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in one.state_dict().items())
    if kind not in ("all", "fixed"):
        assert not all(torch.equal(v, before[k]) for k, v in one.state_dict().items()), "it remembers"


@each
@pytest.mark.parametrize("confidence", [1 / C, 0.5, 0.99, 1.0])
def test_one_row(kind: str, confidence: float) -> None:
    threshold = KINDS[kind]()
    for _ in range(4):
        (w,) = ask(threshold, rows(confidence), 5)
        assert 0 <= w <= 1
    assert all(torch.isfinite(v.float()).all() for v in threshold.state_dict().values())


@each
def test_confidences_of_exactly_0_and_1(kind: str) -> None:
    """Saturated rows, for many steps: nothing becomes infinite or undefined."""
    threshold = KINDS[kind]()
    p = rows(1.0, 1.0, 1.0, 1.0, classes=(0, 0, 0, 1))
    assert set(p.flatten().tolist()) == {0.0, 1.0}
    for _ in range(200):
        w = threshold.weights(p, torch.arange(4), 0)
        assert torch.isfinite(w).all()
    assert all(torch.isfinite(v.float()).all() for v in threshold.state_dict().values())


@each
def test_one_class_alone(kind: str) -> None:
    """All rows in one class: the others, never seen, bring no division by zero."""
    threshold = KINDS[kind]()
    for _ in range(5):
        w = threshold.weights(rows(0.9, 0.95, 0.99, 0.5, classes=(1, 1, 1, 1)), torch.arange(4), 0)
    assert torch.isfinite(w).all()
    assert w[2] == 1


# ---- fixed ------------------------------------------------------------------------------------------------------


def test_fixed() -> None:
    p = rows(0.5, 0.75, 1.0)
    assert ask(Fixed(0.75), p) == [0, 1, 1]
    assert ask(Fixed(0.0), p) == [1, 1, 1]
    assert ask(Fixed(1.0), p) == [0, 0, 1]
    assert ask(Fixed(1.01), p) == [0, 0, 0]
    assert (Fixed(1.0).active, Fixed(1.01).active) == (True, False)


# ---- curriculum -------------------------------------------------------------------------------------------------


def test_curriculum_starts_open_and_closes_as_classes_are_learnt() -> None:
    threshold = Curriculum(0.8, C, N)
    assert ask(threshold, rows(0.4, 0.5, 0.6), 0, 1, 2) == [1, 1, 1], "nothing is known: every class at 0"
    assert threshold.labels.tolist() == [-1] * N, "and nobody was sure"
    ask(threshold, rows(0.9, 0.9, 0.9, classes=(0, 0, 1)), 0, 1, 2)
    assert threshold.labels.tolist() == [0, 0, 1, -1, -1, -1, -1, -1]
    # n = (2, 1, 0), five rows never sure: beta = (2/5, 1/5, 0), thresholds .8 * (1/4, 1/9, 0) = .2, .089, 0
    p = torch.tensor([[0.199, 0.0, 0.0], [0.201, 0.0, 0.0], [0.0, 0.08, 0.0], [0.0, 0.1, 0.0], [0.0, 0.0, 0.01]])
    assert ask(threshold, p, 3, 4, 5, 6, 7) == [0, 1, 0, 1, 1]


def test_curriculum_at_the_end_asks_the_whole_threshold_of_the_best_class() -> None:
    threshold = Curriculum(0.8, 2, 4)
    ask(threshold, torch.tensor([[0.9, 0.1]] * 3 + [[0.1, 0.9]]))
    p = torch.tensor([[0.79, 0.21], [0.81, 0.19], [0.45, 0.55], [0.49, 0.51]])
    assert ask(threshold, p) == [0, 1, 1, 1]  # beta = (1, 1/3): .8 and .8 / 5


def test_curriculum_all_below_changes_nothing() -> None:
    threshold = Curriculum(0.8, C, N)
    ask(threshold, rows(0.9), 3)
    before = threshold.labels.clone()
    ask(threshold, rows(0.8, 0.7, 0.4), 3, 3, 4)  # the threshold itself is not above it
    assert torch.equal(threshold.labels, before)


def test_curriculum_remembers_the_last_sure_label_of_a_row_that_stands_twice_in_a_batch() -> None:
    threshold = Curriculum(0.8, C, N)
    ask(threshold, rows(0.9, 0.95, 0.6, 0.99, classes=(0, 1, 2, 2)), 2, 2, 2, 7)
    assert threshold.labels.tolist() == [-1, -1, 1, -1, -1, -1, -1, 2]
    ask(threshold, rows(0.9, classes=(0,)), 2)
    assert threshold.labels[2] == 0, "a row's label is replaced, not counted twice"


def test_curriculum_at_thresholds_0_and_1() -> None:
    p = rows(0.4, 0.9, 1.0)
    assert ask(Curriculum(0.0, C, N), p) == [1, 1, 1]
    strict = Curriculum(1.0, C, N)
    for _ in range(3):
        assert ask(strict, p) == [1, 1, 1], "nobody is above 1, so nothing is learnt and every class stays at 0"


def test_curriculum_needs_the_size_of_the_pool() -> None:
    with pytest.raises(ValueError, match="pool_size"):
        Curriculum(0.9, C, 0)


# ---- adaptive ---------------------------------------------------------------------------------------------------


def test_adaptive_follows_the_confidence_and_spares_rare_classes() -> None:
    threshold = Adaptive(2, 0.5)
    w = ask(threshold, torch.tensor([[0.9, 0.1], [0.7, 0.3], [0.6, 0.4]]))
    assert threshold.tau.item() == pytest.approx(0.5 * 0.5 + 0.5 * (2.2 / 3))
    assert threshold.mean_p.tolist() == pytest.approx([0.25 + 0.5 * 2.2 / 3, 0.25 + 0.5 * 0.8 / 3])
    assert w == [1, 1, 0]  # tau = .617
    # class 1 is rare, so that .52 is enough for it and would not be for class 0
    assert ask(threshold, torch.tensor([[0.48, 0.52], [0.52, 0.48]])) == [1, 0]


def test_adaptive_when_all_rows_are_equally_sure() -> None:
    """The rule is strict: at the average itself no row passes; the moving average, started low, lets them pass."""
    assert ask(Adaptive(C, 0.0), rows(0.5, 0.5, classes=(0, 0))) == [0, 0]
    assert ask(Adaptive(C, 0.9), rows(0.5, 0.5, classes=(0, 0))) == [1, 1]


# ---- soft -------------------------------------------------------------------------------------------------------


def test_soft_is_1_from_the_mean_on_and_falls_below_it() -> None:
    threshold = Soft(C, 0.0)
    w = ask(threshold, rows(0.5, 0.7, 0.9))
    assert threshold.mean.item() == pytest.approx(0.7)
    assert threshold.variance.item() == pytest.approx(0.04)  # unbiased
    assert w == pytest.approx([torch.tensor(-2.0).exp().item(), 1, 1])  # one sigma below, n_sigma 2


def test_soft_with_one_row_keeps_its_variance() -> None:
    threshold = Soft(C, 0.5)
    ask(threshold, rows(0.9))
    assert threshold.variance.item() == 1.0


def test_soft_without_spread_is_a_step() -> None:
    threshold = Soft(C, 0.0)
    assert ask(threshold, rows(0.75, 0.75, 0.75)) == [1, 1, 1]
    assert threshold.variance.item() == 0
    threshold.decay = 1.0
    assert ask(threshold, rows(0.5, 0.75, 0.8)) == [0, 1, 1]


def test_alignment_starts_with_the_first_batch_and_favours_the_rare_class() -> None:
    plain, aligned = Soft(2, 0.0), Soft(2, 0.0, align=True)
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
    assert ask(plain, p)[3] < 0.2
    assert ask(aligned, p)[3] == 1
    assert aligned.mean_p.tolist() == pytest.approx([0.775, 0.225])
    late = Soft(2, 0.9, align=True)
    ask(late, p)
    assert late.mean_p.tolist() == pytest.approx([0.775, 0.225])
    ask(late, p[3:])
    assert late.mean_p.tolist() == pytest.approx([0.9 * 0.775 + 0.04, 0.9 * 0.225 + 0.06])


# ---- settings ---------------------------------------------------------------------------------------------------


def test_make() -> None:
    context = Context(lambda: torch.nn.Identity(), C, OptimConfig(), 10, pool_size=N)
    kinds = {"fixed": Fixed, "curriculum": Curriculum, "adaptive": Adaptive, "soft": Soft}
    for kind, cls in kinds.items():
        made = make_threshold(kind, 0.7, 0.8, context)  # type: ignore[arg-type]
        assert type(made) is cls
        assert getattr(made, "threshold", 0.7) == 0.7
        assert getattr(made, "decay", 0.8) == 0.8


@pytest.mark.parametrize(
    ("kind", "threshold", "decay"),
    [
        ("fixed", -0.1, 0.9),
        ("fixed", float("nan"), 0.9),
        ("fixed", float("inf"), 0.9),
        ("curriculum", 1.1, 0.9),
        ("soft", 0.9, 1.0),
        ("soft", 0.9, -0.1),
    ],
)
def test_what_makes_no_sense_is_refused(kind: Any, threshold: float, decay: float) -> None:
    with pytest.raises(UserError, match="here"):
        check_threshold(kind, threshold, decay, "here")

"""Losses and pseudo labels against naive loops written from the papers' equations, in float64."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metapl import feedback as fb
from metapl.losses import (
    consistency,
    cross_entropy,
    kl_divergence,
    masked_cross_entropy,
    soft_cross_entropy,
    squared_distance,
)
from metapl.pseudo_labels import confidence_mask, sample_labels, sharpen

Rows = list[list[float]]


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(v) for v in row)
    return [math.exp(v) / total for v in row]


def naive_cross_entropy(z: Rows, y: list[int], smoothing: float) -> float:
    """Szegedy et al. 2016, section 7: the target is (1 - e) one-hot + e / C."""
    total = 0.0
    for row, label in zip(z, y):
        p = softmax(row)
        for c, value in enumerate(p):
            target = (1 - smoothing) * (c == label) + smoothing / len(p)
            total -= target * math.log(value)
    return total / len(z)


def naive_soft(z: Rows, q: Rows, mask: list[float]) -> float:
    """UDA, section 2.2 (cross-entropy form), masked; the mean is over all rows."""
    total = 0.0
    for row, target, m in zip(z, q, mask):
        p = softmax(row)
        total += m * -sum(t * math.log(v) for t, v in zip(target, p))
    return total / len(z)


def naive_fixmatch(z_weak: Rows, z_strong: Rows, threshold: float) -> float:
    """FixMatch, eq. 4: (1/B) sum 1[max q >= tau] H(argmax q, p(strong))."""
    total = 0.0
    for weak, strong in zip(z_weak, z_strong):
        q = softmax(weak)
        if max(q) >= threshold:
            total -= math.log(softmax(strong)[q.index(max(q))])
    return total / len(z_weak)


@pytest.fixture
def draw() -> Callable[..., Tensor]:
    generator = torch.Generator().manual_seed(4)
    return lambda *shape: 2 * torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize(("B", "C"), [(1, 2), (6, 5)])
def test_cross_entropy(draw: Callable[..., Tensor], B: int, C: int, smoothing: float) -> None:
    z, y = draw(B, C), torch.arange(B) % C
    expected = naive_cross_entropy(z.tolist(), y.tolist(), smoothing)
    assert cross_entropy(z, y, smoothing).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("B", "C"), [(1, 2), (7, 4)])
def test_soft_and_masked_and_consistency(draw: Callable[..., Tensor], B: int, C: int) -> None:
    z, q, y = draw(B, C), torch.softmax(draw(B, C), -1), torch.arange(B) % C
    mask = (torch.arange(B) % 3 != 1).double()
    everything, hard = [1.0] * B, torch.nn.functional.one_hot(y, C).tolist()
    assert soft_cross_entropy(z, q).item() == pytest.approx(naive_soft(z.tolist(), q.tolist(), everything), rel=1e-12)
    assert consistency(z, q, mask).item() == pytest.approx(naive_soft(z.tolist(), q.tolist(), mask.tolist()), rel=1e-12)
    assert masked_cross_entropy(z, y, mask).item() == pytest.approx(
        naive_soft(z.tolist(), hard, mask.tolist()), rel=1e-12
    )


@pytest.mark.parametrize(("B", "C"), [(1, 2), (7, 4)])
def test_two_ways_to_agree(draw: Callable[..., Tensor], B: int, C: int) -> None:
    """Mean Teacher's two, and that neither pulls at its target."""
    z, free = draw(B, C).requires_grad_(), draw(B, C).requires_grad_()
    q = torch.softmax(free, -1)
    square = kl = 0.0
    for row, target in zip(z.tolist(), q.tolist()):
        for p, t in zip(softmax(row), target):
            square += (p - t) ** 2 / B
            kl += t * math.log(t / p) / B
    for found, expected in ((squared_distance(z, q), square), (kl_divergence(z, q), kl)):
        assert found.item() == pytest.approx(expected, rel=1e-10)
        pulls = torch.autograd.grad(found, [z, free], allow_unused=True, retain_graph=True)
        assert pulls[0].abs().max() > 1e-3
        assert pulls[1] is None


@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.6, 0.99, 1.5])
def test_fixmatch_term(draw: Callable[..., Tensor], threshold: float) -> None:
    z_weak, z_strong = draw(9, 4), draw(9, 4)
    p = torch.softmax(z_weak, -1)
    got = masked_cross_entropy(z_strong, p.argmax(-1), confidence_mask(p, threshold)).item()
    assert got == pytest.approx(naive_fixmatch(z_weak.tolist(), z_strong.tolist(), threshold), rel=1e-12, abs=1e-15)


@pytest.mark.parametrize("temperature", [0.1, 0.4, 1.0, 3.0])
def test_sharpen(draw: Callable[..., Tensor], temperature: float) -> None:
    z = draw(5, 4).requires_grad_()
    got = sharpen(z, temperature)
    assert not got.requires_grad
    for row, p in zip(z.tolist(), got.tolist()):
        assert p == pytest.approx(softmax([v / temperature for v in row]), rel=1e-12)


def test_confidence_mask_counts_the_threshold_itself() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5], [0.2, 0.8]])
    assert confidence_mask(p, 0.75).tolist() == [1.0, 0.0, 1.0]
    assert confidence_mask(p, 0.0).tolist() == [1.0, 1.0, 1.0]
    assert confidence_mask(p, 1.01).tolist() == [0.0, 0.0, 0.0]
    assert confidence_mask(torch.tensor([[1.0, 0.0]]), 1.0).tolist() == [1.0]
    assert confidence_mask(p.double(), 0.6).dtype == torch.float64


def test_sampled_labels_follow_the_distribution() -> None:
    """5000 draws per row: each share within 5 standard errors; impossible classes never; seeded by the global RNG."""
    p = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.0, 0.0, 1.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    torch.manual_seed(0)
    n = 5000
    draws = [sample_labels(p.repeat(n, 1)).view(n, 3)]
    torch.manual_seed(0)
    assert torch.equal(sample_labels(p.repeat(n, 1)).view(n, 3), draws[0])
    for k, row in enumerate(p.tolist()):
        shares = Counter(draws[0][:, k].tolist())
        for c, share in enumerate(row):
            error = math.sqrt(share * (1 - share) / n)
            assert abs(shares[c] / n - share) <= 5 * error
    assert draws[0].dtype == torch.int64


def test_pinned_constants() -> None:
    """Values worked out by hand."""
    z, y = torch.zeros(3, 4, dtype=torch.float64), torch.tensor([0, 1, 2])
    assert cross_entropy(z, y).item() == pytest.approx(math.log(4), rel=1e-15)
    one = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64)  # p = 3/4, 1/4
    assert cross_entropy(one, torch.tensor([0])).item() == pytest.approx(math.log(4 / 3), rel=1e-15)
    # smoothing .2: target .9, .1
    assert cross_entropy(one, torch.tensor([0]), 0.2).item() == pytest.approx(
        0.9 * math.log(4 / 3) + 0.1 * math.log(4), rel=1e-15
    )
    assert soft_cross_entropy(one, torch.tensor([[0.5, 0.5]])).item() == pytest.approx(
        math.log(4) - 0.5 * math.log(3), rel=1e-15
    )
    # at temperature 1/2 the odds 3:1 become 9:1
    assert sharpen(one, 0.5).tolist()[0] == pytest.approx([0.9, 0.1], rel=1e-15)
    two = torch.cat([one, one])
    half = masked_cross_entropy(two, torch.tensor([0, 0]), torch.tensor([1.0, 0.0]))
    assert half.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-15)  # masked rows count in the mean


def test_invariances(draw: Callable[..., Tensor]) -> None:
    """A constant per row changes nothing; the order of rows does not matter; large logits stay finite."""
    z, q, y, mask = (
        draw(6, 3),
        torch.softmax(draw(6, 3), -1),
        torch.arange(6) % 3,
        torch.arange(6).remainder(2).double(),
    )
    order, shift = torch.tensor([3, 1, 5, 0, 2, 4]), draw(6, 1)
    losses: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "cross_entropy": lambda z, i: cross_entropy(z[i], y[i], 0.1),
        "soft": lambda z, i: soft_cross_entropy(z[i], q[i]),
        "masked": lambda z, i: masked_cross_entropy(z[i], y[i], mask[i]),
        "consistency": lambda z, i: consistency(z[i], q[i], mask[i]),
    }
    same = torch.arange(6)
    for name, loss in losses.items():
        value = loss(z, same).item()
        assert loss(z + shift, same).item() == pytest.approx(value, rel=1e-12), name
        assert loss(z, order).item() == pytest.approx(value, rel=1e-12), name
        assert torch.isfinite(loss(z * 1e4, same)), name
        assert loss(z, same).ndim == 0


def test_no_gradient_into_the_target(draw: Callable[..., Tensor]) -> None:
    z, t = draw(4, 3).requires_grad_(), draw(4, 3).requires_grad_()
    q = torch.softmax(t, -1)
    for loss in (soft_cross_entropy(z, q), consistency(z, q, torch.ones(4).double())):
        assert torch.autograd.grad(loss, [z, t], allow_unused=True)[1] is None
        assert loss.requires_grad


def test_feedback_losses(draw: Callable[..., Tensor]) -> None:
    """E4, E4' and the control: values by loops; a row-wise constant in r has no gradient; the signs."""
    z, r, y = draw(5, 3).requires_grad_(), draw(5, 3).requires_grad_(), torch.arange(5) % 3
    p = torch.softmax(z, -1)
    naive = sum(a * b for row, other in zip(r.tolist(), p.tolist()) for a, b in zip(row, other)) / 5
    exact = fb.exact_loss(p, r)
    assert exact.item() == pytest.approx(naive, rel=1e-12)
    grad_z, grad_r = torch.autograd.grad(exact, [z, r], allow_unused=True, retain_graph=True)
    assert grad_r is None
    (shifted,) = torch.autograd.grad(fb.exact_loss(p, r + draw(5, 1)), z, retain_graph=True)
    torch.testing.assert_close(shifted, grad_z, rtol=1e-12, atol=1e-14)

    gain = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    sampled = fb.sampled_loss(z, y, gain)
    assert sampled.item() == pytest.approx(0.3 * naive_cross_entropy(z.tolist(), y.tolist(), 0.0), rel=1e-12)
    grad_z, grad_gain = torch.autograd.grad(sampled, [z, gain], allow_unused=True)
    assert grad_gain is None
    assert (grad_z[range(5), y] < 0).all(), "a step that helped the labelled loss makes its labels likelier"

    official = fb.official_loss(z, gain)
    entropy = naive_soft(z.tolist(), p.tolist(), [1.0] * 5)
    assert official.item() == pytest.approx(0.3 * entropy, rel=1e-12)
    assert torch.autograd.grad(official, z)[0].abs().max() < 1e-15

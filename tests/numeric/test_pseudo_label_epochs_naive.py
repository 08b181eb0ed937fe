"""``pseudo_label`` with ``schedule=epoch`` against a second implementation that shares no code with the first.

The hand-written net, its player and the comparison are those of ``test_methods_naive``; everything is float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from test_more_methods_naive import make, player_of, same
from torch import Tensor

from metapl.types import SemiBatch
from naive import B_L, STEPS, Player, batch, ce, compare, gradient, judged, log_p

POOL, EPOCH = 13, 3


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def pool_rows(view: str, draw: int) -> Tensor:
    """Plain rows, or the weak view of that draw."""
    plain = 2 * torch.randn(POOL, 5, generator=torch.Generator().manual_seed(40))
    return (
        plain if view == "plain" else plain + torch.randn(POOL, 5, generator=torch.Generator().manual_seed(50 + draw))
    )


def pool(view: str = "plain", draw: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    yield from zip(torch.arange(POOL).split(4), pool_rows(view, draw).split(4))


def epoch_labels(player: Player, c: Any, epoch: int) -> list[int]:
    """P1', one row of the pool after the other; -1 for none."""

    def p(weights: dict[str, Tensor], stats: dict[str, Tensor], x: Tensor, i: int) -> list[float]:
        return [float(v) for v in torch.exp(log_p(judged(weights, stats, x[i : i + 1])))[0]]

    labels = []
    for i in range(POOL):
        mine = p(player.w, player.stats, pool_rows("plain", 0), i)
        y = mine.index(max(mine))
        answers = [mine]
        if c.judge == "ema":
            answers = [p(player.average, player.average_stats, pool_rows("plain", 0), i)]
        elif c.judge == "views":
            draws = [epoch * c.judge_views + v for v in range(c.judge_views)]
            answers = [p(player.w, player.stats, pool_rows("weak", d), i) for d in draws]
        confirmed = all(a.index(max(a)) == y for a in answers)
        sure = sum(a[y] for a in answers) / len(answers) >= c.threshold
        labels.append(y if max(mine) >= c.threshold and confirmed and sure else -1)
    return labels


@pytest.mark.parametrize(
    ("judge", "epoch_steps", "mean"),
    [*((judge, steps, "batch") for judge in ("ema", "views", "none") for steps in (EPOCH, 0)), ("ema", EPOCH, "kept")],
)
def test_pseudo_label_in_epochs(judge: str, epoch_steps: int, mean: str) -> None:
    settings = {"schedule": "epoch", "epoch_steps": epoch_steps, "judge": judge, "judge_views": 3, "threshold": 0.55}
    settings["mean"] = mean
    method, c = make("pseudo_label", {**settings, "weight": 0.7, "ramp": 0.3}, pool_size=POOL, pool=pool)
    player, labels, removed = player_of(method.net), [-1] * POOL, 0
    for t in range(STEPS):
        b = batch(t)
        assert b.u_weak is not None
        b = SemiBatch(b.x_l, b.y_l, b.u_weak, None, (5 * t + 2 * torch.arange(len(b.u_weak))) % POOL)
        length = epoch_steps or 3  # 13 rows in batches of 6
        if t % length == 0:
            labels = epoch_labels(player, c, t // length)
            removed += sum(y >= 0 for y in epoch_labels(player, replace(c, judge="none"), 0)) - sum(
                y >= 0 for y in labels
            )
        w = player.leaf()
        z = player.see(torch.cat([b.x_l, b.u_weak]))
        supervised, unlabeled, held = ce(z[:B_L], b.y_l), torch.zeros(()), 0
        for i, k in enumerate(b.u_index.tolist()):
            if labels[k] >= 0:
                unlabeled = unlabeled - log_p(z[B_L + i : B_L + i + 1])[0, labels[k]]
                held += 1
        unlabeled = unlabeled / (len(b.u_weak) if mean == "batch" else max(held, 1))
        weight = 0.7 * min(1.0, t / round(0.3 * STEPS))
        loss = supervised + weight * unlabeled
        player.step(gradient(loss, w), t)
        report = method.step(b, t).values
        assert method.labels.tolist() == labels
        compare(player, method.net)
        same(report, {"loss": loss.item(), "supervised": supervised.item(), "unlabeled": unlabeled.item()})
        same(report, {"mask_rate": held / len(b.u_weak), "pool_labeled": sum(y >= 0 for y in labels) / POOL})
    assert 0 < sum(y >= 0 for y in labels) < POOL
    assert (removed > 0) == (judge != "none")


@pytest.mark.parametrize("schedule", ["step", "epoch"])
def test_the_mean_over_kept_rows_is_their_own_cross_entropy(schedule: str) -> None:
    """As ``train_mpl`` takes it; over the batch the same rows pull as weakly as they are few. Without rows it is 0."""
    seen, settings = {}, {"schedule": schedule, "epoch_steps": 1, "judge": "none", "threshold": 0.4, "ramp": 0.0}
    for mean in ("batch", "kept"):
        method, _ = make("pseudo_label", {**settings, "mean": mean}, pool_size=POOL, pool=pool)
        seen[mean] = method.step(batch(0), 0).values
    rate = seen["kept"]["mask_rate"]
    assert 0 < rate < 0.9
    torch.testing.assert_close(seen["kept"]["unlabeled"] * rate, seen["batch"]["unlabeled"])
    method, _ = make("pseudo_label", {**settings, "mean": "kept", "threshold": 1.0}, pool_size=POOL, pool=pool)
    report = method.step(batch(0), 0).values
    assert (float(report["unlabeled"]), float(report["mask_rate"])) == (0.0, 0.0)
    assert all(p.isfinite().all() for p in method.net.model.parameters())


def test_epochs_need_a_pool() -> None:
    with pytest.raises(ValueError, match=r"Context\.pool must be given"):
        make("pseudo_label", {"schedule": "epoch"}, pool_size=POOL)

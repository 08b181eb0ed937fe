"""What turns minutes into steps, on a clock that only the steps move."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from metapl.training import timing
from metapl.training.timing import Pace, measure_pace, seconds_per_step, spread
from metapl.types import PoolPasses


class Run:
    """A stand-in for a job: a step takes ``each(t)`` seconds, a walk through the pool ``pool`` seconds."""

    device = torch.device("cpu")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, steps: int, passes: PoolPasses | None, pool: float = 7.0):
        self.config, self.stream = SimpleNamespace(steps=steps), SimpleNamespace(on_pool=iter)
        self.pool_passes, self.extra_steps, self.pool = passes, 3, pool
        self.now, self.made, self.round = 0.0, list[int](), 0
        monkeypatch.setattr(timing, "clock", lambda: self.now)

    @property
    def total(self) -> int:
        return int(self.config.steps) + self.extra_steps

    def step(self, t: int) -> dict[str, torch.Tensor]:
        self.made.append(t)
        if self._passes(t):
            for _ in self.stream.on_pool(self._chunks()):
                pass
        self.now += 0.02 if t >= self.config.steps else self.each(t)
        return {"loss": torch.zeros(())}

    def each(self, t: int) -> float:
        return 0.1 if t < self.config.steps // 2 else 0.3

    def _chunks(self) -> Iterator[Any]:
        for _ in range(2):
            self.now += self.pool / 2
            yield None

    def _passes(self, t: int) -> bool:
        """In rounds of equal length, or in epochs."""
        passes = self.pool_passes or PoolPasses(every=10)
        if passes.every:
            return t % passes.every == 0 and t < int(self.config.steps)
        now = min(t * (passes.rounds + 1) // int(self.config.steps), passes.rounds) if t < self.config.steps else 0
        before, self.round = self.round, max(self.round, now)
        return self.round > before


def measured(run: Run, limit: float = 20.0) -> Pace:
    return measure_pace(run, limit)  # type: ignore[arg-type]


@pytest.mark.parametrize("passes", [PoolPasses(rounds=4), PoolPasses(every=30), PoolPasses(every=997, networks=2.5)])
def test_passes_over_the_pool_are_timed_apart(monkeypatch: pytest.MonkeyPatch, passes: PoolPasses) -> None:
    found = measured(run := Run(monkeypatch, 1000, passes))
    assert (found.step, found.over_pool, found.extra) == pytest.approx((0.2, 7.0, 0.02))
    truth = sum(run.each(t) for t in range(1000)) + 7 * passes.networks * passes.count(1000)
    assert found.seconds(1000) == pytest.approx(truth)


def test_a_method_that_does_not_say_has_them_in_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(run := Run(monkeypatch, 1000, None))
    assert found.over_pool == found.pool_seconds(1000) == 0
    assert found.step > 0.2 + 7 / 40
    assert seconds_per_step(run, 20.0) == pytest.approx(found.step, rel=0.5)  # type: ignore[arg-type]


def test_no_pass_is_looked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found = measured(run := Run(monkeypatch, 8, PoolPasses()), 0.0)
    assert (found.over_pool, found.passes.count(8)) == (0, 0)
    assert run.made == [0, 0, 7, 8, 9], "no time at all: two places, of which the last stands for the rest"


def test_slow_steps_and_slow_passes_cost_little_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(monkeypatch, 1000, PoolPasses(rounds=9), pool=500.0)
    assert measured(run, 1.0).over_pool == 500
    assert run.now < 510, "one pass"
    monkeypatch.setattr(Run, "each", lambda self, t: 60.0)
    run = Run(monkeypatch, 1000, PoolPasses())
    assert measured(run, 1.0).step == 60
    assert run.now < 3 * 60 + 1


def test_every_pass_comes_when_it_is_said_to() -> None:
    assert [PoolPasses(rounds=3).count(n) for n in (0, 1, 2, 4, 9)] == [0, 0, 1, 3, 3]
    assert [PoolPasses(every=4).count(n) for n in (0, 1, 4, 5, 9)] == [0, 1, 1, 2, 3]
    assert [PoolPasses(every=4).last(n) for n in (1, 4, 5, 9)] == [0, 0, 4, 8]
    assert PoolPasses(rounds=3).last(9) == 8


def test_places_are_evenly_apart() -> None:
    assert spread(1000, 10) == [50, 150, 250, 350, 450, 550, 650, 750, 850, 950]
    assert spread(3, 10) == [0, 1, 2]
    assert spread(1, 10) == [0]
    assert sum(t < 400 for t in spread(1000, 20)) == 8, "each phase has its share"

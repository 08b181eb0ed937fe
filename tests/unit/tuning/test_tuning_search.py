"""The searches: what they ask for, in which order, and that they depend on nothing but seed and ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

from metapl.config.settings import make_config
from metapl.errors import UserError
from metapl.tuning.search import Ask, Rank, make_search
from metapl.tuning.space import get, make_space

CONFIG = make_config("digits", options={"method": "fixmatch"})
SPACE = ["fixmatch.threshold=0.5,0.7,0.95", "optim.lr=0.01..0.1:log", "views.ops=1..3"]
Judge = Callable[[dict[str, Any]], Rank]


def judge(setting: dict[str, Any]) -> Rank:
    """Best at a threshold of 0.7 and a rate of 0.02."""
    threshold, lr = (setting.get(k, get(CONFIG, k)) for k in ("fixmatch.threshold", "optim.lr"))
    return 1 - abs(threshold - 0.7) - abs(lr - 0.02), 0.0


def follow(sampler: str, space: list[str], trials: int | None = None, seed: int = 0, by: Judge = judge) -> list[Any]:
    """Every batch that the search asks for."""
    search = make_search(sampler, CONFIG, make_space(CONFIG, space), trials, seed)
    batches, asks = [], next(search.asking)
    while True:
        batches.append(asks)
        try:
            asks = search.asking.send([by(ask.setting) for ask in asks])
        except StopIteration:
            assert sum(ask.share for batch in batches for ask in batch) <= search.cost
            return batches


def test_single_moves_one_setting_at_a_time_then_joins_the_best() -> None:
    first, last = follow("single", SPACE)
    settings = [ask.setting for ask in first]
    assert settings[0] == {}
    assert all(len(s) == 1 for s in settings[1:])
    assert len(settings) == 1 + 2 + 5 + 2, "values that are the run's own are not tried again"
    assert [next(iter(s)) for s in settings[1:4]] == ["fixmatch.threshold", "optim.lr", "views.ops"], "in turn"
    assert last == [Ask({"fixmatch.threshold": 0.7, "optim.lr": 0.01778})]


def test_single_joins_nothing_where_one_setting_or_none_is_better() -> None:
    assert len(follow("single", SPACE, by=lambda s: (float(s.get("fixmatch.threshold", 1) == 0.7), 0.0))) == 1
    assert len(follow("single", SPACE, by=lambda s: (float(not s), 0.0))) == 1
    assert len(follow("single", SPACE[:1])) == 1


@pytest.mark.parametrize("trials", [1, 2, 5])
def test_single_keeps_to_the_number_of_trials(trials: int) -> None:
    batches = follow("single", SPACE, trials)
    assert sum(map(len, batches)) <= 1 + trials
    assert len(batches[0]) == 1 + max(1, trials - 1)


def test_grid_is_every_combination() -> None:
    ((default, *rest),) = follow("grid", [SPACE[0], "views.ops=1,2"])
    assert default == Ask({})
    combinations = {(a.setting.get("fixmatch.threshold", 0.95), a.setting.get("views.ops", 2)) for a in rest}
    assert len(rest) == 5
    assert combinations == {(t, o) for t in (0.5, 0.7, 0.95) for o in (1, 2)} - {(0.95, 2)}
    with pytest.raises(UserError, match="6 settings, more than the 5 of --trials"):
        follow("grid", [SPACE[0], "views.ops=1,2"], 5)
    with pytest.raises(UserError, match="more than 100"):
        follow("grid", ["optim.lr=0.1..1", "views.ops=0..10", "views.fill=0..1"])


def test_random_halves_its_way_to_the_best() -> None:
    quarter, half, whole = follow("random", SPACE, 16)
    assert quarter.pop(0) == Ask({}), "the default comes first and whole, whenever the time is up"
    assert (len(quarter), len(half), len(whole)) == (16, 8, 4)
    assert {a.share for a in quarter} == {0.25}
    assert {a.share for a in half} == {0.5}
    assert {a.share for a in whole} == {1.0}
    order = sorted((a.setting for a in quarter), key=judge, reverse=True)
    assert [a.setting for a in half if a.setting not in order[:8]] == []
    assert sorted((a.setting for a in whole), key=judge, reverse=True) == order[:4]


def test_random_draws_by_seed_and_never_twice() -> None:
    one, same, other = (follow("random", SPACE, 8, seed)[0] for seed in (0, 0, 1))
    assert one == same
    assert one != other
    few = follow("random", ["fixmatch.threshold=0.5,0.7,0.95"], 8)
    assert sorted(a.setting["fixmatch.threshold"] for a in few[0][1:]) == [0.5, 0.7], "there are no more"
    assert [len(b) for b in follow("random", SPACE, 4)] == [5, 2]
    assert [len(b) for b in follow("random", SPACE, 3)] == [4]


def test_unknown_sampler_and_numbers() -> None:
    for sampler, trials, part in (("rando", None, "Did you mean 'random'"), ("random", 0, "trials is 0")):
        with pytest.raises(UserError, match=part):
            follow(sampler, SPACE, trials)


def test_optuna_is_an_extra_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match=r"metapl\[tune\]"):
        follow("optuna", SPACE)


def test_optuna_learns_and_repeats_itself() -> None:
    pytest.importorskip("optuna")
    space = [*SPACE[:2], "views.ops=1..3"]
    one, same = (follow("optuna", space, 12) for _ in range(2))
    assert one == same, "a search that starts again asks for the same settings"
    assert [len(batch) for batch in one] == [1] * 13
    assert one[0] == [Ask({})]
    assert follow("optuna", space, 12, seed=1) != one
    other = follow("optuna", space, 12, by=lambda s: (-judge(s)[0], 0.0))
    assert other[:5] == one[:5], "the first are drawn"
    assert other != one, "the later ones depend on the ranks"
    assert len(follow("optuna", space, 5, by=lambda s: (float("-inf"), float("-inf")))) == 6, "failures are told too"

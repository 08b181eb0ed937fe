"""Rows of a comparison, its budget, its plan, its statistics' use, and what it writes."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from metapl._version import __version__
from metapl.comparison import figure
from metapl.comparison.budget import Cost, cost, measure, share_out
from metapl.comparison.comparison import compare, folder_names
from metapl.comparison.paired import against_best, estimate, holm, paired, seeds_needed
from metapl.comparison.passes import RowCounter, RowCounts, _extra
from metapl.comparison.plan import Plan, going_on, load_plan, make_plan
from metapl.comparison.render import markdown, runs_csv, text, text_table
from metapl.comparison.specs import ABLATIONS, Base, Spec, based_on, check_base, configure, parse
from metapl.comparison.table import (
    best_baseline,
    budget_text,
    footnotes,
    in_family,
    make_table,
    ranked,
    signed,
    verdict,
)
from metapl.comparison.versions import made_with, mixed, versions
from metapl.comparison.worker import stored_row
from metapl.config.settings import RunConfig, known_keys, make_config, save_config
from metapl.data.batches.split import make_split
from metapl.data.memory.digits import open_digits
from metapl.errors import UserError
from metapl.feedback import _load_forward_rules
from metapl.hardware.device import environment
from metapl.methods import METHODS, fits_once
from metapl.training.job import build_job
from metapl.training.prepared import prepare
from metapl.types import PoolPasses
from metapl.utils.files import guarded

# -- what is compared


def test_all_names_and_settings() -> None:
    assert [s.label for s in parse("all")] == list(METHODS)
    assert parse(" fixmatch, mpl:feedback=none ,fixmatch") == [
        Spec("fixmatch", "fixmatch"),
        Spec("mpl:feedback=none", "mpl", ("mpl.feedback=none",)),
    ]
    assert parse(["mpl:feedback=none+uda_weight=0+views.ops=1"])[0].pairs == (
        "mpl.feedback=none",
        "mpl.uda_weight=0",
        "views.ops=1",
    )
    assert parse("fixmatch:optim.lr=1e+3+threshold=0.5")[0].pairs == ("optim.lr=1e+3", "fixmatch.threshold=0.5")
    assert parse("mpl:model=convnet")[0].pairs == ("model=convnet",)
    assert [s.label for s in parse("all,all,mpl")] == list(METHODS)


def test_ablate_takes_one_part_away_at_a_time() -> None:
    labels = [s.label for s in parse("mpl:ablate")]
    assert labels == ["mpl", "mpl:feedback=none", "mpl:uda_weight=0", "mpl:finetune_steps=0"]
    kept = parse("mpl:ablate+views.ops=1")
    assert [s.pairs[0] for s in kept] == ["views.ops=1"] * 4
    for method, parts in ABLATIONS.items():
        for part in parts:
            assert configure(Base("digits"), parse(f"{method}:{part}")[0]) != configure(
                Base("digits"), parse(method)[0]
            )


@pytest.mark.parametrize(
    ("methods", "parts"),
    [
        ("fixmach", ("'fixmach'", "Did you mean 'fixmatch'?")),
        ("al", ("'al'", "Did you mean 'all'?")),
        ("", ("''",)),
        ([], ("no methods",)),
        ("mpl:feedbck=none", ("'feedbck'", "Did you mean 'feedback'?", "mpl:feedbck=none")),
        ("fixmatch:views.opps=1", ("'views.opps'", "Did you mean 'views.ops'?")),
        ("mpl:feedback", ("'feedback' is not a setting", "mpl:key=value")),
        ("mpl:", ("is not a setting",)),
        ("mpl:seed=3", ("'seed' is the same for all",)),
        ("mpl:steps=3", ("'steps' is the same for all",)),
        ("mpl:split.labels=3", ("'split.labels' is the same for all",)),
        ("fixmatch:ablate", ("mpl:ablate",)),
    ],
)
def test_a_mistake_in_the_methods(methods: Any, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        parse(methods)
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_wrong_value_names_the_row() -> None:
    (spec,) = parse("mpl:feedback=nonne")
    with pytest.raises(UserError, match=r"^mpl:feedback=nonne: 'nonne' is not a valid value of mpl\.feedback"):
        configure(Base("digits"), spec)


def test_settings_for_all_for_one_and_of_the_row_itself(tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("data: digits\nmethod: fixmatch\nfixmatch: {threshold: 0.7}\noptim: {lr: 0.3, momentum: 0.1}\n")
    base = Base(None, file, {"steps": 7}, ("optim.lr=0.2", "mpl.uda_weight=0.5"))
    fixmatch, mpl, own = (configure(base, s) for s in parse("fixmatch,mpl,mpl:uda_weight=2+optim.lr=0.1"))
    assert (fixmatch.method, fixmatch.settings.threshold, fixmatch.optim.lr, fixmatch.steps) == (
        "fixmatch",
        0.7,
        0.2,
        7,
    )
    assert (mpl.method, mpl.settings.uda_weight, mpl.optim.lr, mpl.optim.momentum) == ("mpl", 0.5, 0.2, 0.1)
    assert (own.settings.uda_weight, own.optim.lr) == (2.0, 0.1)
    with pytest.raises(UserError, match=r"'mpl\.uda_weight' is set, but mpl is not compared"):
        check_base(base, parse("fixmatch"))
    check_base(base, parse("mpl"))
    with pytest.raises(UserError, match="its guard is off"):
        check_base(Base("digits", overrides=("guard.mode=warn",)), parse("mpl"))


def test_a_config_is_a_base_too() -> None:
    options = {"method": "mpl", "mpl.uda_weight": 0.5, "optim.lr": 0.2, "split.labels": 3}
    base = based_on(make_config("digits", options=options))
    mpl, fixmatch = (configure(base, s) for s in parse("mpl,fixmatch"))
    assert mpl == make_config("digits", options=options)
    assert fixmatch == make_config("digits", options={"method": "fixmatch", "optim.lr": 0.2, "split.labels": 3})


# -- the budget


class Halves(nn.Module):
    """A network that calls itself on both halves of its rows would count twice if inner calls counted."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.layer(half) for half in x.chunk(2)])


def test_rows_are_counted_forward_and_backward_on_copies_too() -> None:
    import copy

    import torch.autograd.forward_ad as fwad

    counter, net = RowCounter(), Halves()
    counter.watch(net)
    x = torch.randn(10, 3)
    with torch.no_grad():
        net(x)
    assert counter.take() == RowCounts(10, 0)
    net(x).sum().backward()
    assert counter.take() == RowCounts(10, 10)
    torch.autograd.grad(net(x).sum(), list(net.parameters()))
    assert counter.take() == RowCounts(10, 10)
    torch.func.functional_call(net, dict(net.named_parameters()), (x,))
    copy.deepcopy(net)(x)
    assert counter.take() == RowCounts(20, 0)
    _load_forward_rules()
    with torch.no_grad(), fwad.dual_level():
        net(fwad.make_dual(x, x))
    assert counter.take() == RowCounts(20, 0), "a forward-mode derivative is one more forward"


# Rows of a batch: 4 labelled, 6 unlabelled. Forward and backward, by hand from the methods' equations.
BATCH = {"batch.labeled": 4, "batch.unlabeled": 6, "split.labels": 4, "steps": 20}
BY_HAND = {
    "supervised": (4, 4),
    "pseudo_label": (4 + 6, 4 + 6),
    "fixmatch": (4 + 6 + 6, 4 + 6 + 6),
    # teacher on three views; student on the strong view; its statistics; E3; E4 (a derivative counts twice)
    "mpl": (16 + 6 + 6 + 4 + 12, 16 + 6 + 4),
    "mpl:feedback=none": (16 + 6 + 6, 16 + 6),
    "mpl:feedback=sampled": (16 + 6 + 6 + 4 + 4, 16 + 6),
}


@pytest.mark.parametrize("label", BY_HAND)
def test_the_cost_of_a_step_is_that_of_the_equations(label: str) -> None:
    (spec,) = parse(label)
    found = cost(json.loads(json.dumps(measure(configure(Base("digits", options=BATCH), spec), None, 0))))
    assert (found.each.forward, found.each.backward) == BY_HAND[label]
    extra = 100 if spec.method == "mpl" else 0  # fine-tuning, on 4 rows
    assert found.extra_steps == extra
    assert (found.fixed.forward, found.fixed.backward) == pytest.approx((4 * extra, 4 * extra))
    assert found.seconds_each == 0


# A pool that is passed over in rounds or epochs. How many rows a judge is shown is known before with threshold 0 alone.
EPOCHS = "pseudo_label:schedule=epoch+epoch_steps"
OVER_THE_POOL = [
    *(f"self_training:rounds={rounds}" for rounds in (1, 5, 10)),
    *(f"{EPOCHS}=7+judge=none", f"{EPOCHS}=3+threshold=0", f"{EPOCHS}=8+threshold=0+judge=views+judge_views=3"),
    *("pseudo_label:schedule=epoch+weight=0", "mpl_reduced:teacher_share=1", "mpl_reduced:teacher_share=0.7"),
]


def counted(label: str, model: str = "linear", **options: Any) -> tuple[RunConfig, RowCounts, int]:
    """A run's config, what it passes, counted from its first step to its last, and the rows of its pool."""
    (spec,) = parse(label)
    config = configure(Base("digits", options=BATCH | {"steps": 30, "model": model} | options), spec)
    source, counter = open_digits(), RowCounter()
    split = make_split(source, config.split, config.seed)
    job = build_job(config, prepare(source, split, torch.device("cpu")), counter.watch)
    counter.take()
    for t in range(job.config.steps):
        job.step(t)
    return config, counter.take() + _extra(job, counter), job.stream.pool_size


@pytest.mark.parametrize("label", [*(name for name in METHODS if not fits_once(name)), *OVER_THE_POOL])
def test_a_few_steps_tell_what_a_whole_run_costs(label: str) -> None:
    config, truth, _ = counted(label, "small_cnn" if label in METHODS else "linear")
    found = cost(json.loads(json.dumps(measure(config, None, 0)))).rows(30)
    assert (found.forward, found.backward) == pytest.approx((truth.forward, truth.backward), rel=0.05)


def test_steps_other_than_those_measured_cost_what_they_cost() -> None:
    for label in ("self_training:rounds=10", f"{EPOCHS}=7+judge=none"):
        _, truth, _ = counted(label, steps=52)
        found = cost(measure(counted(label, steps=20)[0], None, 0)).rows(52)
        assert (found.forward, found.backward) == pytest.approx((truth.forward, truth.backward), rel=0.05)


def test_a_judge_is_taken_to_see_half_of_the_pool() -> None:
    config, truth, pool = counted(f"{EPOCHS}=6", **{"batch.labeled": 32, "batch.unlabeled": 128})
    found = cost(measure(config, None, 0))
    assert (found.passes.count(30), found.pool.forward) == (5, 1.5 * pool)
    assert found.rows(30).backward == truth.backward
    assert abs(found.rows(30).forward - truth.forward) <= 5 * pool / 2


def test_minutes_are_measured() -> None:
    (spec,) = parse("supervised")
    found = cost(measure(configure(Base("digits", options=BATCH), spec), None, 0.01))
    assert 0 < found.seconds_each < 5
    assert (found.seconds_pool, found.seconds_extra) == (0, 0)


def test_a_plan_of_an_older_version_can_be_read() -> None:
    rows = {"forward": 2, "backward": 1}
    assert cost({"fixed": rows, "each": rows, "extra_steps": 1, "seconds_each": 0.5}).rows(3) == RowCounts(8, 4)


def test_the_budget_is_shared_out() -> None:
    costs = {
        "small": Cost(RowCounts(), RowCounts(10, 10), 0, 0.1),
        "large": Cost(RowCounts(100, 0), RowCounts(30, 10), 5, 0.4, 0.4),
    }
    assert share_out("steps", costs, "small", 50, 0) == {"small": 50, "large": 50}
    assert share_out("passes", costs, "small", 50, 0) == {"small": 50, "large": 22}  # (1000 - 100) / 40 = 22.5
    assert share_out("passes", costs, "large", 50, 0) == {"small": 105, "large": 50}
    assert share_out("minutes", costs, "small", 0, 1) == {"small": 540, "large": 130}  # 0.9 * 60 / 0.4 - 5
    with pytest.raises(UserError, match="large gets no step"):
        share_out("passes", costs, "small", 5, 0)


def test_passes_over_the_pool_come_out_of_the_budget() -> None:
    step, pool = RowCounts(10, 10), RowCounts(500)
    costs = {
        "plain": Cost(RowCounts(), step, 0, 0.1),
        "rounds": Cost(RowCounts(), step, 0, 0.1, 0.0, pool, 2.0, PoolPasses(rounds=3)),
        "epochs": Cost(RowCounts(), step, 0, 0.1, 0.0, pool, 2.0, PoolPasses(every=10)),
    }
    # 2000 rows less three passes of 500; and 3 epochs of 500 + 10 * 20 = 2100, of which the last steps do not fit
    assert share_out("passes", costs, "plain", 100, 0) == {"plain": 100, "rounds": 25, "epochs": 25}
    # 54 s less 3 * 2; and epochs of 2 + 10 * 0.1 = 3 s
    assert share_out("minutes", costs, "plain", 0, 1) == {"plain": 540, "rounds": 480, "epochs": 180}


# -- statistics


VALUES = [0.3, 2.5, -1.0, 4.2, 0.9]


def test_the_interval_and_p_are_those_of_a_paired_t_test() -> None:
    ours = {k: 90 + v for k, v in enumerate(VALUES)}
    theirs = {k: 90 - 0.1 * k for k in range(5)}
    found = paired(ours, theirs)
    truth = stats.ttest_rel(list(ours.values()), list(theirs.values()))
    interval = truth.confidence_interval(0.95)
    assert found is not None
    assert (found.low, found.high, found.p) == pytest.approx((interval.low, interval.high, truth.pvalue))
    assert found.sd == pytest.approx(np.std([v + 0.1 * k for k, v in enumerate(VALUES)], ddof=1))


def test_pairs_are_by_seed_and_only_where_both_are() -> None:
    found = paired({1: 5.0, 2: 7.0, 9: 0.0}, {2: 4.0, 1: 3.0})
    assert found is not None
    assert (found.n, found.mean) == (2, 2.5)
    assert paired({1: 5.0}, {2: 5.0}) is None


def test_one_seed_and_equal_differences_have_no_interval() -> None:
    nothing = {"low": None, "high": None, "p": None}
    assert asdict(estimate([3.0])) == {"n": 1, "mean": 3.0, "sd": None, **nothing}
    for same in ([0.0, 0.0, 0.0], [5.0, 5.0], [100 * (a - b) for a, b in ((0.9, 0.85), (0.8, 0.75), (0.35, 0.3))]):
        assert asdict(estimate(same)) == {"n": len(same), "mean": pytest.approx(same[0]), "sd": 0.0, **nothing}
    assert estimate([5.0, 5.0, 10.0]).p is not None


def test_against_one_opponent_it_is_the_paired_interval() -> None:
    ours, theirs = dict(enumerate(VALUES)), dict.fromkeys(range(5), 0.5)
    assert asdict(against_best(ours, [theirs])) == pytest.approx(asdict(estimate([v - 0.5 for v in VALUES])))


def test_against_the_best_of_several_by_hand() -> None:
    ours = {0: 10.0, 1: 12.0, 2: 17.0}
    others = [{0: 9.0, 1: 9.0, 2: 9.0}, {0: 3.0, 1: 12.0, 2: 6.0}, {0: 1.0, 1: 2.0, 2: 3.0}]
    found = against_best(ours, others)
    gaps = [np.array([ours[s] - o[s] for s in range(3)]) for o in others]
    spread = [g.std(ddof=1) / math.sqrt(3) for g in gaps]
    below, above = stats.t.ppf(0.975, 2), stats.t.ppf(1 - 0.025 / 3, 2)
    assert (found.n, found.mean, found.sd) == (3, 4.0, pytest.approx(gaps[0].std(ddof=1)))
    assert found.low == pytest.approx(min(g.mean() - below * e for g, e in zip(gaps, spread)))
    assert found.high == pytest.approx(min(g.mean() + above * e for g, e in zip(gaps, spread)))
    assert against_best(ours, [*others, {s: v - 5 for s, v in ours.items()}]).low is None, "one difference is constant"


@pytest.mark.parametrize("lead", [-9.0, -5.0, -3.0, 0.5, 3.0, 6.0])
def test_p_is_below_the_level_where_the_interval_excludes_zero(lead: float) -> None:
    rng = np.random.default_rng(1)
    others = [dict(enumerate(rng.normal(0, 1, 5))) for _ in range(4)]
    found = against_best({s: lead + rng.normal() for s in range(5)}, others)
    assert found.p is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_equal_methods_are_seldom_told_apart() -> None:
    """14 methods without any difference: mpl is not called worse than the luckiest of the others."""
    rng, tables, below, above, any_p, naive = np.random.default_rng(0), 150, 0, 0, 0, 0
    for _ in range(tables):
        scores = rng.normal(90, 2, (14, 5)) + rng.normal(0, 2, 5)
        plan, runs = made_up({n: list(v) for n, v in zip(["mpl", *(f"m{k}" for k in range(13))], scores)})
        cells = [row["to_best"] for row in make_table(plan, runs)]
        below, above = below + (cells[0]["high"] < 0), above + (cells[0]["low"] > 0)
        any_p += any(cell["p_holm"] < 0.05 for cell in cells)
        half = stats.t.ppf(0.975, 4) * cells[0]["sd"] / math.sqrt(5)
        naive += cells[0]["mean"] + half < 0
    assert naive > 0.08 * tables, "a t interval against the highest of the same means misses far more often"
    assert max(below, above) <= 0.05 * tables
    assert any_p <= 0.08 * tables


def test_three_equal_differences_on_twenty_rows_are_no_proof() -> None:
    plan, runs = made_up({"supervised": [70.0, 75.0, 80.0], "mpl": [75.0, 80.0, 85.0]})
    rows = make_table(plan, runs)
    mpl = rows[1]
    assert (mpl["to_best"]["mean"], mpl["to_best"]["low"], mpl["to_best"]["p"]) == (5.0, None, None)
    assert (mpl["to_reference"]["low"], mpl["seeds_for_one_point"]) == (None, None)
    said = verdict(plan, rows)
    assert "+5.0 points against supervised, seed by seed, the same in every one" in said
    assert "excludes" not in said
    assert "takes about" not in said
    assert text_table(plan, rows).count("+5.0 [-]") == 2


@pytest.mark.parametrize("sd", [0.3, 0.8, 1.0, 2.0, 5.0, 12.0])
def test_the_seeds_needed_have_the_power(sd: float) -> None:
    """Against the exact power of the t test, from the noncentral t distribution."""

    def power(n: int) -> float:
        limit, shift = stats.t.ppf(0.975, n - 1), math.sqrt(n) / sd
        return float(stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift))

    exact = next(n for n in range(2, 2000) if power(n) >= 0.8)
    assert abs(seeds_needed(sd) - exact) <= 1
    assert seeds_needed(0.0) == 2
    assert seeds_needed(sd, delta=2.0) <= seeds_needed(sd)


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


# -- the table, from made-up runs

ACCURACY: dict[str, list[float | None]] = {
    "supervised": [70.0, 72.0, 71.0],
    "fixmatch": [80.0, 84.0, 85.0],
    "uda": [79.0, 85.0, 81.0],
    "mpl": [90.0, 93.0, 91.0],
    "mpl:feedback=none": [88.0, 60.0, 89.0],
}


def made_up(accuracy: Mapping[str, list[float | None]], **budget: Any) -> tuple[Plan, list[dict[str, Any]]]:
    """A plan and its runs; None is a run that failed."""
    labels, seeds = list(accuracy), len(next(iter(accuracy.values())))
    rows = {label: {"data": "digits", "method": label.partition(":")[0]} for label in labels}
    asked = {
        "data": "digits",
        "rows": rows,
        "reference": "supervised" if "supervised" in labels else labels[0],
        "budget": {"by": "steps", "steps": 100, "minutes": None, **budget},
    }
    each = {
        label: {"steps": 100, "cost": asdict(Cost(RowCounts(), RowCounts(10, 5), 3 if label == "mpl" else 0))}
        for label in labels
    }
    facts = {"labels": "2 labels per class", "notes": ["a note"], "command": "metapl compare digits"}
    plan = Plan(asked, tuple(range(seeds)), dict.fromkeys(range(seeds), "x"), "f", facts, each)
    runs = [
        {
            "method": label,
            "seed": s,
            "test_accuracy": v,
            "seconds": 2.0 + s,
            "peak_memory": (100 + s) << 20,
            "resumed_at": 0,
        }
        if v is not None
        else {"method": label, "seed": s, "error": "training diverged"}
        for label, values in accuracy.items()
        for s, v in enumerate(values)
    ]
    return plan, runs


def test_the_table() -> None:
    plan, runs = made_up(ACCURACY)
    rows = {row["method"]: row for row in make_table(plan, runs)}
    mpl = rows["mpl"]
    assert (mpl["seeds"], mpl["worst"], mpl["steps"], mpl["extra_steps"]) == (3, 90.0, 100, 3)
    assert mpl["mean"] == pytest.approx(91.333, abs=1e-3)
    assert (mpl["rows_forward"], mpl["rows_backward"]) == (1000, 500)
    assert (mpl["seconds"], mpl["peak_memory_mb"]) == (3.0, 102)
    assert mpl["to_reference"]["mean"] == pytest.approx(np.mean([20, 21, 20]))
    assert rows["supervised"]["to_reference"] is None
    assert best_baseline(plan, list(rows.values())) == "fixmatch"
    assert [rows[m]["against"] for m in rows] == ["fixmatch", "uda", "fixmatch", "fixmatch", "fixmatch"]
    assert mpl["to_best"]["mean"] == pytest.approx(np.mean([10, 9, 6]))
    assert mpl["seeds_for_one_point"] == seeds_needed(np.std([10, 9, 6], ddof=1))
    raw = [rows[m]["to_best"]["p"] for m in rows]
    assert [rows[m]["to_best"]["p_holm"] for m in rows] == pytest.approx(holm(raw))


def test_without_a_baseline_the_best_of_the_others_counts() -> None:
    plan, _ = made_up({m: [1.0] for m in METHODS})
    family = [m for m in METHODS if in_family(plan, m)]
    assert "mpl" in family
    assert not {"supervised", "fixmatch", "uda"} & set(family)
    plan, runs = made_up({k: v for k, v in ACCURACY.items() if k.startswith("mpl")})
    first, second = make_table(plan, runs)
    assert (first["against"], second["against"]) == ("mpl:feedback=none", "mpl")
    assert plan.asked["reference"] == "mpl"
    assert best_baseline(plan, [first, second]) is None
    assert any("No baseline" in note for note in footnotes(plan, [first, second]))


def test_an_only_baseline_is_held_against_nothing() -> None:
    plan, runs = made_up({k: ACCURACY[k] for k in ("supervised", "mpl")})
    supervised, mpl = make_table(plan, runs)
    assert (supervised["against"], supervised["to_best"], mpl["against"]) == (None, None, "supervised")
    plan, runs = made_up({"supervised": [95.0, 96.0], "mpl": [70.0, 75.0]})
    said = verdict(plan, make_table(plan, runs))
    assert said.startswith("supervised has the highest mean, 95.5 %. mpl is number 2 of 2, 72.5 %: -23.0 points")


def test_of_equal_means_none_wins() -> None:
    plan, runs = made_up({"supervised": [70.0, 72.0], "fixmatch": [72.0, 70.0]})
    said = verdict(plan, make_table(plan, runs))
    assert said.startswith("supervised and fixmatch have the same mean, 71.0 %, the highest.")


def test_failed_runs_stay_in_the_table() -> None:
    plan, runs = made_up({**ACCURACY, "mpl": [90.0, None, 91.0], "uda": [None, None, None]})
    rows = {row["method"]: row for row in make_table(plan, runs)}
    assert (rows["mpl"]["seeds"], rows["mpl"]["errors"]) == (2, {1: "training diverged"})
    assert rows["mpl"]["to_best"]["n"] == 2
    assert rows["mpl"]["to_best"]["mean"] == pytest.approx((10 + 6) / 2)
    assert (rows["uda"]["seeds"], rows["uda"]["mean"], rows["uda"]["to_best"]) == (0, None, None)
    shown = text(plan, list(rows.values()))
    assert "failed: mpl, seed 1: training diverged" in shown
    assert "mpl (2 of 3 seeds)" in shown
    assert shown.index("mpl ") < shown.index("uda ")
    assert "Not ranked, since seeds failed: mpl (2 of 3 seeds), uda (0 of 3 seeds)." in verdict(
        plan, list(rows.values())
    )
    assert "failed: uda, seed 2" in markdown(plan, list(rows.values()), {})


def test_who_lost_seeds_is_neither_winner_nor_opponent(tmp_path: Path) -> None:
    """The one seed on which uda did not diverge is a lucky one."""
    lucky: list[float | None] = [None, None, 99.0]
    plan, runs = made_up({**ACCURACY, "uda": lucky, "mpl:uda_weight=0": [99.0, 99.5, None]})
    rows = {row["method"]: row for row in make_table(plan, runs)}
    assert best_baseline(plan, list(rows.values())) == "fixmatch"
    assert {row["against"] for row in rows.values()} == {"fixmatch", "supervised"}
    assert [row["method"] for row in ranked(rows.values())][-2:] == ["mpl:uda_weight=0", "uda"]
    for cell in (rows["uda"]["to_best"], rows["mpl:uda_weight=0"]["to_reference"], rows["mpl:uda_weight=0"]):
        assert (cell["low"], cell["high"]) == (None, None)
    assert rows["mpl:uda_weight=0"]["to_best"]["p"] is None
    said = verdict(plan, list(rows.values()))
    assert said.startswith("mpl has the highest mean, 91.3 %: +8.3 points against fixmatch")
    assert "Not ranked, since seeds failed: mpl:uda_weight=0 (2 of 3 seeds), uda (1 of 3 seeds)." in said
    assert any("are not opponents" in note for note in footnotes(plan, list(rows.values())))
    figure.draw(tmp_path / "p.png", plan, list(rows.values()), runs)
    plan, runs = made_up({"supervised": [70.0, None], "mpl": [None, 90.0]})
    table = make_table(plan, runs)
    assert verdict(plan, table).startswith("No method finished all 2 seeds, so none is the best.")
    assert [row["to_best"] for row in table] == [None, None]


def test_the_verdict_says_who_wins_and_where_mpl_stands() -> None:
    plan, runs = made_up(ACCURACY)
    said = verdict(plan, make_table(plan, runs))
    assert said.startswith("mpl has the highest mean, 91.3 %: +8.3 points against fixmatch, seed by seed")
    assert "which excludes 0" in said
    plan, runs = made_up({**ACCURACY, "mpl": [80.5, 83.0, 87.0]})
    said = verdict(plan, make_table(plan, runs))
    assert said.startswith("mpl has the highest mean, 83.5 %")
    assert "which includes 0: 3 seeds do not settle it" in said
    plan, runs = made_up({**ACCURACY, "mpl": [60.0, 61.0, 60.5]})
    said = verdict(plan, make_table(plan, runs))
    assert said.startswith("fixmatch has the highest mean, 83.0 %")
    assert "mpl is number 5 of 5, 60.5 %" in said
    assert "points against fixmatch" in said


def test_one_seed_is_said_to_be_one() -> None:
    plan, runs = made_up({k: v[:1] for k, v in ACCURACY.items()})
    rows = make_table(plan, runs)
    assert "One seed gives no interval" in verdict(plan, rows)
    assert "[" not in text_table(plan, rows)
    assert all(row["sd"] is None and row["seeds_for_one_point"] is None for row in rows)
    assert not any("Holm" in note or "1.96" in note for note in footnotes(plan, rows))


LONG_NAME = "mpl:feedback=none+uda_weight=0+finetune_steps=0+views.ops=1+optim.lr=0.025"


def test_the_text_is_narrow_and_the_markdown_whole() -> None:
    plan, runs = made_up({**ACCURACY, LONG_NAME: [1.0, 99.0, 50.0]})
    rows = make_table(plan, runs)
    shown = text(plan, rows).splitlines()
    assert max(map(len, shown)) <= 120
    assert LONG_NAME in shown
    plan.asked["reference"] = LONG_NAME
    shown = text(plan, make_table(plan, runs)).splitlines()
    assert max(map(len, shown)) <= 120
    assert f"reference: {LONG_NAME}" in shown
    made = markdown(plan, rows, {"metapl": "9.9"})
    table = [line for line in made.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert len({line.count("|") for line in table}) == 1
    for part in (LONG_NAME, "metapl compare digits", "metapl 9.9", "Holm", "equal steps, 100 each", "a note", "mpl 3"):
        assert part in made


def test_a_difference_has_a_sign_and_nothing_has_none() -> None:
    assert [signed(v) for v in (1.25, -0.34, 0.04, -0.04, 0.0)] == ["+1.2", "-0.3", "0.0", "0.0", "0.0"]


def test_each_budget_is_told() -> None:
    for budget, words in (
        ({"by": "passes"}, "as many rows forward and backward as supervised passes in 100 steps"),
        ({"by": "minutes", "minutes": 2.5, "steps": None}, "2.5 minutes per run"),
    ):
        plan, runs = made_up(ACCURACY, **budget)
        assert words in budget_text(plan, make_table(plan, runs))


def test_a_row_that_took_longer_than_its_minutes_is_marked() -> None:
    plan, runs = made_up({"supervised": [70.0, 71.0], "mpl": [80.0, 81.0]}, by="minutes", steps=None, minutes=2.4 / 60)
    for run in runs:  # 2 and 3 s where 2.4 are asked, and then 4 s
        run["seconds"] += 1.5 * (run["method"] == "mpl")
    rows = make_table(plan, runs)
    assert [(row["seconds"], row["over_budget"]) for row in rows] == [(2.5, False), (4.0, True)]
    assert "! 4.0 s" in text_table(plan, rows)
    assert "! = took over 25 % longer" in budget_text(plan, rows)
    assert "!" not in budget_text(plan, rows[:1])
    plan, runs = made_up(ACCURACY)
    assert not any(row["over_budget"] for row in make_table(plan, runs))


def test_no_cell_of_the_csv_is_a_formula() -> None:
    for bad in ("=1+1", "+1+1", "-1-1", "-x", "@x", "\tx", "\rx"):
        assert guarded(bad) == f"'{bad}"
    harmless = [-1.5, 3, "a=1", "-1", "+2.5e3"]
    assert [guarded(v) for v in (*harmless, None)] == [*harmless, ""]
    rows = list(csv.DictReader(io.StringIO(runs_csv([{"method": "=cmd()", "seed": 1, "error": "-x,\n"}]))))
    assert rows[0]["method"] == "'=cmd()"
    assert rows[0]["error"] == "'-x,\n"


@pytest.mark.parametrize("count", [1, 3, 14])
def test_the_picture_has_every_method(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    names = ["supervised", LONG_NAME, "mpl:$x$=_1", *(f"method_{k}" for k in range(20))][:count]
    plan, runs = made_up({n: list(rng.normal(85 + k / 3, 2, 5)) for k, n in enumerate(names)})
    figure.draw(tmp_path / "p.png", plan, make_table(plan, runs), runs)
    from PIL import Image

    with Image.open(tmp_path / "p.png") as image:
        assert image.size[0] > 1200
        assert image.size[1] > 300
        assert len(image.convert("RGB").getcolors(1 << 24) or []) > 20


# -- the plan


def planned(seeds: int = 2, methods: str = "supervised,mpl", **options: Any) -> Plan:
    base = Base("digits", options={"split.labels": 2, **options})
    configs = {spec: configure(base, spec) for spec in parse(methods)}
    budget = {"by": "steps", "steps": 5, "minutes": None}
    plan = make_plan(configs, open_digits(), range(seeds), budget, "supervised", "the command")
    return replace(plan, budget={label: {"steps": 5, "cost": None} for label in plan.labels})


def test_a_plan_is_stored_and_read_as_it_was(tmp_path: Path) -> None:
    plan = planned()
    plan.save(tmp_path)
    assert load_plan(tmp_path) == plan
    assert going_on(plan, planned(), tmp_path) == plan
    config = plan.config("mpl", 1)
    assert config == make_config("digits", options={"seed": 1, "steps": 5, "split.labels": 2})
    assert plan.facts["labels"].startswith("2 labels per class, 20 in all (10 of them validate)")
    assert load_plan(tmp_path / "nothing") is None


def test_seeds_may_be_added_and_nothing_else(tmp_path: Path) -> None:
    plan = planned()
    more = going_on(plan, planned(4), tmp_path)
    assert more.seeds == (0, 1, 2, 3)
    assert set(more.splits) == {0, 1, 2, 3}
    assert going_on(more, planned(2), tmp_path) == more
    for other, words in (
        (planned(methods="supervised"), "methods supervised, mpl there, supervised asked"),
        (planned(**{"optim.lr": 0.2}), "optim lr is 0.0 there, 0.2 asked"),
        (replace(plan, fingerprint="other"), "the data changed"),
        (replace(plan, splits={0: "other", 1: "other"}), "the splits differ"),
    ):
        with pytest.raises(UserError, match=words):
            going_on(plan, other, tmp_path)


def test_another_version_or_missing_settings_do_not_go_on(tmp_path: Path) -> None:
    plan = planned()
    replace(plan, facts={**plan.facts, "metapl": "0.0.9"}).save(tmp_path)
    with pytest.raises(UserError, match=rf"made with metapl 0\.0\.9, this is {__version__}"):
        load_plan(tmp_path)
    plan.save(tmp_path)
    stored = json.loads((tmp_path / "comparison.json").read_text())
    del stored["asked"]["rows"]["mpl"]["mpl"]["feedback_cap"]
    (tmp_path / "comparison.json").write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r"does not set mpl\.feedback_cap of mpl.*another folder"):
        load_plan(tmp_path)


def a_run(folder: Path, row: Mapping[str, Any], env: Mapping[str, str]) -> RunConfig:
    config = make_config("digits")
    folder.mkdir(exist_ok=True)
    save_config(config, folder / "config.yaml")
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "compared.json").write_text(json.dumps({"format": 1, "test_accuracy": 50.0, **row}))
    return config


def test_a_run_of_another_version_is_not_taken_over(tmp_path: Path) -> None:
    env = {"metapl": __version__, "torch": "1.0", "device": "abacus"}
    config = a_run(tmp_path, {"versions": {**env, "metapl": "0.0.9"}}, env)
    with pytest.raises(UserError, match=r"the stored run was made with metapl 0\.0\.9, this is"):
        stored_row(tmp_path, config)
    a_run(tmp_path, {"versions": env}, env)
    assert stored_row(tmp_path, config)
    a_run(tmp_path, {}, env)  # stored before versions were
    row = stored_row(tmp_path, config)
    assert row is not None
    assert row["versions"] == env
    a_run(tmp_path, {}, {**env, "metapl": "0.0.9"})
    with pytest.raises(UserError, match=r"0\.0\.9"):
        stored_row(tmp_path, config)


def test_another_torch_or_device_is_told(tmp_path: Path) -> None:
    here = {k: v for k, v in environment(torch.device("cpu")).items() if k in ("metapl", "torch", "device")}
    a_run(tmp_path, {}, {**here, "torch": "1.0"})
    assert made_with(tmp_path) == {**here, "torch": "1.0"}
    assert made_with(tmp_path, torch.device("cpu")) == {**here, "torch": f"1.0 and {here['torch']}"}
    old, new = {"versions": {**here, "torch": "1.0", "device": "abacus"}}, {"versions": here}
    said = mixed([old, old], torch.device("cpu"))
    assert f"torch 1.0 (now {here['torch']}), device abacus (now cpu)" in said
    assert mixed([new], torch.device("cpu")) == ""
    found = versions([old, new, {"error": "x"}, {"versions": made_with(tmp_path, torch.device("cpu"))}])
    assert (found["torch"], found["device"]) == (f"1.0 and {here['torch']}", "abacus and cpu")
    (tmp_path / "env.json").write_text("[]")
    assert set(made_with(tmp_path).values()) == {"unknown"}


def test_a_row_that_is_the_same_as_another_is_left_out() -> None:
    plan = planned(methods="supervised,mpl:ablate", **{"split.validation": 0})
    assert plan.labels == ["supervised", "mpl", "mpl:feedback=none", "mpl:uda_weight=0"]
    assert any("mpl:finetune_steps=0 is left out: here it is the same as mpl" in n for n in plan.facts["notes"])
    assert "mpl:finetune_steps=0" in planned(methods="supervised,mpl:ablate").labels, "with validation rows it is not"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 9}', '{"format": 1}', "\udcff"])
def test_a_damaged_plan_is_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "comparison.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=r"comparison\.json"):
        load_plan(tmp_path)


def test_every_row_has_a_folder_of_its_own() -> None:
    names = folder_names(["mpl:a=1", "mpl:a=+1", "MPL-a-1", "mpl", "../x"])
    assert len({n.lower() for n in names.values()}) == 5
    assert all("/" not in n and not n.startswith(".") for n in names.values())


def test_the_question_is_checked_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words, options in (
        ("unknown method", {"methods": "mpll"}),
        ("seeds is 0", {"seeds": 0}),
        ("come twice", {"seeds": [1, 1]}),
        ("unknown budget", {"budget": "step"}),
        ("number is missing", {"budget": "minutes"}),
        ("the budget is steps", {"minutes": 3}),
        ("the reference 'mpl' is not compared", {"methods": "uda", "reference": "mpl"}),
        ("workers is 0", {"workers": 0}),
        ("unknown setting", {"settings": ["optim.lrr=1"]}),
    ):
        with pytest.raises(UserError, match=words):
            compare("digits", **{"methods": "supervised", "seeds": 1, **options})
        assert not [
            p for p in tmp_path.rglob("*") if p.name not in ("comparisons", "digits", ".lock", "comparison.json")
        ]
    full = tmp_path / "full"
    full.mkdir()
    (full / "mine.txt").write_text("x")
    with pytest.raises(UserError, match="holds no comparison"):
        compare("digits", "supervised", 1, out=full)
    assert [p.name for p in full.iterdir()] == ["mine.txt"]


def test_the_guard_is_off() -> None:
    if "guard.mode" not in known_keys("mpl"):
        pytest.skip("there is no guard")
    from metapl.comparison.comparison import _guard_off

    (spec,) = parse("mpl")
    assert configure(Base("digits"), spec, _guard_off("mpl")).guard.mode == "off"

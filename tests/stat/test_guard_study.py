"""The guard's rule under simulation, and the study of wrong unlabelled rows: its cases and its table."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def _benchmark(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _all_digits():
    from metapl.data.memory.digits import open_digits

    source = open_digits()
    return source.data[:, 0].float(), source.labels


@pytest.mark.parametrize("rows", [20, 40, 100])
@pytest.mark.parametrize("only", [0.1, 0.2, 0.3])
def test_the_rule_bounds_the_expected_harm(rows, only):
    """At most 0.6 points for any true difference, where more right rows alone lose more than 0.6 with few rows."""
    study, draw = _benchmark("guard_rule"), np.random.default_rng(1)
    worst = max(p * study.kept(study.rule, rows, -p, only, draw) for p in (1, 2, 3, 4, 5, 7, 10, 15, 20))
    assert worst < 0.6  # 0.55 at most, plus the spread of the simulation
    assert study.kept(study.rule, rows, 30, only, draw) > 0.75
    if rows == 20:
        assert max(p * study.kept(study.more, rows, -p, only, draw) for p in (3, 5, 7)) > 0.6


def test_the_cases_are_what_they_are_called():
    study = _benchmark("guard_cases")
    made = {case: study.make_source(case, 20, 5) for case in study.CASES}
    for source in made.values():
        assert np.bincount(source.labels[:20]).tolist() == [2] * 10
        assert source.is_test.sum() == study.TEST
        assert (source.labels[20 : len(source.labels) - study.TEST] == -1).all()
    pools = {case: source.data[20 : -study.TEST, 0].float() for case, source in made.items()}
    assert all(bool((source.data[:20] == made["good"].data[:20]).all()) for source in made.values())
    assert bool((pools["inverted"] == 255 - pools["good"]).all())
    assert pools["photos"].shape == pools["good"].shape
    corners = {case: pools[case][:, 0, 0].mean() for case in ("good", "photos", "inverted")}
    assert corners["good"] < 5 < 50 < corners["photos"] < 250 < corners["inverted"]
    digits = {row.numpy().tobytes(): int(k) for row, k in zip(*_all_digits())}
    counts = np.bincount([digits[row.numpy().tobytes()] for row in pools["one-class"]], minlength=10)
    assert counts.max() / counts.sum() == pytest.approx(0.9, abs=0.01)


def _run(seed, unguarded, wins, losses, *alarms):
    found = {"only_method_right": wins, "only_supervised_right": losses, "log_loss": {"mpl": 0.5, "supervised": 0.6}}
    case = {"case": "good", "method": "mpl", "labels": 20, "seed": seed, "alarms": [*alarms], "guard": found}
    return {**case, "supervised": 70.0, "unguarded": unguarded}


def test_the_study_decides_by_the_rule_as_it_stands():
    decided = _benchmark("guard_cases").decided
    assert decided(_run(0, 90.0, 5, 2))["guarded"] == 90
    assert decided(_run(0, 90.0, 5, 2, "gap"))["guarded"] == 90
    assert decided(_run(0, 90.0, 6, 0, "class_shift"))["guarded"] == 70, "three standard errors"
    assert decided(_run(0, 90.0, 6, 0) | {"class_shift": 0.4})["guarded"] == 70
    assert decided(_run(0, 90.0, 6, 0) | {"class_shift": 0.2})["guarded"] == 90
    assert decided(_run(0, 90.0, 0, 0))["guarded"] == 90, "the lower log loss"


def test_the_table_pairs_and_counts():
    study = _benchmark("guard_cases")
    rows = [_run(0, 90.0, 9, 1), _run(1, 60.0, 1, 9, "gap"), _run(2, 64.0, 5, 2)]
    (line,) = study.table(rows)
    assert line["seeds"] == 3
    assert line["baseline_returned"] == line["with_alarm"] == 1
    assert line["guarded_minus_supervised"]["mean"] == pytest.approx(14 / 3)
    assert line["unguarded_minus_supervised"]["worst"] == -10
    assert line["guarded"]["worst"] == 64

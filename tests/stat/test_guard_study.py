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


@pytest.mark.parametrize("only", [0.1, 0.2, 0.3])
def test_the_rule_keeps_gains_and_turns_away_large_losses(only):
    """What studies say weighs three rows for the method, and six against it where the pool has other shares."""
    study, draw = _benchmark("guard_rule"), np.random.default_rng(1)
    for rows in (20, 40, 100):
        assert study.kept(study.rule, rows, 5, only, draw) > 0.8
        assert study.kept(study.rule, rows, -60, only, draw) < 0.01
        assert study.kept(study.rule_other_shares, rows, -5, only, draw) < 0.05
    assert study.kept(study.rule, 100, -10, only, draw) < 0.2
    assert study.kept(study.rule_other_shares, 100, 20, only, draw) > 0.95
    assert study.kept(study.rule_other_shares, 20, 50, only, draw) > 0.8


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


def _run(seed, unguarded, returned, *alarms):
    case = {"case": "good", "method": "mpl", "labels": 20, "seed": seed, "alarms": [*alarms], "returned": returned}
    return {**case, "supervised": 70.0, "unguarded": unguarded, "guarded": 70.0 if returned else unguarded}


def test_the_table_pairs_and_counts():
    study = _benchmark("guard_cases")
    rows = [_run(0, 90.0, False), _run(1, 60.0, True, "gap"), _run(2, 64.0, False)]
    (line,) = study.table(rows)
    assert line["seeds"] == 3
    assert line["baseline_returned"] == line["with_alarm"] == 1
    assert line["guarded_minus_supervised"]["mean"] == pytest.approx(14 / 3)
    assert line["unguarded_minus_supervised"]["worst"] == -10
    assert line["guarded"]["worst"] == 64

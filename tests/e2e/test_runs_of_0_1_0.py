"""Runs that version 0.1.0 stored load, predict, are evaluated and go on as they did there.

``fixtures/make_stored_runs.py`` made them. Numbers are compared within rounding, since they were made on one machine.
"""

from __future__ import annotations

import csv
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Call, Done, table

import metapl

STORED = Path(__file__).parents[1] / "fixtures" / "runs-0.1.0"
NEW_ROWS = {"photos": "new-photos", "table": "new-table.csv", "texts": "new-texts.csv", "arrays": "new-arrays.npz"}
KINDS = sorted(NEW_ROWS)


@cache
def answers() -> dict[str, Any]:
    """The answers of version 0.1.0."""
    found: dict[str, Any] = json.loads((STORED / "answers.json").read_text(encoding="utf-8"))
    return found


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    """A copy of the runs and their data, with this place's paths in their settings."""
    root = tmp_path / "stored"
    shutil.copytree(STORED, root)
    for path in [*root.rglob("config.yaml"), *root.rglob("results.json")]:
        path.write_text(path.read_text(encoding="utf-8").replace("@DATA@", str(root / "data")), encoding="utf-8")
    return root


def good(done: Done) -> Done:
    assert done.code == 0, done.err
    return done


def assert_same_answers(call: Call, run: Path, expected: dict[str, Any], tolerance: float) -> None:
    """``run`` labels new rows and its own test rows as ``expected`` says."""
    new_rows = run.parent / "data" / NEW_ROWS[run.name.removesuffix("-stopped")]
    predictions = table(good(call("predict", run, new_rows, "--trust-code")).out)
    before = list(csv.DictReader(expected["predict"]))
    assert [(row["id"], row["label"]) for row in predictions] == [(row["id"], row["label"]) for row in before]
    one, other = ([float(row["probability"]) for row in rows] for rows in (predictions, before))
    np.testing.assert_allclose(one, other, rtol=0, atol=max(tolerance, 1e-6))  # they are printed with six digits
    figures = json.loads(good(call("evaluate", run, "--json", "-", "--trust-code")).out)
    for name, value in expected["evaluate"].items():
        if isinstance(value, float | int):
            assert figures[name] == pytest.approx(value, abs=tolerance), name
        else:
            assert figures[name] == value, name


@pytest.mark.parametrize("kind", KINDS)
def test_a_finished_run_gives_the_same_answers(stored: Path, call: Call, kind: str) -> None:
    assert_same_answers(call, stored / kind, answers()[kind], 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_goes_on_as_it_would_have(stored: Path, call: Call, kind: str) -> None:
    run, expected = stored / f"{kind}-stopped", answers()[f"{kind}-stopped"]
    good(call("resume", run, "--quiet", "--trust-code"))
    log = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["step"] for row in log] == [row["step"] for row in expected["metrics"]]
    for row, before in zip(log, expected["metrics"], strict=True):
        for name, value in before.items():
            assert row[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (row["step"], name)
    assert_same_answers(call, run, expected, 1e-4)


def test_a_model_of_an_earlier_version_takes_rows_in_memory(stored: Path) -> None:
    predictor = metapl.load_model(stored / "arrays")
    rows = np.load(stored / "data" / "new-arrays.npz")
    p = predictor.predict_proba(rows["X"])
    before = list(csv.DictReader(answers()["arrays"]["predict"]))
    np.testing.assert_allclose(p.max(1), [float(row["probability"]) for row in before], rtol=0, atol=1e-6)
    assert predictor.predict(rows["X"]).tolist() == [row["label"] for row in before]

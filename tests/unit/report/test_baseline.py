"""Whether the unlabelled rows helped: on test rows, by the guard, or not measured; and what a run with a mean says."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metapl.config.settings import GuardConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.memory.arrays import from_arrays
from metapl.inference.run_evaluation import judge_own
from metapl.report import gather
from metapl.report.baseline import compared, mean_partners, returned_mean
from metapl.report.record import Record, read_record
from metapl.report.verdict import against_supervised, model, next_steps, verdict
from metapl.runs.model_folder import load_model
from metapl.training.loop import train

PAIR = {"first": "mpl", "second": "linear", "difference": 0.1, "difference_95": [0.02, 0.18]}
GUARD: dict[str, Any] = {
    "way": "cross-fitting", "rows": 100, "baseline": "linear", "accuracy": {"mpl": 0.9, "linear": 0.8},
    "pairs": [PAIR], "better": True, "refusal": "", "returned": "mpl", "held_out": True, "text": "guard: kept. Why.",
}  # fmt: skip


def record(evaluation: Any = None, chosen_by: str = "validation rows", **guard: Any) -> Record:
    rows = {"labeled": 80, "unlabeled": 900, "validation": 20, "test": 200}
    results = {"method": "mpl", "rows": rows, "chosen": "mean", "chosen_by": chosen_by, "guard": {**GUARD, **guard}}
    return Record(Path("run"), {"data": "photos", "method": "mpl", "mpl": {}}, {}, results, evaluation)


def test_the_guards_last_pair_counts_where_no_side_learnt_from_its_rows() -> None:
    answer = against_supervised(record())
    assert (answer.short, answer.mood) == ("yes, +10.0 points", "good")
    assert (
        "Of 100 labelled rows mpl has 90.0 % right, the linear baseline with the same labels alone 80.0 %."
        in answer.text
    )
    answer = against_supervised(record(held_out=False))
    assert (answer.short, answer.mood) == ("not measured", "open")
    assert "100 labelled rows that could be judged are too few" in answer.text
    assert "Judging the test rows measures it." in answer.text
    assert compared(record(held_out=None, way="cross-fitting", pairs=[])) is None


def test_test_rows_go_first() -> None:
    counts = {"accuracy": 0.7, "both_right": 130, "only_chosen_right": 30, "only_other_right": 10}
    evaluation = {"rows": 200, "accuracy": 0.8, "accuracy_low": 0.74, "accuracy_high": 0.85, "not_chosen": counts}
    found = compared(record(evaluation, held_out=False))
    assert found is not None
    assert (found.method, found.other, found.rows, found.kind) == (0.8, 0.7, 200, "test rows")
    assert 0 < found.low < 0.1 < found.high
    other = compared(record(evaluation, chosen_by="guard", returned="linear baseline"))  # the method was not chosen
    assert other is not None
    assert (other.method, other.other) == (0.7, 0.8)
    assert (
        compared(record(evaluation, chosen_by="guard", returned="mean of mpl and the linear baseline", pairs=[]))
        is None
    )


def test_a_run_that_returned_the_mean_says_so() -> None:
    name = "mean of mpl and the linear baseline"
    run = record(chosen_by="guard", returned=name, held_out=False)
    assert model(run).short == "mean of both"
    assert "In earlier studies such a mean" in against_supervised(run).text
    figures = {
        "rows": 20,
        "accuracy": 0.9,
        "accuracy_low": 0.7,
        "accuracy_high": 0.97,
        "per_class_accuracy": {},
        "confusion": [],
    }
    headline = verdict(run, {"validation": figures})["headline"]
    assert headline.endswith(
        "the mean of mpl and a model of the labels alone is right on 90.0 % of 20 validation rows."
    )
    assert not any("same kind" in step.text for step in next_steps(run, {})), "a mean is a good result"
    refused = record(chosen_by="guard", returned="linear baseline", better=False)
    assert any("same kind" in step.text for step in next_steps(refused, {}))


def test_the_partners_of_a_mean_are_read_from_the_list_and_not_from_the_words() -> None:
    run = record(chosen_by="guard", returned="mean of two friends", partners=["linear", "forest"])
    assert model(run).short == "mean of several"
    assert "the mean of mpl and 2 models of the labels alone" in verdict(run, {})["headline"]
    assert not returned_mean(record(chosen_by="guard", returned="mean of words alone", partners=[]))


@pytest.mark.parametrize(
    ("returned", "partners"),
    [
        ("mean of mpl, the linear baseline and the forest baseline", ["linear", "forest"]),
        ("mean of mpl and the linear baseline", ["linear"]),
        ("linear baseline", []),
        ("mpl", []),
    ],
)
def test_older_results_name_the_partners_in_words(returned: str, partners: list[str]) -> None:
    assert mean_partners(record(returned=returned)) == partners


def test_a_refusal_is_given_as_the_reason() -> None:
    run = record(chosen_by="guard", returned="linear baseline", better=False, refusal="mpl names no class 'skirt'")
    assert model(run).short == "linear"
    assert "mpl was not surely better: mpl names no class 'skirt'." in model(run).text


def test_evaluate_counts_what_both_models_have_right(tmp_path: Path) -> None:
    split, out = SplitConfig(labels=12, validation=6), tmp_path / "run"
    made = train(
        RunConfig("digits", method="fixmatch", model="mlp", steps=30, split=split, guard=GuardConfig("return")), out
    )
    judge_own(out, "cpu")
    stored = json.loads((out / "evaluation.json").read_text())
    x, y = made.source.rows(made.split.test), made.source.labels[made.split.test]
    right = [
        load_model(out / name).predict(x.numpy()) == np.array(made.class_names)[y]
        for name in ("model", "model-not-chosen")
    ]
    assert stored["not_chosen"] == {
        "accuracy": pytest.approx(right[1].mean()),
        "both_right": int((right[0] & right[1]).sum()),
        "only_chosen_right": int((right[0] & ~right[1]).sum()),
        "only_other_right": int((~right[0] & right[1]).sum()),
    }
    found = compared(read_record(out))
    assert found is not None
    assert found.kind == "test rows"


@pytest.mark.parametrize(
    ("name", "data", "shown"),
    [("photos", "/a/photos", "photos"), ("train", "/a/clothes/train", "clothes/train"), ("train", "/a/link", "link")],
)
def test_a_folder_that_only_names_its_part_is_shown_with_its_parent(name: str, data: str, shown: str) -> None:
    source = from_arrays(np.zeros((2, 2), dtype=np.float32), ["a", "b"])
    source.name = name
    assert gather.name_of(source, replace(record(), config={"data": data})) == shown

"""Alarms: each fires on a tiny run that deserves it, and none on a healthy one."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_guard import Notes, config_of
from test_guard import features as table

from metapl.config.settings import GuardConfig, LoopConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.batches.stream import BatchConfig
from metapl.data.memory.source import MemorySource
from metapl.methods import METHODS
from metapl.training import alarms
from metapl.training.loop import Result, train

OFF = GuardConfig("off")
NAMES = ("a", "b")


def run(method: str, steps: int, folder: Path, source: Any = None, **settings: Any) -> tuple[Result, Notes]:
    notes = Notes()
    fixed = {"finetune_steps": 0} if method == "mpl" else {}
    config = config_of(
        method, steps, settings=METHODS[method].Config(**fixed, **settings), guard=OFF, batch=BatchConfig(20, 40),
        loop=LoopConfig(log_every=1),
    )  # fmt: skip
    return train(config, folder / "run", source=source or table(1400), progress=notes), notes


def names(result: Result) -> set[str]:
    found = json.loads((result.folder / "results.json").read_text(encoding="utf-8"))["alarms"]
    assert found == result.summary["alarms"]
    return {a["name"] for a in found}


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Notes]:
    return run("mpl", 250, tmp_path_factory.mktemp("healthy"), uda_threshold=0.8)


def test_a_healthy_run_raises_none(healthy: tuple[Result, Notes]) -> None:
    result, notes = healthy
    assert names(result) == set()
    assert "alarm" not in notes
    rows = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    judged = [r for r in rows if "validation_accuracy" in r]
    assert len(judged) == 10
    assert all({"class_shift", "class_least", "least_class"} <= r.keys() for r in judged)
    assert judged[-1]["class_shift"] < 0.2 < judged[-1]["class_least"]


def one_class(source: MemorySource, keep: int = 60) -> MemorySource:
    """The pool nearly all threes, as if the labels were drawn from another place."""
    threes = np.flatnonzero(source.labels == 3)
    rows = np.concatenate([np.arange(keep), *[threes[threes >= keep]] * 10])
    labels = np.where(np.arange(len(rows)) < keep, source.labels[rows], -1)
    data = source.data[torch.from_numpy(rows)]
    return MemorySource("one", "table", data, labels, source.class_names)


def test_class_shift_and_a_missing_class(tmp_path: Path) -> None:
    source = one_class(table())
    notes = Notes()
    config = config_of("fixmatch", 60, guard=OFF, split=SplitConfig(), batch=BatchConfig(20, 40))
    result = train(config, tmp_path / "run", source=source, progress=notes)
    assert names(result) >= {"class_shift", "class_missing"}
    assert sum("alarm at step" in n and "far from the labelled rows' shares" in n for n in notes.notes) == 1
    assert sum("hardly names class" in n for n in notes.notes) == 1, "once each"
    (shift,) = [a for a in result.summary["alarms"] if a["name"] == "class_shift"]
    assert shift["value"] > 0.5
    assert shift["step"] >= 30


def test_masks_that_are_stuck(tmp_path: Path, healthy: tuple[Result, Notes]) -> None:
    """Probabilities of ten classes reach 0.05 always and 1 never in a few steps."""
    shut, notes = run("fixmatch", 20, tmp_path / "shut", threshold=1.0)
    assert "mask_shut" in names(shut)
    assert "hardly an unlabelled row passes" in notes
    opened, notes = run("fixmatch", 20, tmp_path / "open", threshold=0.05)
    assert "mask_open" in names(opened)
    assert "nearly every unlabelled row passes" in notes
    for value in (0.0, 1.01):  # as asked: nothing is filtered, or nothing is used
        asked, _ = run("fixmatch", 20, tmp_path / str(value), threshold=value)
        assert not names(asked) & {"mask_open", "mask_shut"}


def test_a_student_that_does_not_follow(tmp_path: Path) -> None:
    result, notes = run("mpl", 8, tmp_path)
    assert "gap" in names(result)
    assert "teacher and student name the same class for only" in notes


def test_the_mask_of_a_teacher_that_came_before_the_student(tmp_path: Path) -> None:
    """mpl_reduced has a mask in its first part alone."""
    for value, name in ((1.0, "mask_shut"), (0.05, "mask_open")):
        settings = {"teacher_share": 0.3, "uda_threshold": value, "finetune_steps": 0}
        made, _ = run("mpl_reduced", 20, tmp_path / name, **settings)
        assert names(made) & {"mask_shut", "mask_open"} == {name}


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *[(m, {"weight": 0.0}) for m in ("pseudo_label", "uda", "fixmatch", "flexmatch", "self_training")],
        ("self_training", {"rounds": 1}),
        ("co_training", {"weight": 0.0}),
        ("mpl", {"uda_weight": 0.0}),
        ("self_mpl", {"uda_weight": 0.0}),
        ("mpl_reduced", {"uda_weight": 0.0, "finetune_steps": 0}),
    ],
    ids=str,
)
def test_what_is_switched_off_raises_no_mask_alarm(method: str, settings: dict[str, Any], tmp_path: Path) -> None:
    made, notes = run(method, 12, tmp_path, **settings)
    assert not names(made) & {"mask_open", "mask_shut"}
    assert "unlabelled row passes" not in notes


@pytest.mark.parametrize("method", ["mean_teacher", "self_training", "self_mpl", "co_training"])
def test_methods_with_a_teacher_have_the_gap_alarm_and_a_healthy_run_does_not_raise_it(
    method: str, tmp_path: Path
) -> None:
    settings = {"share": 1.0} if method == "co_training" else {}
    made, _ = run(method, 150, tmp_path, **settings)
    rows = [json.loads(line) for line in (made.folder / "metrics.jsonl").read_text().splitlines()]
    assert 0.5 < sum(row["agreement"] for row in rows[-20:]) / 20 <= 1
    assert "gap" not in names(made)
    for row in rows:
        row |= {"agreement": 0.3} if "agreement" in row else {}
    (gap,) = [a for a in alarms.find(rows, 150, method, METHODS[method].Config(), [""] * 10) if a["name"] == "gap"]
    assert gap["value"] == pytest.approx(0.3)


def test_supervised_training_raises_none(tmp_path: Path) -> None:
    result, _ = run("supervised", 6, tmp_path)
    assert names(result) == set()
    assert "class_shift" not in (result.folder / "metrics.jsonl").read_text()


# ---- the numbers -----------------------------------------------------------------------------------------------


def test_the_measures() -> None:
    found = alarms.measure(torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.5, 0.3, 0.2]), 1000)
    assert found == {"class_shift": pytest.approx(0.2), "class_least": 0.0, "least_class": 2.0}
    few = alarms.measure(torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.5, 0.3, 0.2]), 40)
    assert (few["class_least"], few["least_class"]) == (pytest.approx(1.0), 1.0), "8 rows expected say nothing"
    assert set(alarms.measure(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]), 4)) == {"class_shift"}


def moments(shift: dict[int, float] | None = None, least: dict[int, float] | None = None, **columns: float) -> Any:
    """Rows of 100 steps, judged at every tenth."""
    made = []
    for step in range(1, 101):
        judged = {"class_shift": (shift or {}).get(step, 0.1), "class_least": (least or {}).get(step, 0.9)}
        made.append({"step": step, **columns, **(judged | {"least_class": 1.0} if step % 10 == 0 else {})})
    return made


FIXMATCH = METHODS["fixmatch"].Config()


def raised(rows: Any, settings: Any = FIXMATCH, steps: int = 100, method: str = "mpl") -> dict[str, int]:
    return {a["name"]: a["step"] for a in alarms.find(rows, steps, method, settings, NAMES)}


@pytest.mark.parametrize(
    ("bad", "step"),
    [((10, 20, 30), None), ((60,), None), ((60, 80), None), ((60, 70), 70), ((50, 60), 60), ((90, 100), 100)],
)
def test_a_collapse_must_last_and_come_in_the_second_half(bad: tuple[int, ...], step: int | None) -> None:
    wanted = {} if step is None else {"class_shift": step}
    assert raised(moments(shift=dict.fromkeys(bad, 0.6))) == wanted
    wanted = {} if step is None else {"class_missing": step}
    assert raised(moments(least=dict.fromkeys(bad, 0.1))) == wanted


def test_two_classes_that_are_missing_once_each_raise_nothing() -> None:
    rows = moments(least=dict.fromkeys((60, 70), 0.1))
    for row in rows:
        if row["step"] == 70:
            row["least_class"] = 0
    assert raised(rows) == {}


def test_the_missing_class_is_named() -> None:
    (found,) = alarms.find(moments(least=dict.fromkeys((80, 90), 0.1)), 100, "fixmatch", FIXMATCH, NAMES)
    assert "class 'b'" in found["text"]


@pytest.mark.parametrize(("mask", "name"), [(0.004, "mask_shut"), (0.006, ""), (0.994, ""), (0.996, "mask_open")])
def test_mask_rates(mask: float, name: str) -> None:
    assert set(raised(moments(mask_rate=mask))) == ({name} if name else set())
    assert raised(moments(mask_rate=mask), METHODS["fixmatch"].Config(threshold=0.0)) == {}
    assert raised(moments(mask_rate=mask), METHODS["supervised"].Config()) == {}
    assert raised(moments(mask_rate=mask), METHODS["co_training"].Config()) == {}, "a share, whatever the confidence"
    assert set(raised(moments(mask_rate=mask), METHODS["co_training"].Config(select="threshold"))) == (
        {name} if name else set()
    )
    assert raised(moments(mask_rate=mask), METHODS["fixmatch"].Config(selection="soft")) == {}, "weights, not a mask"


def test_only_the_last_quarter_counts() -> None:
    rows = moments(mask_rate=0.5)
    for row in rows[:60]:
        row["mask_rate"] = 0.0
    assert raised(rows) == {"mask_shut": 50}, "at half of the run none had passed"
    assert raised(rows[:30], steps=100) == {}, "too early to say"


@pytest.mark.parametrize(("agreement", "fires"), [(0.49, True), (0.51, False)])
def test_gap(agreement: float, fires: bool) -> None:
    assert ("gap" in raised(moments(agreement=agreement), METHODS["mpl"].Config())) is fires


def test_the_mask_is_judged_where_there_is_one() -> None:
    rows = moments(mask_rate=0.0)
    for row in rows[40:]:
        del row["mask_rate"]
    assert raised(rows) == {"mask_shut": 50}
    for row in rows[:30]:
        row["mask_rate"] = 0.5
    assert raised(rows) == {"mask_shut": 50}, "its last quarter"
    rows[35]["mask_rate"] = 0.5
    assert raised(rows) == {}


def test_a_student_that_begins_late_is_given_half_of_its_time() -> None:
    settings = METHODS["mpl_reduced"].Config()
    rows = moments(agreement=0.2)
    for row in rows[:40]:
        del row["agreement"]
    assert raised(rows, settings, method="mpl_reduced") == {"gap": 70}
    for row in rows[70:]:
        row["agreement"] = 0.9
    rows[69]["agreement"] = 17.5 - 0.2 * 16  # the mean over steps 53 to 70 is above a half
    assert raised(rows, settings, method="mpl_reduced") == {}


def test_a_student_is_not_blamed_for_the_one_before_it() -> None:
    settings = METHODS["self_training"].Config()
    rows = moments()
    for row in rows[33:]:
        row |= {"agreement": 0.1 if row["step"] <= 66 else 0.9, "round": 1.0 + (row["step"] > 66)}
    assert raised(rows, settings, method="self_training") == {}
    for row in rows[66:]:
        row["agreement"] = 0.1
    assert raised(rows, settings, method="self_training") == {"gap": 90}


def test_the_gap_alarm_speaks_of_the_method_that_runs() -> None:
    """Every key that it names is one of the method's settings, and there is something left to change."""
    for method in ("mpl", "mpl_reduced", "self_mpl", "mean_teacher", "self_training", "co_training"):
        (found,) = alarms.find(moments(agreement=0.3), 100, method, METHODS[method].Config(), NAMES)
        assert "for only 30 % of the unlabelled rows" in found["text"]
        for group, key in re.findall(r"\b([a-z_]+)\.([a-z_]+)", found["text"]):
            assert group == method
            assert key in {f.name for f in dataclasses.fields(METHODS[method].Config)}
    words = {m: " ".join(alarms.gap_words(m, METHODS[m].Config())) for m in ("mpl", "self_mpl", "co_training")}
    assert "mpl.feedback_start=0.25" in words["mpl"]
    assert "network" in words["self_mpl"]
    assert "two networks" not in words["self_mpl"]
    for settings, cap, start in (
        ({"feedback_cap": 0.0}, True, True),
        ({"feedback_cap": 1.0}, False, True),
        ({"feedback_cap": 1.0, "feedback_start": 0.25}, False, False),
        ({"feedback_cap": 0.0, "feedback": "none"}, False, False),
        ({"feedback_cap": 0.0, "feedback_weight": 0.0}, False, False),
        ({"feedback_cap": 0.0, "feedback": "sampled"}, False, True),
    ):
        advice = alarms.gap_words("mpl", METHODS["mpl"].Config(**settings))[1]
        assert ("mpl.feedback_cap=1" in advice, "mpl.feedback_start=0.25" in advice) == (cap, start)
    assert "co_training.views=nets" not in words["co_training"]
    halves = METHODS["co_training"].Config(views="features")
    assert "co_training.views=nets" in alarms.gap_words("co_training", halves)[1]

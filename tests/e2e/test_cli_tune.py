"""``metapl tune`` on the command line: what it prints and leaves, that ``train`` takes it, and its mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from commands import Call, refused, sums

import metapl

QUICK = (
    *("--method", "pseudo_label", "--model", "mlp", "--labels", "3", "--steps", "4", "--workers", "1"),
    *("batch.labeled=8", "batch.unlabeled=16"),
)


def test_tune_then_train_with_the_best(call: Call) -> None:
    search = ("--search", "pseudo_label.threshold=0.1,0.5", "--search", "optim.lr=x2")
    done = call("tune", "digits", *QUICK, *search, "--out", "tuned", "--json", "r.json")
    assert done.code == 0, done.err
    result = json.loads(Path("r.json").read_text())
    assert result.pop("metapl") == metapl.__version__
    assert result == {**json.loads(Path("tuned/results.json").read_text()), "folder": "tuned"}
    assert (result["rows"], result["folds"], result["steps"], result["complete"]) == (30, 3, 4, True)
    settings = [entry["setting"] for entry in result["settings"]]
    for setting in ({}, {"pseudo_label.threshold": 0.1}, {"pseudo_label.threshold": 0.5}, {"optim.lr": 0.1}):
        assert setting in settings
    accuracies = [entry["accuracy"] for entry in result["settings"]]
    assert accuracies == sorted(accuracies, reverse=True), "best first"
    lines = done.out.splitlines()
    assert lines[0].split() == ["setting", "right", "log", "loss", "against", "the", "default"]
    assert len([line for line in lines if line.startswith("default ")]) == 1
    assert len([line for line in lines if line.endswith("<- chosen")]) == 1
    assert "default: pseudo_label.threshold = 0.95, optim.lr = 0.05" in lines
    assert result["verdict"] in lines
    assert lines[-1] == "  metapl train digits --config tuned/best.yaml"
    assert "[100 %]" in done.err or "[80 %]" in done.err
    assert "left" in done.err

    trained = call("train", "digits", "--config", "tuned/best.yaml", "--out", "run", "--quiet")
    assert trained.code == 0, trained.err
    told = json.loads(Path("run/results.json").read_text())
    assert told["steps"] == 4
    assert told["rows"]["labeled"] + told["rows"]["validation"] == 30
    before = sums(Path("tuned"))
    again = call("tune", "digits", *QUICK, *search, "--out", "tuned")
    assert again.code == 0
    assert again.out == done.out, "the same answer, from what is stored"
    assert "trainings are done already" in again.err
    after = sums(Path("tuned"))
    assert {k: v for k, v in after.items() if "results" not in k} == {
        k: v for k, v in before.items() if "results" not in k
    }, "nothing but the seconds of results.json changed"


def test_the_folder_and_the_settings_file(call: Call, data: Path) -> None:
    """A free folder by default; a settings file as the starting point; images of a tree."""
    Path("start.yaml").write_text("method: fixmatch\nsteps: 2\nmodel: mlp\nbatch: {labeled: 6, unlabeled: 6}\n")
    words = ("--config", "start.yaml", "--search", "fixmatch.threshold=0.2", "--folds", "2", "--workers", "1")
    before = sums(data)
    for name in ("tree-fixmatch", "tree-fixmatch-2"):
        done = call("tune", data / "tree", *words)
        assert done.code == 0, done.err
        result = json.loads((Path("tuned") / name / "results.json").read_text())
        assert result["method"] == "fixmatch"
        assert result["steps"] == 2
        assert f"results go to tuned/{name}" in done.err
    assert sums(data) == before
    assert call("train", "--config", "tuned/tree-fixmatch/best.yaml", "--out", "run", "--quiet").code == 0


MISTAKES: dict[str, tuple[tuple[Any, ...], tuple[str, ...]]] = {
    "unknown key": (("--search", "pseudo_label.treshold=0.9"), ("Did you mean 'pseudo_label.threshold'?",)),
    "no number": (("--search", "optim.lr=fast"), ("'fast' is not a valid value of optim.lr",)),
    "no range": (("--search", "optim.lr=0.1..fast"), ("'fast'", "not a number")),
    "out of range": (("--search", "optim.lr=-1"), ("lr is -1.0",)),
    "not to be searched": (("--search", "steps=10,20"), ("'steps' is not a setting to search",)),
    "nothing to try": (("--search", "optim.lr=0.05"), ("nothing to try",)),
    "unknown sampler": (("--sampler", "optna"), ("Did you mean 'optuna'?",)),
    "grid too large": (("--sampler", "grid", "--trials", "3"), ("--trials", "--sampler")),
    "one label per class": (("--labels", "1"), ("no class has two labelled rows", "Label more rows")),
    "too many folds": (("--folds", "99"), ("99 folds",)),
    "no trials": (("--trials", "0"), ("--trials", "at least 1")),
    "no workers": (("--workers", "0"), ("--workers", "at least 1")),
    "endless": (("--minutes", "inf"), ("--minutes",)),
    "JSON nowhere": (("--json", "no/x.json"), ("existing folder",)),
    "another method's setting": (("fixmatch.threshold=0.5",), ("the method is pseudo_label",)),
    "full folder": (("--out", "."), ("not empty", "Name another")),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_before_anything_is_trained(call: Call, mistake: str) -> None:
    words, parts = MISTAKES[mistake]
    Path("mine.txt").write_text("mine")
    refused(call("tune", "digits", *QUICK, *words), *parts)
    assert [p.name for p in Path().iterdir()] == ["mine.txt"]


def test_another_tuning_in_the_folder(call: Call) -> None:
    words = ("tune", "digits", *QUICK, "--search", "pseudo_label.threshold=0.1", "--folds", "2", "--out", "tuned")
    assert call(*words).code == 0
    before = sums(Path("tuned"))
    refused(call(*words, "--seed", "1"), "another tuning", "repeat the command")
    assert sums(Path("tuned")) == before

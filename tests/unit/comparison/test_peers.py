"""Peers: classifiers with scikit-learn's interface on the same rows, splits and features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import metapl
from metapl.comparison.peers import Features, Peer, build, find_peer, make_peer, takes_unlabeled
from metapl.comparison.specs import parse
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.memory.digits import open_digits
from metapl.errors import UserError


class Nearest:
    """A class of one's own: the nearest mean. It asks for the unlabelled rows, and refuses to go without."""

    takes_unlabeled = True

    def __init__(self, scale: float = 1.0) -> None:
        self.scale = scale

    def fit(self, X: Any, y: Any) -> Nearest:
        if (y == -1).sum() < 1000:
            raise ValueError("no unlabelled rows came")
        self.means = np.stack([X[y == k].mean(0) for k in range(int(y.max()) + 1)])
        return self

    def predict(self, X: Any) -> Any:
        return ((X[:, None] - self.means) ** 2).sum(-1).argmin(1)


def test_names_mean_scikit_learns_classes() -> None:
    for name in ("LogisticRegression", "LabelSpreading", "HistGradientBoosting", "RandomForest", "SelfTraining"):
        assert find_peer(f"sklearn:{name}").__name__.startswith(name)
    with pytest.raises(UserError, match="Did you mean 'LabelSpreading'"):
        find_peer("sklearn:LabelSpredding")


def test_a_method_of_this_package_is_not_a_peer() -> None:
    assert find_peer("metapl.methods.fixmatch:FixMatch") is None


def test_settings_go_to_the_class() -> None:
    (spec,) = parse("sklearn:LogisticRegression:C=10+max_iter=50")
    assert spec.peer == Peer("sklearn:LogisticRegression", (("C", 10), ("max_iter", 50)))
    made = build(spec.peer, 7)
    assert (made.C, made.max_iter, made.random_state) == (10, 50, 7)
    with pytest.raises(UserError, match="cannot be built"):
        make_peer("sklearn:LogisticRegression", ["trees=3"])
    with pytest.raises(UserError, match="is not a setting"):
        make_peer("sklearn:LogisticRegression", ["C"])


@pytest.mark.parametrize("value", ["[", "2024-01-01", "[1, 2]", "{a: 1}"])
def test_a_setting_that_is_not_a_plain_value_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"cannot be read|is not a valid value"):
        make_peer("sklearn:RandomForest", [f"max_depth={value}"])


def test_who_gets_unlabelled_rows() -> None:
    asked = {name: takes_unlabeled(build(make_peer(name, []), 0)) for name in ("sklearn:LabelSpreading", "sklearn:SVC")}
    assert asked == {"sklearn:LabelSpreading": True, "sklearn:SVC": False}
    assert takes_unlabeled(Nearest())


def test_features_are_those_of_the_linear_model() -> None:
    source = open_digits()
    split = make_split(source, SplitConfig(labels=4, validation="none"), 3)
    rows = Features(source, split)(split.labeled)
    assert rows.shape == (40, 64)
    known = LogisticRegression(max_iter=1000).fit(rows, source.labels[split.labeled])
    right = (known.predict(Features(source, split)(split.test)) == source.labels[split.test]).mean()
    options = {"split.labels": 4, "split.validation": "none"}
    result = metapl.fit("digits", method="linear", guard="off", seed=3, options=options)
    assert result.evaluate()["accuracy"] == pytest.approx(right, abs=0.01)


def test_a_comparison_with_peers(tmp_path: Path) -> None:
    methods = ["linear", "sklearn:LogisticRegression", f"{__name__}:Nearest:scale=2.0", "sklearn:LinearSVC"]
    options = {"split.labels": 4, "split.validation": "none"}
    question: dict[str, Any] = {"seeds": 2, "out": tmp_path / "c", "options": options, "workers": 1}
    found = metapl.compare("digits", methods, **question)
    rows = {row["method"]: row for row in found.table}
    assert list(rows) == methods
    assert rows["linear"]["mean"] == pytest.approx(rows["sklearn:LogisticRegression"]["mean"], abs=0.5)
    assert all(row["whole"] and row["steps"] == 1 and row["seconds"] is not None for row in found.table), found.runs
    assert all(row["balanced"] == pytest.approx(row["mean"], abs=3) for row in found.table), "digits are even"
    assert "unknown" not in found.to_markdown()
    assert len({run["split_sha"] for run in found.runs if run["seed"] == 0}) == 1
    folder = tmp_path / "c" / "runs" / "sklearn-LinearSVC-0"
    assert not (folder / "model").exists(), "a peer is not stored as a model"
    assert json.loads((folder / "compared.json").read_text())["chosen"] == "sklearn:LinearSVC"
    again = metapl.compare("digits", methods, **question)
    assert again.runs == found.runs
    assert again.plan.peer("sklearn:LinearSVC") == Peer("sklearn:LinearSVC")


def test_a_peer_cannot_be_trained_as_a_method() -> None:
    with pytest.raises(UserError, match="cannot be trained and stored"):
        metapl.fit("digits", method="sklearn:LogisticRegression", labels=4)

"""The scikit-learn estimator beyond scikit-learn's own checks: missing labels, forms of data, search, storage."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import DataConversionWarning, NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from metapl import LabeledKFold, SemiSupervisedClassifier, UserError, load_model
from metapl.api.estimator_inputs import read_targets
from metapl.config.settings import make_config

pytestmark = pytest.mark.filterwarnings("ignore:every row of y has a label:UserWarning")

QUICK: dict[str, Any] = {"steps": 15, "batch_labeled": 8, "batch_unlabeled": 12, "random_state": 0, "device": "cpu"}
QUICK |= {"validation": "none", "guard": "off"}


def table(rows: int = 60, labeled: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Two columns; the sign of the first is the class, 0 or 1; the rows after ``labeled`` are marked -1."""
    X = np.random.default_rng(0).normal(size=(rows, 2)) + np.tile([[4.0, 0.0], [-4.0, 0.0]], (rows // 2, 1))
    y = np.tile([1, 0], rows // 2)
    y[labeled:] = -1
    return X, y


def quick(**changes: Any) -> SemiSupervisedClassifier:
    return SemiSupervisedClassifier(**{**QUICK, **changes})


# ---- what counts as no label -----------------------------------------------------------------------------------


def marked(labels: list[Any], mark: Any) -> list[Any]:
    return [*labels, mark, mark]


@pytest.mark.parametrize(
    ("y", "marker", "codes", "classes"),
    [
        (np.array([5, 3, -1, 3]), -1, [1, 0, -1, 0], [3, 5]),
        (np.array([5.0, 3.0, np.nan, -1.0]), -1, [1, 0, -1, -1], [3.0, 5.0]),
        (["b", "a", None, -1], -1, [1, 0, -1, -1], ["a", "b"]),
        (np.array(["b", "a", None, np.nan], dtype=object), -1, [1, 0, -1, -1], ["a", "b"]),
        (["b", "a", "", "a"], -1, [1, 0, -1, 0], ["a", "b"]),
        (np.array(["b", "a", ""]), None, [1, 0, -1], ["a", "b"]),
        (np.array(["b", "a", "?"]), "?", [1, 0, -1], ["a", "b"]),
        (pd.Series(["b", "a", pd.NA], dtype="string"), -1, [1, 0, -1], ["a", "b"]),
        (pd.Series(["b", "a", None], dtype="category"), -1, [1, 0, -1], ["a", "b"]),
        (pd.Series([7, 3, pd.NA], dtype="Int64"), -1, [1, 0, -1], [3, 7]),
        ([True, False, None], -1, [1, 0, -1], [False, True]),
        ([True, False, None], 1, [1, 0, -1], [False, True]),  # True is no 1
        (pd.Series([True, False, pd.NA], dtype="boolean"), -1, [1, 0, -1], [False, True]),
        (np.array([-1, 1, -1]), None, [0, 1, 0], [-1, 1]),
        (np.array([0, 1, 2, 0]), 2, [0, 1, -1, 0], [0, 1]),
        (np.array([-3, 4]), -1, [0, 1], [-3, 4]),
        (torch.tensor([1, 0, -1]), -1, [1, 0, -1], [0, 1]),
    ],
)
def test_labels_and_missing_labels(y: Any, marker: Any, codes: list[int], classes: list[Any]) -> None:
    found, names = read_targets(y, marker)
    assert found.tolist() == codes
    assert names.tolist() == classes
    assert [type(name) for name in names.tolist()] == [type(name) for name in classes]


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (np.full(3, -1), "no labelled rows"),
        ([1, "a", None], "several kinds"),
        ([-1, 1, 1], "only one class.*unlabeled_marker=None"),
        ([1, 1, None], "only one class"),
        (np.array(["a", "b", -1]), "dtype=object"),
        ([0.5, 1.5, 2.25], "continuous"),
        ([1.0, np.inf, 0.0], "infinite"),
        (np.zeros((3, 2)), "1d array"),
        (None, "requires y"),
    ],
)
def test_labels_that_are_refused(y: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        read_targets(y, -1)


def test_every_way_to_mark_a_row_gives_the_same_classifier() -> None:
    X, y = table()
    names = np.array(["no", "yes"], dtype=object)[np.maximum(y, 0)]
    expected = quick().fit(X, y).predict_proba(X)
    for mark, marker in ((None, -1), ("", -1), (pd.NA, -1), ("?", "?")):
        given = names.copy()
        given[y < 0] = mark
        model = quick(unlabeled_marker=marker).fit(X, given)
        assert model.classes_.tolist() == ["no", "yes"]
        assert set(model.predict(X)) <= {"no", "yes"}
        np.testing.assert_array_equal(model.predict_proba(X), expected)


# ---- what it learns from ----------------------------------------------------------------------------------------


def test_unlabelled_rows_take_part() -> None:
    X, y = table()
    alone, with_pool = (quick().fit(*data).predict_proba(X) for data in ((X[:20], y[:20]), (X, y)))
    assert not np.allclose(alone, with_pool)
    other = X.copy()
    other[20:, 1] = other[20:, 1][::-1]  # other rows with the same mean and spread
    supervised, mpl = ([quick(method=m).fit(rows, y) for rows in (X, other)] for m in ("supervised", "mpl"))
    np.testing.assert_allclose(supervised[0].predict_proba(X), supervised[1].predict_proba(X), atol=1e-6)
    assert not np.allclose(mpl[0].predict_proba(X), mpl[1].predict_proba(X), atol=1e-4)


def test_hidden_labels_are_not_seen() -> None:
    """What stands where a label is missing changes nothing."""
    X, y = table()
    one, other = y.astype(float), y.astype(object)
    one[20:], other[20:] = np.nan, None
    np.testing.assert_array_equal(quick().fit(X, one).predict_proba(X), quick().fit(X, other).predict_proba(X))


def test_x_unlabeled_joins_the_pool() -> None:
    X, y = table()
    model = quick().fit(X[:20], y[:20], X_unlabeled=X[20:])
    assert model.result_.summary["rows"]["unlabeled"] == 60
    assert model.transduction_.tolist() == y[:20].tolist()
    assert len(model.pseudo_labels_.labels) == 40
    np.testing.assert_array_equal(model.pseudo_labels_.labels, model.predict(X[20:]))
    with pytest.raises(ValueError, match="features"):
        quick().fit(X, y, X_unlabeled=X[:, :1])


def test_fully_labelled_rows_serve_as_the_pool_too() -> None:
    X, y = table(20, 20)
    model = quick().fit(X, y)
    assert model.result_.summary["rows"] == {"labeled": 20, "unlabeled": 20, "validation": 0, "test": 0}
    assert len(model.pseudo_labels_.labels) == 0
    assert model.transduction_.tolist() == y.tolist()


def test_transduction_keeps_given_labels_and_fills_the_others() -> None:
    X, y = table()
    y[0] = 0  # a wrong label stays as it was given
    model = quick().fit(X, y)
    assert model.transduction_[:20].tolist() == y[:20].tolist()
    np.testing.assert_array_equal(model.transduction_[20:], model.predict(X[20:]))
    np.testing.assert_allclose(model.pseudo_labels_.probabilities, model.predict_proba(X[20:]), atol=1e-6)
    assert model.pseudo_labels_.index.tolist() == list(range(20, 60))


def test_settings_reach_the_run() -> None:
    X, y = table()
    model = quick(lr=0.5, threshold=0.9, validation=3, options={"mpl.feedback": "none", "loop.log_every": 5}).fit(X, y)
    config = model.result_.kept.start.config
    assert (config.optim.lr, config.settings.uda_threshold, config.settings.feedback) == (0.5, 0.9, "none")
    assert (config.steps, config.batch.labeled, config.batch.unlabeled) == (15, 8, 12)
    assert model.result_.summary["rows"]["validation"] == 6
    assert [row["step"] for row in model.history_][:3] == [5, 10, 12]
    assert quick().fit(X, y).result_.kept.start.config.settings.uda_threshold == 0.6
    own = quick(options={"mpl.uda_threshold": 0.7}).fit(X, y).result_.kept.start.config.settings
    assert own.uda_threshold == 0.7
    assert quick(method="fixmatch", threshold=0.8).fit(X, y).result_.kept.start.config.settings.threshold == 0.8
    for wrong in ({"method": "supervised", "threshold": 0.5}, {"options": {"optim.lrr": 1}}, {"method": "mpll"}):
        with pytest.raises(UserError, match=r"threshold|unknown"):
            quick(**wrong).fit(X, y)


def test_the_defaults_are_those_of_the_command_line() -> None:
    config, _ = SemiSupervisedClassifier(random_state=0)._config()
    own = make_config("arrays")
    same = replace(own, split=replace(own.split, test=config.split.test))  # `score` has test rows of its own
    assert config == same


def test_the_guard_is_noted() -> None:
    X, y = table()
    model = quick(guard="return").fit(X, y)
    assert model.result_.summary["guard"]["way"] == "cross-fitting"
    assert any(note.startswith("guard:") for note in model.notes_)
    assert quick().fit(X, y).result_.summary["guard"]["mode"] == "off"


def test_verbose_shows_and_the_default_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    X, y = table()
    quick().fit(X, y)
    assert capsys.readouterr() == ("", "")
    quick(verbose=1).fit(X, y)
    assert "20 labelled" in capsys.readouterr().err


# ---- forms of data ----------------------------------------------------------------------------------------------


def test_data_frames_with_categories_and_missing_values() -> None:
    X, y = table()
    frame = pd.DataFrame({"size": X[:, 1], "sign": np.where(X[:, 0] > 0, "plus", "minus")})
    frame.loc[3, "size"] = np.nan
    frame.loc[5, "sign"] = None
    model = quick(method="fixmatch", steps=60, lr=0.2).fit(frame, y)
    assert model.feature_names_in_.tolist() == ["size", "sign"]
    assert model.n_features_in_ == 2
    assert model.score(frame[20:], np.tile([1, 0], 20)) > 0.9
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"size": "length"}))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["sign", "size"]])


def test_what_was_fitted_tells_how_a_data_frame_is_read() -> None:
    """A column of categories stays one where the new frame has none of them, or writes them as numbers."""
    X, y = table()
    frame = pd.DataFrame({"size": X[:, 1], "sign": np.where(X[:, 0] > 0, "plus", "minus"), "member": X[:, 0] > 0})
    model = quick(method="supervised", steps=60, lr=0.2).fit(frame, y)
    none = pd.DataFrame({"size": [0.1], "sign": [np.nan], "member": [np.nan]})
    np.testing.assert_array_equal(model.predict_proba(none), model.predict_proba(none.astype(object)))
    truth = np.tile([1, 0], 30)
    flags = frame.drop(columns="sign")
    for columns in (frame, flags):
        model = quick(method="supervised", steps=60, lr=0.2).fit(columns, y)
        assert model.score(columns, truth) == 1.0
        expected = model.predict_proba(columns)
        for dtype in (int, float, object, str):
            np.testing.assert_array_equal(model.predict_proba(columns.astype({"member": dtype})), expected)
    with pytest.warns(UserWarning, match="feature names"), pytest.raises(UserError, match="an array cannot name"):
        model.predict(flags.to_numpy(dtype=float))
    strange = quick().fit(frame, y)
    with pytest.warns(UserWarning, match="column 'sign': all "):
        strange.predict(frame.assign(sign=1))


def test_numeric_data_frames_keep_their_names() -> None:
    X, y = table()
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = quick().fit(frame, pd.Series(y))
    np.testing.assert_array_equal(model.predict_proba(frame), quick().fit(X, y).predict_proba(X))
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame[["b", "a"]])


def test_missing_values() -> None:
    X, y = table()
    X[::7, 1] = np.nan
    model = quick().fit(X, y)
    assert np.isfinite(model.predict_proba(np.full((1, 2), np.nan))).all()
    X[0, 0] = np.inf
    with pytest.raises(ValueError, match="infinite"):
        quick().fit(X, y)


def pictures(rows: int = 30) -> tuple[np.ndarray, np.ndarray]:
    """Grey images, those of class 1 light, and labels for the first ten."""
    y = np.tile([0, 1], rows // 2)
    X = np.random.default_rng(0).integers(0, 100, size=(rows, 8, 8)) + 150 * y[:, None, None]
    y[10:] = -1
    return X.astype(np.uint8), y


def test_images() -> None:
    """Every layout and every type of whole numbers is the same images."""
    X, y = pictures()
    given = {"method": "supervised", "batch_labeled": 4, "steps": 40}
    forms = (X, X[:, None].astype(np.int64), X[..., None].astype(np.float32))
    models = [quick(**given).fit(form, y) for form in forms]
    p = models[0].predict_proba(X)
    assert models[0].score(X, np.tile([0, 1], 15)) == 1.0
    for model, form in zip(models, forms):
        assert model.predictor_.preprocessing.kind == "image"
        for dtype in (np.uint8, np.int64, np.float32, np.float64):
            np.testing.assert_allclose(model.predict_proba(form.astype(dtype)), p, rtol=1e-4)
    colour = np.stack([X, X // 2, X // 3], axis=3)
    last, first = (quick(**given).fit(c, y).predict_proba(c) for c in (colour, colour.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(last, first, rtol=1e-4)


def test_the_scale_of_images_is_that_of_the_training() -> None:
    """Floats on 0..255 stay so, even in a batch of new ones that is nearly black."""
    y = np.tile([0, 1], 10)
    X = np.random.default_rng(0).integers(0, 100, size=(20, 8, 8)) + 150.0 * y[:, None, None]
    model = quick().fit(X, y)
    dark = np.zeros((1, 8, 8))
    dark[0, 0, 0] = 1.0
    with pytest.warns(UserWarning, match=r"no value is above 1, and the model was trained on floats 0\.\.255"):
        p = model.predict_proba(dark)
    np.testing.assert_allclose(p, model.predict_proba(dark.astype(np.uint8)), rtol=1e-4)
    np.testing.assert_allclose(p[0], model.predict_proba(np.concatenate([dark, X]))[0], rtol=1e-5)
    small = quick().fit(X / 255, y)
    np.testing.assert_allclose(small.predict_proba(dark), small.predict_proba((255 * dark).astype(np.uint8)))
    with pytest.raises(ValueError, match="scale"):
        small.predict(X)


def test_images_of_whole_numbers_are_judged_as_floats_on_either_scale(tmp_path: Path) -> None:
    X, y = pictures()
    model = quick(method="supervised", batch_labeled=4, steps=40).fit(X, y)
    model.save(tmp_path / "kept")
    for one in (model, SemiSupervisedClassifier.load(tmp_path / "kept")):
        for scaled in (X / 255, X / np.float32(255), X.astype(float)):
            np.testing.assert_allclose(one.predict_proba(scaled), model.predict_proba(X), rtol=1e-4)
        with pytest.raises(
            UserError, match="row 1 reaches 255 and row 0 no more than 1, so that white may be 1 or 255"
        ):
            one.predict(np.stack([np.ones((8, 8)), np.full((8, 8), 255.0)]))
        with pytest.raises(UserError, match="image values run from"):
            one.predict(X / 255 - 0.5)


def test_texts() -> None:
    texts = ["good and fine", "bad and poor"] * 15
    y = ["up", "down"] * 5 + [None] * 20
    model = quick(method="supervised", steps=60, lr=0.3).fit(texts, y)
    assert model.predict(texts[:2]).tolist() == ["up", "down"]


def test_what_does_not_fit_is_refused() -> None:
    X, y = table()
    with pytest.raises(ValueError, match="inconsistent"):
        quick().fit(X, y[:-1])
    with pytest.raises(ValueError, match="sparse"):
        quick().fit(__import__("scipy.sparse").sparse.csr_array(X), y)
    with pytest.raises(NotFittedError):
        quick().predict(X)
    with pytest.raises(ValueError, match="diverged"):
        quick(lr=1e12, steps=60).fit(X, y)


def test_a_column_of_labels_is_warned_about() -> None:
    X, y = table()
    with pytest.warns(DataConversionWarning, match="column-vector"):
        model = quick().fit(X, y[:, None])
    np.testing.assert_array_equal(model.predict_proba(X), quick().fit(X, y).predict_proba(X))


# ---- scikit-learn's tools ---------------------------------------------------------------------------------------


def test_random_state() -> None:
    X, y = table()
    one, again, other = (quick(random_state=seed).fit(X, y).predict_proba(X) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, other)
    state = np.random.RandomState(3)
    drawn = [quick(random_state=state).fit(X, y).predict_proba(X) for _ in range(2)]
    assert not np.allclose(*drawn), "one state gives one number after the other"


def test_global_random_numbers_are_left_alone() -> None:
    X, y = table()
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    quick().fit(X, y).predict(X)
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_score_passes_over_rows_without_a_label() -> None:
    X, y = table()
    model = quick(method="supervised", steps=60, lr=0.2).fit(X, y)
    assert model.score(X, y) == model.score(X[:20], y[:20]) == 1.0
    flipped = y.copy()
    flipped[:5] = 1 - flipped[:5]
    assert model.score(X, flipped) == pytest.approx(model.score(X, y) - 5 / 20, abs=1e-9)
    weights = np.zeros(60)
    weights[:5] = 1
    assert model.score(X, flipped, sample_weight=weights) == 0.0
    with pytest.raises(UserError, match="no row has a label"):
        model.score(X, np.full(60, -1))


@pytest.mark.parametrize(
    ("classes", "renamed"),
    [
        (["A", "B"], ["AB", "BB"]),  # longer than any class
        ([3, 7], [4, 8]),
        ([3, 7], [3.0, 8.0]),
        ([0.0, 1.0], [2, 3]),
        ([False, True], [2, 1]),
    ],
)
def test_labels_that_are_no_class_are_misses(classes: list[Any], renamed: list[Any]) -> None:
    X, y = table(20, 20)
    model = quick(method="supervised", steps=60, lr=0.2).fit(X, np.array(classes)[y])
    truth = np.array(renamed)[y]
    expected = np.mean([a == b for a, b in zip(truth.tolist(), np.array(classes)[y].tolist())])
    assert model.score(X, np.array(classes)[y]) == 1.0
    assert model.score(X, truth) == model.score(X, truth.tolist()) == pytest.approx(expected)
    assert model.score(X, truth, sample_weight=np.arange(20.0)) < 1


@pytest.mark.parametrize(
    ("classes", "truth", "match"),
    [
        ([0, 1], [0.9, 1.9], "continuous"),
        ([False, True], ["False", "True"], "labels are text"),
        ([0, 1], ["0", "1"], "labels are text"),
        (["0", "1"], [0, 1], "labels are no text"),
        (["a", "b"], ["a", 1], "several kinds"),
    ],
)
def test_labels_of_another_kind_are_no_truth(classes: list[Any], truth: list[Any], match: str) -> None:
    X, y = table(20, 20)
    model = quick(method="supervised", steps=2).fit(X, np.array(classes)[y])
    with pytest.raises(ValueError, match=match):
        model.score(X, np.array(truth, dtype=object)[y])


def test_folds_score_labelled_rows_and_keep_the_pool() -> None:
    X, y = table()
    folds = list(LabeledKFold(4).split(X, y))
    assert len(folds) == LabeledKFold(4).get_n_splits()
    scored = np.concatenate([test for _, test in folds])
    assert sorted(scored.tolist()) == list(range(20))
    for train, test in folds:
        assert set(range(20, 60)) <= set(train.tolist())
        assert not set(train.tolist()) & set(test.tolist())
        assert sorted(np.unique(y[test]).tolist()) == [0, 1]
        assert len(train) + len(test) == 60
    with pytest.raises(UserError, match="11 folds"):
        next(LabeledKFold(11).split(X, y))
    text = np.array(["a", "b"], dtype=object)[np.maximum(y, 0)]
    text[20:] = None
    assert [test.tolist() for _, test in LabeledKFold(4).split(X, text)] == [test.tolist() for _, test in folds]


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # scikit-learn's, before it fails on NaN
def test_a_search_needs_its_own_folds_for_marks_that_do_not_sort() -> None:
    X, y = table()
    names = np.array(["no", "yes"], dtype=object)[np.maximum(y, 0)]
    names[20:] = None
    gaps = np.where(y < 0, np.nan, y)
    for labels, error in ((names, TypeError), (gaps, ValueError)):
        with pytest.raises(error):
            GridSearchCV(quick(), {"lr": [0.1]}, cv=2).fit(X, labels)
        search = GridSearchCV(quick(), {"lr": [0.1]}, cv=LabeledKFold(2), scoring="accuracy").fit(X, labels)
        assert search.best_score_ > 0.5
    shares = cross_val_score(quick(), X, y, cv=2, scoring="accuracy")  # rows marked -1 count as misses
    assert shares.max() <= 20 / 60


def test_cross_validation_and_search() -> None:
    X, y = table()
    scores = cross_val_score(quick(), X, y, cv=LabeledKFold(2), scoring="accuracy")
    assert scores.shape == (2,)
    assert np.isfinite(scores).all()
    search = GridSearchCV(quick(), {"lr": [1e-6, 0.1]}, cv=LabeledKFold(2), scoring="neg_log_loss").fit(X, y)
    assert search.best_params_ == {"lr": 0.1}
    assert search.best_estimator_.result_.summary["rows"]["unlabeled"] == 60
    plain = GridSearchCV(quick(), {"lr": [1e-6, 0.1]}, cv=2).fit(X, y)  # own score: labelled rows alone
    right = 20 * plain.cv_results_["mean_test_score"]
    np.testing.assert_allclose(right, right.round(), atol=1e-9)  # a share of the 20 labelled rows, not of the 60


def test_in_a_pipeline() -> None:
    X, y = table()
    pipe = make_pipeline(StandardScaler(), quick(method="fixmatch", steps=60, lr=0.2)).fit(X, y)
    assert pipe.score(X, y) > 0.9
    search = GridSearchCV(pipe, {"semisupervisedclassifier__threshold": [0.5, 0.9]}, cv=LabeledKFold(2)).fit(X, y)
    assert "semisupervisedclassifier__threshold" in search.best_params_


class Net(nn.Module):
    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(shape[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return logits


def test_networks_of_ones_own(tmp_path: Path) -> None:
    X, y = table()
    net = Net((2,), 2)
    model = quick(model=net).fit(X, y)
    assert all(isinstance(member, Net) for member in model.predictor_.model.members), "student and teacher"
    assert isinstance(clone(quick(model=net)).model, Net)
    model.save(tmp_path / "own")
    with pytest.raises(UserError, match="Python object"):
        SemiSupervisedClassifier.load(tmp_path / "own")
    loaded = SemiSupervisedClassifier.load(tmp_path / "own", network=Net((2,), 2))
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    named = quick(model=Net).fit(X, y)
    named.save(tmp_path / "named")
    with pytest.raises(UserError, match="trust_code"):
        SemiSupervisedClassifier.load(tmp_path / "named")
    loaded = SemiSupervisedClassifier.load(tmp_path / "named", trust_code=True)
    np.testing.assert_array_equal(loaded.predict_proba(X), named.predict_proba(X))


# ---- storage ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [[3, 7], ["no", "yes"], [False, True], [0.0, 1.0]])
def test_saved_and_loaded(labels: list[Any], tmp_path: Path) -> None:
    X, codes = table()
    y = np.array([None if code < 0 else labels[code] for code in codes], dtype=object)
    frame = pd.DataFrame(X, columns=["a", "b"])
    model = quick(options={"optim.ema": 0.9}).fit(frame, y)
    assert model.save(tmp_path / "kept") == tmp_path / "kept"
    assert {p.suffix for p in (tmp_path / "kept").rglob("*") if p.is_file()} == {".json", ".safetensors"}
    loaded = SemiSupervisedClassifier.load(tmp_path / "kept")
    assert loaded.get_params() == model.get_params()
    np.testing.assert_array_equal(loaded.predict_proba(frame), model.predict_proba(frame))
    np.testing.assert_array_equal(loaded.predict(frame), model.predict(frame))
    assert loaded.predict(frame).dtype == model.predict(frame).dtype
    assert type(loaded.classes_.tolist()[0]) is type(labels[0])
    with pytest.raises(ValueError, match="feature names"):
        loaded.predict(frame[["b", "a"]])
    assert load_model(tmp_path / "kept").class_names == tuple(str(label) for label in labels)
    with pytest.raises(UserError, match="not empty"):
        model.save(tmp_path / "kept")


def test_damaged_or_missing_files_are_told(tmp_path: Path) -> None:
    X, y = table()
    with pytest.raises(UserError, match="no saved classifier"):
        SemiSupervisedClassifier.load(tmp_path)
    folder = quick().fit(X, y).save(tmp_path / "kept")
    whole = (folder / "estimator.json").read_text(encoding="utf-8")
    card = json.loads(whole)
    object_classes = {**card, "classes": {"dtype": "|V8", "values": [0, 1]}}
    three = {**card, "classes": {"dtype": "<i8", "values": [0, 1, 2]}}
    unknown = {**card, "params": {"stepps": 1}}
    for text in (whole[:-20], "[]", *map(json.dumps, (object_classes, three, unknown))):
        (folder / "estimator.json").write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"no saved classifier|do not fit"):
            SemiSupervisedClassifier.load(folder)


def test_copies_leave_the_data_behind() -> None:
    X, y = table()
    model = quick().fit(X, y)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        np.testing.assert_array_equal(other.predict_proba(X), model.predict_proba(X))
        assert not hasattr(other, "result_")
        assert other.history_ == model.history_
    assert hasattr(model, "result_")
    fresh = clone(model)
    assert not hasattr(fresh, "classes_")
    assert fresh.get_params() == model.get_params()


def test_importing_it_does_not_load_torch() -> None:
    code = "import sys; from metapl import SemiSupervisedClassifier as S; S(steps=3); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


def test_no_warning_comes_up() -> None:
    X, y = table()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        X.setflags(write=False)
        quick().fit(X, y).predict(X)

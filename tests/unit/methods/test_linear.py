"""Method linear: fitted in one step, stored as one layer, and told apart from networks that are trained."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression

import metapl
from metapl.config.settings import make_config
from metapl.data.memory.arrays import from_arrays
from metapl.errors import UserError
from metapl.methods import fits_once
from metapl.methods.linear import Linear
from metapl.models import build_model
from metapl.runs.model_folder import load_model
from metapl.types import Context, SemiBatch

TEXTS = [f"{noun} {verb} number {k}" for k in range(6) for noun, verb in (("cats", "purr"), ("dogs", "bark"))]


def test_it_is_one_step_whatever_was_asked() -> None:
    config = make_config("digits", options={"method": "linear", "steps": 500, "minutes": 3.0})
    assert (config.steps, config.minutes) == (1, 0.0)
    assert fits_once("linear")
    assert not fits_once("mpl")


def test_a_table_gives_scikit_learns_answers_and_is_stored(tmp_path: Path) -> None:
    x, y = load_wine(return_X_y=True)
    hidden = np.where(np.arange(len(y)) % 4 == 0, y, -1)
    result = metapl.fit(x, hidden, method="linear", guard="off", validation="none", out=tmp_path / "run")
    standard = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    expected = LogisticRegression(max_iter=1000).fit(standard[hidden >= 0], y[hidden >= 0]).predict_proba(standard)
    np.testing.assert_allclose(result.predict_proba(x), expected, atol=1e-3)
    assert result.summary["model"] == "linear"
    np.testing.assert_array_equal(load_model(tmp_path / "run").predict_proba(x), result.predict_proba(x))


def test_texts_are_stored_with_their_terms_and_without_pickle(tmp_path: Path) -> None:
    y = ["cat" if "cats" in text else "dog" for text in TEXTS]
    labels = [c if k < 6 else None for k, c in enumerate(y)]
    out = tmp_path / "run"
    result = metapl.fit(TEXTS, labels, method="linear", guard="off", validation="none", out=out)
    assert result.summary["model"] == "tfidf"
    assert result.predict(TEXTS).tolist() == y
    stored = load_model(out)
    np.testing.assert_array_equal(stored.predict_proba(TEXTS), result.predict_proba(TEXTS))
    assert sorted(p.name for p in (out / "model").iterdir()) == ["README.md", "model.json", "weights.safetensors"]


def test_a_network_that_does_not_go_with_the_method_is_refused() -> None:
    source = from_arrays(np.arange(36.0).reshape(12, 3) ** 2, ["a", "b"] * 6)
    with pytest.raises(UserError, match="brings its own network"):
        metapl.fit(source, method="linear", model="mlp", guard="off", labels=2)
    with pytest.raises(UserError, match="fitted, not trained"):
        metapl.fit(TEXTS, ["a", "b"] * 6, method="supervised", model="tfidf", guard="off")


def test_c_must_be_positive() -> None:
    with pytest.raises(UserError, match="above 0"):
        make_config("digits", options={"method": "linear", "linear.C": 0.0})


def test_without_labelled_rows_behind_it_the_step_says_so() -> None:
    method = Linear(Linear.Config(), Context(lambda: build_model("linear", (3,), 2), 2, None, 1))
    none = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"Context\.labeled"):
        method.step(SemiBatch(torch.zeros(0, 3), none, None, None, none), 0)

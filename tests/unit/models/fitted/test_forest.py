"""The forest as a network: scikit-learn's answers, stored and read again, and nothing that leads out of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

import metapl
from metapl.errors import UserError
from metapl.models import Forest, build_model
from metapl.models.fitted import forest
from metapl.runs.model_folder import load_model


def wine() -> tuple[torch.Tensor, torch.Tensor]:
    x, y = load_wine(return_X_y=True)
    return torch.from_numpy(x).float(), torch.from_numpy(y)


def fitted(every: int = 3, classes: int = 3, keep: int = 3) -> tuple[Forest, torch.Tensor]:
    x, y = wine()
    rows = (torch.arange(len(y)) % every == 0) & (y < keep)
    model = build_model("forest", (13,), classes)
    assert isinstance(model, Forest)
    torch.manual_seed(5)
    model.fit(x[rows], y[rows], (), 1.0)
    return model, x


def test_it_answers_as_scikit_learns_forest_and_one_even_tree() -> None:
    model, x = fitted()
    torch.manual_seed(5)
    seed = int(torch.randint(2**31 - 1, ()))
    known, y = wine()
    rows = torch.arange(len(y)) % 3 == 0
    twin = RandomForestClassifier(forest.TREES, random_state=seed).fit(known[rows].numpy(), y[rows].numpy())
    expected = (100 * twin.predict_proba(x.numpy()) + 1 / 3) / 101
    np.testing.assert_allclose(torch.exp(model(x)).numpy(), expected, atol=1e-6)
    assert len(np.unique(expected.round(3))) > 20, "the trees differ"
    assert model.depth == max(tree.tree_.max_depth for tree in twin.estimators_)


def test_a_threshold_is_rounded_so_that_no_row_changes_sides() -> None:
    near = np.array([0.1, -0.1, 1 / 3, 2.5, 1e-30])
    found = forest._rounded_down(near)
    assert (found <= near).all()
    assert (np.nextafter(found, np.float32(np.inf)) > near).all()


def test_a_class_without_a_labelled_row_has_the_even_trees_share() -> None:
    model, x = fitted(classes=4, keep=2)
    p = torch.softmax(model(x), -1)
    assert p[:, 2:].allclose(torch.full((len(x), 2), 1 / 4 / 101), atol=1e-7)


def test_trees_of_many_rows_have_a_bounded_number_of_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forest, "MOST_LEAVES", 4)
    model, _ = fitted()
    assert len(model.child) <= forest.TREES * 7
    leaves = int((model.child[:, 0] == torch.arange(len(model.child))).sum())
    assert forest.TREES < leaves <= 4 * forest.TREES


def test_without_a_fit_it_knows_nothing_and_another_takes_what_was_stored() -> None:
    model, x = fitted()
    fresh = build_model("forest", (13,), 3)
    assert torch.softmax(fresh(x), -1).allclose(torch.full((len(x), 3), 1 / 3))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(x), model(x))


@pytest.mark.parametrize("damage", ["out", "feature", "back"])
def test_a_forest_that_leads_nowhere_is_refused(damage: str) -> None:
    state = {key: value.clone() for key, value in fitted()[0].state_dict().items()}
    if damage == "out":
        state["child"][0, 0] = len(state["child"])
    elif damage == "feature":
        state["feature"][0] = 13
    else:
        state["child"][1] = 0
    with pytest.raises(ValueError, match="forest"):
        build_model("forest", (13,), 3).load_state_dict(state)


def test_the_method_linear_fits_and_stores_it_and_no_other_method_takes_it(tmp_path: Path) -> None:
    x, y = wine()
    hidden = np.where(np.arange(len(y)) % 4 == 0, y, -1)
    common = {"guard": "off", "validation": "none", "model": "forest"}
    made = metapl.fit(x.numpy(), hidden, method="linear", out=tmp_path / "run", **common)  # type: ignore[arg-type]
    assert made.summary["model"] == "forest"
    assert np.mean(made.predict_proba(x.numpy()).argmax(1) == y.numpy()) > 0.9
    stored = load_model(tmp_path / "run")
    np.testing.assert_array_equal(stored.predict_proba(x.numpy()), made.predict_proba(x.numpy()))
    with pytest.raises(UserError, match="fitted, not trained"):
        metapl.fit(x.numpy(), hidden, method="supervised", **common)  # type: ignore[arg-type]

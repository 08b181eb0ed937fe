"""Features of an encoder as a kind of rows: unit length, one spread for all columns, a head that begins at zero."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

import metapl
from metapl.data.batches.preprocess import fit_preprocessing, preprocessing_from_dict, preprocessing_to_dict
from metapl.data.batches.views import ViewConfig
from metapl.data.memory.source import MemorySource
from metapl.data.modalities import make_views
from metapl.models import Head, build_model


def clusters(rows: int = 300, width: int = 64, classes: int = 3, spread: float = 4.0) -> MemorySource:
    """Positive rows around one direction per class, as an encoder with a last ReLU gives them; of all lengths."""
    draw = np.random.default_rng(0)
    y = np.arange(rows) % classes
    centres = draw.exponential(size=(classes, width))
    X = np.maximum(centres[y] + spread * draw.normal(size=(rows, width)), 0) * draw.uniform(0.5, 20, size=(rows, 1))
    is_test = np.arange(rows) >= rows // 2
    names = tuple("abcdefgh"[:classes])
    return MemorySource("clusters", "features", torch.tensor(X, dtype=torch.float32), y, names, is_test=is_test)


def test_rows_are_of_unit_length_then_centred_and_scaled_by_one_number() -> None:
    source = clusters()
    index = np.arange(100)
    p = fit_preprocessing(source, index)
    assert (p.kind, len(set(p.std))) == ("features", 1)
    rows = source.rows(index).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    spread = unit.var(0, unbiased=False).mean().sqrt()
    expected = (unit - unit.mean(0)) / spread
    views = make_views(ViewConfig(), p)
    torch.testing.assert_close(views.plain(source.rows(index)).double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(views.plain(7 * source.rows(index)), views.plain(source.rows(index)))  # direction alone
    still = make_views(ViewConfig(noise=0.0, swap=0.0), p)
    generator = torch.Generator().manual_seed(0)
    torch.testing.assert_close(still.strong(source.rows(index), generator), still.plain(source.rows(index)))
    assert preprocessing_from_dict(preprocessing_to_dict(p)) == p


def test_rows_that_are_all_the_same_or_zero_stay_finite() -> None:
    for value in (0.0, 3.0):
        source = MemorySource("flat", "features", torch.full((6, 4), value), np.arange(6) % 2, ("a", "b"))
        p = fit_preprocessing(source, np.arange(6))
        assert torch.isfinite(make_views(ViewConfig(), p).plain(source.rows(np.arange(6)))).all()


def test_the_head_begins_at_zero_and_its_bias_learns_as_fast_as_its_weights() -> None:
    head = build_model("head", (16,), 3)
    assert isinstance(head, Head)
    x = torch.randn(5, 16)
    assert torch.equal(head(x), torch.zeros(5, 3))
    head(x)[:, 0].sum().backward()
    moved = torch.cat([p.detach().flatten() for p in head.parameters()])
    assert not moved.any()
    assert head.bias.grad is not None
    assert head.bias.grad[0] == pytest.approx(5 * 4.0)  # sqrt(16) for each row


def test_the_supervised_head_is_as_good_as_a_linear_probe() -> None:
    source = clusters()
    options = {"split.labels": 4, "split.validation": "none", "guard.mode": "off", "device": "cpu"}
    made = metapl.fit(source, method="supervised", steps=150, options=options)
    assert type(made.predictor.model) is Head
    labeled, test = made.split.labeled, made.split.test

    def unit(index: np.ndarray) -> np.ndarray:
        rows = source.rows(index).numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    probe = LogisticRegression(C=10, max_iter=2000).fit(unit(labeled), source.labels[labeled])
    accuracy = float((probe.predict(unit(test)) == source.labels[test]).mean())
    assert 0.6 < accuracy < 1
    assert made.evaluate()["accuracy"] >= accuracy - 0.02

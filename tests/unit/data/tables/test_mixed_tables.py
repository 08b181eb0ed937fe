"""Tables with categories and missing values: fitted, encoded, viewed and stored."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from metapl.data.batches.preprocess import fit_preprocessing, preprocessing_from_dict, preprocessing_to_dict
from metapl.data.batches.views import ViewConfig
from metapl.data.memory.source import MemorySource
from metapl.data.modalities import make_views
from metapl.errors import UserError
from metapl.types import Column, Preprocessing, Tokens

NAN = float("nan")
COLUMNS = (Column("age"), Column("colour", ("blue", "red", "white")), Column("size"))
ROWS = torch.tensor([[1.0, 0, 5], [3.0, 2, NAN], [5.0, NAN, 9], [7.0, 1, 7]])


def source(rows: Tensor = ROWS) -> MemorySource:
    return MemorySource("t", "table", rows, np.array([0, 1, 0, 1]), ("a", "b"), columns=COLUMNS)


@pytest.fixture
def fitted() -> Preprocessing:
    return fit_preprocessing(source(), np.arange(4))


def test_figures_are_over_the_values_that_are_there(fitted: Preprocessing) -> None:
    assert fitted.mean == (4.0, 0.0, 7.0)
    assert fitted.std == pytest.approx((5**0.5, 1.0, (8 / 3) ** 0.5))
    assert fitted.missing == (2,)
    assert fitted.columns == COLUMNS
    assert fitted.shape == (3,)
    assert fitted.input_shape == (6,)


def test_the_network_sees_numbers_then_gaps_then_levels(fitted: Preprocessing) -> None:
    seen = make_views(ViewConfig(), fitted).plain(ROWS)
    a, b = 1 / 5**0.5, 2 / (8 / 3) ** 0.5
    wanted = [
        [-3 * a, -b, 0, 1, 0, 0],
        [-a, 0, 1, 0, 0, 1],
        [a, b, 0, 0, 0, 0],
        [3 * a, 0, 0, 0, 1, 0],
    ]
    assert torch.allclose(seen, torch.tensor(wanted), atol=1e-6)


def test_a_level_that_training_did_not_know_is_no_level(fitted: Preprocessing) -> None:
    seen = make_views(ViewConfig(), fitted).plain(torch.tensor([[4.0, 3, 7]]))
    assert seen[0, 3:].tolist() == [0, 0, 0]


def test_noise_touches_numbers_only(fitted: Preprocessing) -> None:
    views = make_views(ViewConfig(noise=0.5), fitted)
    weak, plain = views.weak(ROWS, torch.Generator().manual_seed(0)), views.plain(ROWS)
    changed = (weak != plain).any(0)
    assert changed.tolist() == [True, True, False, False, False, False]
    assert weak[1, 1] == 0, "a missing value gets no noise"


def test_a_category_is_swapped_as_a_whole(fitted: Preprocessing) -> None:
    rows = torch.stack([torch.full((400,), 4.0), torch.arange(400) % 3.0, torch.full((400,), 7.0)], 1)
    strong = make_views(ViewConfig(noise=0.0, swap=0.34), fitted).strong(rows, torch.Generator().manual_seed(0))
    levels = strong[:, 3:]
    assert torch.equal(levels.sum(1), torch.ones(400))
    moved = (levels.argmax(1) != rows[:, 1]).float().mean()
    assert 0.12 < moved < 0.33, "a third of the rows swap this column, two thirds of these with another level"


def test_hidden_columns_look_missing(fitted: Preprocessing) -> None:
    rows = torch.tensor([[4.0, 1, 9]]).repeat(300, 1)
    views = make_views(ViewConfig(noise=0.0, swap=0.0, mask=0.34), fitted)
    strong = views.strong(rows, torch.Generator().manual_seed(0))
    hidden_size, hidden_colour = strong[:, 2] == 1, strong[:, 3:].sum(1) == 0
    assert 60 < int(hidden_size.sum()) < 140
    assert torch.equal(strong[hidden_size, 1], torch.zeros(int(hidden_size.sum())))
    assert not (hidden_size & hidden_colour).any(), "one column of three is hidden in each row"


def test_a_number_missing_only_later_is_the_mean(fitted: Preprocessing) -> None:
    seen = make_views(ViewConfig(), fitted).plain(torch.tensor([[NAN, 0, 7]]))
    assert seen[0, 0] == 0
    assert torch.isfinite(seen).all()


def test_a_column_without_any_value_is_harmless() -> None:
    rows = ROWS.clone()
    rows[:, 2] = NAN
    fitted = fit_preprocessing(source(rows), np.arange(4))
    assert torch.isfinite(make_views(ViewConfig(), fitted).plain(rows)).all()


def test_stored_and_read_again(fitted: Preprocessing) -> None:
    assert preprocessing_from_dict(json.loads(json.dumps(preprocessing_to_dict(fitted)))) == fitted
    text = Preprocessing("text", (8,), (), (), tokens=Tokens("words", 8, special=(2, 3)))
    assert preprocessing_from_dict(json.loads(json.dumps(preprocessing_to_dict(text)))) == text


@pytest.mark.parametrize("part", ["columns", "missing", "tokens"])
def test_damaged_parts_are_told(fitted: Preprocessing, part: str) -> None:
    text = Preprocessing("text", (8,), (), (), tokens=Tokens("words", 8))
    stored = preprocessing_to_dict(text if part == "tokens" else fitted)
    stored[part] = {"columns": stored.get("columns", [])[:2], "missing": [9], "tokens": {"length": 3}}[part]
    with pytest.raises(UserError, match="damaged"):
        preprocessing_from_dict(stored)


def test_columns_belong_to_the_fingerprint() -> None:
    other = replace(source(), columns=(*COLUMNS[:2], Column("weight")))
    assert other.fingerprint() != source().fingerprint()


def test_tokens_belong_to_texts() -> None:
    with pytest.raises(ValueError, match="tokens"):
        MemorySource("t", "text", torch.zeros(2, 4, dtype=torch.int32), np.array([0, 1]), ("a", "b"))
    with pytest.raises(ValueError, match="columns"):
        MemorySource("t", "table", ROWS, np.array([0, 1, 0, 1]), ("a", "b"), columns=COLUMNS[:2])

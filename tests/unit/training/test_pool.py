"""``training.pool``: how sure two models are of the same rows (P3)."""

from __future__ import annotations

import pytest
import torch

from metapl.training.pool import SHARPEST, matched_sharpness


@pytest.mark.parametrize("sharpness", [0.05, 0.5, 1.0, 7.0, 40.0])
def test_the_sharpness_that_was_taken_away_is_found_again(sharpness: float) -> None:
    own = torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    assert matched_sharpness(own, own / sharpness) == pytest.approx(sharpness, rel=1e-5)
    assert matched_sharpness(own, own / sharpness + torch.randn(200, 1)) == pytest.approx(sharpness, rel=1e-4)


def test_both_models_are_as_sure_on_average() -> None:
    draw = torch.Generator().manual_seed(1)
    own, other = 4 * torch.randn(300, 6, generator=draw), 0.1 * torch.randn(300, 6, generator=draw)
    sharpness = matched_sharpness(own, other)
    sure = [torch.softmax(logits, -1).max(-1).values.mean() for logits in (own, sharpness * other)]
    assert sharpness > 1
    assert float(sure[0]) == pytest.approx(float(sure[1]), abs=1e-6)


def test_the_sharpness_has_bounds_and_is_1_without_rows() -> None:
    flat, certain = torch.zeros(10, 3), torch.eye(3)[[0, 1, 2, 0]] * 1e4
    assert matched_sharpness(certain, torch.zeros(4, 3)) == pytest.approx(SHARPEST)
    assert matched_sharpness(flat[:4], certain) == pytest.approx(1 / SHARPEST)
    assert matched_sharpness(torch.zeros(0, 3), torch.zeros(0, 3)) == 1.0

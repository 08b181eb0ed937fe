"""The threshold for a target precision equals a plain search over all of them."""

from __future__ import annotations

import pytest
import torch

from metapl.errors import UserError
from metapl.inference.abstain import threshold_for
from metapl.models import build_model
from metapl.runs.model_folder import Predictor, ValidationAnswers
from metapl.types import Preprocessing


def model(p: list[float] | torch.Tensor | None, right: list[bool] | torch.Tensor = ()) -> Predictor:
    """Two classes; ``p``: the probability of the class that is named, ``right``: whether it is the true one."""
    table = Preprocessing("table", (2,), (0.0, 0.0), (1.0, 1.0))
    plain = Predictor(build_model("linear", (2,), 2), table, ("a", "b"), torch.device("cpu"))
    if p is None:
        return plain
    top = torch.as_tensor(p, dtype=torch.float32)
    answers = ValidationAnswers(torch.stack([top, 1 - top], 1), 1 - torch.as_tensor(right).long())
    return Predictor(**{**vars(plain), "validation": answers})


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("target", [0.6, 0.8, 0.9])
def test_equals_a_plain_search(seed: int, target: float) -> None:
    draw = torch.Generator().manual_seed(seed)
    p = 0.5 + 0.5 * torch.rand(60, generator=draw).mul(20).round().div(20)  # many ties
    right = torch.rand(60, generator=draw) < p
    best = None
    for t in sorted(set(p.tolist()), reverse=True):
        answered = [bool(r) for c, r in zip(p.tolist(), right.tolist()) if c >= t]
        if (sum(answered) + 0.5) / (len(answered) + 1) >= target:
            best = (t, len(answered), sum(answered), 60)
    if best is None:
        with pytest.raises(UserError, match="no threshold is known to reach"):
            threshold_for(model(p, right), target)
    else:
        found = threshold_for(model(p, right), target)
        assert (found.value, found.answered, found.right, found.rows) == best


def test_the_text_names_threshold_coverage_and_precision() -> None:
    found = threshold_for(model([0.9] * 30 + [0.6] * 10, [True] * 30 + [False] * 10), 0.95)
    assert str(found).startswith("answers from a probability of 0.9000 on: of 40 validation rows 30 (75 %)")
    assert "30 of these right (100.0 %" in str(found)


def test_what_cannot_be_promised_is_refused() -> None:
    with pytest.raises(UserError, match=r"no answers for validation rows.*--validation N"):
        threshold_for(model(None), 0.9)
    with pytest.raises(UserError, match=r"5 validation rows vouch for 91.7 % at most"):
        threshold_for(model([0.9] * 5, [True] * 5), 0.95)
    for wrong in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(UserError, match="target precision is"):
            threshold_for(model([0.9], [True]), wrong)

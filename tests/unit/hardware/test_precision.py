"""Mixed precision: what it changes, what stays in fp32, and that a run resumes exactly in its own precision."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from metapl import feedback as fb
from metapl.config.settings import RunConfig, load_config, make_config
from metapl.errors import UserError
from metapl.hardware import precision
from metapl.hardware.precision import keep_logits_wide, mixed, pick_precision
from metapl.optim import Learner, OptimConfig
from metapl.runs import checkpoint
from metapl.training.loop import Stopped, resume, train

CPU = torch.device("cpu")


def _config(**options: Any) -> RunConfig:
    given = {"steps": 8, "split.labels": 4, "split.validation": 2, "batch.labeled": 8, "batch.unlabeled": 12}
    given |= {"guard.mode": "off", "loop.log_every": 1, "mpl.finetune_steps": 2, "model": "small_cnn", "device": "cpu"}
    return make_config("digits", options=given | options)


def _losses(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_casts_follow_a_change_of_weights() -> None:
    layer, x = nn.Linear(4, 3), torch.randn(5, 4)
    with mixed("bf16", CPU):
        before = layer(x)
        with torch.no_grad():
            layer.weight.add_(1.0)
        assert not torch.equal(before, layer(x))
    assert before.dtype is torch.bfloat16


def test_logits_stay_wide_and_copies_keep_that() -> None:
    learner = Learner(nn.Sequential(nn.Linear(4, 3)), OptimConfig(), 10)
    keep_logits_wide(learner.model)
    with mixed("bf16", CPU):
        assert learner.model(torch.randn(5, 4)).dtype is torch.float32
    assert learner.model.double()(torch.randn(5, 4, dtype=torch.float64)).dtype is torch.float64


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_gradients_close_to_those_of_fp32(name: precision.Precision) -> None:
    torch.manual_seed(0)
    network, x, y = (
        nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 3)),
        torch.randn(64, 8),
        torch.arange(64) % 3,
    )
    keep_logits_wide(network)
    tiny = 1e-6  # without a scale this is below what fp16 can hold

    def gradients(how: precision.Precision) -> torch.Tensor:
        learner = Learner(network, OptimConfig(lr=0.0), 10)
        with mixed(how, CPU):
            learner.update(tiny * F.cross_entropy(network(x), y), 0)
        return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])

    exact, rounded = gradients("fp32"), gradients(name)
    assert rounded.dtype is torch.float32
    assert float((rounded - exact).norm() / exact.norm()) < 0.03


def test_the_exact_derivative_is_taken_in_fp32() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 3)), torch.randn(6, 8)
    before = fb.snapshot(network)
    direction = {n: torch.randn_like(p) for n, p in network.named_parameters()}
    for derivative in ("forward", "difference"):
        plain = fb.log_prob_derivative(network, before, x, direction, derivative)
        with mixed("bf16", CPU):
            assert torch.equal(plain, fb.log_prob_derivative(network, before, x, direction, derivative))
    keep_logits_wide(network)
    with mixed("bf16", CPU):
        close = fb.log_prob_derivative(network, before, x, direction, "one_sided", network(x))
    assert float(F.cosine_similarity(close.flatten(), plain.flatten(), dim=0)) > 0.8


@pytest.mark.parametrize("method", ["mpl", "fixmatch"])
def test_resume_is_exact(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    other = {} if method == "mpl" else {"mpl.finetune_steps": None}
    config = _config(method=method, precision="bf16", **other)
    train(config, whole)

    def stop(step: int, predictor: object) -> dict[str, float]:
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return {}

    with pytest.raises(Stopped):
        train(_config(method=method, precision="bf16", **other, **{"loop.eval_every": 4}), cut, observe=stop)
    assert load_config(cut / "config.yaml").precision == "bf16"
    resume(cut)
    a, b = ([row["loss"] for row in _losses(folder)] for folder in (whole, cut))
    assert a == b
    train(_config(method=method, precision="fp32", **other), tmp_path / "wide")
    assert a != [row["loss"] for row in _losses(tmp_path / "wide")]


def test_weights_and_their_averages_stay_in_fp32(tmp_path: Path) -> None:
    train(_config(precision="bf16"), tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    state = checkpoint.load(newest)
    dtypes = {t.dtype for part in ("model", "ema") for t in state["student"][part].values()}
    assert dtypes == {torch.float32, torch.int64}


def test_auto_means_fp32_for_small_networks_and_is_stored_so(tmp_path: Path) -> None:
    train(_config(steps=2), tmp_path / "run")
    assert load_config(tmp_path / "run" / "config.yaml").precision == "fp32"
    assert pick_precision("auto", CPU, "small_cnn") == "fp32"


def test_a_device_that_cannot() -> None:
    with pytest.raises(UserError, match="bf16 is not usable on mps"):
        pick_precision("bf16", torch.device("mps"), "wrn-28-2")

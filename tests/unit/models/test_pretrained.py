"""Networks that begin with weights that someone else has trained."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import metapl
from metapl.config.settings import make_config
from metapl.data.batches.split import make_split
from metapl.data.memory.source import MemorySource
from metapl.models import build_model
from metapl.models.pretrained import as_pretrained, keep_statistics, start_head
from metapl.models.weights import brings_head
from metapl.training.job import build_job
from metapl.training.prepared import prepare
from metapl.types import Preprocessing

pytest.importorskip("timm")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(channels: int) -> Preprocessing:
    return Preprocessing("image", (channels, 32, 32), (0.1,) * channels, (0.2,) * channels)


def test_pixels_have_the_scale_of_the_network() -> None:
    given = as_pretrained(images(3), "timm:resnet18")
    assert (given.mean, given.std) == (MEAN, STD)
    grey = as_pretrained(images(1), "timm:resnet18")
    assert (*grey.mean, *grey.std) == pytest.approx((sum(MEAN) / 3, sum(STD) / 3))
    for shape, name in ((images(4), "timm:resnet18"), (images(3), "small_cnn"), (images(3), "my_nets:net")):
        assert as_pretrained(shape, name) == shape
    table = Preprocessing("table", (3,), (0.1,) * 3, (0.2,) * 3)
    assert as_pretrained(table, "timm:resnet18") == table


def test_kept_statistics_neither_move_nor_come_from_the_batch() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2))
    x, before = torch.randn(6, 3, 32, 32), copy.deepcopy(net.state_dict())
    expected = net.eval()(x)
    keep_statistics(net)
    for model in (net, copy.deepcopy(net)):
        assert torch.equal(model.train()(x), expected)
        assert all(torch.equal(before[n], b) for n, b in model.named_buffers())
    net(x).sum().backward()
    assert net[1].weight.grad is not None, "scale and shift still learn"


@pytest.mark.parametrize("method", ["supervised", "mpl", "mean_teacher"])
def test_a_run_keeps_what_the_first_weights_know(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = torch.from_numpy(rng.integers(0, 256, (48, 3, 32, 32), dtype=np.uint8)), np.arange(48) % 2
    source = MemorySource("noise", "image", x, y, ("a", "b"))
    other = build_model("timm:test_resnet", (3, 32, 32), 9)
    other.train()(torch.randn(32, 3, 32, 32))  # statistics that no fresh network has
    theirs = {n: b for n, b in other.named_buffers() if b.is_floating_point()}
    first = tmp_path / "first.pth"
    torch.save(other.state_dict(), first)
    found = {}
    for norms in ("auto", "weights", "data"):
        options = {"model": "timm:test_resnet", "weights": str(first), "norms": norms, "steps": 4, "batch.labeled": 4}
        options |= {"batch.unlabeled": 8, "split.labels": 8, "split.validation": "none", "guard.mode": "off"}
        options |= {"mpl.offer_teacher": False} if method == "mpl" else {}
        predictor = metapl.fit(source, method=method, options=options).predictor
        own = dict(predictor.model.named_buffers())
        same = {
            n.rpartition(".")[2] for n, b in theirs.items() if torch.allclose(b, own[n].cpu(), rtol=1e-6, atol=1e-7)
        }
        found[norms] = (predictor.preprocessing.mean == (0.5, 0.5, 0.5), same)  # of timm's test_resnet
    kept = (True, {"running_mean", "running_var"})
    assert found == {"auto": kept, "weights": kept, "data": (False, set())}


def test_a_new_head_begins_as_a_logistic_regression_on_the_features(tmp_path: Path) -> None:
    torch.manual_seed(0)
    y = torch.arange(40) % 2
    x = torch.randn(40, 3, 32, 32) + y[:, None, None, None]
    other = build_model("timm:test_resnet", (3, 32, 32), 9)
    first = tmp_path / "first.pth"
    torch.save(other.state_dict(), first)
    net = build_model("timm:test_resnet", (3, 32, 32), 2, start=str(first))
    assert not brings_head(net, str(first), 2)
    start_head(net, x, y, 2)
    with torch.no_grad():
        assert (net.eval()(x).argmax(1) == y).float().mean() > 0.9
    torch.save(net.state_dict(), first)
    assert brings_head(build_model("timm:test_resnet", (3, 32, 32), 2, start=str(first)), str(first), 2)


def test_a_run_goes_on_from_a_head_that_fits_and_makes_one_that_does_not(tmp_path: Path) -> None:
    x, y = torch.randint(0, 256, (40, 3, 32, 32), dtype=torch.uint8), np.arange(40) % 2
    source, first = MemorySource("noise", "image", x, y, ("a", "b")), tmp_path / "first.pth"
    heads = {}
    for classes in (2, 9):
        torch.save(build_model("timm:test_resnet", (3, 32, 32), classes).state_dict(), first)
        options = {"model": "timm:test_resnet", "weights": str(first), "split.labels": 8, "split.validation": "none"}
        config = make_config("noise", options={**options, "method": "supervised", "device": "cpu"})
        prepared = prepare(source, make_split(source, config.split, 0), torch.device("cpu"))
        heads[classes] = build_job(config, prepared).method.eval_model().state_dict()["fc.weight"]
        theirs = torch.load(first, weights_only=True)["fc.weight"]
        assert torch.equal(heads[classes], theirs) == (classes == 2)
    again = build_job(config, prepared).method.eval_model().state_dict()["fc.weight"]
    assert torch.equal(again, heads[9]), "the same every time: no draw"


def test_a_head_of_another_kind_is_left(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = copy.deepcopy(net.state_dict())
    start_head(net, torch.randn(8, 3, 32, 32), torch.arange(8) % 2, 2)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), net.state_dict().values()))

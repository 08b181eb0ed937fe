"""Networks made of networks, and co-training's use of them: from training to a stored model and back."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from torch import Tensor, nn

from metapl.config.settings import GuardConfig, RunConfig, make_config
from metapl.data.batches.split import SplitConfig
from metapl.data.batches.stream import BatchConfig
from metapl.data.memory.arrays import from_arrays
from metapl.errors import UserError
from metapl.inference.evaluate import evaluate
from metapl.methods import METHODS
from metapl.models import build_model
from metapl.models.combined import PLAIN, Average, Blend, Masked, assemble, describe
from metapl.optim import OptimConfig
from metapl.runs import checkpoint
from metapl.runs.model_folder import load_model
from metapl.training.loop import Result, resume, train
from metapl.types import Context
from methods_table import assert_same


def mlp() -> nn.Module:
    return build_model("mlp", (5,), 3)


def half(*seen: int) -> Tensor:
    return torch.tensor([k in seen for k in range(5)])


def test_the_average_is_that_of_the_probabilities() -> None:
    nets, x = [mlp(), mlp(), mlp()], 3 * torch.randn(6, 5)
    found = torch.softmax(Average(nets)(x), -1)
    torch.testing.assert_close(found, torch.stack([torch.softmax(n(x), -1) for n in nets]).mean(0))
    sure = [nn.Linear(5, 3), nn.Linear(5, 3)]  # probabilities of exactly 0 do no harm
    for k, net in enumerate(sure):
        net.weight.data.zero_()
        net.bias.data = torch.tensor([200.0 * (k == 0), 200.0 * (k == 1), 0.0])
    assert torch.softmax(Average(sure)(x), -1)[0].tolist() == pytest.approx([0.5, 0.5, 0.0])


def test_a_mask_hides_features_and_is_stored() -> None:
    masked, x = Masked(mlp(), half(0, 3)), torch.randn(4, 5)
    other = x.clone()
    other[:, [1, 2, 4]] = 100.0
    assert torch.equal(masked(x), masked(other))
    other[:, 3] += 1
    assert not torch.equal(masked(x), masked(other))
    assert "mask" in masked.state_dict()


@pytest.mark.parametrize(
    ("model", "description"),
    [
        (mlp, PLAIN),
        (lambda: Average([mlp(), mlp()]), {"average": [PLAIN, PLAIN]}),
        (lambda: Masked(mlp(), half(1)), {"masked": PLAIN}),
        (
            lambda: Average([Masked(mlp(), half(0, 1)), Masked(mlp(), half(2, 3, 4)), mlp()]),
            {"average": [{"masked": PLAIN}, {"masked": PLAIN}, PLAIN]},
        ),
    ],
    ids=["plain", "average", "masked", "both"],
)
def test_a_description_is_enough_to_build_it_again(model: Any, description: Any) -> None:
    made, x = model(), torch.randn(7, 5)
    assert describe(made) == description
    again = assemble(json.loads(json.dumps(description)), mlp, (5,))
    again.load_state_dict(made.state_dict())
    assert torch.equal(again(x), made(x))


@pytest.mark.parametrize(
    "bad", [None, 3, "mlp", [PLAIN], {}, {"average": []}, {"average": PLAIN}, {"sum": [PLAIN]}, {"masked": {}, "x": 1}]
)
def test_other_descriptions_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="no such combination"):
        assemble(bad, mlp, (5,))


# ---- a run on a table ------------------------------------------------------------------------------------------


def wine() -> Any:
    X, y = load_wine(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    known = np.where(np.arange(len(y)) < 30, y[order], -1)
    return from_arrays(X[order][:120], known[:120], X_test=X[order][120:], y_test=y[order][120:])


def config(views: str = "features", **settings: Any) -> RunConfig:
    return RunConfig(
        "arrays",
        method="co_training",
        model="mlp",
        steps=60,
        split=SplitConfig(validation="none"),
        guard=GuardConfig("off"),
        batch=BatchConfig(12, 24),
        settings=METHODS["co_training"].Config(views=views, **settings),
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(config(), tmp_path_factory.mktemp("wine") / "run", source=wine())


def test_each_net_sees_its_half_and_the_stored_model_is_the_trained_one(run: Result) -> None:
    card = json.loads((run.folder / "model" / "model.json").read_text())
    assert card["model"] == "mlp"
    assert card["network"] == "average"
    assert card["combine"] == {"average": [{"masked": PLAIN}, {"masked": PLAIN}]}
    first, second = (member.mask for member in run.predictor.model.members)  # type: ignore[union-attr]
    assert torch.equal(first, ~second)
    assert sorted([int(first.sum()), int(second.sum())]) == [6, 7]
    loaded = load_model(run.folder)
    rows = run.source.rows(np.arange(120))
    assert torch.equal(loaded.probabilities(rows), run.predictor.probabilities(rows))
    judged = evaluate(loaded, run.source, run.split.test)
    assert judged == evaluate(run.predictor, run.source, run.split.test)
    assert judged["accuracy"] > 0.8


def test_a_run_with_masks_resumes(run: Result, tmp_path: Path) -> None:
    steps = checkpoint.steps(run.folder / "checkpoints")
    again = tmp_path / "again"
    shutil.copytree(run.folder, again)
    (again / "results.json").unlink()
    shutil.rmtree(again / "checkpoints" / f"step-{steps[-1]:08d}")
    result = resume(again, source=wine())
    assert result.summary["resumed_at"] == steps[-2]
    assert_same(result.predictor.model.state_dict(), run.predictor.model.state_dict())


def test_the_split_of_the_features_is_the_seeds() -> None:
    def masks(seed: int, features: int = 9) -> list[list[bool]]:
        torch.manual_seed(seed)
        settings = METHODS["co_training"].Config(views="features")
        context = Context(lambda: build_model("mlp", (features,), 3), 3, OptimConfig(), 5, row_shape=(features,))
        method = METHODS["co_training"](settings, context)
        return [learner.model.mask.tolist() for learner in (method.net, method.second)]

    assert masks(0) == masks(0)
    assert len({str(masks(seed)) for seed in range(5)}) > 2
    assert sorted(map(sum, masks(1, 2))) == [1, 1]


def test_two_nets_on_a_table_need_no_mask(tmp_path: Path) -> None:
    result = train(config("nets"), tmp_path / "run", source=wine())
    assert json.loads((tmp_path / "run/model/model.json").read_text())["combine"] == {"average": [PLAIN, PLAIN]}
    rows = result.source.rows(np.arange(50))
    assert torch.equal(load_model(tmp_path / "run").probabilities(rows), result.predictor.probabilities(rows))


def test_images_have_no_features_to_split(tmp_path: Path) -> None:
    refused = make_config(
        "digits", options={"method": "co_training", "co_training.views": "features", "split.labels": 2}
    )
    with pytest.raises(UserError, match=r"features of a table.*\[1, 8, 8\].*views=nets"):
        train(refused, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("damage", ["unknown", "missing", "one net"])
def test_a_damaged_description_is_told(run: Result, damage: str, tmp_path: Path) -> None:
    shutil.copytree(run.folder / "model", tmp_path / "model")
    file = tmp_path / "model" / "model.json"
    card = json.loads(file.read_text())
    if damage == "missing":
        del card["combine"]
    else:
        card["combine"] = {"sum": [PLAIN]} if damage == "unknown" else {"average": [PLAIN]}
    file.write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"cannot be loaded|is damaged"):
        load_model(tmp_path / "model")


def test_a_blend_is_the_geometric_mean_and_is_built_again() -> None:
    torch.manual_seed(0)
    mlp, linear = build_model("mlp", (5,), 3), build_model("linear", (5,), 3)
    blend, x = Blend(mlp, linear, "linear"), torch.randn(7, 5)
    one, other = (torch.softmax(network(x), -1) for network in (mlp, linear))
    mean = (one * other).sqrt()
    assert torch.allclose(torch.softmax(blend(x), -1), mean / mean.sum(-1, keepdim=True), atol=1e-6)
    assert describe(blend) == {"blend": [PLAIN, "linear"]}

    def named(name: str) -> nn.Module:
        return build_model(name, (5,), 3)

    again = assemble(describe(blend), lambda: build_model("mlp", (5,), 3), (5,), named)
    again.load_state_dict(blend.state_dict())
    assert torch.equal(again(x), blend(x))
    sharp = Blend(mlp, linear, "linear", 3.0)
    mean = (one * other**3).sqrt()
    assert torch.allclose(torch.softmax(sharp(x), -1), mean / mean.sum(-1, keepdim=True), atol=1e-6)
    again = assemble(json.loads(json.dumps(describe(sharp))), lambda: build_model("mlp", (5,), 3), (5,), named)
    again.load_state_dict(sharp.state_dict())
    assert torch.equal(again(x), sharp(x))
    twin = Blend(mlp, build_model("mlp", (5,), 3), PLAIN)
    assert isinstance(assemble(describe(twin), lambda: build_model("mlp", (5,), 3), (5,)), Blend)
    damaged = ([PLAIN, "mlp"], [PLAIN], [PLAIN, "package.module:run"])
    no_sharpness = ([PLAIN, "linear", s] for s in (0.0, -1.0, math.inf, math.nan, "2", True, None))
    for wrong in ({"blend": parts} for parts in (*damaged, *no_sharpness, [PLAIN, "linear", 2.0, 2.0])):
        with pytest.raises(ValueError, match="combination"):
            assemble(wrong, lambda: build_model("mlp", (5,), 3), (5,), named)

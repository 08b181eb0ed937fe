"""Another network for the teacher: what is stored is the student, and a cut run goes on as if it were whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import metapl
import methods_table
from metapl.config.settings import make_config
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.models import build_model
from metapl.optim import OptimConfig
from metapl.runs.model_folder import load_model
from metapl.types import Context, Method


@pytest.fixture
def rows() -> MemorySource:
    """Forty 8 x 8 images of two classes that differ in brightness."""
    draw = torch.Generator().manual_seed(0)
    labels = np.arange(40) % 2
    data = torch.randint(0, 120, (40, 1, 8, 8), generator=draw) + 100 * torch.from_numpy(labels).view(-1, 1, 1, 1)
    return MemorySource(
        "bright", "image", data.to(torch.uint8), np.where(np.arange(40) < 12, labels, -1), ("dark", "light")
    )


@pytest.mark.parametrize("method", ["mpl", "mpl_reduced"])
def test_the_student_is_what_is_stored(method: str, rows: MemorySource, tmp_path: Path) -> None:
    options = {"method": method, "model": "small_cnn", "teacher_model": "convnet", "steps": 4, "device": "cpu"}
    options |= {"guard.mode": "off", "batch.unlabeled": 8, "split.validation": 2, f"{method}.finetune_steps": 2}
    result = metapl.train(make_config("bright", options=options), tmp_path / "run", source=rows)
    assert type(load_model(result.folder).model).__name__ == "SmallCNN"
    from metapl.training.job import build_job
    from metapl.training.prepared import Prepared

    config = make_config("bright", options=options)
    job = build_job(config, Prepared(rows, result.split, result.predictor.preprocessing, torch.device("cpu")))
    first = job.method.teacher if method == "mpl" else job.method.net  # type: ignore[attr-defined]
    assert type(first.model).__name__ == "ConvNet"


@pytest.mark.parametrize("method", ["mpl", "mpl_reduced"])
def test_a_run_with_another_teacher_goes_on_as_if_unbroken(method: str, tmp_path: Path) -> None:
    """Cut before and after mpl_reduced has put the student in the teacher's place."""
    stream = methods_table.digits_stream()

    def fresh() -> Method:
        torch.manual_seed(methods_table.SEED)
        context = Context(
            methods_table.noisy_net, 10, OptimConfig(), methods_table.STEPS, stream.pool_size, stream.pool, (1, 8, 8),
            lambda: build_model("convnet", (1, 8, 8), 10),
        )  # fmt: skip
        made: Method = METHODS[method](METHODS[method].Config(finetune_steps=2), context)
        return made

    whole = fresh()
    methods_table.run(whole, stream, 0, methods_table.STEPS + 2)
    for cut in (2, 6):
        first, second = fresh(), fresh()
        methods_table.run(first, stream, 0, cut)
        second.load_state_dict(methods_table.through_disk(first.state_dict(), tmp_path / str(cut)))
        methods_table.run(second, stream, cut, methods_table.STEPS + 2)
        methods_table.assert_same(second.state_dict(), whole.state_dict())
    assert all(type(model).__name__ == "NoisyNet" for model in whole.candidates().values())


def test_a_teacher_that_no_one_asks_for_is_told(rows: MemorySource) -> None:
    from metapl.data.batches.preprocess import fit_preprocessing
    from metapl.data.batches.split import SplitConfig, make_split
    from metapl.training.job import build_job
    from metapl.training.prepared import Prepared

    split = make_split(rows, SplitConfig(validation="none"), 0)
    preprocessing = fit_preprocessing(rows, np.arange(40))
    config = make_config("bright", options={"method": "fixmatch", "teacher_model": "convnet", "model": "small_cnn"})
    job = build_job(config, Prepared(rows, split, preprocessing, torch.device("cpu")))
    assert "fixmatch has no teacher network" in job.notes[0]
    with pytest.raises(UserError, match="teacher_weights is set"):
        make_config("bright", options={"teacher_weights": "file.pth"})
    whole = {
        "method": "mpl_reduced",
        "mpl_reduced.teacher_share": 1.0,
        "teacher_model": "convnet",
        "model": "small_cnn",
    }
    with pytest.raises(UserError, match="no steps for a student"):
        build_job(make_config("bright", options=whole), Prepared(rows, split, preprocessing, torch.device("cpu")))

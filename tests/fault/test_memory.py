"""The memory of a GPU that runs out in a step: the run goes on with less, and its result is that of a larger GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from test_nan import Notes, config_of
from torch import Tensor, nn

from metapl.data.memory.digits import open_digits
from metapl.hardware.device import saved_in_main_memory
from metapl.optim import Learner
from metapl.runs.recorder import Recorder, RunFolder
from metapl.training import steps
from metapl.training.job import Job
from metapl.training.loop import Result, start
from metapl.utils.progress import Silent
from methods_table import BY_NAME, ROWS, noisy_net

QUICK = ("mpl-exact", "fixmatch")
FITTED = "linear"  # by a solver on the CPU
LATER = [row.name for row in ROWS if row.name not in QUICK and row.method != FITTED]


def trained(name: str, progress: Silent | None = None, store: Recorder | None = None) -> Result:
    config = config_of(BY_NAME[name])
    return start(config, lambda _: store or Recorder(), open_digits(), progress, network=lambda **_: noisy_net())


class SmallGPU:
    """Runs out of memory at the end of each update from step ``at`` on, unless activations wait in main memory."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int, helps: bool = True) -> None:
        self.spared, self.moved, self.t = False, 0, 0
        update, step = Learner.update, Job.step

        def too_much(learner: Learner, loss: Tensor, t: int) -> None:
            update(learner, loss, t)  # so that the step is half done
            if self.t >= at and not (self.spared and helps):
                raise torch.OutOfMemoryError("CUDA out of memory")

        def counting(job: Job, t: int) -> Any:  # a method may count the steps of its phases by itself
            self.t = t
            return step(job, t)

        @contextmanager
        def sparing() -> Iterator[None]:
            self.spared, self.moved = True, self.moved + 1
            with saved_in_main_memory():
                yield
            self.spared = False

        patch.setattr(Learner, "update", too_much)
        patch.setattr(Job, "step", counting)
        patch.setattr(steps, "saved_in_main_memory", sparing)


@pytest.mark.parametrize("name", [*QUICK, *(pytest.param(name, marks=pytest.mark.fault) for name in LATER)])
def test_the_result_is_that_of_a_larger_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    large = trained(name)
    gpu, progress = SmallGPU(monkeypatch, 4), Notes()
    small = trained(name, progress)
    assert gpu.moved >= 5
    assert [note for note in progress.notes if "memory ran out; the run went back to step 3" in note]
    assert len([note for note in progress.notes if "memory ran out" in note]) == 1
    a, b = large.predictor.model.state_dict(), small.predictor.model.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert large.history == small.history
    assert small.summary["rollbacks"] == []


def test_a_gpu_that_is_too_small_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SmallGPU(monkeypatch, 4, helps=False)
    progress = Notes()
    with pytest.raises(torch.OutOfMemoryError):
        trained("fixmatch", progress, RunFolder(tmp_path))
    assert len([note for note in progress.notes if "memory ran out" in note]) == 1


def test_saved_tensors_are_copies_in_the_same_memory_layout() -> None:
    """What the graph holds is not the activation itself, so that a device could free it."""
    x = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    found: list[Any] = []
    layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    with saved_in_main_memory():
        y = layer(x) ** 2
        found.append(y.grad_fn._saved_self)  # type: ignore[union-attr]
    plain = layer(x)
    assert torch.equal(found[0], plain)
    assert found[0].data_ptr() != plain.data_ptr()
    assert found[0].is_contiguous(memory_format=torch.channels_last)
    (moved,) = torch.autograd.grad(y.sum(), x)
    (usual,) = torch.autograd.grad((layer(x) ** 2).sum(), x)
    assert torch.equal(moved, usual)

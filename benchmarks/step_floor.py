"""How much does a step cost beside the passes through the networks that its method cannot avoid?

    python benchmarks/step_floor.py --json -
    python benchmarks/step_floor.py --networks wrn-28-2 --methods mpl:none mpl:exact --precision bf16

A step is all of it: making the batch and its views, every pass, updates, averages, and logging at its real cadence. Its
floor is the sum of these passes alone, timed bare on the same rows, in the same precision and memory layout, the two in
alternating blocks:

- supervised: forward and backward of b labelled rows
- fixmatch, uda: forward and backward of b + 2B rows (with BatchNorm the weak views get a gradient, too; without it, a
  forward of B and forward and backward of b + B)
- mpl: the teacher's as uda's; the student's forward and backward of B rows; exact: forward and backward of b rows and
  one forward of B; sampled: two forwards of b rows

b and B are the batch's labelled and unlabelled rows. Rows are random, for time does not depend on what they show.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import side_by_side
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metapl.config.settings import make_config
from metapl.data.batches.split import make_split
from metapl.data.memory.source import MemorySource
from metapl.hardware.device import pick_device
from metapl.hardware.precision import mixed
from metapl.training.finite import is_finite
from metapl.training.job import Job, build_job
from metapl.training.prepared import prepare
from metapl.types import SemiBatch, Source

METHODS = ("supervised", "fixmatch", "uda", "mpl:none", "mpl:exact", "mpl:sampled")
NETWORKS = {  # name: (model, shape of a row, labelled and unlabelled rows of a batch)
    "small_cnn": ("small_cnn", (3, 32, 32), 32, 128),
    "convnet": ("convnet", (3, 32, 32), 32, 128),
    "wrn-28-2": ("wrn-28-2", (3, 32, 32), 8, 56),
    "mlp": ("mlp", (1280,), 32, 128),
    "head": ("head", (1280,), 32, 128),
}
CLASSES, ROWS = 10, 2000


def random_source(shape: tuple[int, ...], classes: int = CLASSES, rows: int = ROWS) -> Source:
    """Return rows of noise, images or features, with labels in turn."""
    g = torch.Generator().manual_seed(0)
    image = len(shape) == 3
    data = torch.randint(256, (rows, *shape), generator=g).to(torch.uint8) if image else torch.randn(rows, *shape)
    labels, names = np.arange(rows) % classes, tuple(f"c{k}" for k in range(classes))
    return MemorySource("noise", "image" if image else "features", data, labels.astype(np.int64), names)


def make_job(network: str, method: str, options: dict[str, Any], source: Source | None = None) -> Job:
    """Return a run in memory, before its first step."""
    model, shape, labeled, unlabeled = NETWORKS[network]
    source = source or random_source(shape)
    name, _, feedback = method.partition(":")
    given: dict[str, Any] = {
        "method": name, "model": model, "steps": 10_000, "split.labels": 20, "split.validation": "none",
        "batch.labeled": labeled, "batch.unlabeled": unlabeled,
    }  # fmt: skip
    given |= {"mpl.feedback": feedback} if feedback else {}
    config = make_config("noise", options=given | options)
    split = make_split(source, config.split, 0)
    return build_job(config, prepare(source, split, pick_device(config.device)))


def stepper(job: Job) -> Callable[[], None]:
    """Return a function that makes the next step, with what the loop does in each, and logs at the loop's cadence."""
    t = iter(range(job.config.steps))

    def step() -> None:
        done = next(t) + 1
        values = job.step(done - 1)
        assert is_finite(job.method, values)
        if done % job.config.loop.log_every == 0:
            _ = {name: float(value) for name, value in values.items()}

    return step


def passes(job: Job, method: str) -> Callable[[], None]:
    """Return a function that makes the unavoidable passes of one step, in the run's precision."""
    model = _fresh(job)
    batch = job.stream(0, job.method.needs)
    work = list(_work(model, batch, method))

    def run() -> None:
        for x, backward in work:
            with torch.set_grad_enabled(backward), mixed(job.config.precision, job.device):
                z = model(x)
            if backward:
                F.cross_entropy(z.float(), torch.zeros(len(x), dtype=torch.int64, device=x.device)).backward()
        model.zero_grad(set_to_none=True)

    return run


def _fresh(job: Job) -> nn.Module:
    learner = getattr(job.method, "net", None) or job.method.teacher  # type: ignore[attr-defined]
    model: nn.Module = learner.model
    return model


def _work(model: nn.Module, batch: SemiBatch, method: str) -> Iterator[tuple[Tensor, bool]]:
    """Yield the rows of each pass, and whether a backward follows."""
    if method == "supervised":
        yield batch.x_l, True
        return
    weak, strong = batch.u_weak, batch.u_strong
    assert weak is not None
    assert strong is not None
    joint = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in model.modules()) or method == "mpl:exact"
    if joint:
        yield torch.cat([batch.x_l, weak, strong]), True
    else:
        yield weak, False
        yield torch.cat([batch.x_l, strong]), True
    if method.startswith("mpl"):
        yield strong, True
    if method == "mpl:exact":
        yield batch.x_l, True
        yield strong, False
    if method == "mpl:sampled":
        yield batch.x_l, False
        yield batch.x_l, False


def parts(job: Job) -> dict[str, Callable[[], Any]]:
    """Return the parts of a step that are not passes, each as a function that does it once."""
    learners = [v for v in vars(job.method).values() if hasattr(v, "optimizer")]
    for learner in learners:
        for p in learner.model.parameters():
            p.grad = torch.zeros_like(p)
    return {
        "batch and views": lambda: job.stream(0, job.method.needs),
        "updates": lambda: [learner.optimizer.step() for learner in learners],
        "averages": lambda: [learner.ema.update(learner.model, 100) for learner in learners],
    }


def measure(network: str, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return one row of the table."""
    options = {"precision": arguments.precision, **dict(pair.split("=", 1) for pair in arguments.set)}
    job = make_job(network, method, options)
    things = {"step": stepper(job), "floor": passes(make_job(network, method, options), method)}
    now = side_by_side.clock(arguments.clock)
    block = 1 if network.startswith("wrn") else 20
    times = side_by_side.seconds(things, arguments.repetitions, now, block)
    other = side_by_side.seconds(parts(make_job(network, method, options)), arguments.repetitions, now, block)
    return {
        "network": network, "method": method, "precision": arguments.precision,
        "step_ms": 1000 * statistics.median(times["step"]), "floor_ms": 1000 * statistics.median(times["floor"]),
        **side_by_side.ratio(times["step"], times["floor"]),
        "parts_ms": {name: 1000 * statistics.median(value) for name, value in other.items()},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="further settings of the run")
    side_by_side.add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rows = []
    head = f"{'network':10} {'method':11} {'step ms':>9} {'floor ms':>9} ratio (least, largest)   parts in ms"
    quiet = arguments.json == "-"
    if not quiet:
        print(side_by_side.hardware(), head, sep="\n")
    for network in arguments.networks:
        for method in arguments.methods:
            rows.append(row := measure(network, method, arguments))
            if not quiet:
                figures = f"{row['step_ms']:9.1f} {row['floor_ms']:9.1f} {row['ratio']:5.2f} ({row['low']:.2f}, "
                inner = ", ".join(f"{name} {ms:.2f}" for name, ms in row["parts_ms"].items())
                print(f"{network:10} {method:11} {figures}{row['high']:.2f})   {inner}", flush=True)
    side_by_side.save({"hardware": side_by_side.hardware(), "rows": rows}, arguments.json)


if __name__ == "__main__":
    main()

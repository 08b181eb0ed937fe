"""What does each way to the exact feedback cost, and how far is it from the derivative in float64?

    python benchmarks/derivative_cost.py --network wrn-28-2
    python benchmarks/derivative_cost.py --network small_cnn

One student on random rows, its direction the labelled gradient, at first weights and after 30 steps on the labelled
rows. Every way is timed in alternating blocks beside a plain forward of the same rows. The error is the relative
distance to forward mode in float64, the cosine that of the two. In mixed precision, forward mode and the central
difference run in fp32, the one-sided difference in bf16.
"""

from __future__ import annotations

import argparse
import copy
from typing import Any

import side_by_side
import torch
import torch.nn.functional as F
from step_floor import CLASSES, NETWORKS
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.hardware.precision import Precision, keep_logits_wide, mixed
from metapl.models import build_model

WAYS: tuple[tuple[fb.Derivative, Precision], ...] = (
    ("forward", "fp32"), ("difference", "fp32"), ("one_sided", "fp32"), ("one_sided", "bf16"),
)  # fmt: skip
CPU = torch.device("cpu")


def rows(network: str, count: int, seed: int) -> Tensor:
    shape = NETWORKS[network][1]
    x = torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last) if len(shape) == 3 else x


def true_derivative(model: nn.Module, x: Tensor, direction: fb.Tensors) -> Tensor:
    """Return r in float64."""
    wide = copy.deepcopy(model).double()
    long = {n: v.double() for n, v in direction.items()}
    return fb.log_prob_derivative(wide, fb.snapshot(wide), x.double(), long, "forward").float()


def ways(model: nn.Module, before: fb.Before, x: Tensor, direction: fb.Tensors) -> dict[str, Any]:
    """Return each way as a function; the student's own forward is made once, before."""

    def call(derivative: fb.Derivative, precision: Precision, output: Tensor) -> Tensor:
        with mixed(precision, CPU):
            return fb.log_prob_derivative(model, before, x, direction, derivative, output)

    def forward(precision: Precision) -> Tensor:
        with mixed(precision, CPU), torch.no_grad():
            return fb._logits(model, before.parameters, before.buffers, x)

    outputs = {p: forward(p) for p in ("fp32", "bf16")}
    found: dict[str, Any] = {f"{d} {p}": lambda d=d, p=p: call(d, p, outputs[p]) for d, p in WAYS}
    return found | {f"plain forward {p}": lambda p=p: forward(p) for p in ("fp32", "bf16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=NETWORKS, default="wrn-28-2")
    side_by_side.add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model, shape, labeled, unlabeled = NETWORKS[arguments.network]
    student = build_model(model, shape, CLASSES).to(memory_format=torch.channels_last).train()
    keep_logits_wide(student)
    x, x_l, y_l = rows(arguments.network, unlabeled, 1), rows(arguments.network, labeled, 2), torch.arange(labeled) % 10
    optimizer, found = torch.optim.SGD(student.parameters(), 0.05, momentum=0.9), list[dict[str, Any]]()
    for steps in (0, 30):
        for _ in range(steps):
            optimizer.zero_grad()
            F.cross_entropy(student(x_l), y_l).backward()
            optimizer.step()
        before = fb.snapshot(student)
        _, direction = fb.labeled_gradient(student, before, x_l, y_l)
        true, calls = true_derivative(student, x, direction), ways(student, before, x, direction)
        times = side_by_side.seconds(calls, arguments.repetitions, side_by_side.clock(arguments.clock)) if steps else {}
        for name, call in calls.items():
            line: dict[str, Any] = {"steps": steps, "way": name}
            if not name.startswith("plain"):
                r = call()
                line["error"] = float((r - true).norm() / true.norm())
                line["cosine"] = float(F.cosine_similarity(r.flatten(), true.flatten(), dim=0))
            if steps:
                line |= side_by_side.ratio(times[name], times["plain forward fp32"])
            found.append(line)
            if arguments.json != "-":
                print({key: round(v, 4) if isinstance(v, float) else v for key, v in line.items()}, flush=True)
    figures = {"hardware": side_by_side.hardware(), "network": arguments.network, "rows": found}
    side_by_side.save(figures, arguments.json)


if __name__ == "__main__":
    main()

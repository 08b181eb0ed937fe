"""Time our step of mpl beside the step of the much-copied PyTorch implementation, on the same images and batches.

    git clone https://github.com/kekmodel/MPL-pytorch PEER
    python benchmarks/vs_peers.py --peer-dir PEER --json vs_peers.json

The peer's own ``train_loop`` runs, with its WRN-28-2, its data set class, its views and its optimisers, as its README's
command sets them (EMA, Nesterov, no gradient clipping to speak of), in blocks of steps that alternate with blocks of
ours. Data pipelines are included: both read the same images in this process, the peer through a DataLoader without
workers, so that its processor time counts here. Nothing of the peer is stored.

It needs torchvision, tqdm and tensorboard.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import statistics
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import side_by_side
import torch
from step_floor import NETWORKS, make_job, random_source, stepper
from torch.utils.data import DataLoader, RandomSampler

from metapl.types import Source

STEPS = 1  # of a block
WAYS = {  # our steps: the method, and settings
    "none": ("mpl:none", {}),
    "exact, forward mode": ("mpl:exact", {"mpl.derivative": "forward"}),
    "exact, one-sided": ("mpl:exact", {"mpl.derivative": "one_sided"}),
}


class _Done(Exception):
    """The block's steps are done."""


class _Counter:
    """Stands for the peer's SummaryWriter, which it calls once per step."""

    def __init__(self) -> None:
        self.left = 0

    def add_scalar(self, *_: Any) -> None:
        self.left -= 1
        if not self.left:
            raise _Done


def peer_block(folder: Path, source: Source, labeled: int, unlabeled: int) -> Callable[[], None]:
    """Return a function that makes ``STEPS`` steps of the peer, as its ``main`` puts them together."""
    sys.path.insert(0, str(folder))
    theirs, data, models = (importlib.import_module(name) for name in ("main", "data", "models"))
    command = ["--name", "x", "--ema", "0.995", "--nesterov", "--mu", str(unlabeled // labeled)]
    args = theirs.parser.parse_args([*command, "--batch-size", str(labeled), "--eval-step", str(10**9)])
    args.device, args.world_size, args.writer, args.depth, args.widen_factor = torch.device("cpu"), 1, _Counter(), 28, 2
    views = data.TransformMPL(args, data.cifar10_mean, data.cifar10_std)

    def rows(transform: Any) -> Any:
        made = data.CIFAR10SSL.__new__(data.CIFAR10SSL)  # its images are given, not read from disk
        pixels = source.rows(range(len(source.ids)))  # type: ignore[arg-type]
        made.data, made.targets = pixels.permute(0, 2, 3, 1).numpy(), source.labels
        made.transform, made.target_transform = transform, None
        return made

    def loader(transform: Any, batch: int) -> Any:
        made = rows(transform)
        return DataLoader(made, sampler=RandomSampler(made), batch_size=batch, num_workers=0, drop_last=True)

    parts: list[Any] = [loader(lambda x: views.normalize(views.ori(x)), labeled), loader(views, unlabeled), None, None]
    networks = [models.WideResNet(num_classes=10, depth=28, widen_factor=2) for _ in range(2)]
    optimizers = [torch.optim.SGD(n.parameters(), lr=0.01, momentum=0.9, nesterov=True) for n in networks]
    schedulers = [theirs.get_cosine_schedule_with_warmup(o, 0, 300_000) for o in optimizers]
    scalers = [theirs.amp.GradScaler(enabled=False) for _ in range(2)]
    average = models.ModelEMA(networks[1], 0.995)
    parts += [*networks, average, theirs.create_loss_fn(args), *optimizers, *schedulers, *scalers]

    def block() -> None:
        args.writer.left = STEPS
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(_Done):
            theirs.train_loop(args, *parts)

    return block


def our_block(method: str, options: dict[str, Any], source: Source) -> Callable[[], None]:
    """Return a function that makes ``STEPS`` steps of ours."""
    step = stepper(make_job("wrn-28-2", method, options, source))

    def block() -> None:
        for _ in range(STEPS):
            step()

    return block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-dir", type=Path, required=True, help="a checkout of kekmodel/MPL-pytorch")
    parser.add_argument("--precisions", nargs="+", default=["fp32", "bf16"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    side_by_side.add_options(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")
    source = random_source((3, 32, 32))
    things = {"peer": peer_block(arguments.peer_dir, source, *NETWORKS["wrn-28-2"][2:])}
    for precision in arguments.precisions:
        for way in arguments.ways:
            method, given = WAYS[way]
            things[f"{way}, {precision}"] = our_block(method, {**given, "precision": precision}, source)
    times = side_by_side.seconds(things, arguments.repetitions, side_by_side.clock(arguments.clock))
    rows = [
        {"step": name, "seconds": statistics.median(found) / STEPS, **side_by_side.ratio(times["peer"], found)}
        for name, found in times.items()
    ]
    for row in rows:
        print(f"{row['step']:24} {row['seconds']:.3f} s   {row['ratio']:.2f} x ({row['low']:.2f}, {row['high']:.2f})")
    side_by_side.save({"hardware": side_by_side.hardware(), "rows": rows}, arguments.json)


if __name__ == "__main__":
    main()

"""How do the time and the memory of a step of mpl grow with classes, pool and image size?

    python benchmarks/step_scale.py --json -
    python benchmarks/step_scale.py --axes classes pool

Each case is a process of its own, which builds a run in memory and makes some steps. Time is the processor time of a
step, the median of blocks; memory is what the steps add to what the process held before the run was built. A pool is a
memory-mapped file of random features, written into a temporary folder: a page that was read counts as memory of the
process, but the system can take it back.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import side_by_side
import torch

from metapl.data.memory.source import MemorySource
from metapl.hardware.device import peak_memory
from metapl.types import Source

AXES: dict[str, list[int]] = {
    "classes": [10, 100, 1000, 10_000],  # mlp on 256 features
    "pool": [1000, 10_000, 100_000, 1_000_000, 10_000_000],  # rows of 16 features
    "side": [32, 64, 128, 224],  # small_cnn on images
}
LABELED, UNLABELED, WARM, STEPS = 32, 128, 3, 10
CPU = torch.device("cpu")


def make_source(axis: str, size: int, folder: Path) -> Source:
    """Return random rows for a case."""
    classes = size if axis == "classes" else 10
    draw, rows = np.random.default_rng(0), max(5 * classes, 2000)
    if axis == "side":
        data: Any = torch.from_numpy(draw.integers(0, 256, (500, 3, size, size), dtype=np.uint8))
        rows = len(data)
    elif axis == "pool":
        rows = size
        mapped = np.lib.format.open_memmap(folder / "pool.npy", mode="w+", dtype=np.float32, shape=(rows, 16))
        for start in range(0, rows, 1_000_000):
            mapped[start : start + 1_000_000] = draw.standard_normal((len(mapped[start : start + 1_000_000]), 16))
        mapped.flush()
        data = torch.from_numpy(np.load(folder / "pool.npy", mmap_mode="c"))
    else:
        data = torch.from_numpy(draw.standard_normal((rows, 256)).astype(np.float32))
    names = tuple(f"c{k}" for k in range(classes))
    kind = "image" if axis == "side" else "features"
    return MemorySource("noise", kind, data, np.arange(rows) % classes, names)


def measure(axis: str, size: int, settings: list[str]) -> dict[str, Any]:
    """Return the figures of one case; called in a process of its own."""
    from metapl.config.settings import make_config
    from metapl.data.batches.split import make_split
    from metapl.training.job import build_job
    from metapl.training.prepared import prepare

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        source = make_source(axis, size, Path(name))
        given: dict[str, Any] = {
            "method": "mpl", "model": "small_cnn" if axis == "side" else "mlp", "steps": 10_000, "split.labels": 1,
            "split.validation": "none", "batch.labeled": LABELED, "batch.unlabeled": UNLABELED,
        }  # fmt: skip
        config = make_config("noise", options=given, overrides=settings)
        before, began = peak_memory(CPU), time.process_time()
        split = make_split(source, config.split, 0)
        job = build_job(config, prepare(source, split, CPU))
        for t in range(WARM):
            job.step(t)
        start, times = time.process_time() - began, []
        for t in range(WARM, WARM + STEPS):
            began = time.process_time()
            job.step(t)
            times.append(time.process_time() - began)
        added = (peak_memory(CPU) - before) / (1 << 20)
    return {"axis": axis, "size": size, "ms": 1000 * statistics.median(times), "start_s": start, "added_mb": added}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of the run")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON; - prints them instead")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        print(json.dumps(measure(given.case[0], int(given.case[1]), given.set)))
        return
    rows = []
    for axis in given.axes:
        for size in AXES[axis]:
            command = [sys.executable, __file__, "--case", axis, str(size), "--set", *given.set]
            done = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ})
            rows.append(row := json.loads(done.stdout))
            if given.json != "-":
                print({key: round(v, 1) if isinstance(v, float) else v for key, v in row.items()}, flush=True)
    side_by_side.save(rows, given.json)


if __name__ == "__main__":
    main()

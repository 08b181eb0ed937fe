"""Time and memory of ``metapl check`` on many made-up images; prints JSON.

    python benchmarks/check_scale.py 50000 200000

Images of 32 x 32 in colour: smooth random fields, about as alike as photographs are; one in a hundred repeats another
one exactly, one in a hundred nearly (each pixel one level off, at random).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from metapl.checks import check
from metapl.data.memory.source import MemorySource


def made(count: int, seed: int = 0) -> MemorySource:
    """``count`` images; the last two hundredths are copies of the first, exact and then near."""
    draw = torch.Generator().manual_seed(seed)
    data = torch.empty((count, 3, 32, 32), dtype=torch.uint8)
    for start in range(0, count, 4096):
        coarse = torch.randn((min(4096, count - start), 3, 6, 6), generator=draw)
        data[start : start + 4096] = (
            torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").mul(45).add(127).clamp(0, 255)
        ).to(torch.uint8)
    few = count // 100
    data[-few:] = data[:few]
    noise = torch.randint(0, 2, (few, 3, 32, 32), generator=draw, dtype=torch.uint8)
    data[-2 * few : -few] = data[few : 2 * few].clamp(max=254) + noise
    labels = np.arange(count) % 10
    labels[count // 10 :] = -1
    names = tuple(f"class {k}" for k in range(10))
    return MemorySource("made", "image", data, labels, names)


def one(count: int) -> dict[str, object]:
    source = made(count)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    start, cpu = time.perf_counter(), time.process_time()
    result = check(source)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    copies = result.facts["copies"]
    exact = sum(copies[k]["exact"] for k in ("unlabelled in labelled", "within unlabelled"))
    near = copies["unlabelled in labelled"]["near"]
    return {
        "rows": count,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "data_mib": round(source.data.numel() / 2**20),
        "peak_rss_mib_before": round(before),
        "peak_rss_mib": round(peak),
        "exact_copies": count // 100,
        "exact_found": exact,
        "near_copies": count // 100,
        "near_found": near,
        "threads": torch.get_num_threads(),
        "verdict": result.verdict,
    }


if __name__ == "__main__":
    if len(sys.argv) == 2:
        print(json.dumps(one(int(sys.argv[1]))))
    else:  # each size in a process of its own, so that each has its own peak
        for size in sys.argv[1:] or ("50000", "200000"):
            done = subprocess.run([sys.executable, __file__, size], check=True, capture_output=True, text=True)
            print(done.stdout.strip())

"""Opening large folders of small images: seconds and peak memory, first and second time, with and without cache.

    python benchmarks/scale_images.py 25000 50000 100000 200000

Makes folders of 16 x 16 PNG images (or ``--size``, ``--form JPEG``) in a temporary folder and removes them afterwards.
Every opening is a process of its own. Prints one JSON object per line: seconds by the clock (open) and of all cores
(cpu), peak memory of the process and how much of it came after the imports.

    first    opening without a cache: every file is decoded, as it must be before a training
    fill     the same, and what was learnt is put into the cache
    second   opening with the cache: nothing is decoded; then the rows, mapped into memory, are checked and gone through
    judge    opening for `metapl evaluate`: no row of the training images is asked for
    lazy     one step's rows (160) of images that are decoded when needed, the median of 20
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WAYS = ("first", "fill", "second", "judge", "lazy")


def make(root: Path, count: int, side: int, form: str) -> None:
    """``count`` files, 40 in each of two classes, the others without a label in folders of 1000.

    A thousand images of noise, over and over; what makes each file another one is a number behind its end.
    """
    draw, suffix = np.random.default_rng(0), {"PNG": "png", "JPEG": "jpg"}[form]
    stored = []
    for _ in range(min(count, 1000)):
        buffer = io.BytesIO()
        Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(buffer, form)
        stored.append(buffer.getvalue())
    for k in range(count):
        folder = f"labelled/{'ab'[k % 2]}" if k < 80 else f"unlabelled/{k // 1000:03d}"
        if k <= 80 or k % 1000 == 0:
            (root / folder).mkdir(parents=True, exist_ok=True)
        with open(f"{root}/{folder}/{k:06d}.{suffix}", "wb") as file:
            file.write(stored[k % 1000] + k.to_bytes(8, "little"))


def measure(way: str, root: str) -> dict[str, Any]:
    """One opening in this process."""
    import resource

    from metapl.data.images.folder import FolderSource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, used = time.monotonic(), time.process_time()
    source = FolderSource(root, cache=way in ("fill", "second", "judge"), memory=0.0 if way == "lazy" else 4.0)
    source.fingerprint()
    found = {"open": round(time.monotonic() - began, 2), "cpu": round(time.process_time() - used, 2)}
    if way == "second":
        began = time.monotonic()
        held = source.held()
        assert held is not None
        for part in held.split(1024):
            part.sum()
        found["rows"] = round(time.monotonic() - began, 2)
    if way == "lazy":
        draw, times = np.random.default_rng(0), []
        for _ in range(20):
            began = time.monotonic()
            source.rows(draw.integers(0, len(source.ids), 160))
            times.append(time.monotonic() - began)
        found["step"] = round(float(np.median(times)), 4)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {**found, "peak_mib": round(peak / 1024), "growth_mib": round((peak - before) / 1024)}


def main() -> None:
    """Make the folders, measure each way in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", type=int, nargs="*", default=[25_000])
    parser.add_argument("--size", type=int, default=16)
    parser.add_argument("--form", choices=["PNG", "JPEG"], default="PNG")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--measure", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(measure(*asked.measure)))
        return
    print(json.dumps({"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}))
    for count in asked.counts:
        with tempfile.TemporaryDirectory(prefix="metapl-scale-") as folder:
            make(Path(folder) / "data", count, asked.size, asked.form)
            for way in asked.ways.split(","):
                command = [sys.executable, __file__, "--measure", way, str(Path(folder) / "data")]
                environment = {**os.environ, "METAPL_CACHE": str(Path(folder) / "cache")}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                kept = sum(path.stat().st_size for path in (Path(folder) / "cache").rglob("*") if path.is_file())
                row = {"images": count, "size": asked.size, "form": asked.form, "way": way, **json.loads(done.stdout)}
                print(json.dumps({**row, "cache_mib": round(kept / 2**20, 1)}), flush=True)


if __name__ == "__main__":
    main()

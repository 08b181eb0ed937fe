"""Memory, speed and restarts of ``metapl label`` on large pools; prints JSON.

    python benchmarks/label_scale.py FOLDER --rows 100000 1000000 --images 10000 100000

Tables of six numbers and one category as CSV, and JPEG images of 32 x 32 pixels, are made in FOLDER. Each pool is
labelled once unbroken, and the largest one again, killed twice by SIGKILL and continued. With ``--ray`` the largest one
is labelled once more by ``--engine ray`` on this machine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from PIL import Image

METAPL = [sys.executable, "-m", "metapl"]


def make_table(path: Path, rows: int, labels: bool = False) -> Path:
    """Write a CSV file with an id, six numbers, a category and, if asked for, a class."""
    draw = np.random.default_rng(rows)
    with open(path, "w", encoding="utf-8") as file:
        file.write("id," + ",".join(f"x{k}" for k in range(6)) + ",kind" + (",label" if labels else "") + "\n")
        for first in range(0, rows, 10_000):
            count = min(10_000, rows - first)
            numbers, kinds = draw.normal(size=(count, 6)), draw.integers(0, 4, count)
            for k in range(count):
                more = f",{'yes' if numbers[k, 0] + kinds[k] > 1.5 else 'no'}" if labels else ""
                file.write(f"r{first + k}," + ",".join(f"{v:.4f}" for v in numbers[k]) + f",k{kinds[k]}{more}\n")
    return path


def make_images(folder: Path, count: int) -> Path:
    """Write JPEG images into folders of 10,000."""
    draw = np.random.default_rng(count)
    for k in range(count):
        if k % 10_000 == 0:
            (inside := folder / f"{k // 10_000:03d}").mkdir(parents=True)
        coarse = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((32, 32)).save(inside / f"{k:07d}.jpg", quality=80)
    return folder


def train(data: Path, out: Path, *words: str) -> Path:
    """Train a small model."""
    more = ["--steps", "30", "guard.mode=off", "--no-report", "--quiet", *words]
    subprocess.run([*METAPL, "train", str(data), "--out", str(out), *more], check=True, capture_output=True)
    return out


def label(run: Path, pool: Path, out: Path, kill_at: int | None = None, engine: str = "local") -> dict[str, Any]:
    """Label the pool, killed after part ``kill_at`` where that is given; return seconds and peak memory in MB."""
    began = time.monotonic()
    words = [str(run), str(pool), "--out", str(out), "--engine", engine, "--quiet"]
    process = subprocess.Popen([*METAPL, "label", *words])
    while kill_at is not None and not (out / f"part-{kill_at:05d}.json").exists() and process.poll() is None:
        time.sleep(0.01)
    if kill_at is not None:
        process.send_signal(signal.SIGKILL)
    _, status, usage = os.wait4(process.pid, 0)
    assert kill_at is not None or status == 0
    return {"seconds": round(time.monotonic() - began, 1), "peak_mb": round(usage.ru_maxrss / 1024)}


def answers(out: Path) -> tuple[int, int, list[bytes]]:
    """Return the number of rows, the number of different ids, and the bytes of all parts."""
    parts = sorted(out.glob("part-*.parquet"))
    ids = [name for path in parts for name in parquet.read_table(path, columns=["id"])["id"].to_pylist()]
    return len(ids), len(set(ids)), [path.read_bytes() for path in parts]


def measure(run: Path, pools: dict[int, Path], folder: Path, ray: bool) -> dict[str, Any]:
    """Label each pool, and the largest one again with two kills and, if asked for, by Ray."""
    found: dict[str, Any] = {}
    for count, pool in pools.items():
        found[f"{count}"] = label(run, pool, folder / f"{pool.stem}-labels")
    most = max(pools)
    whole, cut = folder / f"{pools[most].stem}-labels", folder / f"{pools[most].stem}-killed"
    parts = len(list(whole.glob("part-*.parquet")))
    for kill_at in (parts // 4, parts // 2):
        label(run, pools[most], cut, kill_at)
    found["killed twice"] = label(run, pools[most], cut)
    (rows, ids, one), (_, _, other) = answers(whole), answers(cut)
    found |= {"rows": rows, "ids": ids, "parts": parts, "same after kills": one == other}
    if ray:
        by_ray = folder / f"{pools[most].stem}-ray"
        found["ray seconds"] = label(run, pools[most], by_ray, engine="ray")["seconds"]
        found["same by ray"] = answers(by_ray)[2] == one
    return found


def main() -> None:
    """Make the pools, label them, and print what it took."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--ray", action="store_true")
    given = parser.parse_args()
    folder = given.folder
    folder.mkdir(parents=True)
    run = train(make_table(folder / "train.csv", 300, labels=True), folder / "table-run", "--labels", "40")
    tables = {count: make_table(folder / f"rows-{count}.csv", count) for count in given.rows}
    print(json.dumps({"table": measure(run, tables, folder, given.ray)}), flush=True)
    labelled = folder / "photos"
    for name in ("labelled/dark", "labelled/light", "unlabelled"):
        make_images(labelled / name, 40)
    run = train(labelled, folder / "image-run", "--model", "small_cnn")
    images = {count: make_images(folder / f"images-{count}", count) for count in given.images}
    print(json.dumps({"images": measure(run, images, folder, given.ray)}), flush=True)


if __name__ == "__main__":
    main()

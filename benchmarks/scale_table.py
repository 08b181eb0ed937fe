"""Seconds and peak memory of opening a table of many rows: 8 columns of numbers, one of categories, the label.

    python benchmarks/scale_table.py [--rows 250000 500000 1000000 2000000] [--form csv|jsonl]

Prints one JSON object per line. Each size is opened in a process of its own: ``peak_mib`` is its
peak, ``imported_mib`` what it holds before it opens anything, ``tensor_mib`` what the rows themselves take.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MIB = 1 << 20


def write(path: Path, rows: int, form: str) -> None:
    """A made-up table; every tenth row has a label, one value in fifty is missing."""
    names = [f"n{k}" for k in range(8)]
    with open(path, "w", encoding="utf-8") as file:
        if form == "csv":
            file.write(",".join([*names, "c", "label"]) + "\n")
        for cells in lines(rows):
            if form == "csv":
                file.write(",".join(cells) + "\n")
            else:
                values = [float(v) if v else None for v in cells[:8]]
                file.write(json.dumps(dict(zip([*names, "c", "label"], [*values, *cells[8:]]))) + "\n")


def lines(rows: int) -> Iterator[list[str]]:
    """The cells of each row."""
    rng = np.random.default_rng(0)
    for start in range(0, rows, 10_000):
        n = min(10_000, rows - start)
        numbers, gone, levels = rng.normal(size=(n, 8)), rng.random((n, 8)) < 0.02, rng.integers(0, 20, n)
        for k in range(n):
            cells = ["" if missing else f"{value:.5f}" for value, missing in zip(numbers[k], gone[k])]
            label = "" if (start + k) % 10 else "yes" if numbers[k, 0] > 0 else "no"
            yield [*cells, f"level {levels[k]}", label]


def measure(path: str) -> dict[str, float]:
    """Open ``path`` here."""
    from metapl import open_source

    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began, worked = time.perf_counter(), time.process_time()
    source = open_source(path)
    opened, worked = time.perf_counter() - began, time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    source.fingerprint()
    rows = source.held()  # type: ignore[attr-defined]
    return {
        "rows": len(rows),
        "seconds": round(opened, 2),
        "cpu_seconds": round(worked, 2),  # the same, without waiting for other programs
        "cpu_microseconds_per_row": round(1e6 * worked / len(rows), 2),
        "fingerprint_seconds": round(time.perf_counter() - began, 2),
        "imported_mib": round(imported),
        "peak_mib": round(peak),
        "tensor_mib": round(rows.numel() * 4 / MIB),
        "bytes_per_row_above_import": round((peak - imported) * MIB / len(rows)),
    }


def main() -> None:
    """Each size in turn, each in its own process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, nargs="+", default=[250_000, 500_000, 1_000_000, 2_000_000])
    parser.add_argument("--form", choices=["csv", "jsonl"], default="csv")
    parser.add_argument("--open", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.open:
        print(json.dumps(measure(asked.open)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        for rows in asked.rows:
            path = Path(folder) / f"{rows}.{asked.form}"
            write(path, rows, asked.form)
            done = subprocess.run(
                [sys.executable, __file__, "--open", str(path)], check=True, capture_output=True, text=True
            )
            print(json.dumps({"file_mib": round(path.stat().st_size / MIB), **json.loads(done.stdout)}), flush=True)
            path.unlink()


if __name__ == "__main__":
    main()

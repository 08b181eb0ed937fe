"""Steps per second of one and of several processes; prints JSON.

    python benchmarks/procs_throughput.py 1 2 --model wrn-28-2 --steps 10

The digits, method mpl with its exact feedback, 32 labelled and 128 unlabelled rows per step. Each process has one
thread; ``1 (N threads)`` is one process with as many threads as the largest number of processes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def seconds(processes: int, threads: int, model: str, steps: int) -> float:
    """Return the seconds that ``steps`` steps take, start-up and judging left out."""
    words = ["digits", "--labels", "4", "--validation", "none", "--steps", str(steps), "--model", model]
    words += ["mpl.finetune_steps=0", "guard.mode=off", "loop.log_every=1000000", f"loop.save_every={steps}"]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "metapl", "train", *words, "--procs", str(processes), "--no-report", "--quiet"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run([*command, "--out", f"{folder}/run"], env=environment, check=True, capture_output=True)
        return float(json.loads((Path(folder) / "run" / "results.json").read_text())["seconds"])


def main() -> None:
    """Measure each number of processes, ``--repeats`` times in turn."""
    parser = argparse.ArgumentParser()
    parser.add_argument("processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--model", default="wrn-28-2")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    most = max(given.processes)
    cases = {str(count): (count, 1) for count in given.processes} | {f"1 ({most} threads)": (1, most)}
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(given.repeats):
        for name, (count, threads) in cases.items():
            times[name].append(seconds(count, threads, given.model, given.steps))
    rates = {name: [round(given.steps / taken, 3) for taken in found] for name, found in times.items()}
    median = {name: round(statistics.median(found), 3) for name, found in rates.items()}
    print(json.dumps({"model": given.model, "steps": given.steps, "steps_per_second": median, "each": rates}, indent=1))


if __name__ == "__main__":
    main()

"""A tuning that is killed or stopped goes on with the same command, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SEARCH = ("--search", "pseudo_label.threshold=0.3,0.5,0.7", "--search", "optim.lr=x3")
COMMAND = (
    *(sys.executable, "-m", "metapl", "tune", "digits", "--method", "pseudo_label", "--model", "mlp"),
    *("--labels", "3", "--folds", "2", "--steps", "30", "--device", "cpu", *SEARCH),
)
TRAININGS = 2 * (1 + 3 + 1)  # two folds of the default and four others; the best two together may come on top


def start(out: Path, workers: int) -> subprocess.Popen[str]:
    # One thread also where the trainings run in the command's own process: the same rounding.
    return subprocess.Popen(
        [*COMMAND, "--workers", str(workers), "--out", str(out)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(out: Path, workers: int) -> Any:
    with start(out, workers) as process:
        _, told = process.communicate()
    assert process.returncode == 0, told
    stored = json.loads((out / "results.json").read_text())
    return {k: v for k, v in stored.items() if k != "seconds"}


def lines(out: Path) -> list[str]:
    path = out / "trials.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def stop_after(out: Path, count: int, number: int) -> tuple[int, str]:
    """Start the command, send a signal when ``count`` trainings are stored; its exit code and what it said."""
    with start(out, 2) as process:
        while len(lines(out)) < count and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, told = process.communicate()
    return process.returncode, told


@pytest.mark.timeout(900)
def test_a_killed_tuning_goes_on_and_ends_as_the_unbroken_one(tmp_path: Path) -> None:
    cut = tmp_path / "cut"
    code, _ = stop_after(cut, 3, signal.SIGKILL)
    assert code == -signal.SIGKILL
    done = lines(cut)
    assert 3 <= len(done) < TRAININGS
    assert not (cut / "results.json").exists()
    with open(cut / "trials.jsonl", "a") as file:
        file.write('{"setting": {"optim.lr"')  # as a kill inside the write leaves it
    resumed = finish(cut, 2)
    assert lines(cut)[: len(done)] == done, "what was done is kept, and not done again"
    assert len(lines(cut)) >= TRAININGS
    assert resumed == finish(tmp_path / "whole", 1)


@pytest.mark.timeout(900)
def test_a_stop_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "t"
    code, told = stop_after(out, 1, signal.SIGINT)
    assert code == 130
    assert told.splitlines()[-1] == f"stopped. To go on, give the same command with --out {out}"
    assert "Traceback" not in told
    assert 1 <= len(lines(out)) < TRAININGS

"""A comparison that is stopped or killed goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from metapl.cli import main

WORDS = ["compare", "digits", "--labels", "4", "--methods", "supervised,mpl", "--seeds", "2", "--steps", "30"]
WORDS += ["batch.unlabeled=16", "mpl.finetune_steps=4", "loop.save_every=3", "--workers", "2", "--quiet"]
STOP: dict[str, tuple[Callable[[int], None], int]] = {
    "kill -9 of the group": (lambda pid: os.killpg(pid, signal.SIGKILL), -9),
    "kill -9 of the program": (lambda pid: os.kill(pid, signal.SIGKILL), -9),
    "Ctrl-C": (lambda pid: os.killpg(pid, signal.SIGINT), 130),
    "SIGTERM": (lambda pid: os.kill(pid, signal.SIGTERM), 143),
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("compare") / "whole"
    assert main([*WORDS, "--out", str(out)]) == 0
    return answer(out)


def answer(out: Path) -> dict[str, Any]:
    """What must not depend on how often it was stopped: everything but times and memory."""
    found = json.loads((out / "results.json").read_text())
    keep = ("method", "seed", "test_accuracy", "test_log_loss", "test_rows", "steps", "chosen", "split_sha")
    return {
        "runs": [{k: run[k] for k in keep} for run in found["runs"]],
        "verdict": found["verdict"],
        "models": [
            (out / "runs" / f"{run['method']}-{run['seed']}" / "model" / "weights.safetensors").read_bytes()
            for run in found["runs"]
        ],
    }


def start(out: Path, ready: Callable[[], bool]) -> subprocess.Popen[str]:
    """The command in a group of its own, once ``ready``."""
    command = [sys.executable, "-m", "metapl", *WORDS, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 200
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""
    return process


@pytest.mark.parametrize("how", STOP)
def test_stopped_midway(tmp_path: Path, unbroken: dict[str, Any], how: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    stop, code = STOP[how]
    process = start(out, lambda: any(out.glob("runs/*/checkpoints/step-*")))
    stop(process.pid)
    _, err = process.communicate(timeout=200)
    assert process.returncode == code, err
    assert not (out / "results.json").exists(), "stopped before the end"
    if code > 0:
        assert f"To go on: metapl resume {out}" in err
        assert "Traceback" not in err
        assert main(["resume", str(out), "--quiet"]) == 0
    else:
        assert main([*WORDS, "--out", str(out)]) == 0
    assert answer(out) == unbroken
    assert "table.md" in capsys.readouterr().out


def test_a_damaged_or_missing_result_is_made_again(tmp_path: Path, unbroken: dict[str, Any]) -> None:
    out = tmp_path / "out"
    assert main([*WORDS, "--out", str(out)]) == 0
    runs = out / "runs"
    (runs / "mpl-0" / "compared.json").write_text('{"format"')  # judged again
    (runs / "mpl-1" / "compared.json").unlink()
    (runs / "mpl-1" / "results.json").unlink()  # resumed from its last checkpoint
    (runs / "supervised-0" / "compared.json").unlink()
    (runs / "supervised-0" / "results.json").unlink()
    for state in runs.glob("supervised-0/checkpoints/*/tensors.safetensors"):  # trained again from the start
        state.write_bytes(state.read_bytes()[:100])
    shutil.rmtree(runs / "supervised-1")
    assert main([*WORDS, "--out", str(out)]) == 0
    assert answer(out) == unbroken

"""A process of several is lost, fails or is asked to stop: the run goes on, or all end with the reason."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from metapl.cli import main

WORDS = [
    "train",
    "digits",
    "--labels",
    "4",
    "--steps",
    "24",
    "optim.lr=0.001",
    "batch.unlabeled=16",
    "mpl.finetune_steps=4",
]
WORDS += ["guard.mode=off", "loop.save_every=3", "loop.keep=99", "--no-report"]
BROKEN = """
import os
from metapl.methods.supervised import Supervised
class Broken(Supervised):
    def step(self, batch, t):
        if t == 3 and os.environ.get("RANK") == "1":
            open("failed", "w").close()
            raise ArithmeticError("the second process cannot count")
        return super().step(batch, t)
"""


def start(*words: str, launcher: tuple[str, ...] = ("metapl",), folder: Path | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", *launcher, *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=folder)


def process_of(launcher: int, rank: int) -> int | None:
    """Return the process id of one of the launcher's processes, once it is there."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == launcher and f"RANK={rank}\0" in "\0" + (folder / "environ").read_text():
                return int(folder.name)
        except (OSError, ValueError):
            continue
    return None


def wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    while process.poll() is None and not (out / "checkpoints" / f"step-{step:08d}").is_dir():
        time.sleep(0.005)
    assert process.poll() is None, process.stderr.read() if process.stderr else ""


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "weights.safetensors")


def logged(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def check_same(out: Path, other: Path, bound: float) -> None:
    a, b = weights(out), weights(other)
    assert a.keys() == b.keys()
    assert max(float((a[n].double() - b[n].double()).abs().max()) for n in a) <= bound
    assert [row["step"] for row in logged(out)] == [row["step"] for row in logged(other)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "run"
    assert main([*WORDS, "--out", str(out), "--quiet"]) == 0
    return out


def lose_one(out: Path, rank: int, step: int, wait: float = 0.0) -> None:
    """Train with two processes, kill one of them ``wait`` seconds after ``step``, and wait for the end."""
    process = start(*WORDS, "--procs", "2", "--max-restarts", "1", "--out", str(out))
    wait_for_step(out, step, process)
    time.sleep(wait)
    pid = process_of(process.pid, rank)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    assert said.count("a process of this run was lost: all start again (restart 1 of 1)") == 1
    assert "resuming at step" in said


def test_a_killed_process_is_replaced(alone: Path, tmp_path: Path) -> None:
    lose_one(tmp_path / "run", 1, 6)
    check_same(tmp_path / "run", alone, 1e-5)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, alone: Path) -> Path:
    out = tmp_path_factory.mktemp("together") / "run"
    process = start(*WORDS, "--procs", "2", "--out", str(out))
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    check_same(out, alone, 1e-5)
    return out


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(20))
def test_any_process_may_be_killed_at_any_time(together: Path, tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    lose_one(tmp_path / "run", chance.randrange(2), 3 * chance.randrange(7), chance.random() / 10)
    check_same(tmp_path / "run", together, 0)


@pytest.mark.fault
@pytest.mark.parametrize("launcher", [("metapl",), ("torch.distributed.run", "--nproc-per-node", "2", "-m", "metapl")])
def test_an_error_of_one_process_stops_all_with_its_message(tmp_path: Path, launcher: tuple[str, ...]) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    words = [*WORDS, "--method", "broken:Broken", "--out", "run", *(["--procs", "2"] if len(launcher) == 1 else [])]
    words = [word for word in words if not word.startswith("mpl.")]
    process = start(*words, launcher=launcher, folder=tmp_path)
    _, said = process.communicate(timeout=900)
    assert process.returncode != 0
    assert time.time() - (tmp_path / "failed").stat().st_mtime < 30
    assert said.count("the second process cannot count") == 1
    assert "was lost" not in said


@pytest.mark.fault
def test_a_signal_reaches_all_and_one_process_goes_on(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start(*WORDS, "--procs", "2", "--out", str(out))
    wait_for_step(out, 6, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 143
    assert said.count("the state is saved") == 1
    assert main(["resume", str(out), "--no-report", "--quiet"]) == 0
    check_same(out, alone, 1e-5)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["train", "digits", "--max-restarts", "2"], "--max-restarts is for several processes"),
        (["methods"], "only train and resume run in several processes"),
    ],
)
def test_refusals(words: list[str], problem: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    if words == ["methods"]:
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    assert main(words) == 2
    assert problem in capsys.readouterr().err

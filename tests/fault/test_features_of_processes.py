"""What one process can, two can as well: ways back, the guard, bf16, resume and --continue, with the same result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_lost_processes import check_same, start

from metapl.cli import main

pytestmark = pytest.mark.fault

WORDS = ["train", "digits", "--labels", "4", "--steps", "12", "optim.lr=0.001", "batch.unlabeled=16"]
WORDS += ["loop.save_every=3", "loop.eval_every=6", "loop.keep=99", "--no-report"]
OFF = ["--guard", "off"]
DOOMED = """
from dataclasses import replace
import torch
from metapl.methods.supervised import Supervised
class Doomed(Supervised):
    def step(self, batch, t):
        if t == 4 and self.net.config.lr > 0.0003:
            bad = torch.ones(len(batch.x_l), *[1] * (batch.x_l.ndim - 1))
            bad[-1] = float("nan")  # one row, so that one process alone computes with it
            batch = replace(batch, x_l=batch.x_l * bad)
        return super().step(batch, t)
"""


def together(folder: Path, *words: str) -> str:
    """Run a command in two processes, and return what it says."""
    process = start(*words, "--procs", "2", folder=folder)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return said


def alone(folder: Path, *words: str) -> str:
    process = start(*words, folder=folder)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 0, said
    return said


def results(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "results.json").read_text())
    return found


def cut(run: Path, step: int) -> None:
    """Make a finished run one that was killed after ``step``."""
    (run / "results.json").unlink()
    for folder in (run / "checkpoints").iterdir():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)


def test_two_processes_go_back_after_a_nan(tmp_path: Path) -> None:
    (tmp_path / "doomed.py").write_text(DOOMED)
    words = [*WORDS, *OFF, "--method", "doomed:Doomed", "--out"]
    alone(tmp_path, *words, "one")
    said = together(tmp_path, *words, "two")
    rolled = results(tmp_path / "two")["rollbacks"]
    assert [(back["step"], back["to"], back["learning_rate"]) for back in rolled] == [(5, 3, 0.0005), (5, 3, 0.00025)]
    assert rolled == results(tmp_path / "one")["rollbacks"]
    assert said.count("the run went back to step 3") == 2
    check_same(tmp_path / "two", tmp_path / "one", 1e-5)
    cut(tmp_path / "two", 6)  # a stop after the ways back
    together(tmp_path, "resume", "two", "--trust-code", "--no-report")
    assert results(tmp_path / "two")["rollbacks"] == rolled
    check_same(tmp_path / "two", tmp_path / "one", 1e-5)


@pytest.mark.parametrize("mode", ["return", "warn"])
def test_the_guard_decides_as_with_one_process(mode: str, tmp_path: Path) -> None:
    words = [*WORDS, "--guard", mode, "--validation", "2", "--out"]
    alone(tmp_path, *words, "one")
    together(tmp_path, *words, "two")
    one, two = results(tmp_path / "one"), results(tmp_path / "two")
    assert one["guard"].keys() == two["guard"].keys()
    for name, value in one["guard"].items():
        if isinstance(value, str | bool | int):
            assert two["guard"][name] == value, name
    assert one["chosen"] == two["chosen"]
    check_same(tmp_path / "two", tmp_path / "one", 1e-5)
    assert {path.name for path in (tmp_path / "one").iterdir()} == {path.name for path in (tmp_path / "two").iterdir()}


def test_bf16(tmp_path: Path) -> None:
    """16 bits round the sums of a part differently from those of the whole, so runs are compared by their size."""
    words = [*WORDS, *OFF, "precision=bf16", "--out"]
    alone(tmp_path, *words, "one")
    together(tmp_path, *words, "two")
    a, b = (load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("one", "two"))
    assert a.keys() == b.keys()
    gap = max(float((a[key].double() - b[key].double()).abs().max()) for key in a if a[key].is_floating_point())
    assert 0 < gap < 0.02
    assert all(value.dtype == torch.float32 for value in b.values() if value.is_floating_point())
    shutil.copytree(tmp_path / "two", tmp_path / "cut")
    cut(tmp_path / "cut", 6)
    together(tmp_path, "resume", "cut", "--no-report")
    check_same(tmp_path / "cut", tmp_path / "two", 0)


def test_resume_with_other_numbers_of_processes(tmp_path: Path) -> None:
    words = [*WORDS, *OFF, "mpl.finetune_steps=4", "--validation", "1", "--out"]
    alone(tmp_path, *words, "one")
    together(tmp_path, *words, "two")
    check_same(tmp_path / "two", tmp_path / "one", 1e-5)
    for step in (0, 6, 12, 14):
        run = tmp_path / f"cut-{step}"
        shutil.copytree(tmp_path / "two", run)
        cut(run, step)
        said = together(tmp_path, "resume", run.name, "--no-report")
        assert "resuming at step" in said
        check_same(run, tmp_path / "two", 0)
    shutil.copytree(tmp_path / "one", tmp_path / "begun-alone")
    cut(tmp_path / "begun-alone", 6)
    together(tmp_path, "resume", "begun-alone", "--no-report")
    check_same(tmp_path / "begun-alone", tmp_path / "one", 1e-5)


@pytest.mark.parametrize("out", [(), ("--out", "two"), ("--out", "longer")])
def test_continue_in_two_processes(out: tuple[str, ...], tmp_path: Path) -> None:
    words = [*WORDS, *OFF, "--out"]
    alone(tmp_path, *words, "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    more = ["--steps", "20", "--no-report"]
    alone(tmp_path, "train", "--continue", "one", *more, "--out", "expected")
    together(tmp_path, "train", "--continue", "two", *more, *out)
    place = tmp_path / (out[1] if out else "runs/digits-mpl-0")
    assert results(place)["steps"] == 20
    check_same(place, tmp_path / "expected", 1e-5)


def test_refusals_of_continue_are_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*WORDS, *OFF, "--quiet", "--out", str(tmp_path / "run")]) == 0
    process = start("train", "--continue", "run", "--steps", "12", "--procs", "2", folder=tmp_path)
    _, said = process.communicate(timeout=900)
    assert process.returncode == 2
    assert said.count("the run has 12 steps already") == 1
    assert "lost" not in said

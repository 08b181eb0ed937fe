"""Run folders that were prepared, moved, shared or filled while metapl works in them: nothing foreign is touched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from metapl.cli import main
from metapl.training.job import Job

WORDS = ["train", "digits", "--labels", "4", "--steps", "8", "--guard", "off", "--no-report", "--quiet"]
WORDS += ["loop.save_every=2", "loop.keep=99", "mpl.finetune_steps=0", "--validation", "none"]
MINE = "my own notes\n"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([*WORDS, "--out", str(out)]) == 0
    return out


def cut(whole: Path, place: Path, step: int) -> Path:
    """Return a copy of the run as it is after a kill at ``step``; -1 is before the first checkpoint."""
    shutil.copytree(whole, place)
    (place / "results.json").unlink()
    shutil.rmtree(place / "model")
    for folder in (place / "checkpoints").iterdir():
        if int(folder.name[5:]) > step:
            shutil.rmtree(folder)
    return place


def resume(run: Path) -> int:
    return main(["resume", str(run), "--no-report", "--quiet"])


def weights(run: Path) -> bytes:
    return (run / "model" / "weights.safetensors").read_bytes()


def at_step(monkeypatch: pytest.MonkeyPatch, number: int, act: Any) -> None:
    step = Job.step

    def acting(job: Job, t: int) -> Any:
        if t == number:
            act()
        return step(job, t)

    monkeypatch.setattr(Job, "step", acting)


def test_the_name_of_a_holder_is_not_written_through_a_link(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text(MINE)
    run = cut(whole, tmp_path / "run", 4)
    (run / ".lock.holder").symlink_to(tmp_path / "precious")
    assert resume(run) == 0
    assert (tmp_path / "precious").read_text() == MINE
    assert weights(run) == weights(whole)


@pytest.mark.parametrize("kind", ["link", "folder"])
def test_a_lock_that_is_not_a_file(kind: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").write_text(MINE)
    run = cut(whole, tmp_path / "run", 4)
    (run / ".lock").unlink(missing_ok=True)
    (run / ".lock").symlink_to(tmp_path / "precious") if kind == "link" else (run / ".lock").mkdir()
    assert resume(run) == 2
    assert ".lock: the lock is not a file of its own" in capsys.readouterr().err
    assert (tmp_path / "precious").read_text() == MINE


def test_damaged_locks_do_no_harm(whole: Path, tmp_path: Path) -> None:
    run = cut(whole, tmp_path / "run", 4)
    (run / ".lock").write_bytes(b"\0\xff" * 500)
    (run / ".lock.holder").mkdir()
    assert resume(run) == 0
    assert weights(run) == weights(whole)


@pytest.mark.parametrize("every", [1, 100])
def test_a_run_folder_that_is_moved_while_it_trains(
    every: int, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        at_step(patch, 5, lambda: (tmp_path / "run").rename(tmp_path / "moved"))
        assert main([*WORDS, f"loop.log_every={every}", "--out", str(tmp_path / "run")]) == 2
    assert "run: the run folder was moved or removed. If it was moved, go on there with" in capsys.readouterr().err
    assert not (tmp_path / "run").exists(), "it is not made anew"
    assert resume(tmp_path / "moved") == 0
    assert weights(tmp_path / "moved") == weights(whole)


def test_a_run_is_reached_by_a_link(whole: Path, tmp_path: Path) -> None:
    run = cut(whole, tmp_path / "run", 4)
    (tmp_path / "link").symlink_to(run)
    assert resume(tmp_path / "link") == 0
    assert weights(run) == weights(whole)
    assert main(["evaluate", str(tmp_path / "link")]) == 0
    assert (run / "evaluation.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_killed_before_its_first_checkpoint(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``train --out`` advises ``resume`` here, so ``resume`` must go on."""
    run = cut(whole, tmp_path / "run", -1)
    assert main([*WORDS, "--out", str(run)]) == 2
    assert "`metapl resume`" in capsys.readouterr().err
    assert resume(run) == 0
    assert weights(run) == weights(whole)
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", ["config.yaml", "env.json", "split.json", "checkpoints"])
def test_a_disk_that_fills_at_the_start_leaves_no_dead_end(
    name: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if name in str(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert main([*WORDS, "--out", str(tmp_path / "run")]) == 2
    assert "No space left on device" in capsys.readouterr().err
    if name == "env.json":  # the folder is still empty
        assert main([*WORDS, "--out", str(tmp_path / "run")]) == 0
        return
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 2
    advised = "`metapl resume`" in capsys.readouterr().err
    assert advised == (name == "checkpoints"), "a folder without settings is not called a stopped run"
    if advised:
        assert resume(tmp_path / "run") == 0
        assert weights(tmp_path / "run") == weights(whole)


@pytest.mark.parametrize("size", [1_000, 60_000])
def test_a_limit_on_the_size_of_files(size: int, tmp_path: Path) -> None:
    code = f"""
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))
from metapl.cli import main
sys.exit(main({WORDS!r} + ["--out", "run"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "File too large" in done.stderr
    assert "run/" in done.stderr
    assert not [path for path in (tmp_path / "run").rglob("*") if "tmp" in path.name]


def test_a_clock_that_jumps(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, sign = time.time, [1]

    def jumping() -> float:
        sign[0] = -sign[0]
        return real() + sign[0] * 1e7

    monkeypatch.setattr(time, "time", jumping)
    assert main([*WORDS, "--out", str(tmp_path / "run")]) == 0
    assert weights(tmp_path / "run") == weights(whole)


def test_figures_of_a_run_that_may_only_be_read(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)

    def refuse(path: Path, value: Any) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr("metapl.inference.run_evaluation.write_json", refuse)
    assert main(["evaluate", str(run)]) == 0
    said = capsys.readouterr()
    assert "the run's test rows" in said.out
    assert "the figures are not stored in" in said.err
    assert "Read-only file system" in said.err
    assert not (run / "evaluation.json").exists()


def test_foreign_files_in_a_model_folder_are_not_read(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "model" / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    (run / "model" / "pytorch_model.bin").write_bytes(b"\x80\x04cos\nsystem\n")
    (run / "model" / "more.safetensors").write_bytes(b"no tensors")
    assert main(["predict", str(run), "digits", "--out", str(tmp_path / "p.csv")]) == 0
    assert main(["predict", str(whole), "digits", "--out", str(tmp_path / "q.csv")]) == 0
    assert (tmp_path / "p.csv").read_bytes() == (tmp_path / "q.csv").read_bytes()
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_run_is_not_taken(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other"
    assert main([*WORDS, "--seed", "1", "--out", str(other)]) == 0
    run = cut(whole, tmp_path / "run", 4)
    shutil.copytree(other / "checkpoints" / "step-00000008", run / "checkpoints" / "step-00000006")
    shutil.copytree(other / "checkpoints" / "step-00000008", run / "checkpoints" / "step-00000008")
    assert main(["resume", str(run), "--no-report"]) == 0
    said = capsys.readouterr().err
    assert "belongs to another run" in said
    assert "resuming at step 4" in said
    assert weights(run) == weights(whole)


def test_two_label_commands_on_one_folder(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow")
    import numpy as np

    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'left' if a < b else 'right'}" for a, b in rng.normal(size=(60, 2))]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    words = ["train", str(tmp_path / "rows.csv"), "--labels", "4", "--steps", "1", "--guard", "off", "--no-report"]
    assert main([*words, "--quiet", "--out", str(tmp_path / "run")]) == 0
    label = ["label", str(tmp_path / "run"), str(tmp_path / "rows.csv"), "--out", str(tmp_path / "labels")]
    from metapl.inference import label_pool

    inner, write = list[int](), label_pool.write_json

    def meanwhile(path: Path, value: Any) -> None:
        if not inner:
            inner.append(0)
            inner[0] = main(label)
        write(path, value)

    monkeypatch.setattr(label_pool, "write_json", meanwhile)
    assert main(label) == 0
    assert inner == [2]
    assert "another program is at work in this folder" in capsys.readouterr().err

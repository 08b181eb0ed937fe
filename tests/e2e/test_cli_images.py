"""Large and odd sets of images through the commands: nothing decoded in vain, and lazily what does not fit."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import QUICK, Call, sums

from metapl.data.images import store


@pytest.fixture
def tree(data: Path, tmp_path: Path) -> Path:
    shutil.copytree(data / "tree", tmp_path / "tree")
    return tmp_path / "tree"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths that a source decodes from here on."""
    paths: list[str] = []
    original = store.decode_many

    def spied(given: list[object], *args: object, **options: object) -> object:
        paths.extend(map(str, given))
        return original(given, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "decode_many", spied)
    return paths


@pytest.mark.parametrize("cache", ["true", "false"])
def test_evaluate_decodes_no_training_image(call: Call, tree: Path, cache: str, decoded: list[str]) -> None:
    (tree / "unlabelled" / "broken.png").write_text("no")
    assert call("train", tree, "--out", "run", *QUICK, f"source.image.cache={cache}").code == 0
    assert len(set(decoded)) > 100
    decoded.clear()
    assert call("evaluate", "run").code == 0
    assert decoded
    assert all("/test/" in path for path in decoded)
    before = json.loads(Path("run/evaluation.json").read_text())
    Path("run/problems.csv").unlink()  # without the list of bad images all may have to be looked at again
    assert call("evaluate", "run").code == 0
    assert json.loads(Path("run/evaluation.json").read_text()) == before
    shutil.copy(next((tree / "test").rglob("*.png")), tree / "unlabelled" / "new.png")
    changed = call("evaluate", "run")
    assert changed.code == 2
    assert "data changed" in changed.err


def test_evaluate_notices_a_repaired_or_changed_training_image(call: Call, tree: Path) -> None:
    assert call("train", tree, "--out", "run", *QUICK).code == 0
    first, second = sorted((tree / "unlabelled").rglob("*.png"))[:2]
    shutil.copy(second, first)
    done = call("evaluate", "run")
    assert done.code == 2
    assert "data changed" in done.err


def test_every_command_with_images_that_are_not_held(call: Call, tree: Path, tmp_path: Path) -> None:
    before = sums(tree)
    lazy = ("source.image.memory=0", "source.image.size=9x7", "source.image.resize=pad")
    done = call("train", tree, "--out", "run", *QUICK, *lazy)
    assert done.code == 0, done.err
    assert "decoded when needed" in done.err
    card = json.loads(Path("run/model/model.json").read_text())
    assert card["preprocessing"]["shape"] == [1, 9, 7]
    assert card["preprocessing"]["resize"] == "pad"
    assert call("evaluate", "run").code == 0
    assert call("predict", "run", tree / "test", "--out", "out.csv").code == 0
    methods = ("--methods", "fixmatch", "--seeds", "1", "--steps", "4")
    done = call("compare", tree, *methods, "--out", "cmp", *lazy)
    assert done.code == 0, done.err
    assert sums(tree) == before


def test_a_training_that_fails_while_it_reads_ahead_ends_at_once(tree: Path, tmp_path: Path) -> None:
    """The images go away after the second step: one line, code 2, and the process ends."""
    program = f"""
import shutil, sys
from pathlib import Path
from metapl.data.batches.stream import Stream
make = Stream.__call__
def spoil(self, step, needs):
    if step == 2:
        shutil.rmtree({str(tree / "unlabelled")!r})
    return make(self, step, needs)
Stream.__call__ = spoil
from metapl.cli import main
words = ["train", {str(tree)!r}, "--out", "run", "--method", "fixmatch", "--steps", "50", "--guard", "off"]
sys.exit(main([*words, "source.image.memory=0", "batch.labeled=4", "batch.unlabeled=8", "model=small_cnn"]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False
    )
    assert run.returncode == 2, run.stderr
    assert "can no longer be read" in run.stderr
    assert "Traceback" not in run.stderr

"""What the command line says to every mistake: one line with the cause and the remedy, exit code 2, nothing written."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import QUICK, Call, refused, save, sums, table

from metapl import cli


def folder(root: Path, **classes: int) -> Path:
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            save(np.full((8, 8), 40 * k), root / name / f"{k}.png")
    return root


MISTAKES: dict[str, tuple[Callable[[Path], tuple[object, ...]], tuple[str, ...]]] = {
    "empty class": (lambda p: ("train", folder(p / "d", cat=3, dog=0), "--labels", "1"), ("dog", "remove the folder")),
    "no unlabelled rows": (lambda p: ("train", folder(p / "d", cat=4, dog=4)), ("no unlabelled rows", "labels")),
    "unlabelled folder empty": (
        lambda p: ("train", folder(p / "d", **{"labelled/cat": 2, "labelled/dog": 2, "unlabelled": 0})),
        ("unlabelled", "Put images there"),
    ),
    "one class only": (lambda p: ("train", folder(p / "d", cat=4), "--labels", "1"), ("one class", "two classes")),
    "no such path": (lambda p: ("train", p / "nowhere"), ("nowhere", "no such file or folder")),
    "misspelt source": (lambda p: ("train", "digts"), ("digts", "Did you mean 'digits'?")),
    "no data": (lambda p: ("train",), ("no data", "Give a folder of images")),
    "fewer labels than classes": (
        lambda p: ("train", "digits", "--labels-total", "3"),
        ("below the 10 classes", "at least 10"),
    ),
    "more labels than rows": (lambda p: ("train", "digits", "--labels", "900"), ("900", "at most")),
    "unknown option": (lambda p: ("train", "digits", "--step", "3"), ("--step", "--steps", "--help")),
    "unknown command": (lambda p: ("trian", "digits"), ("trian", "Did you mean 'train'?")),
    "steps and minutes": (
        lambda p: ("train", "digits", "--steps", "9", "--minutes", "1"),
        ("--steps", "one of the two"),
    ),
    "endless": (lambda p: ("train", "digits", "--minutes", "inf"), ("minutes", "a number")),
    "no number": (lambda p: ("train", "digits", "--steps", "many"), ("--steps", "metapl train --help")),
    "unknown method": (lambda p: ("train", "digits", "--method", "fixmatsch"), ("Did you mean 'fixmatch'?",)),
    "unknown model": (
        lambda p: ("train", "digits", "--labels", "2", "--model", "convent"),
        ("Did you mean 'convnet'?",),
    ),
    "unknown key": (lambda p: ("train", "digits", "optim.lrr=1"), ("optim.lrr", "Did you mean 'optim.lr'?")),
    "no value": (lambda p: ("train", "digits", "optim.lr"), ("optim.lr", "key=value")),
    "wrong value": (lambda p: ("train", "digits", "mpl.feedback=both"), ("mpl.feedback", "'exact'")),
    "no such config": (lambda p: ("train", "--config", p / "no.yaml"), ("no.yaml", "Check the path")),
    "unusable device": (lambda p: ("train", "digits", "--labels", "2", "--device", "tpu"), ("tpu", "auto, cpu")),
    "JSON nowhere": (lambda p: ("train", "digits", "--json", p / "no" / "x.json"), ("x.json", "existing folder")),
    "full output folder": (
        lambda p: ("train", "digits", "--labels", "2", "--out", folder(p / "full", a=1)),
        ("full", "not empty", "Name another"),
    ),
    "evaluate no run": (lambda p: ("evaluate", folder(p / "d", a=1)), ("not a run folder", "train")),
    "resume no run": (lambda p: ("resume", p / "nothing"), ("not a run folder",)),
    "predict without run": (lambda p: ("predict", p / "nothing", "digits"), ("not a run folder",)),
    "missing argument": (lambda p: ("evaluate",), ("RUN", "metapl evaluate --help")),
    "unknown method to list": (lambda p: ("methods", "mlp"), ("Did you mean 'mpl'?",)),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_and_leaves_nothing(call: Call, tmp_path: Path, mistake: str) -> None:
    make, parts = MISTAKES[mistake]
    words = make(tmp_path)
    before = sums(tmp_path)
    refused(call(*words), *parts)
    assert sums(tmp_path) == before
    assert not (tmp_path / "here" / "runs").exists()


def test_too_many_unreadable_images(call: Call, tmp_path: Path) -> None:
    root = folder(tmp_path / "d", cat=12, dog=12)
    bad = [f"cat/{k}.png" for k in range(6)]
    for name in bad:
        (root / name).write_text("broken")
    done = call("train", root, "--labels", "2")
    refused(done, "6 of 24 images cannot be read", "cat/0.png", "Repair or remove")
    assert os.listdir() == []
    assert call("train", root, "--labels", "2", "source.image.allow_bad=true", "--out", "run", *QUICK).code == 0
    assert [r["id"] for r in table(Path("run/problems.csv").read_text())] == bad


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("nowhere",), ("nowhere", "neither a source nor a path")),
        (("./nowhere",), ("nowhere", "no such file or folder")),
        (("EMPTY",), ("no image", "Give a folder with images")),
        (("BROKEN",), ("no row can be read", "broken.png")),
        (("digits", "--out", "no/such/folder.csv"), ("folder.csv", "existing folder")),
    ],
)
def test_predict_mistakes(call: Call, tree_run: Path, words: tuple[str, ...], parts: tuple[str, ...]) -> None:
    Path("EMPTY").mkdir()
    Path("BROKEN").mkdir()
    Path("BROKEN/broken.png").write_text("no")
    refused(call("predict", tree_run, *words, *([] if "--out" in words else ["--out", "p.csv"])), *parts)
    assert set(os.listdir()) == {"EMPTY", "BROKEN"}


def test_a_run_without_test_rows_says_what_to_do(call: Call, data: Path) -> None:
    done = call("train", data / "plain", "--labels", "5", "split.test=0", *QUICK, "--out", "run")
    assert "LABELLED_DATA" in done.out
    refused(call("evaluate", "run"), "no test rows", "metapl evaluate RUN DATA")


def test_debug_shows_the_traceback(call: Call) -> None:
    for words in (("--debug", "train", "nowhere"), ("train", "nowhere", "--debug")):
        done = call(*words)
        assert done.code == 2
        assert "Traceback" in done.err
        assert done.err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in call("train", "nowhere").err


def test_a_bug_is_written_to_a_log_that_is_named(
    call: Call, digits_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from metapl.inference import run_evaluation

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("the [sky]\nfell")

    monkeypatch.setattr(run_evaluation, "judge_own", broken)
    monkeypatch.setattr(cli, "_own_code", lambda error: "")  # as if a line of metapl had raised
    done = call("evaluate", digits_run)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "unexpected RuntimeError: the [sky] fell" in line
    (log,) = digits_run.glob("metapl-error-*.log")
    assert str(log) in line
    assert "Traceback" in log.read_text()
    log.unlink()
    monkeypatch.setattr(cli.tempfile, "tempdir", str(tmp_path))
    assert call("evaluate", tmp_path).code == 1  # no run folder: the log goes to the folder for temporary files
    assert len(list(tmp_path.glob("metapl-error-*.log"))) == 1


def test_whose_line_raised_is_told_by_the_traceback() -> None:
    """A bug of metapl must not be put down to its user: what called it here is this file, and then nobody's."""
    from metapl.thresholds import fit_temperature

    with pytest.raises(AttributeError) as caught:
        fit_temperature(None, None)  # type: ignore[arg-type]
    error = caught.value
    assert cli._own_code(error).startswith(f"{__file__}, line ")
    assert error.__traceback__ is not None
    assert cli._own_code(error.with_traceback(error.__traceback__.tb_next)) == ""


def test_a_warning_is_one_short_line(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from metapl.config import help

    def warned(name: str) -> str:
        warnings.warn("mind the\ngap [here]", UserWarning, stacklevel=1)
        return name

    monkeypatch.setattr(help, "summary", warned)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        done = call("methods", "mpl")
    assert done.code == 0
    assert set(done.err.splitlines()) == {"note: mind the gap [here]"}


def test_a_full_disk_is_no_bug(call: Call, tree_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metapl.inference import run_evaluation

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "/x/[y]")

    monkeypatch.setattr(run_evaluation, "judge_own", full)
    refused(call("evaluate", tree_run), "No space left on device: '/x/[y]'", "free space")

"""Commands, real images and finished runs for the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import CLASSES, QUICK, Call, Done, save
from sklearn.datasets import load_digits, load_sample_images

from metapl.cli import main


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run one command in an empty working folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(*words: object) -> Done:
        capsys.readouterr()
        code = main([str(w) for w in words])
        seen = capsys.readouterr()
        return Done(code, seen.out, seen.err)

    return run


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real images: the digits 0 to 2 as a tree, as plain class folders and as new ones; crops of two photographs."""
    root, digits = tmp_path_factory.mktemp("data"), load_digits()
    keep = [(i, int(t)) for i, t in zip(digits.images, digits.target) if t < len(CLASSES)]
    for k, (image, t) in enumerate(keep[:150]):
        part = f"labelled/{CLASSES[t]}" if k < 30 else "unlabelled/deep/er" if k < 110 else f"test/{CLASSES[t]}"
        save(image * 15.9, root / "tree" / part / f"{k}.png")
        save(image * 15.9, root / "plain" / CLASSES[t] / f"{k}.png")
    for k, (image, _) in enumerate(keep[150:170]):
        save(image * 15.9, root / "new" / f"box [{k % 3}]" / f"x {k}.png")
    for name, photo in zip(("temple", "flower"), load_sample_images().images):
        for k in range(12):
            top, left = divmod(k, 4)
            save(photo[100 * top : 100 * top + 100, 120 * left : 120 * left + 100], root / "photos" / name / f"{k}.jpg")
    return root


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on digits, long enough to have learnt something."""
    out = tmp_path_factory.mktemp("runs") / "digits"
    assert (
        main(
            [
                "train",
                "digits",
                "--method",
                "supervised",
                "--labels",
                "8",
                "--steps",
                "60",
                "--out",
                str(out),
                "--quiet",
                "--no-report",
            ]
        )
        == 0
    )
    return out


@pytest.fixture(scope="session")
def tree_run(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A finished run of mpl on the labelled / unlabelled / test tree."""
    out = tmp_path_factory.mktemp("runs") / "tree [1]"
    assert main(["train", str(data / "tree"), *QUICK, "--out", str(out), "--quiet"]) == 0
    return out

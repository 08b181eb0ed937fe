"""A ``~`` at the beginning of a path is the home folder, wherever a path comes in."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import QUICK, Call

import metapl
from metapl.config.settings import make_config

TABLE = "".join(f"{k % 7},{k % 5},{'ab'[k % 2] if k < 24 else ''}\n" for k in range(60))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place, here = tmp_path / "home", tmp_path / "here"
    for folder in (place, here):
        folder.mkdir(exist_ok=True)
    (place / "rows.csv").write_text("x,z,label\n" + TABLE, encoding="utf-8")
    (place / "judge.csv").write_text("x,z,label\n1,2,a\n3,3,b\n", encoding="utf-8")
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(place))
    monkeypatch.chdir(here)
    return place


def test_paths_of_every_command(call: Call, home: Path) -> None:
    trained = call("train", "~/rows.csv", *QUICK, "--out=~/run", "--json=~/run.json")
    assert trained.code == 0, trained.err
    for command in (
        ("predict", "~/run", "~/rows.csv", "--out=~/new.csv"),
        ("evaluate", "~/run", "~/judge.csv", "--json", "~/judged.json"),
        ("check", "~/rows.csv", "--out=~/check"),
        ("train", "--config=~/run/config.yaml", "--out", "~/again"),
    ):
        done = call(*command)
        assert done.code == 0, done.err
    assert not any(Path.cwd().iterdir())
    made = {"run", "run.json", "new.csv", "judged.json", "check", "again"}
    own = {".cache", ".config"}  # matplotlib's, where no earlier test has imported it
    assert {p.name for p in home.iterdir()} - own == made | {"rows.csv", "judge.csv"}


def test_paths_of_the_functions(home: Path) -> None:
    config = make_config("~/rows.csv", options={"steps": 3, "method": "supervised"}, overrides=["batch.labeled=4"])
    result = metapl.train(config, "~/run")
    assert result.folder == home / "run"
    assert result.save("~/copy") == home / "copy"
    assert metapl.load_model("~/copy").class_names == ("a", "b")
    model = metapl.SemiSupervisedClassifier("supervised", steps=3)
    model.fit([[0.0, 1.0], [1.0, 0.0], [0.5, 1.0], [1.0, 0.2]] * 4, [0, 1] * 8)
    assert model.save("~/model") == home / "model"
    assert metapl.SemiSupervisedClassifier.load("~/model").classes_.tolist() == [0, 1]
    metapl.check("~/rows.csv").save("~/check")
    assert not any(Path.cwd().iterdir())
    with pytest.raises(metapl.UserError, match="not empty") as told:
        model.save("~/model")
    assert "resume" not in str(told.value)

"""Every file in examples/ runs from beginning to end, with few steps, and writes nothing but the run it is told to."""

from __future__ import annotations

import importlib.util
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from commands import sums

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "dataframe": ["metapl, 60 labels", "logistic regression", "cross-validation"],
    "own_method": ["test rows"],
    "own_modality": ["test signals", "new signals"],
    "own_module": ["test rows", "unlabelled rows now have a label"],
    "photos": ["test images", "unlabelled"],
    "questions": ["test questions", "How many legs has a spider?"],
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        return module

    return run


def test_every_example_is_here() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {*SAID, "onnx_predict"}  # test_cli_export.py runs the last one


@pytest.mark.parametrize("name", SAID)
def test_it_runs(
    name: str, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(name)
    monkeypatch.setattr(module, "STEPS", 5)
    place, words = tmp_path / "data", list[Any]()
    if name == "photos":
        words = [module.make_folder(place), tmp_path / "run", module.STEPS]
    elif name == "questions":
        place.mkdir()
        words = [module.make_file(place / "rows.csv")]
    given, examples = sums(place), sums(EXAMPLES)
    module.main(*words)
    told = capsys.readouterr().out
    assert not [word for word in SAID[name] if word not in told], told
    assert sums(place) == given, "the user's own data are only read"
    assert sums(EXAMPLES) == examples
    assert {p.name for p in tmp_path.iterdir()} <= {"here", "data", "run"}
    assert not list(Path.cwd().iterdir())


def test_photos_of_ones_own(load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run lands where the command is given, not among the photographs."""
    folder = load("photos").make_folder(tmp_path / "data")
    given = sums(folder)
    monkeypatch.setattr(sys, "argv", ["photos.py", str(folder)])
    monkeypatch.setattr("metapl.fit", lambda folder, steps, out, progress: sys.exit(f"{folder} to {out}"))
    with pytest.raises(SystemExit, match="data to photos-run"):
        runpy.run_path(str(EXAMPLES / "photos.py"), run_name="__main__")
    assert sums(folder) == given

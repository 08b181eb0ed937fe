"""Every file in examples/ runs from beginning to end, with few steps, and writes nothing beside itself."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "dataframe": ["metapl, 60 labels", "logistic regression", "cross-validation"],
    "own_module": ["test rows", "unlabelled rows now have a label"],
    "photos": ["test images", "unlabelled"],
    "questions": ["test questions", "How many legs has a spider?"],
}


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)

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
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {*SAID, "own_method"}  # own_method: unit/test_own_method.py


@pytest.mark.parametrize("name", ["dataframe", "own_module"])
def test_from_python(name: str, load, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = load(name)
    monkeypatch.setattr(module, "STEPS", 5)
    module.main()
    told = capsys.readouterr().out
    assert not [word for word in SAID[name] if word not in told], told
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("name", ["photos", "questions"])
def test_from_files(
    name: str, load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = load(name)
    monkeypatch.setattr(module, "STEPS", 5)
    place = tmp_path / "data"
    module.main(module.make_folder(place) if name == "photos" else module.make_file(place.with_suffix(".csv")))
    told = capsys.readouterr().out
    assert not [word for word in SAID[name] if word not in told], told

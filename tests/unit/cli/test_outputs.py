"""Every file that a command writes: a foreign one is refused and stays as it is; --overwrite replaces it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer

from metapl.cli import app, main

INPUTS = {"--config", "--corrections", "--from", "--import"}  # these name a FILE that is read
SHORT = ["--labels", "4", "--steps", "1"]
MINE = "my own notes\n"


def outputs(metavar: str) -> set[tuple[str, str]]:
    """Return (command, option) of every option that the parser shows with ``metavar``, without inputs."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return {
        (name, parameter.opts[0])
        for name, command in commands.items()
        for parameter in command.params
        if parameter.param_type_name == "option" and parameter.metavar == metavar and parameter.opts[0] not in INPUTS
    }


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a table, a run trained on it, and the weights of a network."""
    folder = tmp_path_factory.mktemp("outputs")
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{'left' if a < b else 'right'}" for a, b in rng.normal(size=(60, 2))]
    (folder / "rows.csv").write_text("\n".join(["a,b,label", *rows]) + "\n")
    for name in ("run", "other"):
        words = ["train", str(folder / "rows.csv"), *SHORT, "--guard", "off", "--no-report", "--quiet"]
        assert main([*words, "--out", str(folder / name)]) == 0
    return folder


@pytest.fixture
def here(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("run", "other"):
        shutil.copytree(place / name, tmp_path / name)
    shutil.copy(place / "rows.csv", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if not path.name.startswith(".lock")]


def stop_early(folder: Path) -> None:
    """Turn a finished run into one that was killed at its very end."""
    (folder / "run" / "results.json").unlink()


def weights(folder: Path) -> None:
    from safetensors.torch import save_file
    from timm import create_model

    save_file(create_model("test_resnet", num_classes=1000).state_dict(), folder / "weights.safetensors")


TRAIN = ["rows.csv", *SHORT, "--quiet"]
FILES: dict[tuple[str, str], tuple[list[str], str, Callable[[Path], None] | None]] = {
    ("demo", "--json"): (["demo", "--quiet"], "out.json", None),
    ("train", "--json"): (["train", *TRAIN, "--guard", "off", "--no-report", "--out", "new"], "out.json", None),
    ("resume", "--json"): (["resume", "run", "--no-report", "--quiet"], "out.json", stop_early),
    ("evaluate", "--json"): (["evaluate", "run"], "out.json", None),
    ("check", "--json"): (["check", "rows.csv", "--quiet"], "out.json", None),
    ("compare", "--json"): (
        ["compare", *TRAIN, "--methods", "supervised", "--seeds", "1", "--workers", "1", "--out", "new"],
        "out.json",
        None,
    ),
    ("tune", "--json"): (
        ["tune", *TRAIN, "--method", "supervised", "--search", "optim.lr=0.1", "--workers", "1", "--out", "new"],
        "out.json",
        None,
    ),
    ("label", "--json"): (["label", "run", "rows.csv", "--quiet", "--out", "new"], "out.json", None),
    ("methods", "--json"): (["methods"], "out.json", None),
    ("models", "--json"): (["models"], "out.json", None),
    ("models", "--out"): (
        ["models", "fetch", "timm:test_resnet", "--from", "weights.safetensors"],
        "out.safetensors",
        weights,
    ),
    ("predict", "--out"): (["predict", "run", "rows.csv"], "out.csv", None),
    ("report", "--out"): (["report", "run", "other"], "out.html", None),
    ("review", "--export"): (["review", "run"], "out.csv", None),
    ("export", "--out"): (["export", "run", "--format", "torch-export"], "out.pt2", None),
}
FOLDERS: dict[tuple[str, str], list[str]] = {
    ("demo", "--out"): ["demo", "--quiet"],
    ("train", "--out"): ["train", *TRAIN],
    ("compare", "--out"): ["compare", *TRAIN, "--methods", "supervised", "--seeds", "1"],
    ("tune", "--out"): ["tune", *TRAIN, "--method", "supervised", "--search", "optim.lr=0.1"],
    ("check", "--out"): ["check", "rows.csv", "--quiet"],
    ("label", "--out"): ["label", "run", "rows.csv", "--quiet"],
}


def test_every_output_of_the_parser_is_in_the_tables() -> None:
    assert outputs("FILE") == FILES.keys()
    assert outputs("DIR") == FOLDERS.keys()


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.slow if key[0] == "export" else ()) for key in FILES], ids="".join
)
def test_a_foreign_file_is_refused_and_overwrite_replaces_it(
    key: tuple[str, str], here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words, name, prepare = FILES[key]
    monkeypatch.setattr("metapl.api.demo.run_demo", lambda *given: {"rows": []})  # a minute long
    monkeypatch.setattr("metapl.utils.printing.demo", lambda result: "")
    if prepare is not None:
        prepare(here)
    (here / name).write_text(MINE)
    before = names(here)
    assert main([*words, key[1], name]) == 2
    assert f"{name}: the file exists already. Name another, or add --overwrite." in capsys.readouterr().err
    assert (here / name).read_text() == MINE
    assert names(here) == before
    assert main([*words, key[1], name, "--overwrite"]) == 0, capsys.readouterr().err
    assert (here / name).read_bytes() != MINE.encode()


@pytest.mark.parametrize("key", FOLDERS, ids="".join)
def test_a_foreign_folder_is_never_replaced(
    key: tuple[str, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "check.json").write_text(MINE)
    (here / "note").write_text(MINE)
    for name in ("mine", "note"):
        assert main([*FOLDERS[key], key[1], name, "--overwrite"]) == 2
        assert f"{name}: " in capsys.readouterr().err
    assert [path.name for path in (here / "mine").iterdir()] == ["check.json"]
    assert (here / "mine" / "check.json").read_text() == MINE
    assert (here / "note").read_text() == MINE


@pytest.mark.parametrize(
    "words",
    [
        ["check", "rows.csv", "--json", "rows.csv"],
        ["check", "rows.csv", "--json=./rows.csv"],
        ["check", "csv:rows.csv", "--json", "rows.csv"],
        ["predict", "run", "rows.csv", "--out", "rows.csv"],
        ["train", "--config", "run/config.yaml", "--json", "run/config.yaml"],
    ],
    ids=" ".join,
)
def test_an_input_is_never_replaced(words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main([*words, "--overwrite"]) == 2
    assert "the file is named twice. A result may not replace what it is made from." in capsys.readouterr().err
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_a_link_is_replaced_and_not_what_it_leads_to(here: Path) -> None:
    (here / "precious").write_text(MINE)
    (here / "out.json").symlink_to(here / "precious")
    assert main(["methods", "--json", "out.json"]) == 2
    assert main(["methods", "--json", "out.json", "--overwrite"]) == 0
    assert (here / "precious").read_text() == MINE
    assert not (here / "out.json").is_symlink()

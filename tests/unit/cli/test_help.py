"""Every command's help has examples that work, and ``metapl`` alone says what to do next."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import typer

from metapl.cli import app, main
from metapl.cli.home import home_text

GROUP: Any = typer.main.get_command(app)
TOP: Any = GROUP.make_context("metapl", ["--help"], resilient_parsing=True)
COMMANDS = GROUP.list_commands(TOP)


def examples(name: str) -> list[str]:
    text = GROUP.get_command(TOP, name).help or ""
    return re.findall(r"^ +(metapl .+)$", text.partition("Examples:")[2], re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_has_two_examples_that_parse(name: str) -> None:
    found = examples(name)
    assert len(found) >= 2, name
    for line in found:
        _, verb, *words = shlex.split(line)
        assert verb == name
        command: Any = GROUP.get_command(TOP, verb)
        context: click.Context = command.make_context(f"metapl {verb}", words, parent=TOP)
        assert context.params, line


@pytest.mark.parametrize("line", [line for name in ("methods", "models") for line in examples(name) if ":" not in line])
def test_the_examples_that_need_no_data_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(shlex.split(line)[1:]) == 0
    assert len(capsys.readouterr().out.splitlines()) > 3


def test_alone_in_an_empty_folder_it_says_how_to_begin(tmp_path: Path) -> None:
    text = home_text(tmp_path)
    assert "To begin:" in text
    assert "metapl demo" in text


def test_alone_it_looks_at_what_lies_there(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("x,label\n1,a\n")
    (tmp_path / "my photos" / "cat").mkdir(parents=True)
    (tmp_path / "my photos" / "cat" / "1.JPG").touch()
    for name, files in {"a": ["config.yaml"], "b": ["config.yaml", "results.json"]}.items():
        (tmp_path / "runs" / name).mkdir(parents=True)
        for file in files:
            (tmp_path / "runs" / name / file).touch()
    lines = home_text(tmp_path).splitlines()
    commands = [line.strip() for line in lines if line.startswith("  metapl")]
    assert any(c.startswith("metapl check people.csv") for c in commands)
    assert any(c.startswith("metapl check 'my photos'") for c in commands)
    assert any(c.startswith("metapl resume runs/a") for c in commands)
    assert any(c.startswith("metapl evaluate runs/b") for c in commands)


def test_pictures_of_pages_runs_and_comparisons_are_not_data(tmp_path: Path) -> None:
    for folder, file in {
        "docs/img": "",
        "my-run/figures": "my-run/config.yaml",
        "both": "both/comparison.json",
    }.items():
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.png").touch()
        if file:
            (tmp_path / file).touch()
    assert "metapl check" not in home_text(tmp_path).replace("metapl check DATA", "")


def test_tab_completion_is_there() -> None:
    options = {name for parameter in GROUP.params for name in parameter.opts}
    assert {"--install-completion", "--show-completion"} <= options

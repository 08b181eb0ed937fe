"""The commands on the page about trained models can be given as they stand, and its Python runs."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer

from metapl.cli import app

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
STORED = ROOT / "tests" / "fixtures" / "runs-0.1.0" / "table"
COMMANDS: list[str] = re.findall(r"^    (?:.* \| )?(metapl .*)$", PAGE, re.MULTILINE)


def test_the_page_has_commands() -> None:
    assert {words.split()[1] for words in COMMANDS} == {"predict", "serve", "export"}


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_can_be_given(line: str) -> None:
    group: Any = typer.main.get_command(app)
    top = group.make_context("metapl", ["--help"], resilient_parsing=True)
    _, verb, *words = shlex.split(line, comments=True)
    assert group.get_command(top, verb).make_context(f"metapl {verb}", words, parent=top).params


def test_its_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(STORED / "model", "my-run/model")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    rows = {"width": [0.5, None], "weight": [1.0, 2.0], "colour": ["red", None], "size": ["large", "large"]}
    exec(compile(code, "deploy.md", "exec"), {"rows": rows})
    assert len(re.findall(r"0\.\d+", capsys.readouterr().out)) == 6

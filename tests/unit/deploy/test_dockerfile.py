"""The instructions of the Dockerfile are known, copy files that exist, and call metapl as it can be called."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import typer

from metapl.cli import app

ROOT = Path(__file__).parents[3]
KNOWN = {"FROM", "ARG", "RUN", "COPY", "ENV", "USER", "EXPOSE", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT"}
TEXT = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
LINES = [line for line in TEXT.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]


def all_of(name: str) -> list[str]:
    return [line.partition(" ")[2] for line in LINES if line.split()[0] == name]


def test_every_instruction_is_known_and_it_begins_with_one_stage_and_ends_with_another() -> None:
    assert {line.split()[0] for line in LINES} <= KNOWN
    assert LINES[0].startswith("FROM python:")
    assert all("slim" in base for base in all_of("FROM"))


def test_what_is_copied_exists_and_holds_what_an_installation_needs() -> None:
    given = [name for line in all_of("COPY") if not line.startswith("--from") for name in line.split()[:-1]]
    assert all((ROOT / name).exists() for name in given)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"pyproject.toml", "src", project["readme"], *project["license-files"]} <= set(given)
    extras = re.findall(r"EXTRAS=([\w,]+)", TEXT)
    assert {name for listed in extras for name in listed.split(",")} <= set(project["optional-dependencies"])
    torch = next(need for need in project["dependencies"] if need.startswith("torch"))
    assert f'"{torch}"' in TEXT


def test_it_runs_without_root_rights() -> None:
    assert all_of("USER")[-1].isdigit()
    assert all_of("USER")[-1] != "0"
    last = max(k for k, line in enumerate(LINES) if line.startswith(("RUN", "COPY")))
    assert next(k for k, line in enumerate(LINES) if line.startswith("USER")) > last, "nothing is installed after it"


def test_its_command_and_its_check_are_sound() -> None:
    words = json.loads(all_of("ENTRYPOINT")[0])
    group: Any = typer.main.get_command(app)
    top = group.make_context("metapl", ["--help"], resilient_parsing=True)
    command = group.get_command(top, words[1])
    parsed = command.make_context("metapl serve", words[2:], parent=top).params
    assert str(parsed["port"]) == all_of("EXPOSE")[0]
    check = json.loads(all_of("HEALTHCHECK")[0].removeprefix("CMD "))
    compile(check[2], "HEALTHCHECK", "exec")
    assert f":{parsed['port']}/health" in check[2]
    for line in all_of("RUN"):
        assert shlex.split(line)

"""Options that train, compare and tune share, and the settings that they stand for."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import typer

from metapl.cli import app, main
from metapl.cli.options import TrainOptions

TRAINING = ("train", "compare", "tune")


def options_of(command: str) -> dict[str, Any]:
    """Name to the option or argument of a command."""
    commands: Any = typer.main.get_command(app)
    return {p.name: p for p in commands.commands[command].params}


def test_commands_that_train_have_the_same_shared_options() -> None:
    shared = [f.name for f in dataclasses.fields(TrainOptions)]
    first = options_of(TRAINING[0])
    for command in TRAINING:
        found = options_of(command)
        for name in shared:
            assert (found[name].opts, found[name].help) == (first[name].opts, first[name].help), (command, name)
            assert found[name].default == first[name].default
        assert list(found)[:2] == ["data", "settings"]
    assert {"encoder", "steps", "quiet", "labels", "config", "json"} <= set(shared)
    assert {"method", "guard"} <= options_of("train").keys() & options_of("tune").keys()
    assert "guard" not in options_of("compare"), "a comparison shows each method as it is"


def test_the_settings_that_options_stand_for() -> None:
    keys = TrainOptions(encoder="timm:x", labels=3, validation="0.2", model="timm:y", download=True).keys(method="uda")
    given = {key: value for key, value in keys.items() if value is not None}
    assert given == {
        "source.encoder.name": "timm:x", "split.labels": 3, "split.validation": 0.2, "model": "timm:y",
        "source.download": True, "download": True, "method": "uda",
    }  # fmt: skip
    assert not any(value is not None for value in TrainOptions().keys().values())


@pytest.mark.filterwarnings("default::FutureWarning")
@pytest.mark.parametrize("command", TRAINING)
def test_an_old_key_is_named_once(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [command, "digits", "source.image_size=8", "--steps", "2", "--labels", "4", "--out", "x", "--quiet"]
    more = {
        "train": ["--guard", "off"],
        "compare": ["--methods", "supervised,uda", "--seeds", "1", "--workers", "1"],
        "tune": ["--search", "views.ops=1", "--method", "uda", "--folds", "2", "--workers", "1"],
    }
    words += more[command]
    assert main(words) == 0
    told = capsys.readouterr().err
    assert told.count("source.image_size is now source.image.size; the old name still works") == 1, told

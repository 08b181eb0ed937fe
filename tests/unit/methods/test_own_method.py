"""Methods that are not in the table: named as package.module:Class, with settings in the group ``own``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from metapl.comparison.specs import Base, configure, parse
from metapl.config.settings import from_dict, known_keys, make_config, to_dict
from metapl.errors import UserError
from metapl.methods import method_class
from metapl.runs.model_folder import load_model
from metapl.training.loop import Stopped, resume, train
from metapl.tuning.space import tunable

EXAMPLES = Path(__file__).parents[3] / "examples"
NAME = "own_method:EntropyMinimisation"
OPTIONS = {"method": NAME, "steps": 8, "split.labels": 4, "batch.unlabeled": 16, "device": "cpu", "loop.save_every": 4}


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_settings_stand_in_a_group_of_their_own() -> None:
    config = make_config("digits", options={**OPTIONS, "own.weight": 0.5})
    assert config.settings.weight == 0.5
    assert from_dict(to_dict(config)) == config
    assert "own.weight" in known_keys(NAME)
    assert "own.weight" in tunable(config)
    with pytest.raises(UserError, match=r"own\.wait.*weight"):
        make_config("digits", options={**OPTIONS, "own.wait": 1})
    with pytest.raises(UserError, match=r"unknown setting .own\.weight"):
        make_config("digits", overrides=["own.weight=1"])


def test_it_trains_resumes_and_is_stored_like_any_other(tmp_path: Path) -> None:
    config = make_config("digits", options=OPTIONS)
    whole = train(config, tmp_path / "whole")
    assert whole.summary["method"] == NAME

    def stop(done: int, _: object) -> dict[str, float]:
        raise Stopped(tmp_path / "cut", done, 15) if done > 4 else KeyError(done)

    cut = replace(config, loop=replace(config.loop, eval_every=5))
    with pytest.raises(Stopped):
        train(cut, tmp_path / "cut", observe=stop)
    again = resume(tmp_path / "cut")
    for a, b in zip(whole.predictor.model.parameters(), again.predictor.model.parameters()):
        assert torch.equal(a, b)
    loaded = load_model(tmp_path / "whole")
    assert loaded.class_names == whole.predictor.class_names


def test_a_free_run_folder_is_named_by_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert train(make_config("digits", options=OPTIONS)).folder == Path("runs/digits-EntropyMinimisation-0")


def test_it_is_compared_with_settings_behind_a_second_colon() -> None:
    plain, other = parse(f"{NAME},{NAME}:weight=0.9+optim.lr=0.02")
    base = Base(data="digits", options={"split.labels": 4})
    assert configure(base, plain).settings.weight == 0.3
    config = configure(base, other)
    assert (config.settings.weight, config.optim.lr) == (0.9, 0.02)
    with pytest.raises(UserError, match="Class2"):
        parse("own_method:Class2")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("no_such_module:X", "cannot import"),
        ("own_method:Nothing", "cannot import"),
        (":X", "cannot import"),
        ("own_method:torch", "lacks Config"),
        ("metapl.types:Method.step", "lacks"),
        ("entropy", r"Or give package\.module:Class"),
    ],
)
def test_what_is_no_method_is_told(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        method_class(name)

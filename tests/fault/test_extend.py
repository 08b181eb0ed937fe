"""A finished run that goes on: in a new folder or its own, like any other run from there, killed or not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_kills import ONE_EACH, die_at_step, few, go_on, in_a_child, network
from test_nan import config_of

from metapl.cli import main
from metapl.config.settings import load_config
from metapl.errors import UserError
from metapl.optim import OptimConfig
from metapl.runs import checkpoint
from metapl.runs.folder import Metrics
from metapl.training.loop import Result, extend, train
from methods_table import BY_NAME, assert_same


def finished(folder: Path, name: str = "mpl-exact", **changes: Any) -> Result:
    return train(replace(config_of(BY_NAME[name], model="own"), **changes), folder, source=few(), network=network)


def longer(run: Path, steps: int, out: Path | None = None) -> Result:
    return extend(run, steps, out, source=few(), network=network)


def weights(folder: Path) -> bytes:
    return (folder / "model" / "weights.safetensors").read_bytes()


def test_with_a_constant_rate_it_is_the_longer_run(tmp_path: Path) -> None:
    """Nothing else in fixmatch depends on the length, so the extended run equals one of that length."""
    constant = {"optim": OptimConfig(schedule="constant")}
    whole = finished(tmp_path / "whole", "fixmatch", steps=14, **constant)
    finished(tmp_path / "run", "fixmatch", steps=8, **constant)
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    made = longer(tmp_path / "run", 14, tmp_path / "more")
    assert weights(made.folder) == weights(whole.folder)
    found, wanted = ([r for r in Metrics(m.folder).read() if r["step"] != 8] for m in (made, whole))
    assert found == wanted
    assert {p: p.read_bytes() for p in before} == before, "the run itself is left as it was"
    assert (made.summary["steps"], made.summary["resumed_at"]) == (14, 8)
    in_place = longer(tmp_path / "run", 14, tmp_path / "run")
    assert in_place.folder == tmp_path / "run"
    assert weights(tmp_path / "run") == weights(whole.folder)


@pytest.mark.parametrize("name", ["mpl-exact", *(pytest.param(n, marks=pytest.mark.fault) for n in ONE_EACH)])
def test_every_method_goes_on(name: str, tmp_path: Path) -> None:
    finished(tmp_path / "run", name)
    one = longer(tmp_path / "run", 13, tmp_path / "one")
    extra = one.summary["extra_steps"]
    assert [line["step"] for line in one.history] == list(range(1, 14 + extra))
    assert load_config(one.folder / "config.yaml").steps == 13
    assert all(torch.isfinite(t).all() for t in one.predictor.model.state_dict().values())
    two = longer(tmp_path / "run", 13, tmp_path / "run")
    assert_same(one.predictor.model.state_dict(), two.predictor.model.state_dict())
    again = longer(tmp_path / "one", 20, tmp_path / "twice")
    assert again.summary["steps"] == 20


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("place", ["new", "own"])
def test_a_longer_run_that_is_killed_is_resumed(place: str, tmp_path: Path) -> None:
    finished(tmp_path / "run")
    whole = longer(tmp_path / "run", 14, tmp_path / "whole")
    out = tmp_path / "run" if place == "own" else tmp_path / "new"
    in_a_child(lambda: longer(tmp_path / "run", 14, out), die_at_step(11))
    assert not (out / "results.json").exists()
    go_on(out)()
    assert weights(out) == weights(whole.folder)


def test_a_kill_while_it_is_made_ready_leaves_the_finished_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(tmp_path / "run")
    before = weights(tmp_path / "run")

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("metapl.runs.extension.save_config", killed)
        with pytest.raises(KeyboardInterrupt):
            longer(tmp_path / "run", 14, tmp_path / "run")
    go_on(tmp_path / "run")()
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 8
    assert weights(tmp_path / "run") == before


def test_what_cannot_be_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    finished(run)
    with pytest.raises(UserError, match="has 8 steps already"):
        longer(run, 8)
    for words, said in (
        (["--labels", "3"], "split.labels is given beside --continue"),
        (["digits"], "DATA is given beside --continue"),
        (["--method", "uda"], "--method is given"),
        (["optim.lr=1"], "KEY=VALUE is given"),
    ):
        assert main(["train", *words, "--continue", str(run), "--steps", "9"]) == 2
        assert said in capsys.readouterr().err
    assert main(["train", "--continue", str(run)]) == 2
    assert "--continue needs --steps" in capsys.readouterr().err
    for folder in (run / "checkpoints").iterdir():
        (folder / "tensors.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"the state of step 8 cannot be read \(the file is damaged"):
        longer(run, 14)
    (run / "results.json").unlink()
    with pytest.raises(UserError, match="has not finished"):
        longer(run, 14)
    assert checkpoint.steps(run / "checkpoints") == [8, 9, 12]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, more = tmp_path / "run", tmp_path / "more"
    quick = ["--guard", "off", "--no-report", "--quiet", "--model", "mlp", "--method", "fixmatch"]
    assert main(["train", "digits", "--labels", "2", "--steps", "2", *quick, "--out", str(run)]) == 0
    assert main(["train", "--continue", str(run), "--steps", "4", "--out", str(more), "--no-report", "--quiet"]) == 0
    assert "trained fixmatch (mlp) for 4 steps; resumed at step 2" in capsys.readouterr().out

"""A run folder or a comparison from elsewhere runs no Python code that its files name, unless the user says so."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import pytest

from metapl.cli import main
from metapl.config.settings import make_config
from metapl.data.batches.stream import Stream
from metapl.training.loop import Stopped, train

CODE = """
from pathlib import Path
from metapl.models import build_model
Path("ran").touch()

def network(shape, num_classes):
    return build_model("small_cnn", shape, num_classes)
"""


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stopped run whose network is code in the working folder, which has not run since."""
    sys.modules.pop("foreign_network", None)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("foreign_network.py").write_text(CODE)
    config = make_config(
        "digits",
        options={"model": "foreign_network:network", "steps": 6, "guard.mode": "off", "split.labels": 2},
        overrides=["batch.labeled=8", "batch.unlabeled=8", "mpl.finetune_steps=2"],
    )
    whole = Stream.__call__

    def wrapped(self: Stream, t: int, needs: object) -> object:
        if t == 2:
            signal.raise_signal(signal.SIGTERM)
        return whole(self, t, needs)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "__call__", wrapped)
        with pytest.raises(Stopped):
            train(config, "run")
    Path("ran").unlink()
    sys.modules.pop("foreign_network")
    return Path("run")


def test_resume_asks_before_it_runs_code(stopped: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["resume", str(stopped), "--quiet"]) == 2
    assert "foreign_network:network" in capsys.readouterr().err
    assert not Path("ran").exists()
    assert main(["resume", str(stopped), "--quiet", "--trust-code", "--no-report"]) == 0
    assert Path("ran").exists()


@pytest.mark.parametrize("key", ["method", "teacher_model"])
def test_other_keys_that_name_code(stopped: Path, key: str) -> None:
    import yaml

    tree = yaml.safe_load((stopped / "config.yaml").read_text())
    tree |= {"model": "small_cnn", key: "foreign_network:network"}
    (stopped / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main(["resume", str(stopped), "--quiet"]) == 2
    assert not Path("ran").exists()


@pytest.mark.parametrize("row", [{"model": "foreign_network:network"}, {"peer": {"name": "foreign_network:network"}}])
def test_a_comparison_asks_too(stopped: Path, row: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    Path("c").mkdir()
    Path("c/comparison.json").write_text(json.dumps({"asked": {"rows": {"mpl": {"method": "mpl", **row}}}}))
    assert main(["resume", "c", "--quiet"]) == 2
    assert "foreign_network:network" in capsys.readouterr().err
    assert not Path("ran").exists()
    shutil.rmtree("c")

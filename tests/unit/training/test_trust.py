"""Code that a stored folder names runs only when the user says so: neither imported nor called before."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import metapl
from metapl.config.settings import make_config
from metapl.errors import UserError
from metapl.inference.run_evaluation import judge_other, judge_own
from metapl.inference.run_predictions import predict_to
from metapl.models.own import is_code
from metapl.runs.model_folder import load_model
from metapl.utils.files import seal

OPTIONS = {
    "method": "supervised",
    "model": "linear",
    "steps": 2,
    "split.labels": 4,
    "batch.unlabeled": 16,
    "device": "cpu",
    "guard.mode": "off",
}
CODE = """
from pathlib import Path
from torch import nn
from metapl.methods import Supervised

NOTE = Path(__file__).with_name("ran.txt")
NOTE.write_text("imported")

def net(shape=(1, 8, 8), num_classes=10):
    NOTE.write_text("called")
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes or 5))

class Mine(Supervised):
    pass
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What the module ``of_another`` writes when it is imported, and when its function is called."""
    (tmp_path / "of_another.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "of_another", raising=False)  # of an earlier test
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "ran.txt"


def trained(folder: Path, **options: object) -> Path:
    metapl.train(make_config("digits", options={**OPTIONS, **options}), folder)
    return folder


def forget(ran: Path) -> None:
    """As in a later process."""
    del sys.modules["of_another"]
    ran.unlink()


def put(file: Path, **changes: object) -> None:
    """Change a stored card or config, and seal the card again, as whoever plants a name can do."""
    text = file.read_text()
    facts = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    facts = {**facts, **changes}
    if facts.pop("seal", None):
        facts["seal"] = seal(facts)
    file.write_text(json.dumps(facts))


@pytest.mark.parametrize("name", ["of_another:net", "of_another:Mine", "of_another:NOTE", "of_another:gone"])
def test_a_name_slipped_into_a_model_is_not_even_imported(name: str, ran: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    put(run / "model" / "model.json", model=name)
    uses = [
        lambda: load_model(run),
        lambda: judge_own(run, "cpu"),
        lambda: judge_other(run, "digits", "cpu"),
        lambda: predict_to(run, "digits", str(tmp_path / "out.csv"), False, "cpu"),
    ]
    for use in uses:
        with pytest.raises(UserError, match=f"asks to run the Python code '{name}'.*--trust-code"):
            use()
    assert not ran.exists()


def test_a_network_of_ones_own_needs_one_word(ran: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", model="of_another:net")
    assert ran.read_text() == "called"
    forget(ran)
    with pytest.raises(UserError, match="If you trust it, add --trust-code"):
        load_model(run)
    assert not ran.exists()
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    given = load_model(run, network=net)
    assert not ran.exists()
    raw = torch.randint(0, 255, (3, 1, 8, 8), dtype=torch.uint8)
    assert torch.equal(load_model(run, trust_code=True).probabilities(raw), given.probabilities(raw))
    assert judge_own(run, "cpu", trust_code=True)[0]["rows"] > 0


def test_an_encoder_too(ran: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", **{"source.encoder.name": "of_another:net"})
    forget(ran)
    raw = torch.randint(0, 255, (3, 1, 8, 8), dtype=torch.uint8)
    with pytest.raises(UserError, match="asks to run the Python code 'of_another:net'"):
        load_model(run)
    assert not ran.exists()
    assert load_model(run, trust_code=True).probabilities(raw).shape == (3, 10)
    assert judge_own(run, "cpu", trust_code=True)[0]["rows"] > 0


def test_an_encoder_slipped_into_the_settings(ran: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run")
    source = yaml.safe_load((run / "config.yaml").read_text())["source"]
    put(run / "config.yaml", source={**source, "encoder": "of_another:net"})
    with pytest.raises(UserError, match="asks to run the Python code 'of_another:net'"):
        judge_own(run, "cpu")
    assert not ran.exists()


def test_a_trained_model_does_without_its_method(ran: Path, tmp_path: Path) -> None:
    run = trained(tmp_path / "run", method="of_another:Mine")
    forget(ran)
    assert judge_own(run, "cpu")[0]["rows"] > 0
    predict_to(run, "digits", str(tmp_path / "out.csv"), False, "cpu")
    assert not ran.exists()
    put(run / "config.yaml", method="of_another:gone")
    assert judge_own(run, "cpu")[0]["rows"] > 0
    assert not ran.exists()


def test_what_is_code() -> None:
    names = ("timm:resnet18", "torchvision:resnet18", "hf:C:/models", "given:Net", "mlp", "auto", "")
    assert not any(map(is_code, names))
    assert all(map(is_code, ("http.server:test", "package.timm:net", ":x", "x:", "hfx:y")))


def test_networks_of_the_library_need_no_word(tmp_path: Path) -> None:
    result = metapl.train(make_config("digits", options=OPTIONS), tmp_path / "run")
    rows = result.source.rows(np.arange(3))
    assert torch.equal(load_model(tmp_path / "run").probabilities(rows), result.predictor.probabilities(rows))

"""Networks of other packages and frozen encoders, through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import CLASSES, QUICK, Call, refused, table

pytest.importorskip("timm")


def test_a_network_of_timm_with_weights_from_a_file(call: Call, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metapl.models import build_model

    torch.save(build_model("timm:test_resnet", (3, 32, 32), 9).state_dict(), "first.pth")
    options = ("--model", "timm:test_resnet", "weights=first.pth", "source.image.size=32", "--method", "fixmatch")
    done = call("train", data / "tree", *options, *QUICK[:4], "--guard", "off", "--out", "run")
    assert done.code == 0, done
    assert "3 input channels made 1; new head (fc.weight, fc.bias)" in done.err
    run = Path("run").resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")  # the run knows where its data lie
    judged = call("evaluate", run, "--json", "-")
    assert json.loads(judged.out)["rows"] == 40
    answers = table(call("predict", run, data / "new").out)
    assert len(answers) == 20
    assert {row["label"] for row in answers} <= set(CLASSES)


def test_a_head_on_a_frozen_encoder(call: Call, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from metapl.models import build_model

    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    torch.save(build_model("timm:test_resnet", (3, 32, 32), 9).state_dict(), "encoder.pth")
    options = ("source.encoder.weights=encoder.pth", "source.encoder.size=32", "--guard", "return")
    done = call("train", data / "tree", "--encoder", "timm:test_resnet", *options, *QUICK[:5], "--out", "run")
    assert done.code == 0, done
    assert "features of timm:test_resnet" in done.err
    run = Path("run").resolve()
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    judged = call("evaluate", run, "--json", "-")
    assert json.loads(judged.out)["rows"] == 40
    answers = table(call("predict", run, data / "new").out)
    assert len(answers) == 20
    (run.parent / "encoder.pth").unlink()
    refused(call("predict", run, data / "new"), "no such file of weights", "encoder.pth")


def test_code_that_a_run_names_runs_when_it_is_trusted(
    call: Call, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = "from torch import nn\n\ndef net(shape, num_classes):\n    "
    made += "return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))\n"
    (tmp_path / "my_nets.py").write_text(made)
    monkeypatch.syspath_prepend(str(tmp_path))
    done = call("train", data / "tree", "--model", "my_nets:net", *QUICK, "--quiet", "--out", "run")
    assert done.code == 0, done
    refused(call("evaluate", "run"), "the Python code 'my_nets:net'", "--trust-code")
    refused(call("predict", "run", data / "new"), "the Python code 'my_nets:net'", "--trust-code")
    assert json.loads(call("evaluate", "run", "--trust-code", "--json", "-").out)["rows"] == 40
    assert len(table(call("predict", "run", data / "new", "--trust-code").out)) == 20


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--model", "timm:test_resnt"), ("timm has no network 'test_resnt'", "Did you mean test_resnet")),
        (("--model", "timm:test_vit", "source.image.size=20"), ("cannot take these rows", "source.image.size")),
        (("--model", "small_cnn", "weights=gone.pth"), ("no such file of weights",)),
        (("--model", "small_cnn", "download=true"), ("nothing can be downloaded for 'small_cnn'",)),
        (("--encoder", "timm:test_resnt"), ("timm has no network 'test_resnt'",)),
        (("--encoder", "hf:gone"), ("holds no network of transformers",)),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    call: Call, data: Path, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    done = call("train", data / "tree", *words, "--quiet", "--out", "run")
    assert done.code == 2, done
    assert all(part in done.err for part in parts), done.err
    assert not Path("run").exists()


def test_names_of_other_packages(call: Call) -> None:
    listed = json.loads(call("models", "--json", "-").out)
    assert {"timm:NAME", "torchvision:NAME", "hf:FOLDER"} <= listed.keys()
    assert "timm:test_resnet" in call("models", "timm:test_").out.split()
    refused(call("models", "timm:nothing-like-it"), "no network with 'nothing-like-it'")
    refused(call("models", "resnet18"), "Give timm:PART or torchvision:PART")

"""The way of photographs on the command line: weights fetched into a file, an encoder, a head."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import Call
from PIL import Image

from metapl.config import photographs
from metapl.models import lite0


def test_weights_are_fetched_from_a_file_and_the_next_line_is_said(call: Call, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    file, out = tmp_path / "given.pth", tmp_path / "out.safetensors"
    torch.save(timm.create_model("test_resnet").state_dict(), file)
    done = call("models", "fetch", "timm:test_resnet", "--from", file, "--out", out, "--json", "-")
    assert done.code == 0, done.err
    facts = json.loads(done.out)
    assert facts["use"] == f"--encoder timm:test_resnet source.encoder.weights={out}"
    again = call("models", "fetch", "timm:test_resnet", "--from", file, "--out", out)
    assert again.code == 2
    assert "exists already" in again.err
    for words in (("fetch",), ("fetch", "timm:test_resnet"), ("timm:test_resnet", "--out", out)):
        done = call("models", *words)
        assert done.code == 2
        assert "metapl models fetch" in done.err


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Colour images of 80 x 72 pixels, two classes that differ in colour, with a few test images."""
    draw = np.random.default_rng(0)
    for part, count in (("labelled", 4), ("test", 3)):
        for name, level in (("dark", 40), ("light", 160)):
            folder = tmp_path / "photos" / part / name
            folder.mkdir(parents=True)
            for k in range(count):
                pixels = (draw.integers(0, 60, (80, 72, 3)) + level).astype("uint8")
                Image.fromarray(pixels).save(folder / f"{k}.png")
    (tmp_path / "photos" / "unlabelled").mkdir()
    for k in range(8):
        pixels = (draw.integers(0, 60, (80, 72, 3)) + (40, 160)[k % 2]).astype("uint8")
        Image.fromarray(pixels).save(tmp_path / "photos" / "unlabelled" / f"{k}.png")
    return tmp_path / "photos"


SHORT = ("--steps", 4, "--device", "cpu", "--guard", "off")


@pytest.mark.skipif(not lite0.is_installed(), reason="the package of lite0 is not installed")
def test_photographs_get_the_pretrained_encoder_and_are_told_so(
    call: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    done = call("train", photos, "--out", tmp_path / "run", *SHORT)
    assert done.code == 0, done.err
    assert "the pretrained encoder lite0 is used" in done.err + done.out
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert (config["source"]["encoder"]["name"], config["model"]) == ("lite0", "head")
    done = call("evaluate", tmp_path / "run", "--json", "-")
    assert done.code == 0, done.err
    assert json.loads(done.out)["rows"] == 6
    done = call("predict", tmp_path / "run", photos / "unlabelled")
    assert done.code == 0, done.err
    assert len(done.out.splitlines()) == 9
    done = call("train", photos, "--model", "small_cnn", "--out", tmp_path / "small", *SHORT)
    assert done.code == 0, done.err
    assert "lite0" not in done.err + done.out


@pytest.mark.skipif(not lite0.is_installed(), reason="the package of lite0 is not installed")
def test_compare_and_tune_take_the_encoder_too_unless_a_row_names_a_network(
    call: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    short = ("--steps", 4, "--device", "cpu", "--workers", 1)
    for folder, methods in (("one", "supervised,linear"), ("two", "supervised,supervised:model=mlp")):
        done = call("compare", photos, "--methods", methods, "--seeds", 1, *short, "--out", folder)
        assert done.code == 0, done.err
        rows = json.loads((tmp_path / folder / "comparison.json").read_text())["asked"]["rows"].values()
        used = {row["source"]["encoder"]["name"] for row in rows}
        assert used == ({"lite0"} if folder == "one" else {""})
        assert ("the pretrained encoder lite0 is used" in done.err + done.out) is (folder == "one")
    done = call("tune", photos, "--method", "supervised", "--search", "optim.lr=0.01,0.1", *short, "--out", "tuned")
    assert done.code == 0, done.err
    assert "the pretrained encoder lite0 is used" in done.err + done.out


def test_where_it_is_not_installed_the_line_that_does_it_is_said(
    call: Call, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(photographs, "is_installed", lambda: False)
    done = call("train", photos, "--out", tmp_path / "run", *SHORT)
    assert done.code == 0, done.err
    said = " ".join((done.err + done.out).split())
    assert "a pretrained network is usually worth more than any method" in said
    assert "metapl[photos]" in said
    done = call("check", photos, "--json", "-")
    found = [finding for finding in json.loads(done.out)["findings"] if finding["kind"] == "photographs"]
    assert [finding["remedy"] for finding in found] == [photographs.advice()]

"""The way of photographs on the command line: weights fetched into a file, an encoder, a head."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import Call


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
    assert "such a file already" in again.err
    for words in (("fetch",), ("fetch", "timm:test_resnet"), ("timm:test_resnet", "--out", out)):
        done = call("models", *words)
        assert done.code == 2
        assert "metapl models fetch" in done.err

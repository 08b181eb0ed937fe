"""The model card says what is known, takes no name for a command, and may be edited."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml

import metapl
from metapl.inference.model_card import FILE, escaped, is_own_card, write_card
from metapl.inference.run_evaluation import judge_own

PAYLOADS = Path(__file__).parents[1] / "report" / "payloads.py"


def payloads() -> tuple[str, ...]:
    spec = importlib.util.spec_from_file_location("card_payloads", PAYLOADS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: tuple[str, ...] = module.PAYLOADS
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("card") / "digits"
    metapl.fit("digits", method="supervised", labels=8, steps=20, guard="off", out=out)
    return out


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "run"))


def read(run: Path) -> tuple[str, dict, str]:
    text = (run / "model" / FILE).read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return text, yaml.safe_load(front), body


def test_a_run_ends_with_a_card(run: Path) -> None:
    text, front, body = read(run)
    assert text.splitlines()[1].startswith("# license:"), "the licence is the user's to name"
    assert "license" not in front
    assert front["library_name"] == "metapl"
    assert front["pipeline_tag"] == "image-classification"
    assert {"metapl", "supervised"} <= set(front["tags"])
    metrics = front["model-index"][0]["results"][0]["metrics"]
    assert metrics[0]["type"] == "accuracy"
    assert 0 < metrics[0]["value"] <= 1
    assert re.search(r"\| 20 validation rows \| [\d.]+ % \| [\d.]+ to [\d.]+ \|", body)
    assert "60 rows teach with their label" in body
    assert str(run.parent) not in text


def test_evaluation_adds_figures_of_test_rows_and_never_replaces_an_edited_card(run: Path) -> None:
    judge_own(run, "cpu")
    text, front, body = read(run)
    assert front["model-index"][0]["results"][0]["metrics"][0]["name"].startswith(
        "accuracy on 359 test rows, 95 % interval 0."
    )
    assert "| 359 test rows |" in body
    judge_own(run, "cpu")
    assert read(run)[0] == text
    edited = text.replace("# license: name", "license: mit\n# name")
    (run / "model" / FILE).write_text(edited, encoding="utf-8")
    judge_own(run, "cpu")
    assert read(run)[0] == edited
    assert metapl.load_model(run).class_names, "the seal does not cover the card"
    (run / "model" / FILE).unlink()
    judge_own(run, "cpu")
    assert not (run / "model" / FILE).exists()
    assert not is_own_card(run)


@pytest.mark.parametrize("payload", payloads())
def test_a_name_stays_a_name(payload: str) -> None:
    text = escaped(payload.replace("HIT", "https://www.hit.example"), 400)
    assert not set(text) & set("<>`*_[]()!|\"'\\{}$~:@=\n"), text
    assert not re.search(r"www\.|&(?!#\d+;)", text)


def test_names_of_the_user_reach_neither_head_nor_body_as_more_than_names(run: Path) -> None:
    bad = "x\n---\nlicense: mit\n<script>alert(1)</script> [a](javascript:b) | c"
    for file, key in (("model/model.json", "class_names"), ("results.json", "method")):
        facts = json.loads((run / file).read_text(encoding="utf-8"))
        facts[key] = bad if isinstance(facts[key], str) else [bad, *facts[key][1:]]
        (run / file).write_text(json.dumps(facts), encoding="utf-8")
    write_card(run)
    text, front, body = read(run)
    assert "license" not in front
    assert any(tag.startswith("x --- license: mit") for tag in front["tags"])
    assert len(re.findall(r"^---$", text, re.MULTILINE)) == 2
    assert "<script>" not in body
    assert "](javascript" not in body
    assert body.count("&#60;script&#62;alert") == 2

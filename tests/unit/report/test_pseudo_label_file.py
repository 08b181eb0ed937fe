"""The table of pseudo labels: its columns agree with the model, and a failure never spoils a training."""

from __future__ import annotations

import csv
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metapl.api.fit import fit
from metapl.config.settings import GuardConfig, LoopConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.report import pseudo_labels
from metapl.report.pseudo_labels import (
    HEADER,
    PoolRow,
    pseudo_labels_of,
    read_table,
    try_pseudo_labels,
    write_table,
)
from metapl.report.record import read_record
from metapl.runs import model_folder
from metapl.training.alarms import pool_sample
from metapl.training.loop import train
from metapl.training.result import Result


@pytest.fixture(autouse=True)
def no_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CSV file is what everybody can have."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    config = RunConfig(
        "digits",
        method="fixmatch",
        model="mlp",
        steps=40,
        split=SplitConfig(labels=8),
        loop=LoopConfig(log_every=5, eval_every=4),
        guard=GuardConfig("off"),
        settings=METHODS["fixmatch"].Config(threshold=0.3),
    )
    return train(config, tmp_path_factory.mktemp("runs") / "run")


def read(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_each_unlabelled_row_has_its_line(result: Result) -> None:
    rows = read(pseudo_labels_of(result))
    pool = result.pseudo_labels()
    assert list(rows[0]) == HEADER
    assert [row["id"] for row in rows] == list(pool.ids)
    assert [row["label"] for row in rows] == pool.labels.tolist()
    own = pool.probabilities.max(-1)
    assert [row["accepted"] for row in rows] == ["yes" if c >= 0.3 else "no" for c in own]
    assert {"yes", "no"} == {row["accepted"] for row in rows}
    assert "threshold 0.3" in rows[0]["reason"]
    assert all(0 <= float(row["margin"]) <= float(row["confidence"]) <= 1 for row in rows)


def test_agreement_is_the_share_of_snapshots_and_empty_outside_the_sample(result: Result) -> None:
    rows = read(pseudo_labels_of(result))
    held = [row for row in rows if row["agreement"]]
    assert 0 < len(held) < len(rows), "the sample has 1000 of the rows"
    assert result.folder is not None
    shots = [json.loads(line) for line in (result.folder / "snapshots.jsonl").read_text().splitlines()]
    drawn = result.split.unlabeled[pool_sample(len(result.split.unlabeled), 0).numpy()]
    at = next(k for k, row in enumerate(drawn.tolist()) if row not in set(result.split.labeled.tolist()))
    line = next(row for row in rows if row["id"] == result.source.ids[drawn[at]])
    number = result.class_names.index(line["label"])
    share = np.mean([shot["pool"]["class"][at] == number for shot in shots])
    assert float(line["agreement"]) == pytest.approx(share, abs=1e-3)


def test_calibration_keeps_the_class_and_lowers_false_confidence(
    result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    p = torch.tensor([[0.99, 0.01], [0.02, 0.98]])
    wrong_half = torch.tensor([0, 1, 1, 0] * 10)
    fits: list[int] = []
    fit_temperature = model_folder.fit_temperature
    monkeypatch.setattr(model_folder, "fit_temperature", lambda z, y: fits.append(len(y)) or fit_temperature(z, y))
    model = replace(result.predictor, validation=model_folder.ValidationAnswers(p.repeat(20, 1), wrong_half))
    lowered = model.calibrated(p)
    assert torch.equal(model.calibrated(p), lowered)
    assert fits == [40]  # once, however many chunks are labelled
    assert torch.equal(lowered.argmax(-1), p.argmax(-1))
    assert (lowered.max(-1).values < p.max(-1).values).all()
    assert replace(model, validation=None).calibrated(p) is p


def test_a_failure_is_a_sentence(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pseudo_labels, "write_csv", full)
    assert "disk full" in try_pseudo_labels(result)


LINES = [
    PoolRow("a", "cat", 0.5, 0.25, None, None, None, "no threshold"),
    PoolRow("=b", "-dog", 0.75, 0.5, 0.5, -0.25, True, "sure"),
    PoolRow("c", "cow", 0.75, 0.5, 1.0, 0.125, False, ""),
]


def test_a_csv_table_comes_back_but_for_guarded_texts(tmp_path: Path) -> None:
    assert write_table(tmp_path, LINES).name == "pseudo_labels.csv"
    assert read_table(tmp_path) == [LINES[0], replace(LINES[1], id="'=b", label="'-dog"), LINES[2]]


def test_a_parquet_table_comes_back_and_takes_the_place_of_a_csv_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_table(tmp_path, LINES[:1])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert write_table(tmp_path, LINES).name == "pseudo_labels.parquet"
    assert read_table(tmp_path) == LINES
    assert parquet.read_schema(tmp_path / "pseudo_labels.parquet").names == HEADER
    assert [p.name for p in tmp_path.iterdir()] == ["pseudo_labels.parquet"]
    write_table(tmp_path, [])
    assert read_table(tmp_path) == []


@pytest.mark.parametrize("text", ["id,label\na,cat\n", ",".join(HEADER) + "\na,cat,much,,,,,\n", "id\n\0\n"])
def test_a_damaged_table_is_an_error_that_says_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "pseudo_labels.csv").write_text(text)
    with pytest.raises(UserError, match="it is made again"):
        read_table(tmp_path)


def test_a_damaged_parquet_table_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "pseudo_labels.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(UserError, match="it is made again"):
        read_table(tmp_path)


def test_feedback_stands_beside_its_row(tmp_path: Path) -> None:
    options: Any = {"method": "mpl", "model": "mlp", "steps": 12, "labels": 4, "guard": "off"}
    options |= {"options": {"mpl.finetune_steps": 2, "batch.unlabeled": 16}}
    made = fit("digits", **options)
    with pytest.raises(UserError, match="no folder"):
        pseudo_labels_of(made)
    made = replace(made, folder=made.save(tmp_path / "run"))
    assert made.folder is not None
    scores = read_record(made.folder).feedback(made.split.unlabeled)
    assert 50 < len(scores) <= 12 * 16
    pool = made.pseudo_labels()
    for row, line in zip(pool.index.tolist(), read(pseudo_labels_of(made))):
        assert line["feedback"] == (format(scores[row], ".4g") if row in scores else "")

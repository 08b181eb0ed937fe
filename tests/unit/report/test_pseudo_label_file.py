"""``pseudo_labels.csv``: its columns agree with the model, and a failure never spoils a training."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from metapl.config.settings import GuardConfig, LoopConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.methods import METHODS
from metapl.report import pseudo_labels
from metapl.report.pseudo_labels import HEADER, calibrated, pseudo_labels_of, pseudo_labels_of_run, try_pseudo_labels
from metapl.training.alarms import pool_sample
from metapl.training.loop import train
from metapl.training.result import Result


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


def test_a_stored_run_gives_the_same_table(result: Result) -> None:
    before = pseudo_labels_of(result).read_bytes()
    assert result.folder is not None
    assert pseudo_labels_of_run(result.folder).read_bytes() == before


def test_calibration_keeps_the_class_and_lowers_false_confidence() -> None:
    p = torch.tensor([[0.99, 0.01], [0.02, 0.98]])
    wrong_half = torch.tensor([0, 1, 1, 0] * 10)
    lowered = calibrated(p, p.repeat(20, 1), wrong_half)
    assert torch.equal(lowered.argmax(-1), p.argmax(-1))
    assert (lowered.max(-1).values < p.max(-1).values).all()
    assert calibrated(p, p[:0], wrong_half[:0]) is p


def test_a_failure_is_a_sentence(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(pseudo_labels, "write_csv", full)
    assert "disk full" in try_pseudo_labels(result)

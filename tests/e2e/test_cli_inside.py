"""Commands that are given from inside the data's folder: what they write there is none of the data."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from commands import QUICK, Call, Done, sums

from metapl.utils.own_folders import is_made


def fine(done: Done, *parts: str) -> Done:
    assert done.code == 0, done
    for part in parts:
        assert part in done.out + done.err, (part, done)
    return done


def test_images(call: Call, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = Path(shutil.copytree(data / "photos", tmp_path / "photos"))
    before = sums(photos)
    monkeypatch.chdir(photos)
    fine(call("train", ".", "--labels", "4", *QUICK))
    run = next(Path("runs").iterdir())
    fine(call("check", ".", "--out", "checked"))
    assert any("'runs' holds" in note for note in json.loads(Path("checked/check.json").read_text())["notes"])
    fine(call("evaluate", run))
    fine(call("evaluate", run, "."))
    fine(call("compare", ".", "--labels", "4", "--methods", "supervised", "--seeds", "1", "--steps", "2"))
    fine(call("evaluate", run), "test rows")
    again = fine(call("train", ".", "--labels", "4", *QUICK)).err
    for name in ("runs", "comparisons", "checked"):
        assert f"the folder '{name}' holds what metapl wrote and is passed over" in again
    splits = [json.loads((folder / "split.json").read_text()) for folder in sorted(Path("runs").iterdir())]
    assert splits[0]["fingerprint"] == splits[1]["fingerprint"]
    Path(run, "results.json").unlink()  # as after a stop
    fine(call("resume", run))
    for copy in ("elsewhere", "once more"):
        shutil.copytree(photos / "flower", tmp_path / copy / "flower")
        shutil.copytree(photos / "runs", tmp_path / copy / "runs")
    fine(call("evaluate", run, tmp_path / "elsewhere"), "of 12 rows")
    fine(call("predict", run, tmp_path / "once more", "--out", "labels.csv"))
    with open("labels.csv", encoding="utf-8", newline="") as file:
        assert {row["id"].split("/")[0] for row in csv.DictReader(file)} == {"flower"}
    assert {name: sum_ for name, sum_ in sums(photos).items() if name in before} == before


def test_a_file_of_rows(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "rows"
    place.mkdir()
    lines = [f"{k / 7:.3f},{k * k % 11},{'ab'[k % 2]}" for k in range(40)]
    (place / "train.csv").write_text("\n".join(["x,y,label", *lines]))
    (place / "unlabelled.csv").write_text("\n".join(["x,y", *(line[:-2] for line in lines)]))
    shutil.copy(place / "train.csv", place / "test.csv")
    monkeypatch.chdir(place)
    fine(call("train", ".", *QUICK))
    fine(call("evaluate", next(Path("runs").iterdir())))
    fine(call("check", "."))


def test_what_metapl_did_not_write_is_read(tmp_path: Path) -> None:
    for name in ("runs", "runs/first", "tuned", "other"):
        (tmp_path / name).mkdir()
    assert not is_made(tmp_path / "tuned"), "an empty class folder is told"
    assert is_made(tmp_path / "runs"), "a run that was stopped before it began"
    (tmp_path / "runs" / "k.png").touch()
    assert not is_made(tmp_path / "runs"), "a class of this name"
    for name in ("config.yaml", "problems.csv"):
        (tmp_path / "other" / name).touch()
    assert not is_made(tmp_path / "other")

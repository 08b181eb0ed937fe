"""One function labels a batch of rows, whatever hands it on: pandas iterators, data sets, plain columns."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import metapl
from metapl.cli import main
from metapl.errors import UserError
from metapl.inference.label_pool import label_pool

pd = pytest.importorskip("pandas")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> metapl.Predictor:
    folder, draw = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    with open(folder / "people.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["age", "city", "label"])
        for k in range(120):
            age = int(draw.integers(18, 80))
            writer.writerow([age, "AB"[k % 2], ("old" if age > 50 else "young") if k < 60 else ""])
    words = ["train", str(folder / "people.csv"), "--steps", "5", "--quiet", "--no-report", "guard.mode=off"]
    words += ["--validation", "0.3"]
    assert main([*words, "mpl.finetune_steps=0", "--out", str(folder / "run")]) == 0
    return metapl.load_model(folder / "run")


ROWS = {"age": [70, 20, 33], "city": ["A", "B", "A"]}


def test_an_answer_per_row(model: metapl.Predictor) -> None:
    answer = metapl.label_batch(model, ROWS)
    p = model.predict_proba(ROWS)
    assert answer["id"] == ["0", "1", "2"]
    assert answer["label"] == [model.class_names[k] for k in p.argmax(1)]
    assert answer["problem"] == [None] * 3
    calibrated = p ** (1 / model.temperature)
    calibrated /= calibrated.sum(1, keepdims=True)
    assert np.allclose(answer["confidence"], calibrated.max(1), atol=1e-5)
    assert np.allclose(answer["margin"], calibrated.max(1) - calibrated.min(1), atol=1e-5)


def test_bad_rows_keep_their_place_and_others_their_answer(model: metapl.Predictor) -> None:
    age: list[Any] = [*ROWS["age"], "ten", 44]
    answer = metapl.label_batch(model, {"id": list("vwxyx"), "age": age, "city": [*ROWS["city"], "B", None]})
    assert answer["id"] == list("vwxyx")  # an id may stand twice: nothing is lost
    assert "is not a number" in answer["problem"][3]
    assert [problem is None for problem in answer["problem"]] == [True, True, True, False, True]
    assert answer["label"][3] is answer["confidence"][3] is None
    assert np.allclose(answer["confidence"][:3], metapl.label_batch(model, ROWS)["confidence"], atol=1e-6)


def test_a_missing_column_is_an_error(model: metapl.Predictor) -> None:
    with pytest.raises(UserError, match="column 'city' is missing"):
        metapl.label_batch(model, {"age": [1]})


def label_frames(frames: Iterator[Any], model: metapl.Predictor) -> Iterator[Any]:
    """The recipe for Spark's mapInPandas in docs/label.md."""
    for frame in frames:
        yield pd.DataFrame(metapl.label_batch(model, frame))


def test_the_recipe_for_map_in_pandas(model: metapl.Predictor) -> None:
    frame = pd.DataFrame({**ROWS, "id": ["a", "b", "c"]})
    found = pd.concat(label_frames(iter([frame.iloc[:2], frame.iloc[2:]]), model))
    whole = metapl.label_batch(model, frame)
    assert found["id"].tolist() == whole["id"] == ["a", "b", "c"]
    assert found["label"].tolist() == whole["label"]
    assert found["confidence"].tolist() == pytest.approx(whole["confidence"])


def test_the_recipe_for_datasets(model: metapl.Predictor) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict(ROWS)
    found = rows.map(lambda batch: metapl.label_batch(model, batch), batched=True, batch_size=3, keep_in_memory=True)
    assert found["label"][:] == metapl.label_batch(model, ROWS)["label"]


def test_images_by_path_and_by_bytes(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    for k in range(40):
        folder = tmp_path / "photos" / (f"labelled/{'ab'[k % 2]}" if k < 16 else "unlabelled")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray((draw.integers(0, 128, (8, 8, 3)) + 100 * (k % 2)).astype(np.uint8)).save(folder / f"{k}.png")
    words = ["train", str(tmp_path / "photos"), "--model", "small_cnn", "--steps", "3", "--quiet", "--no-report"]
    assert main([*words, "guard.mode=off", "mpl.finetune_steps=0", "--out", str(tmp_path / "run")]) == 0
    model = metapl.load_model(tmp_path / "run")
    files = sorted((tmp_path / "photos" / "unlabelled").glob("*.png"))[:4]
    by_path = metapl.label_batch(model, {"path": [*map(str, files), str(tmp_path / "none.png"), str(files[0])]})
    assert by_path["id"][:4] == list(map(str, files))
    assert [problem is None for problem in by_path["problem"]] == [True] * 4 + [False] * 2
    cells = [files[0].read_bytes(), {"bytes": files[1].read_bytes(), "path": None}, Image.open(files[2]), b"no image"]
    by_bytes = metapl.label_batch(model, {"image": cells})
    assert by_bytes["label"][:3] == by_path["label"][:3]
    assert by_bytes["confidence"][:3] == pytest.approx(by_path["confidence"][:3], abs=1e-6)
    assert by_bytes["problem"][3] is not None


def test_numbers_of_a_model_trained_with_decimal_commas(tmp_path: Path) -> None:
    rows = [f"{k % 2},{k % 7};0,{k % 9};{'ab'[k % 2] if k < 30 else ''}" for k in range(60)]
    (tmp_path / "comma.csv").write_text("\n".join(["x;y;label", *rows]))
    words = ["train", str(tmp_path / "comma.csv"), "--steps", "5", "--quiet", "--no-report", "guard.mode=off"]
    words += ["source.table.decimal=comma", "mpl.finetune_steps=0", "--out", str(tmp_path / "run")]
    assert main(words) == 0
    model = metapl.load_model(tmp_path / "run")
    written = metapl.label_batch(model, {"x": ["0,5", "1,25"], "y": ["0,1", "-0,2"]})
    typed = metapl.label_batch(model, pd.DataFrame({"x": [0.5, 1.25], "y": [0.1, -0.2]}))
    assert typed == written
    assert typed["problem"] == [None, None]
    (tmp_path / "new.jsonl").write_text('{"x": 0.5, "y": 0.1}\n{"x": 1.25, "y": -0.2}\n')
    told = label_pool(tmp_path / "run", str(tmp_path / "new.jsonl"), tmp_path / "labels")
    assert (told["rows"], told["problems"]) == (2, 0)


def test_a_model_that_was_trained_anew_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "new.csv").write_text("x,y\n" + "".join(f"{k},{k % 3}\n" for k in range(6)))
    labels = []
    for names in ("ab", "cd"):
        rows = "".join(f"{k},{k % 3},{names[k % 2] if k < 30 else ''}\n" for k in range(60))
        (tmp_path / "rows.csv").write_text("x,y,label\n" + rows)
        words = ["train", str(tmp_path / "rows.csv"), "--steps", "2", "--quiet", "--no-report", "guard.mode=off"]
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        assert main([*words, "--method", "linear", "--out", str(tmp_path / "run")]) == 0
        label_pool(tmp_path / "run", str(tmp_path / "new.csv"), tmp_path / names)
        labels.append(set(pd.read_parquet(tmp_path / names / "part-00000.parquet")["label"]))
    assert labels[0] <= set("ab")
    assert labels[1] <= set("cd")

"""Arrays, Parquet files and published data sets through the command line: train, evaluate, predict."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import QUICK, Call, refused, sums, table
from PIL import Image
from sklearn.datasets import load_digits

from metapl import load_model, predict_source

TRAIN, TEST = slice(0, 200), slice(200, 300)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The digits 0 to 2: uint8 [n, 8, 8] and their names."""
    bunch = load_digits()
    keep = bunch.target < 3
    return (bunch.images[keep] * 15.9).astype(np.uint8), np.array(["zero", "one", "two"])[bunch.target[keep]]


def encoded(image: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, format="PNG")
    return file.getvalue()


def taught(call: Call, data: Path, *words: str) -> dict[str, Any]:
    """Train on ``data``; what it says of the run, and that the files stayed as they were."""
    before = sums(data.parent)
    done = call("train", data, "--method", "fixmatch", *QUICK[:4], "--guard", "off", "--out", "run", *words)
    assert done.code == 0, done.err
    assert sums(data.parent) == before
    return dict(json.loads(Path("run/results.json").read_text(encoding="utf-8")))


def test_arrays_in_one_file(call: Call, tmp_path: Path, digits: Any) -> None:
    images, y = digits
    some = np.where(np.arange(200) < 60, y[TRAIN], "")
    (tmp_path / "d").mkdir()
    np.savez(tmp_path / "d" / "set.npz", x_train=images[TRAIN], y_train=some, x_test=images[TEST], y_test=y[TEST])
    rows = taught(call, tmp_path / "d" / "set.npz")["rows"]
    assert rows["labeled"] + rows["validation"] == 60
    assert rows["unlabeled"] >= 140
    assert rows["test"] == 100
    own = call("evaluate", "run", "--json", "-")
    assert json.loads(own.out)["rows"] == 100
    np.savez(tmp_path / "new.npz", X=images[TEST], y=y[TEST])
    other = call("evaluate", "run", tmp_path / "new.npz", "--json", "-")
    assert json.loads(other.out)["accuracy"] == json.loads(own.out)["accuracy"]
    np.save(tmp_path / "new.npy", images[TEST])
    told = call("predict", "run", tmp_path / "new.npy")
    assert told.code == 0, told.err
    assert [row["id"] for row in table(told.out)] == [str(k) for k in range(100)]
    assert {row["label"] for row in table(told.out)} <= {"zero", "one", "two"}
    np.save(tmp_path / "odd.npy", images[TEST, :5])
    refused(call("predict", "run", tmp_path / "odd.npy"), "odd.npy, X", "[1, 5, 8]", "[1, 8, 8]")
    refused(call("predict", "run", tmp_path / "none.npy"), "none.npy")


def test_a_few_rows_of_many_classes(call: Call, tmp_path: Path) -> None:
    numbers = np.arange(100) * 37 + 5
    X = np.random.default_rng(0).normal(size=(600, 3)).astype(np.float32)
    np.savez(tmp_path / "train.npz", X=X, y=np.repeat(numbers, 6))
    done = call("train", tmp_path / "train.npz", "--method", "supervised", *QUICK[:4], "--out", "run")
    assert done.code == 0, done.err
    np.savez(tmp_path / "new.npz", X=X[:30], y=numbers[20:50])
    judged = call("evaluate", "run", tmp_path / "new.npz", "--json", "-")
    assert judged.code == 0, judged.err
    assert json.loads(judged.out)["rows"] == 30
    assert "different values" not in judged.err
    told = call("predict", "run", tmp_path / "new.npz")
    assert told.code == 0, told.err
    assert "different values" not in told.err
    assert len(table(told.out)) == 30
    predictor = load_model("run/model")
    for name in (str(tmp_path / "new.npz"), f"npz:{tmp_path / 'new.npz'}"):
        [chunk] = predict_source(predictor, name)
        assert list(chunk.labels) == [row["label"] for row in table(told.out)]


def test_a_lone_array_and_its_labels(call: Call, tmp_path: Path, digits: Any) -> None:
    images, y = digits
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "x.npy", images[TRAIN].reshape(200, 64).astype(np.float32))
    (tmp_path / "d" / "y.txt").write_text("\n".join(y[TRAIN]), encoding="utf-8")
    refused(call("train", tmp_path / "d" / "x.npy"), "x.npy", "source.labels=FILE")
    taught(call, tmp_path / "d" / "x.npy", f"source.labels={tmp_path / 'd' / 'y.txt'}", "--labels", "10")
    assert call("evaluate", "run").code == 0
    assert len(table(call("predict", "run", tmp_path / "d" / "x.npy").out)) == 200


def test_images_in_parquet_files(call: Call, tmp_path: Path, digits: Any) -> None:
    images, y = digits
    (tmp_path / "d").mkdir()
    for name, part in (("train", TRAIN), ("test", TEST)):
        rows = {"image": [encoded(i) for i in images[part]], "label": pa.array(y[part]).dictionary_encode()}
        if name == "train":
            rows["image"][7] = rows["image"][7][:40]
        pq.write_table(pa.table(rows), tmp_path / "d" / f"{name}.parquet")
    made = taught(
        call, tmp_path / "d" / "train.parquet", f"source.test={tmp_path / 'd' / 'test.parquet'}", "--labels", "10"
    )
    assert made["rows"]["test"] == 100
    assert sum(made["rows"][part] for part in ("labeled", "validation")) == 30
    assert "train.parquet:7," in Path("run/problems.csv").read_text(encoding="utf-8")
    assert json.loads(call("evaluate", "run", "--json", "-").out)["rows"] == 100


def test_hugging_face_form_and_features_in_parquet(call: Call, tmp_path: Path, digits: Any) -> None:
    images, y = digits
    (tmp_path / "d").mkdir()
    pictures = pa.array([{"bytes": encoded(i), "path": None} for i in images[TRAIN]])
    pq.write_table(pa.table({"image": pictures, "label": list(y[TRAIN])}), tmp_path / "d" / "hf.parquet")
    assert taught(call, tmp_path / "d" / "hf.parquet", "--labels", "10")["rows"]["labeled"] > 0
    columns = {f"p{k}": images[TRAIN].reshape(200, 64)[:, k].astype(float) for k in range(20, 40)}
    pq.write_table(pa.table({**columns, "label": list(y[TRAIN])}), tmp_path / "d" / "table.parquet")
    refused(call("train", tmp_path / "d" / "table.parquet", "source.table.label=lable"), "lable", "label")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "d" / "hf.parquet").read_bytes()[:-50])
    refused(call("train", tmp_path / "cut.parquet"), "cut.parquet", "damaged")


def test_a_published_set_from_disk(call: Call, tmp_path: Path, digits: Any) -> None:
    images, y = digits
    raw = tmp_path / "root" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, part in (("train", TRAIN), ("t10k", TEST)):
        numbers = np.searchsorted(["one", "two", "zero"], y[part]).astype(np.uint8)
        head = np.array([0x803, len(numbers), 8, 8], dtype=">u4").tobytes()
        (raw / f"{name}-images-idx3-ubyte").write_bytes(head + images[part].tobytes())
        head = np.array([0x801, len(numbers)], dtype=">u4").tobytes()
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(head + numbers.tobytes())
    words = [
        "train",
        "torchvision:FashionMNIST",
        "--labels",
        "10",
        "--method",
        "fixmatch",
        *QUICK[:4],
        "--guard",
        "off",
    ]
    refused(call(*words, "source.root=elsewhere"), "torchvision:FashionMNIST", "source.download=true")
    done = call(*words, f"source.root={tmp_path / 'root'}")
    assert done.code == 0, done.err
    assert json.loads(call("evaluate", "runs/FashionMNIST-fixmatch-0", "--json", "-").out)["rows"] == 100
    refused(call("train", "torchvision:FashionMINST"), "Did you mean 'FashionMNIST'")

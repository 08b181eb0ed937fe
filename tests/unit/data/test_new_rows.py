"""New rows for a trained model: columns by name, categories by their text, classes by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from metapl import open_source
from metapl.data import sources
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.sources import SourceOptions, read_ref
from metapl.data.tables.columns import matching
from metapl.errors import UserError
from metapl.inference.evaluate import evaluate
from metapl.inference.predict import predict_source
from metapl.runs.model_folder import Predictor
from metapl.types import Column, Source

TRAIN = "age,job,zip,label\n30,cook,01,NA\n40,baker,1,None\n,cook,1,NA\n50,baker,01,\n"


def put(folder: Path, text: str, name: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def predictor_for(source: Source, **options: Any) -> Predictor:
    """A model with fixed weights over the rows of ``source``."""
    preprocessing = fit_preprocessing(source, np.arange(len(source.ids)))
    generator = torch.Generator().manual_seed(0)
    count = int(np.prod(preprocessing.input_shape))
    net = nn.Sequential(nn.Flatten(), nn.Linear(count, len(source.class_names)))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return Predictor(net, preprocessing, source.class_names, torch.device("cpu"))


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Source, Predictor]:
    source = open_source(str(put(tmp_path, TRAIN, "train.csv")), SourceOptions(categorical="zip"))
    return source, predictor_for(source)


def answers(predictor: Predictor, source: Source | str) -> torch.Tensor:
    return torch.cat([chunk.probabilities for chunk in predict_source(predictor, source)])


def rows_of(predictor: Predictor, path: Path, labels: bool = False, **options: Any) -> Source:
    return sources.open_source(read_ref(str(path)), SourceOptions(**options), like=predictor.input(labels))


def test_columns_are_matched_by_name(tmp_path: Path, trained: tuple[Source, Predictor]) -> None:
    source, predictor = trained
    path = put(tmp_path, "zip;more;job;age\n01;a;cook;30\n1;b;baker;40\n1;c;cook;NA\n01;d;baker;50\n", "new.csv")
    rows = rows_of(predictor, path)
    assert torch.equal(answers(predictor, rows), answers(predictor, source))
    assert torch.equal(answers(predictor, str(path)), answers(predictor, source))
    assert "new.csv: columns not used: 'more'" in rows.notes
    assert rows.ids == ("2", "3", "4", "5")
    assert rows.labels.tolist() == [-1] * 4


def test_numbers_in_a_column_of_categories_stay_as_written(tmp_path: Path, trained: tuple[Source, Predictor]) -> None:
    _, predictor = trained
    rows = rows_of(predictor, put(tmp_path, "age,job,zip\n1,cook,01\n1,cook,1\n1,cook,1.0\n1,,\n", "new.csv"))
    zip_codes = rows.rows(np.arange(4))[:, 2]
    assert zip_codes[:3].tolist() == [0, 1, 1]
    assert zip_codes[3:].isnan().all()
    assert any("'job' 1, 'zip' 1" in note for note in rows.notes)


def test_what_does_not_fit_is_named(tmp_path: Path, trained: tuple[Source, Predictor]) -> None:
    _, predictor = trained
    with pytest.raises(UserError, match=r"^new\.csv: column 'zip' is missing"):
        rows_of(predictor, put(tmp_path, "age,job\n1,cook\n", "new.csv"))
    with pytest.raises(UserError, match=r"^new\.csv, line 3: column 'age' has 'old', which is not a number"):
        rows_of(predictor, put(tmp_path, "age,job,zip\n1,cook,01\nold,cook,1\n", "new.csv"))
    with pytest.raises(UserError, match=r"^new\.csv, line 3: the model knows no class 'none'\. Did you mean 'None'"):
        rows_of(predictor, put(tmp_path, "age,job,zip,y\n1,cook,01,NA\n1,cook,1,none\n", "new.csv"), labels=True)
    with pytest.raises(UserError, match="there must be one column of labels"):
        rows_of(predictor, put(tmp_path, "age,job,zip\n1,cook,01\n", "new.csv"), labels=True)


def test_labels_are_matched_by_name_and_only_read_when_asked(tmp_path: Path, trained: tuple[Source, Predictor]) -> None:
    source, predictor = trained
    path = put(tmp_path, "label,age,job,zip\nNone,1,cook,01\n,1,cook,1\nNone,2,cook,1\n", "new.csv")
    assert rows_of(predictor, path).labels.tolist() == [-1, -1, -1]
    rows = rows_of(predictor, path, labels=True)
    assert rows.labels.tolist() == [1, -1, 1]
    other = open_source(str(put(tmp_path, TRAIN.replace("NA", "zebra"), "other.csv")), SourceOptions(categorical="zip"))
    with pytest.raises(UserError, match="the model knows no class 'zebra'"):
        evaluate(predictor, other, np.arange(3))
    swapped = open_source(str(put(tmp_path, TRAIN, "again.csv")), SourceOptions(categorical="zip"))
    swapped.class_names, swapped.labels = ("None", "NA"), np.where(swapped.labels < 0, -1, 1 - swapped.labels)
    assert evaluate(predictor, swapped, np.arange(3)) == evaluate(predictor, source, np.arange(3))


def test_a_source_with_other_levels_is_recoded() -> None:
    given = (Column("b"), Column("c", ("x", "z")), Column("a"))
    wanted = (Column("a"), Column("c", ("w", "x", "y")))
    rows = torch.tensor([[1.0, 0.0, 2.0], [3.0, 1.0, 4.0], [5.0, torch.nan, 6.0]])
    changed = matching(given, wanted, "here")(rows)
    torch.testing.assert_close(changed, torch.tensor([[2.0, 1.0], [4.0, torch.nan], [6.0, torch.nan]]), equal_nan=True)
    assert rows[0].tolist() == [1.0, 0.0, 2.0]
    with pytest.raises(UserError, match="column 'd' is missing"):
        matching(given, (Column("d"),), "here")
    with pytest.raises(UserError, match="holds categories in the data and numbers in the model"):
        matching(given, (Column("c"),), "here")


def test_texts_and_images(tmp_path: Path) -> None:
    texts = open_source(str(put(tmp_path, "question,label\nwho is it,u\nwhere is it,v\n", "t.csv")))
    predictor = predictor_for(texts)
    new = put(tmp_path, '{"more": 1, "question": "where is it"}\n{"question": "who is it"}\n', "new.jsonl")
    rows = rows_of(predictor, new)
    assert torch.equal(rows.rows(np.array([1, 0])), texts.rows(np.array([0, 1])))
    for k in range(3):
        Image.new("L", (8, 8), 50 * k).save(tmp_path / f"{k}.png")
    images = open_source(str(put(tmp_path, "path,label\n0.png,u\n1.png,v\n2.png,\n", "i.csv")))
    predictor = predictor_for(images)
    (tmp_path / "bad.png").write_text("no image")
    new = put(tmp_path, "id,image\na,2.png\nb,bad.png\nc,0.png\n", "new.csv")
    chunks = list(predict_source(predictor, rows_of(predictor, new)))
    assert [i for chunk in chunks for i in chunk.ids] == ["a", "c"]
    assert [i for chunk in chunks for i, _ in chunk.problems] == ["b"]
    torch.testing.assert_close(torch.cat([c.probabilities for c in chunks]), answers(predictor, images)[[2, 0]])
    with pytest.raises(UserError, match="there must be one column of image paths, one of path, file"):
        rows_of(predictor, put(tmp_path, "id,picture\na,2.png\n", "new.csv"))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_row_has_the_same_answer_alone_as_among_others(tmp_path: Path, suffix: str) -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    times = [round(100_000 + k / 10_000, 4) for k in range(40)]
    frame = pd.DataFrame({"t": times, "z": [k % 7 / 8 for k in range(40)]})
    source = open_source(str(put(tmp_path, frame.assign(label=["a", "b"] * 20).to_csv(index=False), "train.csv")))
    assert source.columns[0].offset
    assert not source.columns[1].offset

    def rows(part: Any) -> torch.Tensor:
        path = tmp_path / f"new.{suffix}"
        if suffix == "csv":
            part.to_csv(path, index=False)
        elif suffix == "jsonl":
            part.to_json(path, orient="records", lines=True, double_precision=10)
        else:
            part.to_parquet(path)
        return rows_of(predictor, path).rows(np.arange(len(part)))

    predictor = predictor_for(source)
    assert torch.equal(rows(frame), source.rows(np.arange(40)))
    assert torch.equal(torch.cat([rows(frame[k : k + 1]) for k in range(10)]), source.rows(np.arange(10)))

"""A file of rows is read a stretch at a time: the answers are those of all rows at once, and memory does not grow."""

from __future__ import annotations

import csv
import gc
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from metapl.data.new_rows import NewRows
from metapl.data.options import SourceOptions
from metapl.data.sources import open_source, read_ref
from metapl.data.tables.options import TableOptions
from metapl.errors import UserError
from metapl.inference import predict
from metapl.inference.predict import open_for, predict_file, predict_source
from metapl.models import build_model
from metapl.runs.model_folder import Predictor
from metapl.types import Column, Preprocessing, Tokens

ROWS = 1024  # of a stretch; files of text are read by so many
COUNT = 2 * ROWS + 100
COLUMNS = (Column("x"), Column("long", offset=1.7e12), Column("colour", ("blue", "red")))


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "ROWS", ROWS)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    torch.manual_seed(0)
    size = len(COLUMNS)
    takes = Preprocessing("table", (size,), (0.0,) * size, (1.0,) * size, COLUMNS)
    return Predictor(build_model("mlp", takes.input_shape, 3), takes, ("a", "b", "c"), torch.device("cpu"))


def rows_of(count: int) -> list[dict[str, Any]]:
    """``count`` rows with a gap, and with a category that is not known, in the last stretch."""
    rows: list[dict[str, Any]] = [
        {"id": f"r{k}", "x": k % 97 / 7, "long": 1_700_000_000_000 + 1000 * k, "colour": "red" if k % 3 else "blue"}
        for k in range(count)
    ]
    rows[-1]["colour"], rows[-2]["x"] = "green", ""
    return rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".csv":
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    else:
        pyarrow = pytest.importorskip("pyarrow")
        columns = {name: [None if row[name] == "" else row[name] for row in rows] for name in rows[0]}
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.table(columns), path)
    return path


def both(predictor: Predictor, path: Path, table: TableOptions | None = None) -> list[tuple[Any, ...]]:
    """Answers, problems and notes: of all rows at once, and stretch by stretch."""
    options, found = SourceOptions(table=table or TableOptions()), []
    whole = open_source(read_ref(str(path)), options, like=predictor.input())
    rows = open_for(predictor, read_ref(str(path)), options)
    assert isinstance(rows, NewRows)
    for source, chunks in ((whole, predict_source(predictor, whole)), (rows, predict_file(predictor, rows))):
        problems = list(source.problems) if source is whole else []  # type: ignore[union-attr]
        answers = list(chunks)
        problems += [problem for chunk in answers for problem in chunk.problems]
        ids = [name for chunk in answers for name in chunk.ids]
        p = torch.cat([chunk.probabilities for chunk in answers])
        found.append((ids, p, problems, list(source.notes)))
    return found


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_stretches_answer_as_all_rows_at_once(predictor: Predictor, tmp_path: Path, suffix: str) -> None:
    whole, stretched = both(predictor, write(tmp_path / f"rows{suffix}", rows_of(COUNT)))
    assert whole[0] == stretched[0]
    assert len(whole[0]) == COUNT
    assert torch.equal(whole[1], stretched[1])
    assert whole[2:] == stretched[2:]
    assert [note for note in stretched[3] if "'x' 1" in note]
    assert [note for note in stretched[3] if "'colour' 1" in note]


def test_a_category_that_no_row_holds_is_said_of_the_whole_file_alone(predictor: Predictor, tmp_path: Path) -> None:
    rows = rows_of(COUNT)
    for row in rows:
        row["colour"] = "green"
    whole, stretched = both(predictor, write(tmp_path / "rows.csv", rows))
    assert whole[3] == stretched[3]
    assert f"all {COUNT:,} rows" in " ".join(stretched[3])
    rows[0]["colour"] = "red"
    _, stretched = both(predictor, write(tmp_path / "rows.csv", rows))
    assert f"all {COUNT:,} rows" not in " ".join(stretched[3])


@pytest.mark.parametrize("last", ["r7", ""])
def test_a_column_only_called_like_an_id_is_judged_by_the_whole_file(
    predictor: Predictor, tmp_path: Path, last: str
) -> None:
    rows = rows_of(COUNT)
    rows[-1]["id"] = last
    whole, stretched = both(predictor, write(tmp_path / "rows.csv", rows))
    assert whole[0] == stretched[0]
    assert stretched[0][0] == "2"
    assert whole[3] == stretched[3]
    assert "called like an id" in " ".join(stretched[3])


def test_an_id_that_stands_in_two_stretches_is_an_error_with_both_lines(predictor: Predictor, tmp_path: Path) -> None:
    rows = rows_of(COUNT)
    rows[-1]["id"] = "r7"
    path, table = write(tmp_path / "rows.csv", rows), TableOptions(id="id")
    source = open_for(predictor, read_ref(str(path)), SourceOptions(table=table))
    assert isinstance(source, NewRows)
    with pytest.raises(UserError) as error:
        list(predict_file(predictor, source))
    with pytest.raises(UserError) as whole:
        open_source(read_ref(str(path)), SourceOptions(table=table), like=predictor.input())
    assert str(error.value) == str(whole.value)
    assert "rows.csv, line 9" in str(error.value)


def test_bad_rows_are_left_out_where_that_was_asked_for(predictor: Predictor, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", rows_of(COUNT))
    lines = path.read_text(encoding="utf-8").splitlines()
    lines[1500] += ",1"
    lines[-1] += ",1"
    path.write_text("\n".join([*lines, "", "x,y"]), encoding="utf-8")
    whole, stretched = both(predictor, path, TableOptions(skip_bad_rows=True))
    assert whole[0] == stretched[0]
    assert len(whole[0]) == COUNT - 2
    assert whole[2] == stretched[2]
    assert len(stretched[2]) == 3
    assert torch.allclose(whole[1], stretched[1], atol=1e-6)
    assert whole[3] == stretched[3]


def test_floats_that_are_whole_numbers_are_written_alike_in_every_stretch(predictor: Predictor, tmp_path: Path) -> None:
    rows = rows_of(COUNT)
    for k, row in enumerate(rows):
        row["id"] = 1e10 + k
    whole, stretched = both(predictor, write(tmp_path / "rows.parquet", rows))
    assert whole[0] == stretched[0]
    assert stretched[0][1] == "10000000001"
    rows[-1]["id"] = 0.5
    whole, stretched = both(predictor, write(tmp_path / "rows.parquet", rows))
    assert whole[0] == stretched[0]
    assert stretched[0][1] == "1.0000000001e+10"


def test_texts_and_an_empty_file(tmp_path: Path) -> None:
    takes = Preprocessing("text", (16,), (), (), tokens=Tokens("words", 16))
    model = build_model("ngram", takes.input_shape, 2, takes.tokens)
    predictor = Predictor(model, takes, ("a", "b"), torch.device("cpu"))
    rows = [{"text": f"word{k} and, more"} for k in range(COUNT)]
    whole, stretched = both(predictor, write(tmp_path / "rows.csv", rows))
    assert whole[0] == stretched[0]
    assert torch.equal(whole[1], stretched[1])
    (tmp_path / "none.csv").write_text("text\n", encoding="utf-8")
    with pytest.raises(UserError, match="no rows under the header"):
        list(predict_source(predictor, tmp_path / "none.csv"))


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_no_more_than_a_stretch_is_held(predictor: Predictor, tmp_path: Path, suffix: str) -> None:
    rows = open_for(predictor, read_ref(str(write(tmp_path / f"rows{suffix}", rows_of(6 * ROWS)))), SourceOptions())
    seen, sizes = list[Any](), list[int]()
    for source in rows:  # type: ignore[union-attr]
        sizes.append(len(source.ids))
        seen.append(weakref.ref(source))
        gc.collect()
        assert sum(reference() is not None for reference in seen) <= 2  # this one, and the loop's before it
    assert sizes == [ROWS] * 6

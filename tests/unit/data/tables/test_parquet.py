"""Parquet files as columns of texts, numbers and bytes."""

from __future__ import annotations

import datetime
import decimal
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metapl import open_source
from metapl.data import sources
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.memory.arrays import from_arrays
from metapl.data.sources import SourceOptions, read_ref
from metapl.data.tables.readers.frame import Texts
from metapl.data.tables.readers.parquet import ParquetFile
from metapl.errors import UserError
from metapl.types import ModelInput


def write(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def listed(path: Path, column: str, form: Any = "auto") -> list[Any]:
    values = ParquetFile(path).read({column: form}).columns[column]
    return values.tolist() if isinstance(values, Texts | np.ndarray) else values


@pytest.mark.parametrize(
    ("values", "auto", "text"),
    [
        (pa.array([3, None, 5]), [3, None, 5], ["3", "", "5"]),
        (pa.array([1.5, None, float("nan")]), [1.5, None, None], ["1.5", "", ""]),
        (pa.array([1.0, None, float("nan")]), [1, None, None], ["1", "", ""]),
        (pa.array([decimal.Decimal("1.50"), None]), [1.5, None], ["1.50", ""]),
        (pa.array(["b", None, "a", "b"]), ["b", "", "a", "b"], ["b", "", "a", "b"]),
        (pa.array(["b", None, "a"]).dictionary_encode(), ["b", "", "a"], ["b", "", "a"]),
        (pa.array([7, None, 9]).dictionary_encode(), [7, None, 9], ["7", "", "9"]),
        (pa.array(["01", "1"], type=pa.large_string()), ["01", "1"], ["01", "1"]),
        (pa.array([True, None, False]), ["true", "", "false"], ["true", "", "false"]),
        (pa.array([datetime.date(2020, 1, 2), None]), ["2020-01-02", ""], ["2020-01-02", ""]),
        (pa.array([b"\xff", None]), [b"\xff", None], [b"\xff", None]),
        (pa.array([b"ab", None], type=pa.binary(2)), [b"ab", None], [b"ab", None]),
        (pa.array([{"bytes": b"x", "path": "p"}, {"bytes": None, "path": "q"}]), [b"x", None], [b"x", None]),
        (pa.array([{"bytes": None, "path": "p"}, {"bytes": None, "path": "q"}]), ["p", "q"], ["p", "q"]),
        (pa.nulls(2), [None, None], ["", ""]),
    ],
    ids=lambda v: str(v.type) if isinstance(v, pa.Array) else "",
)
def test_columns_of_every_type(tmp_path: Path, values: pa.Array, auto: list[Any], text: list[Any]) -> None:
    path = write(tmp_path / "a.parquet", column=values)
    found = [None if isinstance(v, float) and np.isnan(v) else v for v in listed(path, "column")]
    assert found == auto
    assert listed(path, "column", "text") == text


def test_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=["p", "q"]).to_parquet(tmp_path / "a.parquet")
    file = ParquetFile(tmp_path / "a.parquet")
    assert (file.name, file.names, file.rows) == ("a.parquet", ("a", "b"), 2)
    frame = file.read({"b": "text"})
    assert list(frame.columns) == ["b"]
    assert (frame.where(1), frame.line(1), frame.rows) == ("a.parquet, row 1", "1", 2)
    given_up = file.read({"a": "auto", "b": "auto"}, {"b": 1})
    assert (list(given_up.columns), given_up.full) == (["a"], {"b"})


def test_several_row_groups_are_one_column(tmp_path: Path) -> None:
    table = pa.table(
        {"label": pa.array(["a", "b", "b", "c", "a"]).dictionary_encode(), "x": [b"1", b"2", b"3", b"", None]}
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=2)
    assert listed(tmp_path / "a.parquet", "label", "text") == ["a", "b", "b", "c", "a"]
    assert listed(tmp_path / "a.parquet", "x") == [b"1", b"2", b"3", b"", None]


def test_numbers_are_read_from_text_where_asked(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", good=["1", "NA", "2.5"], bad=["1", "x", "2"], wide=[1e300, 1, 2])
    assert listed(path, "good", "number")[::2] == [1, 2.5]
    with pytest.raises(UserError, match=r"a\.parquet, row 1: column 'bad' has 'x'"):
        listed(path, "bad", "number")
    with pytest.raises(UserError, match=r"a\.parquet, row 0: column 'wide' has 1e\+300, too large"):
        listed(path, "wide")


@pytest.mark.parametrize("names", [{"names": ["cat", "dog"]}, {"names": 3}, {}, None])
def test_class_numbers_take_the_names_that_the_file_gives_them(tmp_path: Path, names: Any) -> None:
    info = {"info": {"features": {"label": {**names, "_type": "ClassLabel"}}}} if names is not None else [1]
    table = pa.table({"label": [1, 0, -1, 2]}).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, tmp_path / "a.parquet")
    known = bool(names) and isinstance(names["names"], list)
    wanted = ["dog", "cat", "", "2"] if known else ["1", "0", "-1", "2"]
    assert listed(tmp_path / "a.parquet", "label", "text") == wanted
    assert listed(tmp_path / "a.parquet", "label") == [1, 0, -1, 2]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pa.table({"a": [[1, 2], [3]]}), "column 'a' holds list<"),
        (pa.table({"a": [{"u": 1}]}), "column 'a' holds struct<"),
        (pa.table({"a": pa.array([], type=pa.int64())}), "the file has no row"),
        (pa.table([[1], [2]], names=["a", "a"]), "two columns are called 'a'"),
        (pa.table([[1], [2]], names=["a", " "]), "column 2 has no name"),
    ],
)
def test_files_that_cannot_serve(tmp_path: Path, table: pa.Table, words: str) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(UserError) as error:
        listed(tmp_path / "a.parquet", "a")
    assert words in str(error.value)
    assert error.value.where == "a.parquet"


def test_a_column_too_large_for_memory_is_refused_early(tmp_path: Path, monkeypatch: Any) -> None:
    table = pa.table({"image": [bytes(500)] * 6, "other": range(6)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
    monkeypatch.setattr("metapl.data.tables.readers.parquet.MAX_BYTES", 1200)
    read = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *a, **k: (read.append(1), whole(*a, **k))[1])
    with pytest.raises(UserError, match="column 'image' is larger than 0 GiB, the limit"):
        listed(tmp_path / "a.parquet", "image")
    assert len(read) == 3
    assert listed(tmp_path / "a.parquet", "other") == [0, 1, 2, 3, 4, 5]


def test_stretches_hold_a_part_of_a_row_group(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=2_000_000)  # 16 MB in one row group, in pages of 1 MB
    pq.write_table(pa.table({"a": numbers}), tmp_path / "a.parquet", row_group_size=len(numbers), use_dictionary=False)
    before, sums, held = pa.total_allocated_bytes(), 0.0, []
    for stretch in ParquetFile(tmp_path / "a.parquet").stretches({"a": "auto"}, 50_000):
        held.append(pa.total_allocated_bytes() - before)
        column = stretch.read({"a": "auto"}).columns["a"]
        assert isinstance(column, np.ndarray)
        sums += float(column.sum(dtype=np.float64))
    assert sums == pytest.approx(numbers.sum(), abs=0.1)
    assert len(held) == 40
    assert max(held) < numbers.nbytes / 3


def test_pyarrow_is_missing(tmp_path: Path, monkeypatch: Any) -> None:
    path = write(tmp_path / "a.parquet", a=[1])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(UserError, match=r"pip install 'metapl\[parquet\]'"):
        ParquetFile(path)


def test_the_number_minus_one_is_no_label(tmp_path: Path) -> None:
    """As in memory; the text -1 is a class, as in every file."""
    kinds = {"int": pa.array([0, 1, -1, -1, 0]), "float": pa.array([0.0, 1, -1, None, 0])}
    kinds |= {"dictionary": pa.array([0, 1, -1, -1, 0]).dictionary_encode()}
    for kind, label in kinds.items():
        path = write(tmp_path / f"{kind}.parquet", a=pa.array([1.5, 2, 3, 4, 5]), label=label)
        source = open_source(str(path))
        assert (source.labels.tolist(), source.class_names) == ([0, 1, -1, -1, 0], ("0", "1")), kind
        assert any("the number -1 as label taken for unlabelled" in note for note in source.notes)
        frame = pd.read_parquet(path)
        assert from_arrays(frame[["a"]], frame["label"]).labels.tolist() == source.labels.tolist()
        like = ModelInput(fit_preprocessing(source, np.arange(5)), ("0", "1"), labels=True)
        rows = sources.open_source(read_ref(str(path)), like=like)
        assert rows.labels.tolist() == [0, 1, -1, -1, 0]
    path = write(tmp_path / "text.parquet", a=pa.array([1.5, 2, 3]), label=pa.array(["0", "1", "-1"]))
    assert open_source(str(path)).class_names == ("-1", "0", "1")
    (tmp_path / "more.csv").write_text("a,label\n1,-1\n2,0\n")
    joined = open_source(str(tmp_path / "int.parquet"), SourceOptions(unlabeled=str(tmp_path / "more.csv")))
    assert joined.class_names == ("0", "1")

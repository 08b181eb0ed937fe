"""Files of separated values and of JSON lines, read into a frame: values verbatim, rows known by their line."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from metapl.data.tables.readers import delimited, encodings
from metapl.data.tables.readers.delimited import DelimitedFile
from metapl.data.tables.readers.frame import ColumnBuilder, Frame, Texts, to_numbers
from metapl.data.tables.readers.jsonl import JsonLinesFile
from metapl.errors import UserError


def put(folder: Path, text: str | bytes, name: str = "x.csv") -> Path:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def whole(path: Path, **options: object) -> Frame:
    """Every column as "auto"."""
    made = JsonLinesFile if path.suffix == ".jsonl" else DelimitedFile
    file = made(path, **options)  # type: ignore[arg-type]
    return file.read(dict.fromkeys(file.names, "auto"))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", [",", "\t", ";", "|"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_line_ends_delimiters_and_bom(tmp_path: Path, end: str, mark: str, bom: bytes) -> None:
    text = end.join([f"a{mark}b b", f"1.5{mark}ü", f'-2{mark}"x{mark}{end}""y"""', ""])
    frame = whole(put(tmp_path, bom + text.encode()))
    assert frame.columns["a"].tolist() == [1.5, -2.0]  # type: ignore[union-attr]
    assert frame.text("b b").tolist() == ["ü", f'x{mark}{end}"y"']
    assert [frame.where(k) for k in range(frame.rows)] == ["x.csv, line 2", "x.csv, line 3"]
    assert frame.notes == ["x.csv: 1 row of several lines, the first on line 3"]


def test_numbers_only_where_every_value_is_one(tmp_path: Path) -> None:
    rows = ["a,b,c,d", "1,NA,01,1_0", "?,,x,2", " 3 ,1e2,1.0,3"]
    columns = whole(put(tmp_path, "\n".join(rows))).columns
    np.testing.assert_array_equal(columns["a"], np.float32([1, np.nan, 3]))
    np.testing.assert_array_equal(columns["b"], np.float32([np.nan, np.nan, 100]))
    assert isinstance(columns["c"], Texts)
    assert columns["c"].tolist() == ["01", "x", "1.0"]
    assert isinstance(columns["d"], Texts), "float() would take 1_0"


def test_text_is_kept_verbatim_and_skipped_columns_are_absent(tmp_path: Path) -> None:
    names = ["1", "01", "1.0", "TRUE", "NA", "None", " x ", "", "null", "nan"]
    file = DelimitedFile(put(tmp_path, "a,y,z\n" + "".join(f"0,{n},q\n" for n in names)))
    frame = file.read({"y": "text"})
    assert list(frame.columns) == ["y"]
    assert frame.text("y").tolist() == names


def test_a_late_text_gives_the_whole_column_back_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delimited, "CHUNK", 3)
    values = ["01", "2", "NA", "4.0", "5", "6", "x", "8"]
    frame = whole(put(tmp_path, "a,n\n" + "".join(f"{v},{k}\n" for k, v in enumerate(values))))
    assert frame.text("a").tolist() == values
    assert frame.columns["n"].tolist() == list(range(8))  # type: ignore[union-attr]
    assert frame.rows == 8


def test_a_column_of_too_many_texts_is_given_up(tmp_path: Path) -> None:
    file = DelimitedFile(put(tmp_path, "a,b\n" + "".join(f"t{k},t{k % 2}\n" for k in range(50))))
    frame = file.read({"a": "auto", "b": "auto"}, most={"a": 10, "b": 10})
    assert frame.full == {"a"}
    assert list(frame.columns) == ["b"]


@pytest.mark.parametrize(
    ("decimal", "odd"), [("point", "3,5"), ("point", "1e39"), ("comma", "1.5"), ("comma", "1.234,5")]
)
@pytest.mark.parametrize("at", [4, 25, 49])
def test_one_number_written_otherwise_costs_no_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decimal: str, odd: str, at: int
) -> None:
    monkeypatch.setattr(delimited, "CHUNK", 5)
    values = [str(k) for k in range(50)]
    values[at] = odd
    file = DelimitedFile(put(tmp_path, "a;b\n" + "".join(f"{v};x\n" for v in values)), decimal=decimal)
    with pytest.raises(
        UserError, match=rf"^x\.csv, line {at + 2}: column 'a' has '?{odd}'?, .*source\.table\.categorical=a"
    ):
        file.read({"a": "auto"}, most={"a": 10})
    values[40] = "x"
    file = DelimitedFile(put(tmp_path, "a;b\n" + "".join(f"{v};x\n" for v in values)), decimal=decimal)
    with pytest.raises(UserError, match="column 'a' holds numbers, but 2 of its 50 cells are not"):
        file.read({"a": "auto"}, most={"a": 10})


def test_bad_rows_are_refused_or_left_out_with_their_lines(tmp_path: Path) -> None:
    path = put(tmp_path, b'a,b\n1,x\n2\n3,"y"k\n\n4,\xe9\n5,\0\n6,w,v\n\n7,last\n')
    with pytest.raises(UserError, match=r"^x\.csv, line 6: byte 0xe9"):
        whole(path)
    frame = whole(path, skip_bad=True)
    assert frame.text("b").tolist() == ["x", "last"]
    assert [frame.where(k) for k in range(2)] == ["x.csv, line 2", "x.csv, line 10"]
    assert [place for place, _ in frame.problems] == [
        "x.csv, line 3",
        "x.csv, line 4",
        *(f"x.csv, line {k}" for k in (6, 7, 8)),
    ]


def test_a_long_field_is_read_and_the_limit_of_csv_stays_as_it_was(tmp_path: Path) -> None:
    before = csv.field_size_limit()
    frame = whole(put(tmp_path, f"a,b\n1,{'x' * 300_000}\n"))
    assert len(frame.text("b")[0]) == 300_000
    assert csv.field_size_limit() == before


def test_where_two_delimiters_would_do_the_rows_decide_or_the_user(tmp_path: Path) -> None:
    assert DelimitedFile(put(tmp_path, "a;b,c\n1;2,5\n3;4\n")).names == ("a", "b,c")
    both = put(tmp_path, "a;b,c\n1;2,5\n")
    with pytest.raises(UserError, match=r"comma .2 columns. and semicolon .2 columns.*source\.table\.delimiter=comma"):
        DelimitedFile(both)
    assert DelimitedFile(both, delimiter="semicolon").names == ("a", "b,c")
    assert DelimitedFile(both, delimiter=",").names == ("a;b", "c")


def test_json_values_are_kept_as_written(tmp_path: Path) -> None:
    text = '{"y": 1, "n": 2.50}\n{"y": "01", "n": null}\n\n{"y": 1.0, "n": 3, "more": true}\n'
    file = JsonLinesFile(put(tmp_path, text, "x.jsonl"))
    frame = file.read({"y": "text", "n": "auto", "more": "text"})
    assert frame.text("y").tolist() == ["1", "01", "1.0"]
    assert frame.text("more").tolist() == ["", "", "true"]
    np.testing.assert_array_equal(frame.columns["n"], np.float32([2.5, np.nan, 3]))
    assert frame.where(2) == "x.jsonl, line 4"
    assert "x.jsonl: the key 'more' is in 1 of 3 lines" in frame.notes


def test_json_lines_that_cannot_serve(tmp_path: Path) -> None:
    bad = ["{", "[1]", "3", '{"a": 1, "a": 2}', '{"a": [1, 2]}', '{"a": "\\ud800"}']
    path = put(tmp_path, "\n".join(['{"a": 1}', *bad, '{"a": 2}']), "x.jsonl")
    with pytest.raises(UserError, match=r"^x\.jsonl, line 2: the line is not valid JSON"):
        whole(path)
    frame = whole(path, skip_bad=True)
    assert frame.columns["a"].tolist() == [1.0, 2.0]  # type: ignore[union-attr]
    assert [place for place, _ in frame.problems] == [f"x.jsonl, line {k}" for k in range(2, 8)]


def test_a_value_that_is_no_number_is_named() -> None:
    for value, part in (
        ("3,5", "decimal comma"),
        ("-Inf", "infinite"),
        ("1e39", "too large"),
        ("twelve", "not a number"),
    ):
        with pytest.raises(UserError, match=rf"^FILE, line 1: .*{part}"):
            ColumnBuilder("a", "number").add(["1", value], lambda row: f"FILE, line {row}")
    assert to_numbers(["1", "NAN"]) == 1


def test_numbers_with_a_decimal_comma(tmp_path: Path) -> None:
    path = put(tmp_path, "a;b;c\n1,5;x;NA\n-2;1,5;,25\n 3,25 ;2;1,5e+02\n")
    frame = whole(path, decimal="comma")
    np.testing.assert_array_equal(frame.columns["a"], np.float32([1.5, -2, 3.25]))
    assert frame.text("b").tolist() == ["x", "1,5", "2"], "a category keeps its text"
    assert frame.text("b").decimal == ","
    np.testing.assert_array_equal(frame.columns["c"], np.float32([np.nan, 0.25, 150]))
    assert isinstance(whole(path).columns["a"], Texts)
    assert to_numbers(["1,5", "1.5"], ",") == 1
    assert to_numbers(["1,5,5"], ",") == to_numbers(["1,5"]) == 0


@pytest.mark.parametrize(
    "codec", ["cp1252", "latin-1", "mac-roman", "utf-16", "utf-16-be", "utf-32", "gbk", "shift_jis"]
)
def test_an_encoding_that_is_said(tmp_path: Path, codec: str) -> None:
    text = "a,b\n" + "".join(f"{k},{'日本' if codec in ('gbk', 'shift_jis') else 'Größe'}\r\n" for k in range(3000))
    frame = whole(put(tmp_path, text.encode(codec)), encoding=codec)
    assert set(frame.text("b").tolist()) <= {"日本", "Größe"}
    assert (frame.rows, frame.where(2999), frame.notes) == (3000, "x.csv, line 3001", [])


def test_the_line_of_a_wrong_byte_beyond_the_first_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encodings, "_BLOCK", 7)  # characters are cut at the blocks' ends
    path = put(tmp_path, "a,b\n" + "1,Größe\n" * 20)
    assert whole(path).rows == 20
    with pytest.raises(UserError, match=r"^x\.csv, line 22: byte 0xfc is not valid UTF-8"):
        whole(put(tmp_path, path.read_bytes() + "1,Tür\n".encode("cp1252")))

"""Files as other programs write them: what is odd is named for what it is, and what the message says works."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from given import labels, notes, opened, write

import metapl
from metapl import UserError


def rows(head: str, line: Callable[[int], str], count: int = 40) -> str:
    return "\n".join([head, *map(line, range(count))]) + "\n"


def refused(path: Path, *words: str, **settings: object) -> UserError:
    """``check`` and ``train`` refuse it alike."""
    with pytest.raises(UserError) as error:
        opened(path, **settings)
    for word in words:
        assert word in str(error.value), (word, str(error.value))
    return error.value


def kinds(path: Path) -> dict[str, str]:
    return {
        finding.kind: f"{finding.level}: {finding.text}. {finding.remedy}"
        for finding in metapl.check(str(path)).findings
    }


# -- numbers that are not written as numbers


@pytest.mark.parametrize(
    ("form", "unit"),
    [("{k}%", "%"), ("${k}.50", "$"), ("{k} cm", "cm"), ("{k}.5N", "N"), ("\u2212{k}.5", "\u2212"), ("€ {k},50", "€")],
)
def test_numbers_with_a_unit_are_named(tmp_path: Path, form: str, unit: str) -> None:
    every = write(tmp_path / "x.csv", rows("a;b;label", lambda k: f"{form.format(k=k)};{k * 3 % 13};{'uv'[k % 2]}"))
    assert f"column 'a' holds numbers with '{unit}', which are not read as numbers (write them without it)" in notes(
        opened(every)
    )
    few = write(tmp_path / "y.csv", rows("a;b;label", lambda k: f"{form.format(k=k % 9)};{k * 3 % 13};{'uv'[k % 2]}"))
    assert f"though it holds numbers with '{unit}'" in kinds(few)["numbers_with_units"]


@pytest.mark.parametrize("form", ["A{k}", "row {k}", "{k}a{k}", "x{k}.5"])
def test_names_with_numbers_have_no_unit(tmp_path: Path, form: str) -> None:
    path = write(tmp_path / "x.csv", rows("a,b,label", lambda k: f"{form.format(k=k % 9)},{k * 3 % 13},{'uv'[k % 2]}"))
    assert "numbers_with_units" not in kinds(path)


def test_times_are_called_times(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv", rows("t,b,label", lambda k: f"{k % 24}:{k * 7 % 60:02d},{k * 3 % 13},{'uv'[k % 2]}")
    )
    assert "column 't' holds dates or times" in notes(opened(path))


@pytest.mark.parametrize("mark", ["...", "unknown", "n.d."])
def test_a_mark_in_many_cells_does_not_make_categories(tmp_path: Path, mark: str) -> None:
    path = write(
        tmp_path / "x.csv", rows("a,b,label", lambda k: f"{mark if k % 3 == 0 else k},{k * 3 % 13},{'uv'[k % 2]}")
    )
    refused(path, "column 'a' holds numbers, but 14 of its 40 cells are not", f"'{mark}'", "leave these cells empty")


@pytest.mark.parametrize("mark", ["-999", "9999", "-9999.0", "1e30"])
def test_check_finds_numbers_that_may_mean_missing(tmp_path: Path, mark: str) -> None:
    text = rows(
        "a,b,label",
        lambda k: f"{mark if k % 6 == 0 else k * 7 % 31}.5,{k * 3 % 13},{'uv'[k % 2]}".replace(f"{mark}.5", mark),
    )
    found = kinds(write(tmp_path / "x.csv", text))["marks_as_numbers"]
    assert found.startswith(f"WILL HURT: column 'a' holds {float(mark):g} in 7 rows")
    assert "marks_as_numbers" not in kinds(write(tmp_path / "y.csv", text.replace(f"\n{mark},", "\n,")))  # as it says


def test_check_finds_a_column_that_repeats_the_label(tmp_path: Path) -> None:
    for name, other in (("x", lambda k: "uv"[k % 2] * 2), ("y", lambda k: str(k % 2 + 5))):
        path = write(
            tmp_path / f"{name}.csv",
            rows("a,kind,label", lambda k, other=other: f"{k * 7 % 31},{other(k)},{'uv'[k % 2]}"),
        )
        assert "'kind' goes with the label one to one" in kinds(path)["columns_like_label"]
    path = write(tmp_path / "z.csv", rows("a,kind,label", lambda k: f"{k * 7 % 31},{'pq'[k % 5 % 2]},{'uv'[k % 2]}"))
    assert "columns_like_label" not in kinds(path)


def test_digits_beyond_double_precision_are_named(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", rows("a,b,label", lambda k: f"{2**55 + k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]}"))
    assert "of which the last are lost" in kinds(path)["digits_lost"]


# -- lines that are not rows


@pytest.mark.parametrize(
    "above", ["# made by a program", "Report of May", "exported,by,x,2024,today\n".replace(",", " ")]
)
def test_lines_above_the_names_are_named(tmp_path: Path, above: str) -> None:
    text = rows("a,b,label", lambda k: f"{k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]}")
    path = write(tmp_path / "x.csv", f"{above.strip()}\n{text}")
    refused(
        path, "line 1: the first line has one field, the lines below have 3", "Take out what stands above the names"
    )
    assert len(opened(write(tmp_path / "x.csv", text)).ids) == 40


def test_a_header_that_comes_again_is_a_bad_row(tmp_path: Path) -> None:
    text = rows("a,b,label", lambda k: f"{k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]}")
    path = write(tmp_path / "x.csv", text + text)
    refused(path, "line 42: the row repeats the names of the columns", "source.table.skip_bad_rows=true")
    assert len(opened(path, skip_bad_rows=True).ids) == 80
    texts = write(tmp_path / "y.csv", "text,label\ngood,u\nbad,v\ntext,u\n")
    assert len(opened(texts).ids) == 3


def test_where_all_rows_are_bad_the_file_is_to_blame(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", rows("text,label", lambda k: f"'it, is {k}','{'uv'[k % 2]}'"))
    refused(path, "the row has 3 fields where the header has 2. Look at the header and the delimiter")


# -- JSON in other forms


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("array", [True, False])
def test_json_that_is_not_json_lines_is_named(tmp_path: Path, indent: int | None, array: bool) -> None:
    objects = [{"text": f"t {k}", "label": "uv"[k % 2]} for k in range(4)]
    text = json.dumps(objects, indent=indent) if array else "\n".join(json.dumps(one, indent=2) for one in objects)
    refused(
        write(tmp_path / "x.jsonl", text), "line 1: the file is not JSON Lines. Write it with one JSON object per line"
    )


def test_commas_between_the_lines_are_named(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"t {k}", "label": "uv"[k % 2]}) for k in range(40)]
    refused(
        write(tmp_path / "x.jsonl", ",\n".join(lines)),
        "39 of 40 rows have this fault",
        "without commas or brackets between",
    )


def test_several_labels_in_a_row_are_not_to_be_ignored(tmp_path: Path) -> None:
    """Leaving the column of labels out would help nobody."""
    lines = [json.dumps({"text": f"t {k}", "label": ["u", "w"] if k == 3 else ["uv"[k % 2]]}) for k in range(40)]
    error = refused(
        write(tmp_path / "x.jsonl", "\n".join(lines)), "'label' is a list of 2 values", "skip_bad_rows=true"
    )
    assert "source.table.ignore" not in str(error)
    assert len(opened(tmp_path / "x.jsonl", skip_bad_rows=True).ids) == 39


# -- arrays


def test_labels_in_arrays_of_other_types(tmp_path: Path) -> None:
    X, y = np.random.default_rng(0).normal(size=(20, 3)), np.array(["u", "v", "-1", ""] * 5)
    np.savez(tmp_path / "x.npz", X=X, y=y)
    refused(tmp_path / "x.npz", "5 labels of y read '-1'", "set source.no_label=-1")
    assert labels(opened(tmp_path / "x.npz", no_label="-1"))[:4] == ["u", "v", None, None]
    np.savez(tmp_path / "x.npz", X=X, y=np.array([b"u", b"v", b"", b"u"] * 5))
    assert labels(opened(tmp_path / "x.npz"))[:4] == ["u", "v", None, "u"]
    np.savez(tmp_path / "x.npz", X=X, y=np.eye(2)[np.arange(20) % 2])
    refused(tmp_path / "x.npz", "If it is one-hot, give the number of the class: y.argmax(axis=1)")
    np.savez(tmp_path / "x.npz", X=X, y=np.arange(20) % 2 + 1, class_names=np.array(["a", "b"]))
    refused(tmp_path / "x.npz", "Labels count class_names from 0, so the last one is 1.")


# -- Parquet


def test_texts_as_bytes_and_lists_of_one(tmp_path: Path) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    lab = ["uv"[k % 2] if k < 30 else None for k in range(40)]
    columns = {
        "text": pa.array([f"t {k}".encode() for k in range(40)]),
        "label": pa.array([[v] if v else [] for v in lab]),
    }
    parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    source = opened(tmp_path / "x.parquet")
    assert source.kind == "text"
    assert labels(source) == lab
    parquet.write_table(
        pa.table({"a": pa.array([[k, 1] for k in range(40)]), "b": list(range(0, 80, 2)), "label": lab}),
        tmp_path / "y.parquet",
    )
    refused(tmp_path / "y.parquet", "column 'a' holds list<", "Write one value per row, or set source.table.ignore=a.")
    assert len(opened(tmp_path / "y.parquet", ignore="a", features="").ids) == 40
    parquet.write_table(
        pa.table({"a": list(range(40)), "label": pa.array([[v, "w"] for v in lab])}), tmp_path / "z.parquet"
    )
    assert "source.table.ignore" not in str(refused(tmp_path / "z.parquet", "column 'label' holds list<"))


# -- classes that differ by a blank


def test_the_mapping_that_is_proposed_can_be_typed(tmp_path: Path) -> None:
    text = rows("a,b,label", lambda k: f"{k * 7 % 11},{k * 3 % 13},{'uv'[k % 2]}" + ("\u00a0" if k % 5 == 0 else ""))
    path = write(tmp_path / "x.csv", text)
    error = refused(path, "differ only by case, spaces", "set source.label_map=u:u.")
    assert "label_map" in str(error)
    assert opened(path, label_map="u:u,v:v").class_names == ("u", "v")

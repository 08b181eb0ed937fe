"""Files of rows as a source: roles of columns, class names verbatim, numbers and categories, several files."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metapl import open_source
from metapl.data.memory.source import MemorySource
from metapl.data.sources import SourceOptions
from metapl.errors import UserError
from metapl.types import Source


def put(folder: Path, text: str, name: str = "x.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def table(folder: Path, rows: str, name: str = "x.csv", **options: object) -> MemorySource:
    source = open_source(str(put(folder, rows, name)), SourceOptions(**options))  # type: ignore[arg-type]
    assert isinstance(source, MemorySource)
    return source


def told(source: Source, part: str) -> bool:
    return any(part in note for note in source.notes)


def test_numbers_categories_missing_values_and_unlabelled_rows(tmp_path: Path) -> None:
    source = table(tmp_path, "age,job,label\n30,cook,yes\nNA,,no\n41.5,baker,\n?,cook,yes\n")
    assert (source.kind, source.class_names, source.ids) == ("table", ("no", "yes"), ("2", "3", "4", "5"))
    assert source.labels.tolist() == [1, 0, -1, 1]
    assert [(c.name, c.levels) for c in source.columns] == [("age", ()), ("job", ("baker", "cook"))]
    np.testing.assert_array_equal(source.data.numpy(), np.float32([[30, 1], [np.nan, np.nan], [41.5, 0], [np.nan, 1]]))
    assert told(source, "read as missing, of 4 rows: 'age' 2, 'job' 1")


def test_class_names_are_taken_verbatim(tmp_path: Path) -> None:
    names = ["NA", "None", "null", "nan", "1", "01", "2.0", "TRUE", "-1", "?"]
    rows = "".join(f"{k}.5,{name}\n" for k, name in enumerate([*names, ""]))
    source = table(tmp_path, "x,label\n" + rows)
    assert set(source.class_names) == set(names)
    assert [source.class_names[k] if k >= 0 else "" for k in source.labels] == [*names, ""]
    assert told(source, "are taken for classes; if they mean that a row has no label, set source.no_label=")


def test_whole_numbers_stand_in_their_own_order(tmp_path: Path) -> None:
    rows = "".join(f"{k}.5,{k}\n" for k in (10, 9, 2, 1, 0))
    assert table(tmp_path, "x,y\n" + rows).class_names == ("0", "1", "2", "9", "10")


@pytest.mark.parametrize("twins", [("Yes", "yes"), ("a b", "ab"), ("e\u0301", "é"), ("no", "no ")])
def test_twins_are_refused(tmp_path: Path, twins: tuple[str, str]) -> None:
    with pytest.raises(UserError, match=r"^x\.csv, line 3: the classes .* differ only by case"):
        table(tmp_path, "x,label\n" + "".join(f"{k}.5,{name}\n" for k, name in enumerate(twins)))


def test_columns_can_be_named_and_left_out(tmp_path: Path) -> None:
    text = "a,b,c,zip,kind\n1,2,3,01,u\n2,1,5,02,v\n3,3,4,01,u\n"
    chosen = {"label": "kind", "features": "a,zip", "categorical": "zip"}
    source = table(tmp_path, text, **chosen)
    assert [(c.name, c.levels) for c in source.columns] == [("a", ()), ("zip", ("01", "02"))]
    assert told(source, "columns not used: 'b', 'c'")
    source = table(tmp_path, text, label="kind", ignore="a, b")
    assert [c.name for c in source.columns] == ["c", "zip"]
    with pytest.raises(UserError, match=r"no column 'bb' .source\.table\.features.*Did you mean 'b'"):
        table(tmp_path, text, label="kind", features="a,bb")


def test_the_label_is_found_or_asked_for(tmp_path: Path) -> None:
    assert table(tmp_path, "a,category,label\n1,x,u\n2,y,v\n").class_names == ("u", "v")
    assert table(tmp_path, "a,Target\n1,x\n2,y\n").class_names == ("x", "y")
    with pytest.raises(UserError, match=r"several columns may hold the label: 'class', 'y'.*source\.table\.label=NAME"):
        table(tmp_path, "a,class,y\n1,x,u\n2,y,v\n")
    with pytest.raises(UserError, match=r"no column holds the label .there are 'a', 'b'"):
        table(tmp_path, "a,b\n1,x\n")


def test_ids_are_the_column_or_the_line(tmp_path: Path) -> None:
    assert table(tmp_path, "id,a,y\nq7,1,u\nq8,2,v\n").ids == ("q7", "q8")
    assert table(tmp_path, "id,a,y\nq7,1,u\nq8,2,v\n", id="none", ignore="id").ids == ("2", "3")
    with pytest.raises(UserError, match=r"^x\.csv, line 4: the id 'q7' stands already in x\.csv, line 2"):
        table(tmp_path, "id,a,y\nq7,1,u\nq8,2,v\nq7,3,v\n", id="id")
    source = table(tmp_path, "id,a,y\nq7,1,u\nq8,2,v\nq7,3,v\n,4,u\n", skip_bad_rows=True, id="id")
    assert source.ids == ("q7", "q8")
    assert [place for place, _ in source.problems] == ["x.csv, line 4", "x.csv, line 5"]


def test_the_split_column(tmp_path: Path) -> None:
    text = "a,c,split,y\n1,p,train,u\n2,q,,v\n3,p,unlabeled,u\n4,q,Unlabelled,\n5,r,test,u\n6,p,test,v\n"
    source = table(tmp_path, text)
    assert source.labels.tolist() == [0, 1, -1, -1, 0, 1]
    assert source.is_test.tolist() == [False] * 4 + [True] * 2
    assert source.columns[1].levels == ("p", "q"), "a category of test rows alone is not known"
    assert source.data[4, 1].isnan()
    assert told(source, "1 label of unlabelled rows not used")
    assert told(source, "categories that training did not hold, read as missing: 'c' 1")
    with pytest.raises(UserError, match=r"line 3: the split 'validation' is not one of .*--validation"):
        table(tmp_path, "a,split,y\n1,train,u\n2,validation,v\n")
    with pytest.raises(UserError, match=r"line 4: the test label 'w' is not among the training labels"):
        table(tmp_path, "a,split,y\n1,train,u\n2,train,v\n3,test,w\n")


def test_three_files_and_a_folder_of_them(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    put(folder, "a;c;y\n1;p;u\n2;q;v\n", "labelled.csv")
    put(folder, "c\ta\nq\t3\np\t4\nz\t5\n", "unlabeled.tsv")
    put(folder, json.dumps({"y": "v", "c": "q", "a": 6}) + "\n", "test.jsonl")
    source = open_source(str(folder))
    assert source.name == "data"
    assert source.labels.tolist() == [0, 1, -1, -1, -1, 1]
    assert source.is_test.tolist() == [False] * 5 + [True]
    assert source.ids == (
        "labelled.csv:2",
        "labelled.csv:3",
        *(f"unlabeled.tsv:{k}" for k in (2, 3, 4)),
        "test.jsonl:1",
    )
    assert source.columns[1].levels == ("p", "q", "z")
    assert source.rows(np.arange(6))[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    options = SourceOptions(unlabeled=str(folder / "unlabeled.tsv"), test=str(folder / "test.jsonl"))
    assert open_source(str(folder / "labelled.csv"), options).fingerprint() == source.fingerprint()


def test_a_column_that_is_text_in_one_file_is_text_in_all(tmp_path: Path) -> None:
    put(tmp_path, "a\n7\nx\n", "more.csv")
    source = table(tmp_path, "a,y\n01,u\n1,v\n", unlabeled=str(tmp_path / "more.csv"))
    assert source.columns[0].levels == ("01", "1", "7", "x")


def test_what_files_must_share(tmp_path: Path) -> None:
    put(tmp_path, "b\n7\n", "more.csv")
    with pytest.raises(UserError, match=r"^more\.csv: column 'a' is missing"):
        table(tmp_path, "a,y\n01,u\n1,v\n", unlabeled=str(tmp_path / "more.csv"))
    with pytest.raises(UserError, match="is given twice"):
        table(tmp_path, "a,y\n01,u\n1,v\n", unlabeled=str(tmp_path / "x.csv"))
    put(tmp_path / "both", "a,y\n1,u\n", "labelled.csv")
    put(tmp_path / "both", "a,y\n1,u\n", "labeled.csv")
    with pytest.raises(UserError, match=r"both 'labeled\.csv' and 'labelled\.csv' exist"):
        open_source(str(tmp_path / "both"))


def test_columns_that_say_nothing_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [f"{k},{k % 7}.5,name {k},{'p' if k % 2 else 'q'},,1,{'uv'[k % 2]}" for k in range(30)]
    text = "\n".join(["index,n,name,c,void,same,y", *rows])
    source = table(tmp_path, text)
    assert [c.name for c in source.columns] == ["n", "c", "same"]
    assert told(source, "'index' only counts the rows and is left out")
    assert told(source, "'name' has another text in nearly every row")
    assert told(source, "'void' has no value in any training row")
    assert told(source, "columns with one value in every row: 'same'")
    kept = table(tmp_path, text, categorical="name", features="index,n,name,c")
    assert [c.name for c in kept.columns] == ["index", "n", "name", "c"]
    assert len(kept.columns[2].levels) == 30


def test_more_than_a_thousand_texts_are_left_out(tmp_path: Path) -> None:
    rows = [f"t{k % 1100},{k % 7}.5,{'uv'[k % 2]}" for k in range(3000)]
    source = table(tmp_path, "\n".join(["c,n,y", *rows]))
    assert [c.name for c in source.columns] == ["n"]
    how = "to keep it, as a text: source.table.text=c; as categories: source.table.categorical=c"
    assert told(source, f"'c' has more than 1000 different texts and is left out ({how})")


@pytest.mark.parametrize(("cell", "value"), [("1.5", 1.5), ("1,234", None), ("2", 2.0), ("2,5", None), ("7.5", None)])
def test_a_decimal_comma_of_one_file_is_none_of_another(tmp_path: Path, cell: str, value: float | None) -> None:
    put(tmp_path, "label;a\n" + "u;2,5\nv;2\nu;-1\nv;7\n", "labeled.csv")
    put(tmp_path, json.dumps({"a": cell}) + "\n" + json.dumps({"a": "7.25"}) + "\n", "unlabeled.jsonl")
    options = SourceOptions(decimal="comma")
    if cell == "7.5":
        put(tmp_path, "label;a\nu;7.5\nv;2,5\n", "labeled.csv")
    if value is None:
        with pytest.raises(UserError, match=f"column 'a' has '{cell}', a number with a "):
            open_source(str(tmp_path), options)
    else:
        source = open_source(str(tmp_path), options)
        np.testing.assert_array_equal(source.rows(np.arange(6))[:, 0], np.float32([2.5, 2, -1, 7, value, 7.25]))


@pytest.mark.parametrize(("cell", "part"), [("3,5", "decimal comma"), ("inf", "infinite"), ("1e60", "too large")])
def test_numbers_written_in_another_way_are_no_categories(tmp_path: Path, cell: str, part: str) -> None:
    text = f"a;y\n1.5;u\n2;v\n{cell};u\n"
    with pytest.raises(UserError, match=rf"^x\.csv, line 4: column 'a' has .*{part}.*source\.table\.categorical=a"):
        table(tmp_path, text)
    assert table(tmp_path, text, categorical="a").columns[0].levels == tuple(sorted(["1.5", "2", cell]))


def test_a_slip_among_numbers_is_told(tmp_path: Path) -> None:
    source = table(tmp_path, "a,y\n1.5,u\n2,v\n2O,u\n1.5,v\n")
    assert told(source, "'a' is read as categories: 3 of its values are numbers, but '2O' (x.csv, line 4) is not")


def test_quantities_are_no_classes(tmp_path: Path) -> None:
    rows = "".join(f"{k % 5}.5,{k}.25\n" for k in range(40))
    with pytest.raises(UserError, match="a quantity, not a class"):
        table(tmp_path, "a,y\n" + rows)


def test_texts(tmp_path: Path) -> None:
    text = 'question,label,split\n"who, then?",HUM,\nwhere is it,LOC,\nwhen,,\nhow much is all of this,HUM,test\n'
    source = table(tmp_path, text)
    assert source.kind == "text"
    assert source.tokens is not None
    assert source.data.shape == (4, source.tokens.length)
    assert source.labels.tolist() == [0, 1, -1, 0]
    again = table(tmp_path, text, text="question")
    assert again.fingerprint() == source.fingerprint()
    assert table(tmp_path, "content,label\n1,u\n3,v\n").kind == "table"


def test_images_by_their_paths(tmp_path: Path) -> None:
    for k in range(6):
        place = tmp_path / "pictures" / f"{k}.png"
        place.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), 40 * k).save(place)
    rows = [f"pictures/{k}.png,{['u', 'v', ''][k % 3]}" for k in range(5)]
    path = put(tmp_path, "\n".join(["path,label", *rows, f"{tmp_path}/pictures/5.png,v"]))
    source = open_source(str(path))
    assert source.kind == "image"
    assert source.ids[0] == "pictures/0.png"
    assert source.labels.tolist() == [0, 1, -1, 0, 1, 1]
    assert source.rows(np.array([2]))[0, 0, 0, 0] == 80
    rooted = open_source(
        str(put(tmp_path / "lists", "path,label\n0.png,u\n1.png,v\n")), SourceOptions(root=str(place.parent))
    )
    assert rooted.rows(np.array([1]))[0, 0, 0, 0] == 40
    with pytest.raises(UserError, match=r"^x\.csv, line 3: the path '\.\./1\.png' leads out of the folder"):
        open_source(str(put(tmp_path / "lists", "path,label\n0.png,u\n../1.png,v\n")))
    with pytest.raises(UserError, match=r"line 4: the path 'pictures/0\.png' stands already in x\.csv, line 2"):
        open_source(str(put(tmp_path, "path,label\npictures/0.png,u\npictures/1.png,v\npictures/0.png,u\n")))


def test_names_that_begin_with_dots_stay_in_the_folder(tmp_path: Path) -> None:
    for k, name in enumerate(("..x.png", "...", "a.png")):
        Image.new("L", (8, 8), 40 * k).save(tmp_path / name, "PNG")
    source = open_source(str(put(tmp_path, "path,label\n..x.png,u\n...,v\na.png,\n")))
    assert source.ids == ("..x.png", "...", "a.png")


def test_files_that_nothing_reads_are_told_what_to_do(tmp_path: Path) -> None:
    for name, what in {
        "x.xlsx": "Save the sheet as CSV",
        "x.CSV.gz": "Unpack it",
        "x.json": r"one object per line, and call it \.jsonl",
        "x.txt": r"ends in '\.txt' is not read.*\.csv, \.tsv.*\.parquet, \.npz, \.npy",
        "x": "without a suffix",
    }.items():
        with pytest.raises(UserError, match=what):
            open_source(str(put(tmp_path, "a,y\n1,u\n2,v\n", name)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
@pytest.mark.parametrize("name", ["x.csv", "x.jsonl", "x.parquet", "x.npz", "x.npy", "x"])
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UserError):
        open_source(str(tmp_path / name))
    table = put(tmp_path, "a,y\n1,u\n2,v\n", "good.csv")
    if name == "x.csv":
        with pytest.raises(UserError, match="a pipe or a device"):
            open_source(str(table), SourceOptions(unlabeled=str(tmp_path / name)))


def test_the_fingerprint_covers_contents(tmp_path: Path) -> None:
    prints = {
        table(tmp_path, text).fingerprint()
        for text in ("a,y\n1,u\n2,v\n", "a,y\n1,u\n3,v\n", "a,y\n1,u\n2,w\n", "b,y\n1,u\n2,v\n", "a,y\n1,u\n2,v\n3,\n")
    }
    assert len(prints) == 5


def test_a_prefix_says_what_a_file_holds(tmp_path: Path) -> None:
    path = put(tmp_path, "a,y\n1,u\n2,v\n", "data.txt")
    assert open_source(f"csv:{path}").class_names == ("u", "v")
    with pytest.raises(UserError, match="'csv' needs a file"):
        open_source("csv")


def test_the_table_of_the_data_page_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[4] / "docs" / "data" / "csv.md").read_text(encoding="utf-8")
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "cancer.csv" in block)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "csv.md", "exec"), {})
    source = open_source("cancer.csv", SourceOptions(label="diagnosis"))
    train = source.labels[~source.is_test]
    assert np.bincount(train[train >= 0]).tolist() == [10, 10]
    assert (len(source.ids), int(source.is_test.sum()), len(source.columns)) == (569, 114, 30)

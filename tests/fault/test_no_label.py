"""Which rows have no label: the marks that people write, in files, folders and arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from given import labels, notes, opened, write
from PIL import Image

import metapl
from metapl import UserError

MARKED = [f"{k * 37 % 101},{k % 7},{'ab'[k % 2] if k % 10 == 0 else 'MARK'}" for k in range(200)]
MARKED[10] = "67,3,b"


def marked(path: Path, mark: str, labeled: str = "ab") -> Path:
    rows = [line.replace("MARK", mark) for line in MARKED]
    rows = [line.translate(str.maketrans("ab", labeled)) if not line.endswith(mark) else line for line in rows]
    return write(path, "\n".join(["x1,x2,label", *rows]))


@pytest.mark.parametrize("mark", ["-1", "-1.0", "nan", "unknown", "TBD", "Unlabelled", "?"])
def test_a_mark_in_most_rows_is_asked_about_and_the_answers_work(tmp_path: Path, mark: str) -> None:
    path = marked(tmp_path / "x.csv", mark)
    with pytest.raises(UserError, match=r"stands in 180 of 200 labelled rows\. If .* set source.no_label=") as error:
        opened(path)
    assert f"source.no_label={mark}. If it is a class, set source.no_label=empty" in str(error.value)
    source = opened(path, no_label=mark)
    assert source.class_names == ("a", "b")
    assert int((source.labels < 0).sum()) == 180
    assert mark in opened(path, no_label="empty").class_names


@pytest.mark.parametrize(("said", "mark"), [("-1", "-1.0"), ("unknown,TBD", "tbd"), ("Unknown", " unknown ")])
def test_marks_are_found_however_they_are_written(tmp_path: Path, said: str, mark: str) -> None:
    path = marked(tmp_path / "x.csv", mark)
    source = opened(path, no_label=said)
    assert int((source.labels < 0).sum()) >= 180
    assert not {"unknown", "tbd", "-1", "-1.0", mark} & set(source.class_names)


def test_a_mark_in_few_rows_is_told_and_found_by_check(tmp_path: Path) -> None:
    path = write(
        tmp_path / "x.csv", "x,label\n" + "".join(f"{k * 37 % 11},{'abc'[k % 3]}\n" for k in range(40)) + "7,unknown\n"
    )
    assert "if it means that a row has no label, set source.no_label=unknown" in notes(opened(path))
    found = metapl.check(str(path))
    assert any(f.kind == "class_without_name" and "source.no_label=unknown" in f.remedy for f in found.findings)
    assert opened(path, no_label="unknown").class_names == ("a", "b", "c")


def test_minus_one_beside_one_is_a_class(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "x,label\n" + "".join(f"{k * 37 % 11},{-1 if k % 3 else 1}\n" for k in range(30)))
    source = opened(path)
    assert source.class_names == ("-1", "1")
    assert "no_label" not in notes(source)


def test_no_unlabelled_rows_names_the_mark(tmp_path: Path) -> None:
    rows = "".join(f"{k * 37 % 11},{('a', 'b', 'none')[k % 3]}\n" for k in range(30))
    source = opened(write(tmp_path / "x.csv", "x,label\n" + rows))
    with pytest.raises(UserError, match=r"'none' means that a row has none, set source\.no_label=none"):
        metapl.make_split(source, metapl.SplitConfig(), 0)


@pytest.mark.parametrize("name", ["unknown", "not sorted yet"])
def test_a_class_folder_may_mean_no_label(tmp_path: Path, name: str) -> None:
    for folder in ("cat", "dog", name):
        (tmp_path / folder).mkdir()
        for k in range(3):
            Image.new("L", (8, 8), k * 20).save(tmp_path / folder / f"{k}.png")
    source = opened(tmp_path, no_label=name)
    assert source.class_names == ("cat", "dog")
    assert int((source.labels < 0).sum()) == 3


def test_json_lists_of_one_text_are_that_text_and_empty_lists_are_no_label(tmp_path: Path) -> None:
    rows = [{"text": f"word {k}", "label": ["a"] if k % 2 else "b", "meta": {"k": [k]}} for k in range(8)]
    rows += [{"text": "more", "label": []}, {"text": ["one"], "label": None}]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    source = opened(path)
    assert labels(source) == ["b", "a"] * 4 + [None, None]
    assert not source.problems


def test_json_keys_without_a_role_are_not_looked_at_and_others_say_what_to_do(tmp_path: Path) -> None:
    rows = [{"text": f"word {k}", "label": "ab"[k % 2], "spans": [[1, 2], {"a": "\u0001"}]} for k in range(8)]
    assert opened(write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))).class_names == ("a", "b")
    rows[3]["label"] = ["a", "b"]
    path = write(tmp_path / "y.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"y\.jsonl, line 4: the value of 'label' is a list of 2.*one"):
        opened(path)


def test_json_features_that_are_lists_name_the_way_out(tmp_path: Path) -> None:
    rows = [{"x": k * 5 % 3, "tags": ["a", "b"], "label": "ab"[k % 2]} for k in range(8)]
    path = write(tmp_path / "x.jsonl", "\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"'tags' is a list.*source\.table\.ignore=tags"):
        opened(path)
    assert opened(path, ignore="tags").kind == "table"


def test_several_labels_in_one_cell_are_told_and_found_by_check(tmp_path: Path) -> None:
    values = ["comedy", "drama", "comedy|drama", "horror"]
    rows = "".join(f"{k * 37 % 101},{values[k % 4]}\n" for k in range(40))
    path = write(tmp_path / "x.csv", "x,label\n" + rows)
    assert "10 of 40 labels hold several in one cell, such as 'comedy|drama'" in notes(opened(path))
    assert any("several in one cell" in finding.text for finding in metapl.check(str(path)).findings)
    rows = rows.replace("comedy|drama", "rock and roll")
    assert "several in one cell" not in notes(opened(write(tmp_path / "y.csv", "x,label\n" + rows)))


def test_numpy_files_take_the_marks_too(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(tmp_path / "x.npz", X=x, y=np.array(["a", "b", "tbd", "?"] * 5))
    source = opened(tmp_path / "x.npz", no_label="TBD,?")
    assert (source.class_names, int((source.labels < 0).sum())) == (("a", "b"), 10)

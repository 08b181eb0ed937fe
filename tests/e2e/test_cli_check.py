"""``metapl check`` on the command line: files, exit codes, odd names, damaged images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Call, refused, save, sums
from PIL import Image

import metapl
from metapl.errors import UserError


@pytest.fixture
def tree(data: Path, tmp_path: Path) -> Path:
    """A copy of the labelled / unlabelled / test tree that a test may spoil."""
    return Path(shutil.copytree(data / "tree", tmp_path / "=my data"))


def listed(folder: Path) -> list[dict[str, str]]:
    with open(folder / "problems.csv", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def spoiled(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_digits(call: Call) -> None:
    done = call("check", "digits")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("OK: digits, 1,797 images")
    assert len(done.out.splitlines()) == 3 + 11 + 3
    assert list(Path().iterdir()) == []


def test_json_out_and_inputs(call: Call, tree: Path) -> None:
    test = sorted((tree / "test").rglob("*.png"))
    shutil.copy(test[0], tree / "labelled" / test[0].parent.name / "=1+1.png")
    before = sums(tree)
    done = call("check", tree, "--out", "checked", "--json", "-")
    assert done.code == 0
    assert sums(tree) == before
    result = json.loads(done.out)
    assert result == spoiled(Path("checked/check.json"))
    assert result["verdict"] == "WILL HURT"
    assert result["findings"][0]["kind"] == "test_in_labelled"
    assert result["rows"] == {"all": 151, "labelled": 31, "unlabelled": 80, "test": 40, "unreadable": 0}
    assert result["files"]["modes"] == {"L": 151}
    (row,) = [r for r in listed(Path("checked")) if r["kind"] == "test in labelled"]
    assert row["id"] == test[0].relative_to(tree).as_posix()
    assert row["other id"].endswith("=1+1.png")
    assert row["detail"] == "exact"


def test_a_cell_is_no_formula(call: Call, tmp_path: Path) -> None:
    for name in ("=cmd", "+b"):
        for k in range(3):
            save(np.random.default_rng(k).integers(0, 255, (16, 16)), tmp_path / "d" / name / f"{k}.png")
    assert call("check", tmp_path / "d", "--out", "o").code == 0
    rows = listed(Path("o"))
    assert rows
    assert {r["id"][:2] for r in rows} | {r["other id"][:2] for r in rows} <= {"'=", "'+"}


def test_strict(call: Call, tree: Path) -> None:
    assert call("check", tree, "--strict").code == 0
    test = sorted((tree / "test").rglob("*.png"))[0]
    shutil.copy(test, tree / "labelled" / test.parent.name / "copy.png")
    done = call("check", tree)
    assert (done.code, done.out.splitlines()[0].split(":")[0]) == (0, "WILL HURT")
    assert call("check", tree, "--strict").code == 1


def test_many_unreadable_images_do_not_stop_it(call: Call, tree: Path) -> None:
    for k in range(20):
        (tree / "unlabelled" / f"bad\n{k}.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing")
    (sorted((tree / "test").rglob("*.png"))[0]).write_bytes(b"")
    refused(call("train", tree, "--steps", "1"), "cannot be read")
    done = call("check", tree, "--out", "o")
    assert done.code == 0
    assert "WILL HURT: 21 of 170 (12.4 %) rows cannot be read" in done.out
    assert "source.image.allow_bad=true" in done.out
    bad = [r for r in listed(Path("o")) if r["kind"] == "unreadable"]
    assert len(bad) == 21
    assert all(r["detail"] for r in bad)
    assert all("\n" not in line for line in done.out.splitlines())


def test_headers(call: Call, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    root = tmp_path / "d"
    for k in range(6):
        save(draw.integers(0, 255, (40, 40)), root / "ab"[k % 2] / f"{k}.png")
    noise = draw.integers(0, 255, (90, 60, 4)).astype(np.uint8)
    Image.fromarray(noise).save(root / "a" / "alpha.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(root / "a" / "turned.jpg", exif=exif)
    Image.fromarray(noise[..., :3]).convert("CMYK").save(root / "b" / "cmyk.jpg")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 256).save(root / "b" / "deep.png")
    frames = [Image.fromarray(noise[..., k]) for k in range(3)]
    frames[0].save(root / "b" / "moving.gif", save_all=True, append_images=frames[1:])
    done = call("check", root, "--json", "o.json")
    assert done.code == 0
    files = json.loads(Path("o.json").read_text())["files"]
    assert (files["files"], files["sizes"], files["smallest"], files["largest"]) == (11, 2, [40, 40], [90, 60])
    assert [files[name] for name in ("alpha", "deep", "animated", "turned")] == [1, 1, 1, 1]
    assert files["modes"]["CMYK"] == 1
    assert "1 turned by EXIF (put upright)" in done.out
    assert "1 image moves. Only the first frame is read." in done.out


def test_what_cannot_be_opened_and_bad_places(call: Call, tree: Path, tmp_path: Path) -> None:
    refused(call("check", tmp_path / "nothing"), "no such file or folder")
    refused(call("check"), "no data")
    refused(call("check", "digits", "--json", "nowhere/o.json"), "cannot be written there")
    (tmp_path / "file").write_text("mine")
    refused(call("check", "digits", "--out", tmp_path / "file"), "this is a file, not a folder")
    assert (tmp_path / "file").read_text() == "mine"


def test_files_that_no_check_wrote_are_kept(call: Call, tree: Path, tmp_path: Path) -> None:
    place = tmp_path / "mine"
    place.mkdir()
    for name, text in (("problems.csv", "id,reason\n1,mine\n"), ("check.json", "[1]"), ("check.json", "")):
        (place / name).write_text(text)
        before = sums(place)
        refused(call("check", tree, "--out", place), f"'{name}' is there already, and no check wrote it")
        with pytest.raises(UserError, match="no check wrote it"):
            metapl.check("digits").save(place)
        assert sums(place) == before
        (place / name).unlink()
    assert call("check", tree, "--out", place).code == 0
    assert call("check", "digits", "--out", place).code == 0, "an earlier check is replaced"
    assert spoiled(place / "check.json")["source"] == "digits"
    (place / "problems.csv").unlink()
    (place / "problems.csv").symlink_to(tmp_path / "nowhere.csv")
    refused(call("check", "digits", "--out", place), "no check wrote it")


def test_every_bad_row_of_a_file_is_listed(call: Call, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("text,label\na b,x\nb,y,z\nc,x\nd,y,z\ne,y\nf\n")
    before = sums(tmp_path)
    done = call("check", tmp_path / "x.csv", "--out", "o")
    assert done.code == 2
    assert done.out.startswith("CANNOT BE USED: x.csv, 3 texts, 2 classes\n- CANNOT BE USED: 3 of 6 (50.0 %) rows")
    assert "such as 'x.csv, line 3': the row has 3 fields where the header has 2" in done.out
    assert "Look at the header and the delimiter" in done.out  # half of the rows: not a slip
    bad = [(r["id"], r["detail"]) for r in listed(Path("o")) if r["kind"] == "unreadable"]
    assert [place for place, _ in bad] == ["x.csv, line 3", "x.csv, line 5", "x.csv, line 7"]
    assert bad[2][1] == "the row has 1 field where the header has 2"
    refused(call("train", tmp_path / "x.csv", "--steps", "1"), "x.csv, line 3")
    done = call("check", tmp_path / "x.csv", "source.table.skip_bad_rows=true")
    assert done.code == 0
    assert "CANNOT BE USED" not in done.out
    (tmp_path / "y.csv").write_text('text,label\na b,x\nb,y\nc,"x\n')
    refused(call("check", tmp_path / "y.csv"), "never closed")
    (tmp_path / "y.csv").unlink()
    assert sums(tmp_path) == {**before, **sums(tmp_path / "here")}


def test_settings_say_how_rows_are_read(call: Call, data: Path) -> None:
    done = call("check", data / "photos", "source.image.size=48", "--json", "-")
    assert json.loads(done.out)["shape"] == [3, 48, 48]


def test_a_csv_file_of_texts(call: Call, tmp_path: Path) -> None:
    words = ["river", "stone", "paper", "light", "garden", "window", "silver", "music", "train", "cloud"]
    draw = np.random.default_rng(0)
    lines = [(" ".join(draw.permutation(words)) + f" {k}", "ab"[k % 2]) for k in range(60)]
    lines += [(lines[0][0], "b"), (lines[3][0].upper() + " now", "b")]  # another class; the same one, a word more
    with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *lines])
    done = call("check", tmp_path / "t.csv", "--out", "o")
    assert done.code == 0
    assert done.out.startswith("WILL HURT: t.csv, 62 texts, 2 classes\n- WILL HURT: 2 of 62 (3.2 %) rows with a label")
    near = [(r["id"], r["other id"]) for r in listed(Path("o")) if r["kind"] == "near duplicate"]
    assert len(near) == 1


def test_a_csv_file_of_numbers(call: Call, tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(100, 5)).round(6)
    data[90:95] = data[:5]
    rows = [[k, *row, "ab"[k % 2]] for k, row in enumerate(data.tolist())]
    with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("number", "v", "w", "x", "y", "z", "label"), *rows])
    before = sums(tmp_path)
    result = json.loads(call("check", tmp_path / "t.csv", "--json", "-").out)
    assert sums(tmp_path) == before
    assert any("'number' only counts the rows" in note for note in result["notes"]), "so it hides no copy"
    assert result["copies"]["within labelled"] == {"exact": 5, "near": 0}
    assert [f["kind"] for f in result["findings"]] == ["labelled_copies"]


def test_columns_are_told_as_train_tells_them(call: Call, tmp_path: Path) -> None:
    rows = [[k, k * 2.5, "xyz"[k % 3], 7 * k % 71, f"note {k}", "?", "ab"[k % 2]] for k in range(60)]
    with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "size", "shape", "user_id", "remark", "empty", "label"), *rows])
    told = call("check", tmp_path / "t.csv", "source.table.ignore=empty").out.split("\nas train reads them:\n")[1]
    lines = [line.removeprefix("- ") for line in told.splitlines() if line.startswith("- ")]
    assert lines == [
        "4 features: 'size', 'shape', 'user_id', 'remark'; label: 'label'; id: 'id'",
        "columns not used: 'empty'",
        "numbers: 'size'; categories: 'shape' (3 levels)",
        "column 'user_id' numbers the rows (another whole number in each, with few gaps) and is left out (to keep it, "
        "name the columns in source.table.features, 'user_id' among them)",
        "column 'remark' has another text in nearly every row (an id or free text?) and is left out (to keep it, as a "
        "text: source.table.text=remark; as categories: source.table.categorical=remark)",
    ]
    quick = ("--labels", "5", "--steps", "2", "--guard", "off", "--method", "supervised", "--out", tmp_path / "run")
    trained = call("train", tmp_path / "t.csv", "source.table.ignore=empty", *quick)
    assert trained.code == 0, trained
    assert not [line for line in lines if line not in trained.err]

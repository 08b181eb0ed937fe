"""Errors that name the fault at hand, advice that works, and guesses that give way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from given import notes, opened, write
from PIL import Image

import metapl
from metapl import UserError


def rows(count: int, line: str = "{a},{b},{label}") -> str:
    values = ({"a": k * 7 % 11, "b": k * 3 % 13, "k": k, "label": "uv"[k % 2]} for k in range(count))
    return "".join(line.format(**value) + "\n" for value in values)


def test_check_tells_the_first_error_where_all_rows_are_bad(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,b,c,label\n" + rows(30))
    for run in (lambda: metapl.check(str(path)), lambda: opened(path)):
        with pytest.raises(UserError, match=r"line 2: the row has 3 fields where the header has 4") as error:
            run()
        assert "no rows under the header" not in str(error.value)
        assert "skip_bad_rows" not in str(error.value)


def test_what_a_third_of_the_rows_share_is_no_slip(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "a,b,label\n" + rows(20) + rows(12, "{a},{b},9,{label}"))
    with pytest.raises(UserError, match=r"and 12 of 32 rows have this fault\. Look at the header") as error:
        opened(path)
    assert "skip_bad_rows" not in str(error.value)
    found = next(f for f in metapl.check(str(path)).findings if f.kind == "bad_rows")
    assert "skip_bad_rows" not in found.remedy
    one = write(tmp_path / "one.csv", "a,b,label\n" + rows(20) + "1,2,3,u\n")
    with pytest.raises(UserError, match=r"line 22: .*source\.table\.skip_bad_rows=true"):
        opened(one)
    assert len(opened(one, skip_bad_rows=True).ids) == 20


def test_a_guessed_id_that_repeats_is_dropped_and_one_that_is_named_is_not(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "id,a,b,label\n" + rows(20, "{k},{a},{b},{label}") + "7,1,2,u\n")
    source = opened(path)
    assert (len(source.ids), source.ids[0], source.problems) == (21, "2", [])
    assert "column 'id' is called like an id, but '7' stands in several rows" in notes(source)
    assert "id" not in [column.name for column in source.columns]
    assert len(metapl.check(str(path)).problems) < 21
    with pytest.raises(UserError, match="the id '7' stands already"):
        opened(path, id="id")


@pytest.mark.parametrize("name", ["id", "split"])
def test_new_rows_drop_such_guesses_too(tmp_path: Path, name: str) -> None:
    table = f"{name},a,b,label\n" + rows(20, "{a},{a},{b},{label}")
    predictor = metapl.fit(str(write(tmp_path / "x.csv", table)), steps=4, labels=3, guard="off").predictor
    (chunk,) = metapl.predict_source(predictor, str(write(tmp_path / "new.csv", table)))
    assert chunk.ids == tuple(str(k) for k in range(2, 22))


def test_a_guessed_split_that_is_none_is_dropped(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "x.csv", "split,a,label\n" + rows(20, "yes,{a},{label}")))
    assert "column 'split' is called like the split, but holds 'yes'" in notes(source)
    bad = write(tmp_path / "y.csv", "split,a,label\n" + rows(20, "train,{a},{label}") + "yes,1,u\n")
    with pytest.raises(UserError, match="the split 'yes' is not one of"):
        opened(bad)


def test_a_guessed_text_of_numbers_is_a_feature(tmp_path: Path) -> None:
    source = opened(write(tmp_path / "x.csv", "text,a,label\n" + rows(20, "{b},{a},{label}")))
    assert (source.kind, [column.name for column in source.columns]) == ("table", ["text", "a"])
    assert "column 'text' is called like the texts, but holds nothing but numbers" in notes(source)


def pictures(root: Path, names: list[str]) -> Path:
    for k, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 9 * k, dtype=np.uint8)).save(path, "JPEG")
    return root


def test_what_is_named_comes_before_what_is_guessed(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{k}.jpg" for k in range(8)])
    path = write(tmp_path / "x.csv", "id,label\n" + rows(8, "{k}.jpg,{label}"))
    assert opened(path, path="id").ids[:2] == ("0.jpg", "1.jpg")
    table = write(tmp_path / "y.csv", "text,class,label\n" + rows(20, "word {k},{a},{label}"))
    assert opened(table, text="text", label="class").kind == "text"
    assert opened(table, text="label", label="class").kind == "text"


@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg"])
def test_ids_without_a_suffix_propose_it_and_the_proposal_works(tmp_path: Path, suffix: str) -> None:
    pictures(tmp_path, [f"img{k}{suffix}" for k in range(8)])
    path = write(tmp_path / "x.csv", "id,breed\n" + rows(8, "img{k},{label}"))
    settings = {"path": "id", "label": "breed"}
    with pytest.raises(UserError, match=rf"looked for '.*img0'.*source\.table\.suffix=\{suffix}"):
        opened(path, **settings)
    assert len(opened(path, suffix=suffix, **settings).ids) == 8


def test_paths_with_backslashes_show_what_was_looked_for(tmp_path: Path) -> None:
    pictures(tmp_path, [f"images/{k}.jpg" for k in range(8)])
    path = write(tmp_path / "x.csv", "path,label\n" + rows(8, "images\\{k}.jpg,{label}"))
    with pytest.raises(UserError, match=r"looked for '/.*images.*0\.jpg'\. Write / for"):
        opened(path)


def test_images_in_another_folder_propose_it_and_the_proposal_works(tmp_path: Path) -> None:
    pictures(tmp_path, [f"deep/er/{k}.jpg" for k in range(8)])
    path = write(tmp_path / "x.csv", "path,label\n" + rows(8, "{k},{label}"))
    with pytest.raises(UserError, match=r"set source\.root=(.*/deep/er) and source\.table\.suffix=\.jpg"):
        opened(path)
    assert len(opened(path, root=str(tmp_path / "deep" / "er"), suffix=".jpg").ids) == 8
    nothing = write(tmp_path / "y.csv", "path,label\n" + rows(8, "z{k}.jpg,{label}"))
    with pytest.raises(UserError, match=r"looked for '/.*z0\.jpg'\. Put the images there, .* source\.root=DIR"):
        opened(nothing)

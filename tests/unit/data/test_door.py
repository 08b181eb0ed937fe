"""``open_source`` is the one door: for training rows, for new rows of a model, for sources that are open already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import metapl
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.memory.arrays import from_arrays
from metapl.data.options import SourceOptions
from metapl.data.sources import SOURCES, DataRef, Request, open_source, read_ref
from metapl.errors import UserError
from metapl.types import ModelInput, Source

TRAIN = "age,job,label\n" + "31,cook,yes\n45,baker,no\n" * 10
NEW = "note,job,age,label\n" + "a,baker,20,no\nb,smith,21,yes\nc,cook,22,yes\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def trained(source: Source, labels: bool = False) -> ModelInput:
    return ModelInput(fit_preprocessing(source, np.arange(len(source.ids))), source.class_names, labels)


def photos(root: Path, *names: str) -> Path:
    for k, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (12, 10), (20 * k, 255 - 20 * k, 90)).save(root / name)
    return root


def test_a_source_of_ones_own_is_a_line_in_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def waves(ref: DataRef, request: Request) -> Source:
        assert isinstance(request.options, SourceOptions)
        X = np.sin(np.arange(float(ref.argument))[:, None] * np.arange(1, 4))
        return from_arrays(X, [0, 1] * (len(X) // 2))

    monkeypatch.setitem(SOURCES, "waves", waves)
    source = metapl.open_source("waves:20")
    assert source.rows(np.arange(20)).shape == (20, 3)
    with pytest.raises(UserError, match="Did you mean 'waves'"):
        metapl.open_source("wave:20")
    assert read_ref("waves:20").absolute() == read_ref("waves:20"), "a run stores it as it was written"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.bin").touch()
    assert read_ref("waves:rows.bin").absolute().text == f"waves:{tmp_path / 'rows.bin'}"


def test_a_source_that_is_open_stays_what_it_is() -> None:
    source = from_arrays(np.zeros((4, 2)), [0, 1, 0, 1])
    assert open_source(source) is source
    assert metapl.open_source("ignored", given=source) is source


def test_new_rows_of_a_file_have_the_columns_and_the_classes_of_the_model(tmp_path: Path) -> None:
    source = metapl.open_source(str(write(tmp_path / "train.csv", TRAIN)))
    new = read_ref(str(write(tmp_path / "new.csv", NEW)))
    rows = open_source(new, like=trained(source))
    assert rows.columns == source.columns
    assert rows.class_names == ("no", "yes")
    assert rows.labels.tolist() == [-1, -1, -1], "labels are not read unless they are asked for"
    job = rows.rows(np.arange(3))[:, 1]
    assert torch.equal(job.isnan(), torch.tensor([False, True, False])), "a category that training did not hold"
    judged = open_source(new, like=trained(source, labels=True))
    assert judged.labels.tolist() == [0, 1, 1]
    assert torch.equal(judged.rows(np.arange(3)).nan_to_num(-1), rows.rows(np.arange(3)).nan_to_num(-1))


def test_of_several_files_of_new_rows_all_are_labelled_and_one_is_judged(tmp_path: Path) -> None:
    source = metapl.open_source(str(write(tmp_path / "train.csv", TRAIN)))
    folder = tmp_path / "more"
    folder.mkdir()
    for name, rows in (("labelled", 3), ("unlabelled", 2), ("test", 1)):
        write(folder / f"{name}.csv", "age,job,label\n" + "20,cook,yes\n" * rows)
    ref = read_ref(str(folder))
    assert len(open_source(ref, like=trained(source)).ids) == 6
    assert len(open_source(ref, like=trained(source, labels=True)).ids) == 1


def test_advice_to_change_a_setting_is_not_given_for_new_rows(tmp_path: Path) -> None:
    source = metapl.open_source(str(write(tmp_path / "train.csv", TRAIN)))
    broken = str(write(tmp_path / "new.csv", "age,job\n1,cook\n2,cook,more\n"))
    with pytest.raises(UserError, match="skip_bad_rows"):
        metapl.open_source(str(write(tmp_path / "bad.csv", TRAIN + "1,2,3,4\n")))
    with pytest.raises(UserError) as refused:
        open_source(read_ref(broken), like=trained(source))
    assert "source." not in str(refused.value)


def test_new_arrays(tmp_path: Path) -> None:
    source = from_arrays(np.arange(40.0).reshape(20, 2) % 7, [0, 1] * 10)
    np.savez(tmp_path / "new.npz", X=np.ones((3, 2)), X_test=np.zeros((2, 2)), y_test=["0", "1"])
    rows = open_source(read_ref(str(tmp_path / "new.npz")), like=trained(source))
    assert rows.is_test.tolist() == [False] * 3 + [True] * 2
    assert rows.labels.tolist() == [-1, -1, -1, 0, 1]


def test_labels_of_new_arrays_mean_what_they_meant_in_training(tmp_path: Path) -> None:
    source = from_arrays(np.arange(40.0).reshape(20, 2) % 7, ["no", "yes"] * 10)
    np.savez(tmp_path / "new.npz", X=np.ones((3, 2)), y=["yes", "?", "ja"])
    options = SourceOptions(no_label="?", label_map="ja:yes")
    rows = open_source(read_ref(str(tmp_path / "new.npz")), options, like=trained(source))
    assert [rows.class_names[k] if k >= 0 else "" for k in rows.labels] == ["yes", "", "yes"]


def test_new_images_in_any_tree(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", *(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(3)))
    like = trained(metapl.open_source(str(root)))
    new = photos(tmp_path / "new", "b/c/2.png", "a/1.png", "0.png")
    (new / "readme.txt").write_text("x")
    rows = open_source(read_ref(str(new)), like=like)
    assert rows.ids == ("0.png", "a/1.png", "b/c/2.png")
    assert rows.rows(np.arange(3)).shape == (3, *like.takes.shape)
    assert rows.problems == [("readme.txt", "not an image by its suffix")]
    one = open_source(read_ref(str(new / "a" / "1.png")), like=like)
    assert one.ids == ("1.png",)
    assert torch.equal(one.rows(np.arange(1)), rows.rows(np.array([1])))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="there is no image here"):
        open_source(read_ref(str(tmp_path / "empty")), like=like)


def test_labelled_new_images_are_matched_by_class_name(tmp_path: Path) -> None:
    root = photos(tmp_path / "train", *(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(3)))
    like = trained(metapl.open_source(str(root)), labels=True)
    new = photos(tmp_path / "new", "dog/1.png", "cat/deep/2.png")
    rows = open_source(read_ref(str(new)), like=like)
    assert rows.ids == ("cat/deep/2.png", "dog/1.png")
    assert [like.class_names[k] for k in rows.labels] == ["cat", "dog"]
    whole = photos(tmp_path / "whole", "labelled/cat/1.png", "test/dog/1.png")
    assert open_source(read_ref(str(whole)), like=like).ids == ("dog/1.png",), "the test part, where there is one"
    photos(new, "cow/1.png")
    with pytest.raises(UserError, match="knows no class 'cow'"):
        open_source(read_ref(str(new)), like=like)


def test_rows_of_another_kind_are_refused(tmp_path: Path) -> None:
    table = trained(from_arrays(np.zeros((4, 2)), [0, 1, 0, 1]))
    with pytest.raises(UserError, match="trained on a table"):
        open_source(read_ref(str(photos(tmp_path / "new", "1.png"))), like=table)

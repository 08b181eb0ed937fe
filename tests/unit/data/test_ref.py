"""A reference to data is parsed once: what opens it, its path, its absolute form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from metapl.data.sources import read_ref


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "digits", "folder", "csv", "odd.csv", "saved"):
        (tmp_path / name).mkdir()
    (tmp_path / "rows.csv").write_text("x,label\n1,a\n")
    np.savez(tmp_path / "arrays.npz", X=np.zeros((2, 2)))
    return tmp_path


@pytest.mark.parametrize(
    ("text", "source", "argument", "named", "suffix"),
    [
        ("photos", "folder", "photos", False, ""),
        ("folder:photos", "folder", "photos", True, ""),
        ("digits", "digits", "", True, ""),  # a known name wins over a folder
        ("./digits", "folder", "./digits", False, ""),
        ("folder", "folder", "folder", False, ""),
        ("csv", "folder", "csv", False, ""),  # there is such a folder, and a file is not named
        ("tsv", "tsv", "", True, ".tsv"),
        ("csv:rows.txt", "csv", "rows.txt", True, ".csv"),
        ("rows.csv", "csv", "rows.csv", False, ""),
        ("ROWS.CSV", "csv", "ROWS.CSV", False, ""),
        ("gone.parquet", "parquet", "gone.parquet", False, ""),
        ("odd.csv", "folder", "odd.csv", False, ""),
        ("arrays.npz", "npz", "arrays.npz", False, ""),
        ("npz:arrays.npz", "npz", "arrays.npz", True, ""),
        ("idx:photos", "idx", "photos", True, ""),
        ("hf:someone/set:config", "hf", "someone/set:config", True, ""),
        ("gone/folder", "folder", "gone/folder", False, ""),
        ("gone", "", "gone", False, ""),
        ("other:thing", "", "other:thing", False, ""),
        ("", "", "", False, ""),
    ],
)
def test_parts(folder: Path, text: str, source: str, argument: str, named: bool, suffix: str) -> None:
    ref = read_ref(text)
    assert (ref.text, ref.source, ref.argument, ref.named, ref.suffix) == (text, source, argument, named, suffix)
    assert ref.is_table == (source in ("csv", "tsv", "jsonl", "ndjson", "parquet"))
    assert ref.is_arrays == (source in ("npz", "npy"))
    assert ref.is_folder == (source == "folder")


@pytest.mark.parametrize(
    ("text", "absolute"),
    [
        ("photos", "{}/photos"),
        ("folder:photos", "folder:{}/photos"),
        ("csv:rows.txt", "csv:{}/rows.txt"),
        ("rows.csv", "{}/rows.csv"),
        ("gone.csv", "{}/gone.csv"),  # a message then names the place
        ("arrays.npz", "{}/arrays.npz"),
        ("hf:saved", "hf:{}/saved"),
        ("hf:someone/set", "hf:someone/set"),
        ("torchvision:MNIST", "torchvision:MNIST"),
        ("digits", "digits"),
        ("gone", "gone"),
    ],
)
def test_absolute(folder: Path, text: str, absolute: str) -> None:
    ref = read_ref(text).absolute()
    assert ref.text == absolute.format(folder)
    assert ref == read_ref(ref.text), "the absolute form means the same"
    assert ref.absolute() == ref


def test_the_same_data_by_other_names(folder: Path) -> None:
    (folder / "link").symlink_to(folder / "photos")
    for one, other in [
        ("photos", f"folder:{folder}/photos"),
        ("photos", "link"),
        ("rows.csv", "csv:./rows.csv"),
        ("arrays.npz", "npz:arrays.npz"),
        ("hf:saved", f"hf:{folder}/saved"),
        ("digits", "digits"),
    ]:
        assert read_ref(one).same_as(read_ref(other)), (one, other)
    for one, other in [("photos", "saved"), ("hf:a", "hf:b"), ("saved", "hf:saved"), ("digits", "./digits")]:
        assert not read_ref(one).same_as(read_ref(other)), (one, other)


def test_a_short_name(folder: Path) -> None:
    assert read_ref("folder:some/my photos").name == "my photos"
    assert read_ref("folder:some/my photos").stem == "my-photos"
    assert read_ref("hf:someone/set").stem == "set"
    assert read_ref("/").stem == "data"

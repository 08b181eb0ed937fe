"""NumPy's files as a source, and as new rows for a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.memory.numpy_files import open_numpy
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
TABLE = RNG.normal(size=(6, 3)).astype(np.float32)
Y = np.array([0, 1, -1, 1, 0, 1])


def fitted(source: MemorySource) -> Any:
    return fit_preprocessing(source, np.flatnonzero(~source.is_test))


def test_all_parts_of_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    names = np.array(["cat", "dog"])
    np.savez(path, X=IMAGES, y=Y, X_unlabeled=IMAGES[:2], X_test=IMAGES[4:], y_test=Y[4:], class_names=names, extra=Y)
    source = open_numpy(path)
    assert (source.name, source.kind, source.class_names) == ("set.npz", "image", ("cat", "dog"))
    assert source.labels.tolist() == [0, 1, -1, 1, 0, 1, -1, -1, 0, 1]
    assert source.is_test.tolist() == [False] * 8 + [True] * 2
    assert torch.equal(source.data[:6], torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert source.notes == ("set.npz: arrays that are not used: extra",)


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X", "y", "X_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("trainX", "trainY", "testX", "testY"),
        ("data", "targets", "test_data", "test_targets"),
    ],
)
def test_the_names_that_people_use(tmp_path: Path, keys: tuple[str, ...]) -> None:
    values = [TABLE, Y[:, None], TABLE[:1], Y[:1]]  # labels may stand in a column
    np.savez_compressed(tmp_path / "a.npz", **dict(zip(keys, values, strict=True)))
    source = open_numpy(tmp_path / "a.npz")
    assert source.kind == "table"
    assert torch.equal(source.data, torch.from_numpy(np.concatenate([TABLE, TABLE[:1]])))
    assert source.labels.tolist() == [*Y.tolist(), 0]


@pytest.mark.parametrize("labels", ["y.npy", "y.txt", "y.npz"])
def test_a_lone_array_with_a_file_of_labels(tmp_path: Path, labels: str) -> None:
    np.save(tmp_path / "x.npy", IMAGES)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "y.npz", y=Y)
    (tmp_path / "y.txt").write_text("a\nb\n\nb\na\nb\n", encoding="utf-8")
    source = open_numpy(tmp_path / "x.npy", str(tmp_path / labels))
    assert source.labels.tolist() == Y.tolist()
    assert source.class_names == (("a", "b") if labels == "y.txt" else ("0", "1"))
    assert source.ids == ("0", "1", "2", "3", "4", "5")


def test_lines_of_labels(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((7, 3), dtype=np.float32))
    (tmp_path / "y.txt").write_bytes(b"\xef\xbb\xbfa\r\n-1\r\nb \r\n\r\nnan\r\n a\r\nNaN")
    source = open_numpy(tmp_path / "x.npy", str(tmp_path / "y.txt"))
    assert (source.labels.tolist(), source.class_names) == ([0, -1, 1, -1, -1, 0, -1], ("a", "b"))
    (tmp_path / "y.txt").write_text("a\nb\n\nA\n\n\n\n")
    with pytest.raises(
        UserError, match=r"^x\.npy, y\.txt, line 4: .*'a' and 'A' differ only by case|^y\.txt, line 4: "
    ):
        open_numpy(tmp_path / "x.npy", str(tmp_path / "y.txt"))
    (tmp_path / "y.txt").write_text("a\nb\n")
    with pytest.raises(UserError, match="label"):
        open_numpy(tmp_path / "x.npy", str(tmp_path / "y.txt"))


def test_a_lone_array_stays_on_disk_and_is_never_written_to(tmp_path: Path) -> None:
    for name, values in (("image", IMAGES), ("table", TABLE)):
        np.save(tmp_path / f"{name}.npy", values)
        np.save(tmp_path / "y.npy", Y)
        before = (tmp_path / f"{name}.npy").read_bytes()
        source = open_numpy(tmp_path / f"{name}.npy", str(tmp_path / "y.npy"))
        mapped = np.load(tmp_path / f"{name}.npy", mmap_mode="c")
        assert not source.data.is_shared()
        assert source.data.untyped_storage().nbytes() == mapped.nbytes, "shares the mapping, without a copy"
        expected = torch.from_numpy(values)
        assert torch.equal(source.rows(np.arange(6)), expected.permute(0, 3, 1, 2) if name == "image" else expected)
        assert len(source.fingerprint()) == 64
        source.data.fill_(1)
        assert (tmp_path / f"{name}.npy").read_bytes() == before


def test_texts_with_empty_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", texts=np.array(["what is it", "who was it", "why"]), labels=np.array(["a", "", "b"]))
    source = open_numpy(tmp_path / "t.npz", max_tokens=4)
    assert source.kind == "text"
    assert source.data.shape == (3, 4)
    assert source.labels.tolist() == [0, -1, 1]
    again = open_numpy(tmp_path / "t.npz", like=fitted(source))
    assert torch.equal(again.data, source.data)
    assert again.labels.tolist() == [0, -1, 1]


def test_new_rows_with_and_without_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "train.npz", X=IMAGES, y=Y)
    known = fitted(open_numpy(tmp_path / "train.npz"))
    np.save(tmp_path / "new.npy", IMAGES[:2])
    new = open_numpy(tmp_path / "new.npy", like=known)
    assert (new.ids, new.labels.tolist()) == (("0", "1"), [-1, -1])
    assert torch.equal(new.data, torch.from_numpy(IMAGES[:2]).permute(0, 3, 1, 2))
    np.savez(
        tmp_path / "judge.npz", X=IMAGES[:1], X_unlabeled=IMAGES[1:2], X_test=IMAGES[2:4], y_test=np.array(["b", "a"])
    )
    judge = open_numpy(tmp_path / "judge.npz", like=known)
    assert judge.ids == ("0", "unlabeled/0", "test/0", "test/1")
    assert judge.labels.tolist() == [-1, -1, 1, 0]
    assert judge.is_test.tolist() == [False, False, True, True]
    np.savez(tmp_path / "bad.npz", X=np.zeros((2, 9, 9, 3), dtype=np.uint8))
    with pytest.raises(UserError, match=r"bad\.npz, X: its rows have the shape \[3, 9, 9\]"):
        open_numpy(tmp_path / "bad.npz", like=known)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"X": TABLE}, "there are no labels"),
        ({"y": Y}, "no array in it is named X (it has y)"),
        ({}, "it has none"),
        ({"X": TABLE, "images": IMAGES, "y": Y}, "'X' and 'images' may both be X"),
        ({"X": TABLE, "y": Y[:4]}, "a.npz, y: its shape is (4,), not (6,)"),
        ({"X": TABLE, "y": Y, "X_unlabeled": TABLE[:, :2]}, "a.npz, X_unlabeled: its rows have shape (2,)"),
        ({"X": TABLE, "y": Y, "X_test": TABLE}, "belong together"),
        ({"X": TABLE + 1j, "y": Y}, "its values are complex64"),
        ({"X": np.zeros(6), "y": Y}, "its shape is (6,)"),
        ({"X": np.where(np.eye(6, 3), np.inf, TABLE), "y": Y}, "row 0, column 0 is inf"),
        ({"X": TABLE, "y": Y.astype("M8[s]")}, "label"),
        ({"X": TABLE, "y": Y, "class_names": np.array([1, 2])}, "class_names is int64"),
    ],
)
def test_archives_that_cannot_serve(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(UserError) as error:
        open_numpy(tmp_path / "a.npz")
    assert words in str(error.value), str(error.value)
    assert error.value.where.startswith("a.npz")


def test_labels_given_twice_or_not_at_all(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=TABLE, y=Y)
    np.save(tmp_path / "x.npy", TABLE)
    with pytest.raises(UserError, match=r"source\.labels names others"):
        open_numpy(tmp_path / "a.npz", str(tmp_path / "a.npz"))
    with pytest.raises(UserError, match=r"Name a file of labels with source\.labels=FILE"):
        open_numpy(tmp_path / "x.npy")
    with pytest.raises(UserError, match="the file of labels cannot be read"):
        open_numpy(tmp_path / "x.npy", str(tmp_path / "none.txt"))


def test_parts_in_files_of_their_own(tmp_path: Path) -> None:
    for name, arrays in (("a.npz", {"X": TABLE, "y": Y}), ("t.npz", {"x": TABLE[:2], "labels": Y[:2]})):
        np.savez(tmp_path / name, **arrays)
    np.save(tmp_path / "u.npy", TABLE[3:])
    source = open_numpy(tmp_path / "a.npz", unlabeled=str(tmp_path / "u.npy"), test=str(tmp_path / "t.npz"))
    assert source.labels.tolist() == [*Y.tolist(), -1, -1, -1, 0, 1]
    assert source.is_test.sum() == 2
    with pytest.raises(UserError, match=r"u\.npy: no array in it is named y"):
        open_numpy(tmp_path / "a.npz", test=str(tmp_path / "u.npy"))
    with pytest.raises(UserError, match=r"source\.unlabeled: 'u\.csv' is not a NumPy file"):
        open_numpy(tmp_path / "a.npz", unlabeled="u.csv")

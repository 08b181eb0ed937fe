"""Damaged and hostile NumPy files: one line that names the file; nothing in them is ever run."""

from __future__ import annotations

import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from metapl.data.memory.numpy_files import open_numpy
from metapl.errors import UserError

TABLE, Y = np.arange(12.0).reshape(6, 2), np.array([0, 1] * 3)


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "y.npy", "raw.npy", "raw.npz"])
def test_a_pickle_is_refused_and_not_run(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "planted"
    objects: Any = np.array([[Planted(folder)], [Planted(folder)]], dtype=object)
    labels, path = "", tmp_path / name
    if name.startswith("raw"):
        path.write_bytes(pickle.dumps(Planted(folder)))
    elif name == "a.npz":
        np.savez(path, X=objects, y=Y[:2])
    else:
        np.save(path, objects, allow_pickle=True)
    if name == "y.npy":
        np.save(tmp_path / "x.npy", TABLE)
        path, labels = tmp_path / "x.npy", str(path)
    with pytest.raises(UserError, match=r"Python objects|damaged") as error:
        open_numpy(path, labels)
    assert error.value.where == name
    assert not folder.exists()
    pickle.loads(pickle.dumps(Planted(folder)))
    assert folder.exists(), "the payload works where it is let"


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_every_truncation_is_told(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    labels = str(tmp_path / "y.npy") if suffix == ".npy" else ""
    np.save(tmp_path / "y.npy", Y)
    if suffix == ".npz":
        np.savez_compressed(path, X=TABLE, y=Y)
    else:
        np.save(path, TABLE)
    whole = path.read_bytes()
    for length in range(0, len(whole) - 1, max(1, len(whole) // 60)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError) as error:
            open_numpy(path, labels)
        assert path.name in error.value.where
        assert "\n" not in str(error.value)


def test_changed_bytes_in_an_archive_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, X=TABLE, y=Y)
    whole, wanted, told = path.read_bytes(), open_numpy(path).fingerprint(), 0
    for at in range(0, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            found = open_numpy(path).fingerprint()
        except UserError:
            told += 1
        else:
            assert found == wanted, "a byte that no value depends on, such as the time of writing"
    assert told > len(whole) // 6


def test_files_under_the_wrong_name(tmp_path: Path) -> None:
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "a.npz", X=TABLE, y=Y)
    os.rename(tmp_path / "a.npz", tmp_path / "x.npy")
    with pytest.raises(UserError, match=r"x\.npy: this is not a \.npy file"):
        open_numpy(tmp_path / "x.npy", str(tmp_path / "y.npy"))
    os.rename(tmp_path / "y.npy", tmp_path / "y.npz")
    with pytest.raises(UserError, match=r"y\.npz: this is not a \.npz file"):
        open_numpy(tmp_path / "y.npz")
    with zipfile.ZipFile(tmp_path / "z.npz", "w") as archive:
        archive.writestr("X.npy", b"no array")
        archive.writestr("y.npy", b"no array")
    with pytest.raises(UserError, match=r"z\.npz"):
        open_numpy(tmp_path / "z.npz")
    for name in ("none.npz", "none.npy"):
        with pytest.raises(UserError, match="no such file"):
            open_numpy(tmp_path / name)
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(UserError):
        open_numpy(tmp_path / "folder.npz")


def test_an_array_that_claims_to_be_huge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (%d, 2), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        text = header % 10**15
        archive.writestr("X.npy", text + b" " * (127 - len(text)) + b"\n" + bytes(64))
        archive.writestr("y.npy", b"")
    with pytest.raises(UserError, match=r"memory|damaged"):
        open_numpy(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", X=TABLE, y=Y)
    monkeypatch.setattr("metapl.data.memory.numpy_files.MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"b\.npz: 'X' is 0\.0 GiB, above the limit"):
        open_numpy(tmp_path / "b.npz")

"""Sources: digits, idx files, arrays, folders; preprocessing and seeds beside them."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from metapl import open_source
from metapl.data.batches.preprocess import fit_preprocessing, preprocessing_from_dict, preprocessing_to_dict
from metapl.data.batches.seeds import derive_seed
from metapl.data.images.folder import FolderSource
from metapl.data.memory.arrays import from_arrays
from metapl.data.memory.digits import open_digits
from metapl.data.memory.idx import IdxSource
from metapl.data.sources import SourceOptions
from metapl.errors import UserError
from metapl.types import Source

RNG = np.random.default_rng(0)


def grey(path: Path, value: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)


def write_idx(path: Path, array: np.ndarray[Any, Any], magic: int | None = None) -> None:
    head = struct.pack(f">{1 + array.ndim}I", magic or 0x800 + array.ndim, *array.shape)
    raw = head + array.tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def idx_folder(root: Path, end: str = "") -> Path:
    """Six training and four test images of 5 x 4."""
    for part, count in (("train", 6), ("t10k", 4)):
        images = np.arange(count * 20, dtype=np.uint8).reshape(count, 5, 4)
        write_idx(root / f"{part}-images-idx3-ubyte{end}", images)
        write_idx(root / f"{part}-labels-idx1-ubyte{end}", (np.arange(count) % 2).astype(np.uint8))
    return root


# -- seeds and preprocessing


def test_seeds_are_pinned() -> None:
    assert derive_seed(0, "labels", "cat") == 5492657426978974549  # a change here breaks every stored run
    assert derive_seed() >= 0
    assert len({derive_seed("a", "bc"), derive_seed("ab", "c"), derive_seed(1), derive_seed("1"), derive_seed()}) == 5
    assert derive_seed("ä\udcff") < 2**63
    with pytest.raises(TypeError, match="float"):
        derive_seed(1.5)  # type: ignore[arg-type]


def test_image_preprocessing_is_mean_and_std_per_channel() -> None:
    images = RNG.integers(0, 256, (5000, 3, 4, 6), dtype=np.uint8)  # more than one chunk
    source = from_arrays(torch.from_numpy(images), np.arange(5000) % 2)
    index = np.arange(100, 5000)
    made = fit_preprocessing(source, index)
    wanted = images[100:].astype(float) / 255
    assert made.shape == (3, 4, 6)
    assert np.allclose(made.mean, wanted.mean((0, 2, 3)))
    assert np.allclose(made.std, wanted.std((0, 2, 3)))
    assert preprocessing_from_dict(json.loads(json.dumps(preprocessing_to_dict(made)))) == made


def test_table_preprocessing_survives_constant_and_large_features() -> None:
    rows = np.stack([np.full(64, 0.1), 1e7 + np.arange(64.0), np.arange(64) * 1e-9], axis=1)
    made = fit_preprocessing(from_arrays(rows, np.arange(64) % 2), np.arange(64))
    assert made.std[0] == 1.0
    assert made.std[1] == pytest.approx(np.arange(64.0).std(), rel=1e-6)
    assert made.std[2] == pytest.approx(np.arange(64.0).std() * 1e-9, rel=1e-6)


def test_black_images_have_a_finite_scale() -> None:
    made = fit_preprocessing(from_arrays(np.zeros((4, 5, 5), dtype=np.uint8), [0, 1, 0, 1]), np.arange(4))
    assert made.std == (1 / 255,)


@pytest.mark.parametrize("change", [{"std": [0.0]}, {"shape": [2, 5, 5]}, {"kind": "text"}, {"mean": "x"}])
def test_damaged_preprocessing_is_refused(change: dict[str, Any]) -> None:
    stored = {"kind": "image", "shape": [1, 5, 5], "mean": [0.5], "std": [0.2]}
    assert preprocessing_from_dict(stored).shape == (1, 5, 5)
    with pytest.raises(UserError, match="damaged"):
        preprocessing_from_dict({**stored, **change})


# -- digits and idx files


def test_digits() -> None:
    source = open_source("digits")
    assert isinstance(source, Source)
    assert len(source.ids) == len(source.labels) == 1797
    rows = source.rows(np.array([0, 5]))
    assert rows.dtype == torch.uint8
    assert rows.shape == (2, 1, 8, 8)
    data = open_digits().data
    assert (int(data.min()), int(data.max())) == (0, 255)
    assert source.fingerprint() == open_digits().fingerprint()
    assert not source.is_test.any()


@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_rows_and_lazy_test_rows(tmp_path: Path, end: str) -> None:
    source = open_source(f"idx:{idx_folder(tmp_path, end)}")
    assert isinstance(source, IdxSource)
    assert isinstance(source, Source)
    assert source.class_names == ("0", "1")
    assert source.is_test.tolist() == [False] * 6 + [True] * 4
    source.fingerprint()
    source.rows(np.arange(6))
    assert source._test is None, "test images are not read before they are asked for"
    rows = source.rows(np.array([9, 1, 6]))
    assert rows.shape == (3, 1, 5, 4)
    assert rows[:, 0, 0, 0].tolist() == [60, 20, 0]


def test_idx_does_not_open_the_test_images(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(b"rubbish!")
    source = IdxSource(tmp_path)
    source.fingerprint()
    with pytest.raises(UserError, match=r"t10k-images-idx3-ubyte: .*magic number"):
        source.rows(np.array([6]))


def test_idx_without_test_files_and_with_odd_labels(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    for path in tmp_path.glob("t10k*"):
        path.unlink()
    write_idx(tmp_path / "train-labels-idx1-ubyte", np.array([3, 7, 3, 7, 9, 9], dtype=np.uint8))
    source = IdxSource(tmp_path)
    assert source.class_names == ("3", "7", "9")
    assert source.labels.tolist() == [0, 1, 0, 1, 2, 2]
    assert any("t10k" in note for note in source.notes)


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda p: p.unlink(), "no file 'train-images-idx3-ubyte'"),
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "truncated"),
        (lambda p: p.write_bytes(p.read_bytes()[:6]), "truncated"),
        (lambda p: p.write_bytes(b""), "truncated"),
        (lambda p: write_idx(p, np.zeros((6, 5, 4), np.uint8), magic=0xD03), "magic number 0x00000d03"),
        (lambda p: write_idx(p, np.zeros((5, 5, 4), np.uint8)), "5 images but 6 labels"),
        (lambda p: write_idx(p, np.zeros(6, np.uint8)), "magic number 0x00000801"),
        (lambda p: write_idx(p, np.zeros((0, 5, 4), np.uint8)), "empty"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path: Path, end: str, damage: Any, words: str) -> None:
    path = idx_folder(tmp_path, end) / (IMAGES + end)
    damage(path)
    with pytest.raises(UserError) as error:
        IdxSource(tmp_path)
    assert words in str(error.value), str(error.value)
    assert str(tmp_path) in str(error.value)
    assert "images but" in words or "no file" in words or path.name in str(error.value)


def test_idx_header_that_announces_too_much(tmp_path: Path) -> None:
    idx_folder(tmp_path)
    (tmp_path / IMAGES).write_bytes(struct.pack(">4I", 0x803, 2**31, 2**31, 2**31))
    with pytest.raises(UserError, match="limit is 4 GiB"):
        IdxSource(tmp_path)
    idx_folder(tmp_path)
    (tmp_path / IMAGES).write_bytes((tmp_path / IMAGES).read_bytes() + b"x")
    with pytest.raises(UserError, match="longer than its header"):
        IdxSource(tmp_path)


def test_fingerprint_sees_every_part(tmp_path: Path) -> None:
    seen = {IdxSource(idx_folder(tmp_path)).fingerprint()}
    for name in (IMAGES, LABELS, "t10k-labels-idx1-ubyte"):
        idx_folder(tmp_path)
        raw = bytearray((tmp_path / name).read_bytes())
        raw[-1] ^= 1
        (tmp_path / name).write_bytes(raw)
        seen.add(IdxSource(tmp_path).fingerprint())
    assert len(seen) == 4


# -- the table of sources


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digts", "Did you mean 'digits'"),
        ("idxx:/tmp", "Did you mean 'idx'"),
        ("idx:", "needs a folder"),
        ("idx:/no/such/folder", "no such folder"),
        ("digits:3", "takes nothing after a colon"),
        ("/no/such/path", "no such file or folder"),
        ("./digitz", "no such file or folder"),
        ("", "no data are named"),
        ("x" * 300, "neither a source nor a path"),
        ("/" + "x" * 300, "no such file or folder"),
    ],
)
def test_unknown_sources(spec: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        open_source(spec)
    assert words in str(error.value)


def test_a_misspelt_path_names_its_neighbour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Meine Fotos").mkdir()
    (tmp_path / "rows.csv").touch()
    said = {"Meine Fotso": "Meine Fotos", "./Meine Fotso": "Meine Fotos", str(tmp_path / "row.csv"): "rows.csv"}
    for spec, name in said.items():
        with pytest.raises(UserError, match=r"no such file or folder\. Did you mean '.*" + name):
            open_source(spec)
    with pytest.raises(UserError, match="Did you mean 'digits'"):
        open_source("digts")


# -- folders


def tree(root: Path) -> Path:
    for k in range(3):
        grey(root / "labelled" / "cat" / f"{k}.png", 10 + k)
        grey(root / "labelled" / "dog" / "deep" / "er" / f"{k}.PNG", 20 + k)
        grey(root / "unlabelled" / "x" / f"{k}.png", 30 + k)
        grey(root / "test" / "dog" / f"{k}.png", 40 + k)
    return root


def test_labelled_tree(tmp_path: Path) -> None:
    source = open_source(str(tree(tmp_path)))
    assert isinstance(source, FolderSource)
    assert isinstance(source, Source)
    assert source.class_names == ("cat", "dog")
    assert source.labels.tolist() == [0] * 3 + [1] * 3 + [-1] * 3 + [1] * 3
    assert source.is_test.tolist() == [False] * 9 + [True] * 3
    assert source.ids[0] == "labelled/cat/0.png"
    assert source.ids[3] == "labelled/dog/deep/er/0.PNG"
    assert source.rows(np.arange(12))[:, 0, 0, 0].tolist() == [10, 11, 12, 20, 21, 22, 30, 31, 32, 40, 41, 42]
    assert source.rows(np.array([11, 0])).shape == (2, 1, 8, 8)
    assert any("cat" in note and "no test image" in note for note in source.notes)


def test_test_images_are_opened_only_when_asked_for(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "test" / "dog" / "1.png").write_bytes(b"rubbish")
    source = FolderSource(tmp_path)
    source.fingerprint()
    assert source.problems == []
    assert source.readable(np.arange(12)).tolist() == [*range(10), 11]
    assert [name for name, _ in source.problems] == ["test/dog/1.png"]
    assert source.readable(np.array([10])).tolist() == []
    assert len(source.problems) == 1
    with pytest.raises(UserError, match=r"test/dog/1\.png"):
        source.rows(np.array([10]))


@pytest.mark.parametrize("labeled", ["labelled", "labeled", "train"])
@pytest.mark.parametrize("unlabeled", ["unlabelled", "unlabeled"])
def test_aliases(tmp_path: Path, labeled: str, unlabeled: str) -> None:
    grey(tmp_path / labeled / "a" / "1.png", 1)
    grey(tmp_path / labeled / "b" / "1.png", 2)
    grey(tmp_path / unlabeled / "1.png", 3)
    assert FolderSource(tmp_path).labels.tolist() == [0, 1, -1]


def test_plain_tree_may_have_a_class_called_train(tmp_path: Path) -> None:
    for name in ("train", "bus", "test"):
        grey(tmp_path / name / "deep" / "1.png", 1)
    assert FolderSource(tmp_path).class_names == ("bus", "test", "train")


def test_sizes_and_channels(tmp_path: Path) -> None:
    grey(tmp_path / "a" / "1.png", 1, size=(10, 6))
    grey(tmp_path / "b" / "1.png", 1, size=(10, 6))
    assert FolderSource(tmp_path).shape == (1, 6, 10)
    assert FolderSource(tmp_path, image_size=16).shape == (1, 16, 16)
    assert open_source(str(tmp_path), SourceOptions(image_size="16")).rows(np.array([0])).shape == (1, 1, 16, 16)
    Image.new("RGB", (10, 6), "red").save(tmp_path / "a" / "2.png")
    assert FolderSource(tmp_path).shape == (3, 6, 10)
    grey(tmp_path / "a" / "3.png", 1, size=(10, 7))
    source = FolderSource(tmp_path)
    assert source.shape == (3, 64, 64)
    assert any("different sizes" in note and "64 x 64" in note for note in source.notes)
    for bad in ("big", 0, -3, 10**6, True, 2.5):
        with pytest.raises(UserError, match="image size"):
            FolderSource(tmp_path, image_size=bad)  # type: ignore[arg-type]


def test_large_images_of_one_size_become_64(tmp_path: Path) -> None:
    for name in "ab":
        grey(tmp_path / name / "1.png", 1, size=(65, 65))
    source = FolderSource(tmp_path)
    assert source.shape == (1, 64, 64)
    assert any("larger" in note for note in source.notes)


def test_folder_fingerprint_does_not_depend_on_the_size(tmp_path: Path) -> None:
    tree(tmp_path)
    first = FolderSource(tmp_path).fingerprint()
    assert FolderSource(tmp_path, image_size=16).fingerprint() == first
    grey(tmp_path / "unlabelled" / "x" / "1.png", 99)
    assert FolderSource(tmp_path).fingerprint() != first


def test_other_and_hidden_files_are_counted_or_skipped(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "labelled" / "cat" / "readme.txt").write_text("x")
    (tmp_path / "labelled" / "cat" / "._0.png").write_bytes(b"x")
    (tmp_path / "labelled" / ".git").mkdir()
    grey(tmp_path / "val" / "cat" / "1.png", 1)
    grey(tmp_path / "labelled" / "loose.png", 1)
    source = FolderSource(tmp_path)
    assert len(source.ids) == 12
    assert source.problems == []
    for words in ("1 file that is not an image", "ignored: val", "1 image in 'labelled' lies in no class"):
        assert any(words in note for note in source.notes), words


def test_images_above_the_memory_limit_are_decoded_when_needed(tmp_path: Path) -> None:
    tree(tmp_path)
    held, lazy = FolderSource(tmp_path), FolderSource(tmp_path, memory=8 * 8 * 8 / 2**30)  # 9 images of 8 x 8
    assert (held.lazy, lazy.lazy) == (False, True)
    assert lazy.held() is None
    assert any("decoded when needed" in note for note in lazy.notes)
    assert torch.equal(lazy.rows(np.arange(12)[::-1]), held.rows(np.arange(12)[::-1]))
    assert lazy.fingerprint() == held.fingerprint()
    (tmp_path / "unlabelled" / "x" / "1.png").unlink()
    with pytest.raises(UserError, match=r"no longer.*unlabelled/x/1\.png|unlabelled/x/1\.png.*no longer"):
        lazy.rows(np.arange(9))

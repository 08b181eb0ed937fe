"""The cache of image files: nothing is decoded twice, every change is noticed, and nothing in it can do harm."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metapl import open_source
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.images import cache as caches
from metapl.data.images import store as stores
from metapl.data.images.cache import open_cache
from metapl.data.images.folder import FolderSource


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are decoded from here on."""
    names: list[str] = []
    original = stores.decode_many

    def spied(paths: list[str], *args: object, **options: object) -> object:
        names.extend(os.path.basename(path) for path in paths)
        return original(paths, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(stores, "decode_many", spied)
    return names


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; everything is worth keeping, and times prove what they say."""
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "WORTH", -1.0)
    monkeypatch.setattr(caches, "FRESH", -(10**18))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part, count in (("labelled/cat", 3), ("labelled/dog", 3), ("unlabelled", 6), ("test/cat", 2)):
        for k in range(count):
            put(tmp_path / "data" / part / f"{part[-3:]}{k}.png", 10 * k + len(part))
    (tmp_path / "data" / "unlabelled" / "bad.png").write_bytes(b"no image")
    return tmp_path / "data"


def put(path: Path, level: int, size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, level).save(path)


def files(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.rglob("*") if path.is_file())


def same(a: FolderSource, b: FolderSource) -> None:
    index = np.arange(len(a.ids))
    assert (a.ids, a.problems, a.shape, a.fingerprint()) == (b.ids, b.problems, b.shape, b.fingerprint())
    assert torch.equal(a.rows(index), b.rows(index))


def test_the_second_opening_decodes_nothing_and_is_the_same(root: Path, cache: Path, decoded: list[str]) -> None:
    plain, first = FolderSource(root), FolderSource(root, cache=True)
    assert len(files(cache)) == 3
    assert any("kept for the next time" in note and str(cache) in note for note in first.notes)
    decoded.clear()
    second = FolderSource(root, cache=True)
    assert not any("kept for the next time" in note for note in second.notes)
    assert second.fingerprint() == first.fingerprint()
    assert torch.equal(second.held(), first.held())  # type: ignore[arg-type]
    assert fit_preprocessing(second, np.arange(12)) == fit_preprocessing(plain, np.arange(12))
    assert decoded == []
    same(first, plain)
    same(second, plain)


def test_held_rows_from_the_cache_may_be_changed_without_changing_it(root: Path, cache: Path) -> None:
    FolderSource(root, cache=True)
    changed, before = FolderSource(root, cache=True), FolderSource(root).held()
    held = changed.held()
    assert held is not None
    held.zero_()
    assert torch.equal(FolderSource(root, cache=True).held(), before)  # type: ignore[arg-type]


def rewrite(root: Path) -> None:
    put(root / "unlabelled" / "led3.png", 200)


def same_size_and_time(root: Path) -> None:
    path = root / "unlabelled" / "led3.png"
    status = path.stat()
    put(path, 33)
    assert path.stat().st_size == status.st_size
    time.sleep(0.02)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def exchanged(root: Path) -> None:
    """Two files that keep their times and sizes, under each other's names."""
    a, b = root / "unlabelled" / "led1.png", root / "unlabelled" / "led2.png"
    a.rename(a.with_suffix(".x"))
    b.rename(a)
    a.with_suffix(".x").rename(b)


def repaired(root: Path) -> None:
    put(root / "unlabelled" / "bad.png", 5)


def spoilt(root: Path) -> None:
    (root / "unlabelled" / "led0.png").write_bytes(b"")


def added(root: Path) -> None:
    put(root / "unlabelled" / "deep" / "new.png", 77)


def removed(root: Path) -> None:
    (root / "labelled" / "dog" / "dog1.png").unlink()


def renamed_class(root: Path) -> None:
    (root / "labelled" / "cat").rename(root / "labelled" / "cow")
    (root / "test" / "cat").rename(root / "test" / "cow")


def another_size(root: Path) -> None:
    put(root / "unlabelled" / "led4.png", 3, size=(70, 80))


CHANGES = [rewrite, same_size_and_time, exchanged, repaired, spoilt, added, removed, renamed_class, another_size]


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(root: Path, cache: Path, change: object, decoded: list[str]) -> None:
    FolderSource(root, cache=True)
    decoded.clear()
    change(root)  # type: ignore[operator]
    again = FolderSource(root, cache=True)
    touched = len(set(decoded))
    same(again, FolderSource(root))
    same(FolderSource(root, cache=True), FolderSource(root))
    assert touched <= (3 if change in (exchanged, renamed_class) else 1), "only what changed is examined again"


def test_a_change_within_one_tick_of_the_clock_is_noticed(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    """Same size, times and inode, other contents: told apart by their digest while the file is young."""
    monkeypatch.setattr(caches, "FRESH", 4 * 10**18)
    FolderSource(root, cache=True)
    decoded.clear()
    same(FolderSource(root, cache=True), FolderSource(root))
    status = caches._status

    def blind(folder: str, names: list[str]) -> np.ndarray:  # type: ignore[type-arg]
        found = status(folder, names).copy()
        found[:] = [7, 7, 7, 7]
        return found

    monkeypatch.setattr(caches, "_status", blind)
    FolderSource(root, cache=True)
    put(root / "unlabelled" / "led3.png", 33)
    same(FolderSource(root, cache=True), FolderSource(root))


def test_another_size_or_resize_decodes_again_and_both_are_kept(root: Path, cache: Path, decoded: list[str]) -> None:
    FolderSource(root, cache=True)
    same(FolderSource(root, cache=True, image_size=16), FolderSource(root, image_size=16))
    same(FolderSource(root, cache=True, image_size=16, resize="pad"), FolderSource(root, image_size=16, resize="pad"))
    assert len([name for name in files(cache) if name.endswith(".npy")]) == 3
    decoded.clear()
    for options in ({}, {"image_size": 16}, {"image_size": 16, "resize": "pad"}):
        FolderSource(root, cache=True, **options).held()  # type: ignore[arg-type]
    assert decoded == []


def test_the_size_of_a_large_jpeg_does_not_depend_on_how_it_was_opened_first(tmp_path: Path, cache: Path) -> None:
    """Decoded at an eighth for 16 x 16, it is still no image of 50 x 50."""
    for name in "ab":
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("RGB", (400, 400), "red").save(tmp_path / "set" / name / "1.jpg")
    FolderSource(tmp_path / "set", cache=True, image_size=16)
    assert FolderSource(tmp_path / "set", cache=True).shape == (3, 64, 64)


# -- what is damaged, foreign or in the wrong place


def damage_head(path: Path) -> None:
    path.write_bytes(b"rubbish")


def damage_middle(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 255
    path.write_bytes(raw)


def damage_end(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def damage_empty(path: Path) -> None:
    path.write_bytes(b"")


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("spoil", [damage_head, damage_middle, damage_end, damage_empty, damage_folder, Path.unlink])
@pytest.mark.parametrize("which", ["facts*.npz", "pixels*.npz", "pixels*.npy"])
def test_a_damaged_cache_is_passed_over(root: Path, cache: Path, spoil: object, which: str) -> None:
    FolderSource(root, cache=True)
    (path,) = cache.rglob(which)
    spoil(path)  # type: ignore[operator]
    same(FolderSource(root, cache=True), FolderSource(root))
    same(FolderSource(root, cache=True), FolderSource(root))


def test_a_cache_of_other_decoders_or_of_another_place_is_passed_over(
    root: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FolderSource(root, cache=True)
    with monkeypatch.context() as patch:
        patch.setattr(caches, "decoder", lambda: "another")
        decoded.clear()
        FolderSource(root, cache=True)
        assert len(set(decoded)) == 13
    other = root.with_name("other")
    root.rename(other)
    decoded.clear()
    FolderSource(other, cache=True)
    assert len(set(decoded)) == 13


def test_pickles_are_never_loaded(root: Path, cache: Path) -> None:
    FolderSource(root, cache=True)
    (path,) = cache.rglob("facts.npz")
    trap = root.with_name("trap")

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trap),)

    np.savez(path, meta=np.array([Trap()], dtype=object), entries=np.zeros(1), names=np.zeros(1))
    same(FolderSource(root, cache=True), FolderSource(root))
    assert not trap.exists()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no owners here")
def test_a_file_of_another_user_is_passed_over(
    root: Path, cache: Path, decoded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    FolderSource(root, cache=True)
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    decoded.clear()
    same(FolderSource(root, cache=True), FolderSource(root))
    assert len(set(decoded)) == 13


def test_never_in_the_users_data(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "WORTH", -1.0)
    before = sorted(root.rglob("*"))
    for place in (root, root / "inside"):
        monkeypatch.setenv("METAPL_CACHE", str(place))
        assert open_cache(str(root)) is None
        FolderSource(root, cache=True)
    assert sorted(root.rglob("*")) == before


def test_a_place_that_cannot_be_written_does_no_harm(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "file"))
    monkeypatch.setattr(stores, "WORTH", -1.0)
    same(FolderSource(root, cache=True), FolderSource(root))
    assert (tmp_path / "file").read_text() == "x"


def test_without_cache_nothing_is_written_and_a_quick_set_keeps_no_pixels(
    root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FolderSource(root)
    assert not cache.exists()
    monkeypatch.setattr(stores, "WORTH", 60.0)
    FolderSource(root, cache=True)
    assert files(cache) == ["facts.npz"]


# -- room on the disk


def test_rows_that_take_too_much_room_are_not_kept(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "LIMIT", 12 * 64 - 1)
    source = FolderSource(root, cache=True)
    assert not any("kept for the next time" in note for note in source.notes)
    assert not [name for name in files(cache) if name.endswith(".npy")]
    monkeypatch.setattr(caches, "LIMIT", 2**30)
    monkeypatch.setattr("metapl.utils.cache.FREE_SHARE", 1e-15)
    FolderSource(root, cache=True)
    assert not [name for name in files(cache) if name.endswith(".npy")]


@pytest.fixture
def several(root: Path) -> list[Path]:
    copies = []
    for name in "abc":
        copy = root.with_name(name)
        for path in root.rglob("*.png"):
            (copy / path.relative_to(root)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(root)).write_bytes(path.read_bytes())
        copies.append(copy)
    return copies


def test_what_was_used_longest_ago_goes_first(
    several: list[Path], cache: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[str]
) -> None:
    a, b, c = several
    stranger = cache / "images" / "notes.txt"
    stranger.parent.mkdir(parents=True)
    stranger.write_text("x" * 10_000)
    for root in (a, b):
        FolderSource(root, cache=True)
        time.sleep(0.02)
    size = sum(path.stat().st_size for path in cache.rglob("*.np?")) // 2
    FolderSource(a, cache=True).held()  # now b is the one used longest ago
    monkeypatch.setattr(caches, "LIMIT", int(2.5 * size))
    time.sleep(0.02)
    FolderSource(c, cache=True)
    assert sum(path.stat().st_size for path in cache.rglob("*.np?")) <= 2.5 * size
    decoded.clear()
    for root in (c, a):
        FolderSource(root, cache=True).held()
    assert decoded == []
    FolderSource(b, cache=True).held()
    assert decoded
    assert stranger.read_text() == "x" * 10_000


def test_no_file_is_left_half_written(root: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **options: object) -> None:
        args[0].write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(caches.np, "save", full)
        same(FolderSource(root, cache=True), FolderSource(root))
    assert files(cache) == ["facts.npz"]
    same(FolderSource(root, cache=True), FolderSource(root))


def test_images_listed_in_a_file_are_not_decoded_again_either(root: Path, cache: Path, decoded: list[str]) -> None:
    listed = root.with_name("rows.csv")
    rows = [f"{path.relative_to(root.parent)},{path.parent.name}" for path in sorted(root.glob("labelled/*/*.png"))]
    rows += [f"{path.relative_to(root.parent)}," for path in sorted(root.glob("unlabelled/led*.png"))]
    listed.write_text("\n".join(["path,label", *rows]) + "\n")
    first = open_source(str(listed))
    assert len(decoded) == 12
    second = open_source(str(listed))
    assert second.fingerprint() == first.fingerprint()
    assert torch.equal(second.rows(np.arange(12)), first.rows(np.arange(12)))
    assert len(decoded) == 12

"""Folders that cannot serve: one line and a remedy, a reason per image, user files untouched."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from damaged import DAMAGED
from PIL import Image

from metapl import open_source
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.images.folder import FolderSource
from metapl.data.sources import SourceOptions
from metapl.errors import UserError


def put(path: Path, value: int = 100, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def tree(root: Path, count: int = 3) -> Path:
    for k in range(count):
        put(root / "labelled" / "cat" / f"{k}.png")
        put(root / "labelled" / "dog" / f"{k}.png")
        put(root / "unlabelled" / f"{k}.png")
    return root


def plain(root: Path) -> Path:
    for name in ("cat", "dog"):
        for k in range(3):
            put(root / name / f"{k}.png")
    return root


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and change time of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def _untouched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may leave a changed or new file, counted from its first ``FolderSource``."""
    before: list[dict[str, tuple[str, int]]] = []
    original = FolderSource.__init__

    def spied(self: FolderSource, *args: object, **options: object) -> None:
        before.append(snapshot(tmp_path))
        original(self, *args, **options)  # type: ignore[arg-type]
        assert snapshot(tmp_path) == before[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderSource, "__init__", spied)
        yield


def error_of(root: Path, **options: object) -> str:
    before = snapshot(root) if root.is_dir() else {}
    with pytest.raises(UserError) as error:
        open_source(str(root), SourceOptions(**options))  # type: ignore[arg-type]
    assert error.value.remedy
    assert "\n" not in str(error.value)
    assert not root.is_dir() or snapshot(root) == before
    return str(error.value)


# -- folders that cannot serve


def move(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)


BAD_FOLDERS: list[tuple[Callable[[Path], Path], Callable[[Path], object], list[str]]] = [
    (tree, lambda r: shutil.rmtree(r), ["no such file or folder", "Check"]),
    (tree, lambda r: (shutil.rmtree(r), put(r.with_name("t.png")).rename(r)), ["without a suffix is not read"]),
    (tree, lambda r: (shutil.rmtree(r), r.mkdir()), ["does not hold images"]),
    (tree, lambda r: (shutil.rmtree(r), put(r / "1.png")), ["the folder does not hold images in class folders"]),
    (tree, lambda r: (shutil.rmtree(r), put(r / "1.png").rename(r / "t10k-images-idx3-ubyte.gz")), ["idx:FOLDER"]),
    (tree, lambda r: (r / "labelled" / "owl").mkdir(), ["'owl' has no image", "labelled/owl", "remove"]),
    (plain, lambda r: (r / "owl" / "deep").mkdir(parents=True), ["'owl' has no image"]),
    (tree, lambda r: shutil.rmtree(r / "labelled" / "cat"), ["only one class, 'dog'"]),
    (plain, lambda r: shutil.rmtree(r / "cat"), ["only one class, 'dog'"]),
    (tree, lambda r: [p.unlink() for p in (r / "unlabelled").iterdir()], ["has no image in it", "--labels N"]),
    (tree, lambda r: shutil.rmtree(r / "labelled"), ["no folder 'labelled'"]),
    (tree, lambda r: shutil.copytree(r / "labelled", r / "labeled"), ["'labeled' and 'labelled' exist"]),
    (tree, lambda r: put(r / "labelled" / "Cat" / "1.png"), ["'Cat' and 'cat'", "differ only"]),
    (tree, lambda r: put(r / "labelled" / "cat " / "1.png"), ["'cat' and 'cat '", "differ only"]),
    (plain, lambda r: (put(r / "caf\u00e9" / "1.png"), put(r / "cafe\u0301" / "1.png")), ["differ only"]),
    (tree, lambda r: put(r / "test" / "dgo" / "1.png"), ["'dgo'", "Did you mean 'dog'", "test/dgo"]),
    (tree, lambda r: put(r / "test" / "Dog" / "1.png"), ["'Dog'", "Did you mean 'dog'"]),
    (plain, lambda r: put(r / "test" / "dog" / "1.png"), ["'test' holds a folder 'dog'", "labelled"]),
    (plain, lambda r: (r / "labelled").mkdir(), ["labelled: the folder does not hold images in class folders"]),
]


@pytest.mark.parametrize(("make", "spoil", "words"), BAD_FOLDERS)
def test_folders_that_cannot_serve(
    tmp_path: Path, make: Callable[[Path], Path], spoil: Callable[[Path], object], words: list[str]
) -> None:
    root = make(tmp_path / "data")
    open_source(str(root))  # sound before it is spoilt
    spoil(root)
    message = error_of(root)
    assert all(word in message for word in [*words, str(root)]), message


def test_fully_labelled_plain_tree_needs_labels(tmp_path: Path) -> None:
    source = FolderSource(plain(tmp_path))
    with pytest.raises(UserError, match="no unlabelled rows"):
        make_split(source, SplitConfig(test=0.0), 0)
    assert len(make_split(source, SplitConfig(labels=1, test=0.0), 0).labeled) == 2


# -- unreadable images in a folder


@pytest.mark.parametrize(("count", "bad", "refused"), [(120, 6, False), (119, 6, True), (12, 5, False), (12, 6, True)])
def test_more_than_5_percent_bad_is_refused(tmp_path: Path, count: int, bad: int, refused: bool) -> None:
    tree(tmp_path, count=2)
    for k in range(count - 6):
        put(tmp_path / "unlabelled" / f"more{k}.png")
    for k in range(bad):
        (tmp_path / "unlabelled" / f"more{k}.png").write_bytes(DAMAGED["truncated.png"])
    if refused:
        message = error_of(tmp_path)
        assert f"{bad} of {count} images cannot be read" in message
        assert "unlabelled/more0.png: truncated" in message
        assert "allow_bad" in message
    source = FolderSource(tmp_path, allow_bad=refused)
    assert [name for name, _ in source.problems] == [f"unlabelled/more{k}.png" for k in range(bad)]
    assert len(source.ids) == count - bad
    assert not set(source.ids) & {name for name, _ in source.problems}
    assert any(f"{bad} images cannot be read" in note for note in source.notes)


def test_a_single_bad_image_is_named(tmp_path: Path) -> None:
    tree(tmp_path, count=2)
    (tmp_path / "unlabelled" / "more.png").write_bytes(DAMAGED["truncated.png"])
    notes = FolderSource(tmp_path).notes
    assert any(note.startswith("1 image cannot be read and is left out: unlabelled/more.png: ") for note in notes)


def test_all_damaged_at_once_in_a_folder(tmp_path: Path) -> None:
    tree(tmp_path)
    for name, raw in DAMAGED.items():
        (tmp_path / "unlabelled" / name).write_bytes(raw)
        (tmp_path / "test" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / "cat" / name).write_bytes(raw)
    put(tmp_path / "test" / "cat" / "good.png")
    source = FolderSource(tmp_path, allow_bad=True)
    before = snapshot(tmp_path)
    assert {name for name, _ in source.problems} == {f"unlabelled/{name}" for name in DAMAGED}
    test = np.flatnonzero(source.is_test)
    assert [source.ids[k] for k in source.readable(test)] == ["test/cat/good.png"]
    assert len(source.problems) == 2 * len(DAMAGED)
    assert snapshot(tmp_path) == before


def test_a_class_of_which_nothing_is_left(tmp_path: Path) -> None:
    tree(tmp_path)
    for path in (tmp_path / "labelled" / "cat").iterdir():
        path.write_bytes(b"x")
    message = error_of(tmp_path, allow_bad=True)
    assert "no image of the class 'cat' can be read" in message
    assert "labelled/cat/0.png" in message


def test_no_unlabelled_image_left(tmp_path: Path) -> None:
    tree(tmp_path)
    for path in (tmp_path / "unlabelled").iterdir():
        path.write_bytes(b"x")
    assert "no unlabelled image can be read" in error_of(tmp_path, allow_bad=True)


# -- odd names and links

ODD = ["a b", "it's", 'say "hi"', "two\nlines", "-rf", "--help", "ünïcödé", "$(x)", "=1+1", "NA", "None", "é" * 100]


def test_odd_names(tmp_path: Path) -> None:
    for name in ODD:
        put(tmp_path / "labelled" / name / f"{name[:20]}.png")
        put(tmp_path / "unlabelled" / name / f"{name[:20]}.png")
    source = FolderSource(tmp_path)
    assert set(source.class_names) == set(ODD)
    assert len(set(source.ids)) == 2 * len(ODD)
    assert source.problems == []


def test_odd_names_stay_on_one_line_in_messages(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "labelled" / "two\nlines").mkdir()
    assert "two\\nlines" in error_of(tmp_path)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    tree(tmp_path)
    for part in (b"labelled", b"unlabelled"):
        folder = os.path.join(os.fsencode(tmp_path), part, b"\xff\xfe")
        os.mkdir(folder)
        shutil.copy(os.fsencode(tmp_path / "labelled" / "cat" / "0.png"), os.path.join(folder, b"\xe9.png"))
    source = FolderSource(tmp_path)
    assert "\\xff\\xfe" in source.class_names
    assert all(name.encode("utf-8") for name in source.ids)
    assert len(source.fingerprint()) == 64


def test_link_loops_do_not_hang(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "labelled" / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "labelled" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "unlabelled" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "round.png").symlink_to("round.png")
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert len(source.ids) == 9
    assert any("'up'" in note and "ignored" in note for note in source.notes)
    assert any("inside 'cat' not entered" in note for note in source.notes)


def test_links_to_files_and_class_folders_elsewhere(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    put(tmp_path / "elsewhere" / "1.png", 7)
    (root / "labelled" / "owl").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "unlabelled" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "unlabelled" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    (root / "unlabelled" / "round.png").symlink_to("round.png")
    source = FolderSource(root, allow_bad=True)
    assert source.class_names == ("cat", "dog", "owl")
    assert "unlabelled/linked.png" in source.ids
    assert {name for name, _ in source.problems} == {"unlabelled/nowhere.png", "unlabelled/round.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_without_permission_is_a_problem(tmp_path: Path) -> None:
    tree(tmp_path)
    closed = tmp_path / "unlabelled" / "closed"
    put(closed / "1.png")
    closed.chmod(0)
    try:
        with pytest.raises(UserError, match="closed"):
            FolderSource(tmp_path)
        assert FolderSource(tmp_path, allow_bad=True).problems[0][0] == "unlabelled/closed"
    finally:
        closed.chmod(0o755)

"""Folders whose names have a meaning, and files that are not images: nothing is read otherwise than it was meant."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metapl import SplitConfig, UserError, check, make_split, open_source
from metapl.types import Source

COLOURS = np.random.default_rng(0)


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix.lower()
    form = "JPEG" if suffix in (".jfif", ".jpe", ".jpg", ".heic") else "PNG"
    Image.fromarray(COLOURS.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path, form)
    return path


def parts(root: Path, *names: str, classes: tuple[str, ...] = ("cat", "dog"), count: int = 2) -> Path:
    for part in names:
        for name in classes:
            for k in range(count):
                put(root / part / name / f"{part}{k}.png")
    return root


def counts(source: Source) -> dict[str, int]:
    """Rows of each class that may train, unlabelled rows, test rows."""
    training = source.labels[~source.is_test]
    found = {name: int((training == k).sum()) for k, name in enumerate(source.class_names)}
    return {**found, "": int((training < 0).sum()), "test": int(source.is_test.sum())}


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "Val", "VALIDATION"])
def test_parts_are_not_classes(tmp_path: Path, validation: str) -> None:
    source = open_source(str(parts(tmp_path, "train", validation, "test")))
    assert counts(source) == {"cat": 4, "dog": 4, "": 0, "test": 4}
    assert any(f"'{validation}'" in note and "taken together as labelled" in note for note in source.notes)
    assert check(source).facts["classes"].keys() == {"cat", "dog"}


@pytest.mark.parametrize(
    ("names", "labeled", "test"),
    [
        (("train", "val"), 4, 0),
        (("Train", "Test"), 2, 4),
        (("training", "testing"), 2, 4),
        (("fold1", "fold2", "fold_3"), 6, 0),
        (("hospital a", "hospital b"), 4, 0),
        (("validation", "test"), 2, 4),
        (("train",), 2, 0),
    ],
)
def test_where_all_folders_hold_the_same_folders_those_are_the_classes(
    tmp_path: Path, names: tuple[str, ...], labeled: int, test: int
) -> None:
    source = open_source(str(parts(tmp_path, *names)))
    assert counts(source) == {"cat": labeled, "dog": labeled, "": 0, "test": test}


def test_a_folder_beside_the_parts_is_told_and_no_class(tmp_path: Path) -> None:
    parts(tmp_path, "train", "test")
    put(tmp_path / "figures" / "1.png")
    source = open_source(str(tmp_path))
    assert counts(source) == {"cat": 2, "dog": 2, "": 0, "test": 4}
    assert "folders beside 'train' are ignored: figures" in source.notes


def test_classes_that_hold_images_of_their_own_stay_classes(tmp_path: Path) -> None:
    for name in ("cat", "dog", "val"):
        put(tmp_path / name / "0.png")
        for inner in ("indoor", "outdoor"):
            put(tmp_path / name / inner / "1.png")
    assert counts(open_source(str(tmp_path))) == {"cat": 3, "dog": 3, "val": 3, "": 0, "test": 0}


def test_parts_without_class_folders_are_refused(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for k in range(3):
            put(tmp_path / part / f"cat.{k}.png")
    with pytest.raises(UserError, match=r"'train' holds no class folders\. Make a folder for each class .* CSV"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("labeled", ["labelled", "train"])
def test_labelled_and_test_need_no_unlabelled(tmp_path: Path, labeled: str) -> None:
    source = open_source(str(parts(tmp_path, labeled, "test")))
    assert counts(source) == {"cat": 2, "dog": 2, "": 0, "test": 4}
    with pytest.raises(UserError, match=r"no unlabelled rows are left.*--labels N"):
        make_split(source, SplitConfig(), 0)
    split = make_split(source, SplitConfig(labels=1), 0)  # what the message advises works
    assert (len(split.labeled), len(split.test)) == (2, 4)


@pytest.mark.parametrize("name", ["unsup", "no_label", "no-label", "Unlabelled", "unlabeled"])
def test_unlabelled_folders_beside_classes(tmp_path: Path, name: str) -> None:
    plain, tree = tmp_path / "plain", tmp_path / "tree"
    parts(tmp_path, "plain", "tree/train", "tree/test")
    for k in range(3):
        put(plain / name / f"{k}.png")
        put(tree / "train" / name / f"{k}.png")
    assert counts(open_source(str(plain))) == {"cat": 2, "dog": 2, "": 3, "test": 0}
    source = open_source(str(tree))
    assert counts(source) == {"cat": 2, "dog": 2, "": 3, "test": 4}
    assert f"folder '{name}' holds unlabelled images by its name (3 images)" in source.notes


@pytest.mark.parametrize(
    "litter", ["__MACOSX/cat/._1.png", "Thumbs.db", "cat/desktop.ini", "dog/Thumbs.db", "@eaDir/x.png"]
)
def test_what_systems_leave_behind_is_passed_over_everywhere(tmp_path: Path, litter: str) -> None:
    from metapl.data.images.tree import image_files

    root = parts(tmp_path / "zip", "", count=2)
    before = open_source(str(root))
    path = root / litter
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\0")
    source = open_source(str(root))
    assert (source.class_names, source.ids, source.notes, source.problems) == (
        before.class_names,
        before.ids,
        before.notes,
        [],
    )
    assert [why for _, _, why in image_files(root)] == [""] * 4


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JFIF"])
def test_more_suffixes_of_jpeg(tmp_path: Path, suffix: str) -> None:
    for name in ("cat", "dog"):
        put(tmp_path / name / f"1{suffix}")
    assert counts(open_source(str(tmp_path))) == {"cat": 1, "dog": 1, "": 0, "test": 0}


@pytest.mark.parametrize("suffix", [".HEIC", ".cr2", ".svg"])
def test_images_in_other_forms_are_counted_with_what_to_do(tmp_path: Path, suffix: str) -> None:
    from metapl.data.images.tree import image_files

    parts(tmp_path, "")
    for k in range(3):
        (tmp_path / "cat" / f"{k}{suffix}").write_bytes(b"x")
    (tmp_path / "cat" / "notes.xml").write_text("x")
    notes = open_source(str(tmp_path)).notes
    assert f"{suffix.lower()} is not read: save as JPEG (3 files)" in notes
    assert "1 file that is not an image by its suffix is ignored (1 .xml)" in notes
    reasons = {why for _, _, why in image_files(tmp_path)}
    assert f"{suffix.lower()} is not read: save it as JPEG or PNG" in reasons


@pytest.mark.parametrize(
    ("suffix", "words"),
    [(".txt", "one CSV file with the columns text and label"), (".heic", "Save them as JPEG"), (".npy", "Put images")],
)
def test_folders_of_other_files_say_what_to_do(tmp_path: Path, suffix: str, words: str) -> None:
    for name in ("pos", "neg"):
        for k in range(3):
            path = tmp_path / name / f"{k}{suffix}"
            path.parent.mkdir(exist_ok=True)
            path.write_text("good film")
    with pytest.raises(UserError, match=f"6 files that end in '{suffix}'.*{words}"):
        open_source(str(tmp_path))


def test_one_folder_around_the_classes_is_named(tmp_path: Path) -> None:
    parts(tmp_path, "animals")
    put(tmp_path / "__MACOSX" / "animals" / "1.png")
    with pytest.raises(UserError, match=r"only one class, 'animals'.*Did you mean '.*animals'\?"):
        open_source(str(tmp_path))
    assert open_source(str(tmp_path / "animals")).class_names == ("cat", "dog")

"""Data in memory: orders, marks, long numbers, nested data sets, signals; and answers that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from given import notes, opened, write
from PIL import Image
from scipy import sparse
from torch.utils.data import ConcatDataset, Dataset, Subset

import metapl
from metapl import LabeledKFold, SemiSupervisedClassifier, UserError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(60, 3))
Y = np.where(np.arange(60) < 20, (X[:, 0] > 0).astype(int), -1)


def classifier(**more: Any) -> SemiSupervisedClassifier:
    return SemiSupervisedClassifier(steps=8, guard="off", random_state=0, device="cpu", **more)


# -- the estimator


def test_labels_in_another_order_than_the_rows_are_refused() -> None:
    frame = pd.DataFrame(X, columns=list("abc"), index=RANDOM.permutation(60))
    y = pd.Series(Y, index=frame.index)
    with pytest.raises(UserError, match=r"another order.*Give y\.loc\[X\.index\]"):
        classifier().fit(frame, y.sort_index())
    classifier().fit(frame, y.sort_index().loc[frame.index])


def test_columns_called_by_whole_numbers_are_found_by_their_name() -> None:
    frame = pd.DataFrame(X)
    fitted = classifier().fit(frame, Y)
    np.testing.assert_array_equal(fitted.predict_proba(frame[[2, 0, 1]]), fitted.predict_proba(frame))
    with pytest.raises(UserError, match="there is no column '2'"):
        fitted.predict(frame.rename(columns={2: 7}))


@pytest.mark.parametrize(
    ("rows", "y", "words"),
    [
        (X, np.eye(2)[np.maximum(Y, 0)], r"one-hot.*y\.argmax\(axis=1\)"),
        (sparse.csr_matrix(X), Y, r"sparse.*X\.toarray\(\)"),
        (np.array([["good"], ["bad"]] * 30), Y, r"second dimension.*X\[:, 0\]"),
        (np.where(X > 2, np.inf, X), Y, r"row \d+, column \d is infinite"),
        (pd.DataFrame(np.where(X > 2, np.inf, X), columns=list("abc")), Y, r"row \d+, column '[abc]' is infinite"),
        (X, np.array(["a", "b", "-1"] * 20, dtype=object), r"the text '-1'.*by None or -1"),
    ],
    ids=["one-hot", "sparse", "column of texts", "infinite", "infinite in a frame", "text -1"],
)
def test_inputs_get_a_sentence_of_their_own(rows: Any, y: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        classifier().fit(rows, y)


def test_no_row_without_a_label_is_told() -> None:
    with pytest.warns(UserWarning, match="name it with unlabeled_marker"):
        classifier().fit(X, np.where(Y < 0, 2, Y))  # a LabelEncoder made a class of the mark
    classifier().fit(X, np.where(Y < 0, 2, Y), X_unlabeled=X)
    classifier(unlabeled_marker=2).fit(X, np.where(Y < 0, 2, Y))
    classifier(method="supervised").fit(X, np.abs(Y))


def test_folds_name_the_class_with_too_few_labels() -> None:
    with pytest.raises(UserError, match=r"5 folds need as many labels of each class, 'b' has 3\. .* n_splits=3"):
        list(LabeledKFold(5).split(X[:12], np.array(["a"] * 9 + ["b"] * 3, dtype=object)))


# -- signals, RGBA, scales


@pytest.mark.parametrize("shape", [(20, 128, 9), (20, 3, 50), (20, 10, 12), (20, 32, 24), (20, 1, 40)])
def test_signals_are_not_pictures(tmp_path: Path, shape: tuple[int, ...]) -> None:
    signals, y = RANDOM.random(shape), np.arange(20) % 2
    message = rf"rows of {shape[1]} x {shape[2]} numbers may be grey images or signals.*X\[:, None\].*X\.reshape"
    with pytest.raises(UserError, match=message):
        metapl.from_arrays(signals, y)
    with pytest.raises(UserError, match=message):
        classifier().fit(signals, np.where(np.arange(20) < 10, y, -1))
    np.savez(tmp_path / "x.npz", X=signals, y=y)
    with pytest.raises(UserError, match=message):
        opened(tmp_path / "x.npz")
    with pytest.raises(UserError, match=r"x\[None\].*x\.reshape\(-1\)"):
        metapl.from_dataset([(row, int(label)) for row, label in zip(signals, y, strict=True)])
    # as the message says
    assert metapl.from_arrays(signals.reshape(20, -1), y).kind == "table"
    assert metapl.from_arrays(signals[:, None], y).kind == "image"
    assert metapl.from_arrays(signals, y, kind="image").kind == "image"
    assert metapl.from_dataset([(row.reshape(-1), k % 2) for k, row in enumerate(signals)]).kind == "table"
    assert metapl.from_dataset([(row[None], k % 2) for k, row in enumerate(signals)]).kind == "image"


def test_what_may_be_signals_but_is_read_as_images_is_said() -> None:
    y = np.arange(20) % 2
    for images in (RANDOM.random((20, 28, 28)), RANDOM.integers(0, 255, (20, 28, 20)).astype(np.uint8)):
        (note,) = metapl.from_arrays(images, y).notes
        assert f"rows of 28 x {images.shape[2]} numbers are read as grey images (for signals, give X.reshape" in note
        notes = metapl.from_dataset([(image, k % 2) for k, image in enumerate(images)]).notes
        assert "numbers are read as grey images (for signals, give x.reshape(-1))" in notes[1]
    assert not metapl.from_arrays(RANDOM.random((20, 1, 28, 20)), y).notes


@pytest.mark.parametrize("shape", [(6, 8, 8, 4), (6, 4, 8, 8)])
def test_rgba_is_named(shape: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match=r"4 channels\. If these are RGBA, leave the transparency out: X\["):
        metapl.from_arrays(RANDOM.random(shape), np.arange(6) % 2)


def test_floats_divided_by_255_twice_are_refused() -> None:
    images = RANDOM.integers(0, 256, (6, 8, 8)) / 255
    assert metapl.from_arrays(images, np.arange(6) % 2).kind == "image"
    with pytest.raises(UserError, match="divided by 255 twice"):
        metapl.from_arrays(images / 255, np.arange(6) % 2)


# -- long numbers

TIMES = 1_700_000_000_000 + RANDOM.permutation(300) * 250.0
LATE = np.median(TIMES) < TIMES


def accuracy(predictor: metapl.Predictor, rows: Any) -> float:
    return float((predictor.predict(rows) == np.where(LATE, "v", "u")).mean())


@pytest.mark.parametrize("shift", [0.0, 0.125])
def test_long_numbers_in_files_keep_their_digits(tmp_path: Path, shift: float) -> None:
    lines = [f"{time + shift:.3f},{'uv'[int(late)]}" for time, late in zip(TIMES, LATE)]
    path = write(tmp_path / "x.csv", "\n".join(["time,label", *lines]))
    source = opened(path, features="time")
    assert len(np.unique(source.data)) == 300  # type: ignore[attr-defined]
    assert "column 'time' holds long numbers" in notes(source)
    options = {"source.table.features": "time"}
    predictor = metapl.fit(str(path), labels=40, steps=60, guard="off", options=options).predictor
    frame = pd.DataFrame({"time": TIMES + shift})
    assert accuracy(predictor, frame) > 0.9
    (chunk,) = metapl.predict_source(predictor, str(path))
    np.testing.assert_allclose(chunk.probabilities, predictor.predict_proba(frame), rtol=1e-4, atol=1e-5)


def test_long_numbers_in_memory_keep_their_digits(tmp_path: Path) -> None:
    y = np.where(np.arange(300) < 60, LATE.astype(int), -1)
    frame = pd.DataFrame({"time": TIMES, "other": RANDOM.normal(size=300)})
    for rows in (frame, frame.to_numpy()):
        fitted = SemiSupervisedClassifier(steps=60, guard="off", random_state=0, device="cpu").fit(rows, y)
        assert (fitted.predict(rows) == LATE).mean() > 0.85
        fitted.save(tmp_path / type(rows).__name__)
        again = SemiSupervisedClassifier.load(tmp_path / type(rows).__name__)
        np.testing.assert_array_equal(again.predict_proba(rows), fitted.predict_proba(rows))
    with pytest.warns(UserWarning, match="float32 keeps seven digits"):
        metapl.from_arrays(frame.to_numpy(), y)


@pytest.mark.parametrize("values", [X[:, 0], np.arange(60) * 1e6, RANDOM.normal(size=60) * 1e9, np.full(60, 0.1)])
def test_other_numbers_stay_as_they_were(values: np.ndarray[Any, Any]) -> None:
    from metapl.data.tables.digits import offset_of

    assert offset_of(values) == 0.0


# -- nested data sets


class Folder(Dataset[Any]):
    """As ``torchvision.datasets.ImageFolder`` is: classes in the order of their folders' names."""

    classes = ("0", "1", "10", "2")

    def __init__(self) -> None:
        self.class_to_idx = {name: k for k, name in enumerate(self.classes)}
        self.classes = list(self.classes)  # type: ignore[assignment]

    def __len__(self) -> int:
        return 40

    def __getitem__(self, k: int) -> Any:
        return Image.fromarray(np.full((8, 8), 6 * k, dtype=np.uint8)), k % 4


NESTED: list[Any] = [
    Subset(Folder(), [k for k in range(40) if k % 4 != 1]),
    ConcatDataset([Folder(), Folder()]),
    Subset(ConcatDataset([Folder(), Folder()]), [k for k in range(80) if k % 4 != 1]),
    ConcatDataset([Subset(Folder(), [0, 2, 3]), Subset(Folder(), [4, 6, 7])]),
]


@pytest.mark.parametrize("dataset", NESTED, ids=["subset", "concat", "subset of concat", "concat of subsets"])
def test_nested_data_sets_keep_the_names_of_their_classes(dataset: Dataset[Any]) -> None:
    source = metapl.from_dataset(dataset)
    given = [Folder().classes[dataset[k][1]] for k in range(len(dataset))]  # type: ignore[arg-type]
    assert [source.class_names[k] for k in source.labels] == given


# -- answers


def test_nothing_that_is_not_finite_leaves_as_an_answer(tmp_path: Path) -> None:
    predictor = metapl.fit(X.astype(np.float32), Y, steps=8, guard="off").predictor
    far = np.array([[0, 0, 0], [3e38, -3e38, 3e38]], dtype=np.float32)
    with pytest.raises(UserError, match=r"row 1 has no finite answer.*3e\+38"):
        predictor.predict_proba(far)
    lines = [f"{a:.3f},{b:.3f},{'uv'[int(a > 0)]}" for a, b, _ in X]
    path = write(tmp_path / "x.csv", "\n".join(["a,b,label", *lines]))
    named = metapl.fit(str(path), labels=5, steps=8, guard="off").predictor
    (chunk,) = metapl.predict_source(named, str(write(tmp_path / "new.csv", "a,b\n1,2\n3e38,-3e38\n2,1\n")))
    assert chunk.ids == ("2", "4")
    assert bool(torch.isfinite(chunk.probabilities).all())
    assert [row for row, _ in chunk.problems] == ["3"]


def test_check_asks_for_no_more_labels_than_train_allows(tmp_path: Path) -> None:
    lines = [f"{k * 37 % 101},{k * 7 % 13},{'u' if k < 5 else 'v'}" for k in range(105)]
    path = write(tmp_path / "x.csv", "\n".join(["a,b,label", *lines]))
    found = next(f for f in metapl.check(str(path)).findings if f.kind == "skew")
    assert "--labels 4 or fewer" in found.remedy
    assert len(metapl.make_split(opened(path), metapl.SplitConfig(labels=4), 0).labeled)
    with pytest.raises(UserError):
        metapl.make_split(opened(path), metapl.SplitConfig(labels=5), 0)


def test_quiet_silences_progress_and_no_notes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from metapl.utils.progress import make_progress

    with make_progress(quiet=True) as progress:
        progress.note("column 'x' is not used")
        progress.update(1, 2, {"loss": 1.0})
    assert capsys.readouterr().err == "column 'x' is not used\n"

"""Folds over the labelled rows: who is held out, who stays, and what is never touched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metapl.data.batches.folds import fold_count, fold_splits
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.types import Source, Split


def source_of(counts: list[int], unlabeled: int = 12, test: int = 6) -> MemorySource:
    """A table with ``counts[k]`` rows of class k, then rows without label, then test rows."""
    labels = [k for k, n in enumerate(counts) for _ in range(n)] + [-1] * unlabeled + [0] * test
    return MemorySource(
        name="toy",
        kind="table",
        data=torch.arange(len(labels), dtype=torch.float32).unsqueeze(1),
        labels=np.array(labels),
        class_names=tuple("abcdefghij"[: len(counts)]),
        is_test=np.arange(len(labels)) >= len(labels) - test,
    )


def per_class(source: Source, rows: np.ndarray) -> np.ndarray:
    return np.bincount(source.labels[rows], minlength=len(source.class_names))


def labeled(split: Split) -> set[int]:
    return {*split.labeled.tolist(), *split.validation.tolist()}


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("validation", ["auto", "none"])
@pytest.mark.parametrize("folds", [2, 3, 5])
@pytest.mark.parametrize("counts", [[7, 5, 9], [4, 4, 4], [2, 2, 2], [30, 2, 3]])
def test_each_row_is_held_out_once_and_classes_are_balanced(
    counts: list[int], folds: int, validation: str, include: bool
) -> None:
    source = source_of(counts)
    split = make_split(source, SplitConfig(validation=validation, include_labeled=include), 0)
    made = fold_splits(source, split, folds, 1)
    assert len(made) == folds
    held = np.concatenate([f.validation for f in made])
    assert sorted(held.tolist()) == sorted(labeled(split))
    shares = np.array([per_class(source, f.validation) for f in made])
    assert (shares.max(0) - shares.min(0) <= 1).all()
    assert np.ptp(shares.sum(1)) <= 1
    for fold in made:
        assert labeled(fold) == labeled(split)
        assert not set(fold.labeled) & set(fold.validation)
        assert (per_class(source, fold.labeled) > 0).all()
        assert set(fold.validation) <= set(fold.unlabeled), "held-out rows train without their label"
        assert (set(fold.labeled) <= set(fold.unlabeled)) == include
        assert set(split.unlabeled) - set(split.labeled) <= set(fold.unlabeled)
        assert not source.is_test[np.union1d(fold.labeled, fold.unlabeled)].any()
        assert not len(fold.test)
        for part in (fold.labeled, fold.unlabeled, fold.validation, fold.test):
            assert part.dtype == np.int64
            assert (np.diff(part) > 0).all()
    assert len({f.sha for f in made}) == folds


def test_the_only_row_of_a_class_always_trains() -> None:
    source = source_of([1, 6, 1, 4])
    split = make_split(source, SplitConfig(), 0)
    only = {0, 7}
    made = fold_splits(source, split, 3, 0)
    assert all(only <= set(f.labeled) for f in made)
    assert sorted(k for f in made for k in f.validation.tolist()) == sorted(labeled(split) - only)


def test_the_seed_decides_and_nothing_else() -> None:
    source = source_of([10, 10])
    split = make_split(source, SplitConfig(), 0)
    one, same, other = (fold_splits(source, split, 5, s) for s in (3, 3, 4))
    assert [f.sha for f in one] == [f.sha for f in same]
    assert all(np.array_equal(a.validation, b.validation) for a, b in zip(one, same))
    assert not all(np.array_equal(a.validation, b.validation) for a, b in zip(one, other))
    # The same labelled rows give the same folds, whichever of them were set aside for validation.
    bare = fold_splits(source, make_split(source, SplitConfig(validation="none"), 0), 5, 3)
    assert [f.sha for f in bare] == [f.sha for f in one]


@pytest.mark.parametrize(("counts", "folds"), [([9, 8], 5), ([9, 3], 3), ([9, 2], 2), ([9, 1], 2), ([1, 1], 2)])
def test_default_number_of_folds(counts: list[int], folds: int) -> None:
    source = source_of(counts)
    assert fold_count(source, make_split(source, SplitConfig(), 0)) == folds


@pytest.mark.parametrize(
    ("counts", "folds", "part"),
    [
        ([1, 1, 1], 2, "no class has two labelled rows"),
        ([2, 1, 1], 3, "2 labelled rows can be held out"),
        ([5, 5], 1, "folds is 1"),
        ([5, 5], 0, "folds is 0"),
    ],
)
def test_too_few_rows_or_folds(counts: list[int], folds: int, part: str) -> None:
    source = source_of(counts)
    with pytest.raises(UserError, match=part):
        fold_splits(source, make_split(source, SplitConfig(), 0), folds, 0)

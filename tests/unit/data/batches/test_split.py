"""The split: who plays which part, by seed and by rule."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from metapl.data.batches.split import SplitConfig, from_json, make_split, to_json
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.types import Kind, Source, Split


def source_of(
    counts: list[int], unlabeled: int = 0, test: int = 0, shift: float = 0.0, kind: Kind = "features"
) -> MemorySource:
    """``counts[k]`` rows of class k, then unlabelled rows, then test rows of classes 0, 1, 0, 1 ..., of one number."""
    labels = [k for k, n in enumerate(counts) for _ in range(n)] + [-1] * unlabeled
    labels += [k % len(counts) for k in range(test)]
    rows = torch.arange(len(labels), dtype=torch.float32).unsqueeze(1) + shift
    return MemorySource(
        name="toy",
        kind=kind,
        data=rows,
        labels=np.array(labels),
        class_names=tuple("abcdefghij"[: len(counts)]),
        is_test=np.arange(len(labels)) >= len(labels) - test,
    )


def per_class(source: Source, rows: np.ndarray[Any, Any]) -> list[int]:
    return np.bincount(source.labels[rows], minlength=len(source.class_names)).tolist()


def check_parts(source: Source, split: Split, include_labeled: bool) -> None:
    """What must hold of every split."""
    labeled, unlabeled, validation, test = (
        set(part.tolist()) for part in (split.labeled, split.unlabeled, split.validation, split.test)
    )
    assert not labeled & validation
    assert not unlabeled & validation
    assert not test & (labeled | unlabeled | validation)
    assert (labeled <= unlabeled) if include_labeled else not (labeled & unlabeled)
    assert labeled | unlabeled | validation | test == set(range(len(source.ids)))
    for part in (split.labeled, split.unlabeled, split.validation, split.test):
        assert part.dtype == np.int64
        assert (np.diff(part) > 0).all(), "ascending, each row once"
    assert (source.labels[split.labeled] >= 0).all()
    assert (source.labels[split.validation] >= 0).all()


@pytest.mark.parametrize("include", [True, False])
@pytest.mark.parametrize("validation", ["auto", "none", 0, 0.5, 1])
@pytest.mark.parametrize("labels", [{"labels": 4}, {"labels_total": 11}])
@pytest.mark.parametrize("unlabeled", [0, 30])
def test_parts_are_disjoint_and_complete(unlabeled: int, labels: Any, validation: Any, include: bool) -> None:
    source = source_of([20, 15, 10], unlabeled=unlabeled)
    config = SplitConfig(**labels, validation=validation, include_labeled=include)
    for seed in range(3):
        check_parts(source, make_split(source, config, seed), include)


def test_test_comes_first_then_labels_then_validation() -> None:
    split = make_split(source := source_of([100, 50]), SplitConfig(labels=10), 0)
    assert per_class(source, split.test) == [20, 10]
    assert per_class(source, split.validation) == [2, 2]
    assert per_class(source, split.labeled) == [8, 8]
    assert len(split.unlabeled) == 80 + 40 - 4  # the pool holds all but test and validation rows


def test_more_labels_contain_fewer() -> None:
    source = source_of([30, 30])
    small, large = (make_split(source, SplitConfig(labels=n, validation=0), 5) for n in (3, 9))
    assert set(small.labeled) < set(large.labeled)
    assert np.array_equal(small.test, large.test)


def test_labels_total_is_spread_evenly() -> None:
    source = source_of([20, 20, 20])
    split = make_split(source, SplitConfig(labels_total=11, validation=0), 0)
    assert sorted(per_class(source, split.labeled)) == [3, 4, 4]


def test_seed_decides_and_nothing_else() -> None:
    source, config = source_of([40, 40]), SplitConfig(labels=4)
    torch.manual_seed(1)
    one = make_split(source, config, 3)
    torch.manual_seed(2)
    same, other = make_split(source, config, 3), make_split(source, config, 4)
    assert np.array_equal(one.labeled, same.labeled)
    assert one.sha == same.sha
    assert not np.array_equal(one.labeled, other.labeled)
    assert not np.array_equal(one.test, other.test)
    assert one.sha != other.sha


def test_sha_covers_contents() -> None:
    config = SplitConfig(labels=4)
    one, other = (make_split(source_of([20, 20], shift=s), config, 0) for s in (0.0, 1.0))
    assert np.array_equal(one.labeled, other.labeled)
    assert one.sha != other.sha


def test_own_test_rows_are_kept() -> None:
    source = source_of([20, 20], test=6)
    split = make_split(source, SplitConfig(labels=3), 0)
    assert split.test.tolist() == list(range(40, 46))


def test_no_test_rows_are_taken_where_rows_lack_labels() -> None:
    split = make_split(source_of([10, 10], unlabeled=50), SplitConfig(), 0)
    assert not len(split.test)
    assert any("no test rows" in note for note in split.notes)


@pytest.mark.parametrize(
    ("counts", "validation", "expected"),
    [
        ([1, 1], "auto", [0, 0]),
        ([2, 2], "auto", [1, 1]),
        ([2, 1], "auto", [1, 0]),
        ([10, 5], "auto", [2, 1]),
        ([10, 4], 0.5, [5, 2]),
        ([3, 3], 2, [2, 2]),
        ([3, 3], 0, [0, 0]),
        ([3, 3], "none", [0, 0]),
        ([2, 2], 0.99, [1, 1]),
    ],
)
def test_validation_rule(counts: list[int], validation: Any, expected: list[int]) -> None:
    source = source_of(counts, unlabeled=5)
    split = make_split(source, SplitConfig(validation=validation), 0)
    assert per_class(source, split.validation) == expected
    assert any("no validation rows" in note for note in split.notes) == (sum(expected) == 0)
    assert any("too few" in note for note in split.notes) == (0 in expected and sum(expected) > 0)


def test_few_labels_of_a_table_all_teach() -> None:
    few, many = (make_split(source_of([n, 9], 5, kind="table"), SplitConfig(), 0) for n in (49, 50))
    assert (len(few.validation), len(few.labeled)) == (0, 58)
    assert any("all labels teach" in note for note in few.notes)
    assert len(many.validation) == 10 + 2
    asked = make_split(source_of([10, 10], 5, kind="table"), SplitConfig(validation=0.2), 0)
    assert len(asked.validation) == 4


@pytest.mark.parametrize(
    ("source", "config", "words"),
    [
        (source_of([20, 5]), {"labels": 5}, ["'b'", "4 labelled", "the 5 asked"]),
        (source_of([20, 20, 20]), {"labels_total": 2}, ["labels_total is 2", "3 classes"]),
        (source_of([20, 20]), {}, ["no unlabelled rows"]),
        (source_of([20, 20]), {"labels": 16}, ["no unlabelled rows"]),
        (source_of([20, 20]), {"labels": 17}, ["16 labelled rows", "and 4 held out for testing"]),
        (source_of([20]), {"labels": 2}, ["only one class"]),
        (source_of([20, 0], unlabeled=3), {}, ["'b'", "no labelled row"]),
        (source_of([0, 0], unlabeled=3), {}, ["no labelled rows"]),
        (source_of([20, 20]), {"labels": 2, "labels_total": 4}, ["both set"]),
        (source_of([20, 20]), {"labels": 0}, ["labels is 0"]),
        (
            source_of([20, 20]),
            {"labels": 2, "validation": 2},
            ["beside 2 for validation", "no row is left to train on"],
        ),
        (source_of([20, 20]), {"labels": 2, "validation": 1.5}, ["validation is 1.5"]),
        (source_of([20, 20]), {"labels": 2, "validation": -1}, ["validation is -1"]),
        (source_of([20, 20]), {"labels": 2, "validation": "some"}, ["validation is 'some'"]),
        (source_of([20, 20]), {"labels": 2, "test": 1.0}, ["test is 1.0"]),
    ],
)
def test_impossible_splits_are_refused(source: MemorySource, config: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as error:
        make_split(source, SplitConfig(**config), 0)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.remedy


def test_fully_labelled_training_can_be_allowed() -> None:
    source = source_of([20, 20])
    split = make_split(source, SplitConfig(validation=0), 0, require_unlabeled=False)
    assert np.array_equal(split.labeled, split.unlabeled)


def test_uneven_labels_are_noted() -> None:
    split = make_split(source_of([50, 2], unlabeled=5), SplitConfig(validation=0), 0)
    assert any("uneven" in note for note in split.notes)


def test_json_round_trip() -> None:
    source = open_digits()
    split = make_split(source, SplitConfig(labels=3), 7)
    stored = json.loads(json.dumps(to_json(split, source)))
    back = from_json(stored, source)
    for part in ("labeled", "unlabeled", "validation", "test"):
        assert np.array_equal(getattr(back, part), getattr(split, part))
    assert (back.seed, back.sha, back.notes) == (split.seed, split.sha, split.notes)


def test_stored_split_refuses_changed_data() -> None:
    source, config = source_of([20, 20]), SplitConfig(labels=3)
    stored = to_json(make_split(source, config, 0), source)
    with pytest.raises(UserError, match="data changed since the split was made, or metapl now reads them otherwise"):
        from_json(stored, source_of([20, 20], shift=1))
    moved = {**stored, "labeled": stored["labeled"][:-1]}
    with pytest.raises(UserError, match="does not match its hash"):
        from_json(moved, source)
    with pytest.raises(UserError, match="does not match its hash"):
        from_json({**stored, "test": [*stored["test"][:-1], "nowhere"]}, source)
    with pytest.raises(UserError, match="incomplete"):
        from_json({k: v for k, v in stored.items() if k != "test"}, source)

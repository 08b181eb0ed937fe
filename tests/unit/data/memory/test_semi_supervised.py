"""Labelled and unlabelled rows as one data set."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from metapl import SemiSupervisedDataset, UserError

X_L, X_U = torch.arange(6.0).reshape(3, 2), 10 + torch.arange(8.0).reshape(4, 2)
Y = torch.tensor([2, 0, 1])


class Bare(Dataset[Tensor]):
    """Rows without anything else."""

    def __len__(self) -> int:
        return len(X_U)

    def __getitem__(self, k: int) -> Tensor:
        return X_U[k]


PARTS = {
    "tensors": ((X_L, Y), X_U),
    "arrays": ((X_L.numpy(), Y.numpy()), X_U.double().numpy()),
    "list of numbers as y": ((X_L, [2, 0, 1]), X_U),
    "data sets": (TensorDataset(X_L, Y), TensorDataset(X_U)),
    "with labels to drop": (TensorDataset(X_L, Y), TensorDataset(X_U, torch.tensor([7, 7, 7, 7]))),
    "bare rows": (TensorDataset(X_L, Y), Bare()),
    "lists": ([(x, int(y)) for x, y in zip(X_L, Y)], list(X_U)),
    "one label as a tensor of one": ([(x, torch.tensor([int(y)])) for x, y in zip(X_L, Y)], [[x] for x in X_U]),
    "numpy scalars": ([(x, np.int64(y)) for x, y in zip(X_L, Y)], X_U),
}


@pytest.mark.parametrize("name", PARTS)
def test_labelled_rows_come_first_and_the_others_carry_minus_one(name: str) -> None:
    data = SemiSupervisedDataset(*PARTS[name])
    assert len(data) == 7
    assert [data[k][1] for k in range(7)] == [2, 0, 1, -1, -1, -1, -1]
    assert all(type(data[k][1]) is int for k in range(7))
    assert torch.equal(torch.stack([data[k][0] for k in range(7)]), torch.cat([X_L, X_U]))


@pytest.mark.parametrize("workers", [0, 1])
def test_through_a_loader(workers: int) -> None:
    data = SemiSupervisedDataset((X_L, Y), X_U)
    batches = list(DataLoader(data, batch_size=3, num_workers=workers))
    assert [len(x) for x, _ in batches] == [3, 3, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.cat([X_L, X_U]))
    labels = torch.cat([y for _, y in batches])
    assert labels.dtype == torch.int64
    assert labels.tolist() == [2, 0, 1, -1, -1, -1, -1]


def test_the_parts_can_be_taken_out_again() -> None:
    data = SemiSupervisedDataset((X_L, Y), X_U)
    assert [y for _, y in Subset(data, data.labeled_range)] == [2, 0, 1]
    assert torch.equal(torch.stack([x for x, _ in Subset(data, data.unlabeled_range)]), X_U)


def test_indices_behave_as_in_a_list() -> None:
    data = SemiSupervisedDataset((X_L, Y), X_U)
    assert torch.equal(data[-1][0], X_U[-1])
    assert data[-7][1] == 2
    assert data[np.int64(1)][1] == 0
    assert data[torch.tensor(2)][1] == 1
    for k in (7, -8, 100):
        with pytest.raises(IndexError, match=f"row {k} of 7"):
            data[k]
    for bad in (slice(0, 2), [0, 1], 1.5, "1"):
        with pytest.raises(TypeError, match=r"takes one index, not a .*Subset"):
            data[bad]
    assert len(list(data)) == 7


def test_either_part_may_be_empty() -> None:
    none = torch.zeros(0, 2)
    assert [y for _, y in SemiSupervisedDataset((X_L, Y), none)] == [2, 0, 1]
    only = SemiSupervisedDataset((none, []), X_U)
    assert only[0][1] == -1
    assert len(only) == 4


def test_it_survives_pickling_for_workers() -> None:
    data = pickle.loads(pickle.dumps(SemiSupervisedDataset((X_L, Y), X_U)))
    assert torch.equal(data[3][0], X_U[0])


def test_an_array_is_copied() -> None:
    x = np.zeros((2, 2))
    data = SemiSupervisedDataset((X_L, Y), x)
    x += 1
    assert data[3][0].tolist() == [0, 0]
    assert data[3][0].dtype == torch.float32
    images = np.zeros((2, 1, 4, 4), dtype=np.uint8)
    images.flags.writeable = False
    assert SemiSupervisedDataset((images, [0, 1]), images)[0][0].dtype == torch.uint8


class Endless(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(X_U)


@pytest.mark.parametrize(
    ("labeled", "unlabeled", "message"),
    [
        ((X_L, Y[:2]), X_U, "labeled: X has 3 rows, y has 2"),
        (TensorDataset(X_L, Y), Endless(), "unlabeled: a Endless cannot be indexed"),
        (iter([]), X_U, "labeled: a .*iterator cannot be indexed"),
        (None, X_U, "labeled: a NoneType"),
        (TensorDataset(X_L, Y), 3, "unlabeled: a int"),
        ((np.array([["a"]]), [0]), X_U, "labeled: its values are <U1, not numbers"),
    ],
)
def test_parts_that_cannot_be_indexed(labeled: Any, unlabeled: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        SemiSupervisedDataset(labeled, unlabeled)


@pytest.mark.parametrize("label", [-1, 1.0, "cat", None, torch.tensor([1, 2]), torch.tensor(0.5)])
def test_a_label_that_is_no_class_number_is_named(label: Any) -> None:
    data = SemiSupervisedDataset([(X_L[0], 0), (X_L[1], label)], X_U)
    assert data[0][1] == 0
    with pytest.raises(UserError, match="labeled: the label of row 1 is"):
        data[1]


def test_labelled_rows_must_be_pairs() -> None:
    with pytest.raises(UserError, match="row 0 is a Tensor, not a pair"):
        SemiSupervisedDataset(Bare(), X_U)[0]

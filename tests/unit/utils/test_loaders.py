"""Forms of batches, the order of loaders, and the traps in both."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from metapl.errors import UserError
from metapl.utils.loaders import indexed, read_rows, unpack

N = 11
X = torch.arange(N * 2.0).reshape(N, 2)
Y = torch.arange(N) % 3
IDS = 100 + torch.arange(N)
PIXELS = torch.zeros(N, 1, 4, 4)
TOKENS = torch.ones(N, 5, dtype=torch.int64)


@pytest.mark.parametrize("x", [X, PIXELS, TOKENS, X[:, 0]], ids=["features", "images", "tokens", "one float per row"])
def test_forms_of_batches(x: Tensor) -> None:
    forms = [(x, (None, None)), ((x,), (None, None)), ([x, Y], (Y, None)), ((x, Y, IDS), (Y, IDS))]
    if x.ndim > 1:
        forms += [((IDS, x), (None, IDS)), ([IDS, x, Y], (Y, IDS))]
    for batch, (y, ids) in forms:
        got = unpack(batch)
        assert got[0] is x
        assert got[1] is y
        assert got[2] is ids


@pytest.mark.parametrize(
    "batch",
    [
        {"x": X}, None, (), "x", (X, Y, IDS, IDS), (X, "label"), (X, ("a",) * N), torch.tensor(3.0),
        (X, Y[:3]), (X, Y, IDS.float()), (IDS[:2], X),
    ],
)  # fmt: skip
def test_other_forms_are_refused(batch: Any) -> None:
    with pytest.raises(UserError, match=r"loader: .* A batch is x, \(x,\)"):
        unpack(batch)


def all_rows(loader: Any, places: Tensor | None = None) -> tuple[list[int], Tensor, list[int]]:
    """Positions, rows, and sizes of the batches."""
    parts = list(read_rows(loader, places))
    positions = [int(k) for rows in parts for k in rows.positions]
    return positions, torch.cat([r.x for r in parts]) if parts else X[:0], [len(r.x) for r in parts]


class Own(Dataset[tuple[int, Tensor]]):
    """(id, row)."""

    def __len__(self) -> int:
        return N

    def __getitem__(self, k: int) -> tuple[int, Tensor]:
        return 100 + k, X[k]


class Flow(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(X)


LOADERS = {
    "in order": DataLoader(TensorDataset(X), batch_size=4),
    "shuffled": DataLoader(TensorDataset(X), batch_size=4, shuffle=True),
    "last one dropped": DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True, drop_last=True),
    "with replacement": DataLoader(
        TensorDataset(X), batch_size=4, sampler=RandomSampler(range(N), replacement=True, num_samples=5)
    ),
    "plain batch sampler": DataLoader(TensorDataset(X), batch_sampler=BatchSampler(RandomSampler(X), 4, False)),
    "own ids": DataLoader(Own(), batch_size=4, shuffle=True),
    "one worker": DataLoader(TensorDataset(X), batch_size=4, shuffle=True, num_workers=1),
    "a stream": DataLoader(Flow(), batch_size=4),
    "no collation": DataLoader([X[:4], X[4:8], X[8:]], batch_size=None),
    "a list": [X[:4], X[4:8], X[8:]],
}


@pytest.mark.parametrize("name", LOADERS)
def test_every_row_comes_once_under_its_own_position(name: str) -> None:
    positions, rows, sizes = all_rows(LOADERS[name])
    assert positions == list(range(N))
    assert torch.equal(rows, X)
    assert sizes == [4, 4, 3]


@pytest.mark.parametrize("name", LOADERS)
def test_some_rows_can_be_asked_for(name: str) -> None:
    places = torch.tensor([9, 0, 5, 6, 10])
    positions, rows, _ = all_rows(LOADERS[name], places)
    wanted = places.tolist() if indexed(LOADERS[name]) else sorted(places.tolist())
    assert positions == wanted
    assert torch.equal(rows, X[wanted])
    assert all_rows(LOADERS[name], places[:0])[0] == []


def test_own_ids_come_along() -> None:
    (rows,) = read_rows(DataLoader(Own(), batch_size=50, shuffle=True))
    assert rows.ids is not None
    assert torch.equal(rows.ids, IDS)
    assert torch.equal(rows.positions, torch.arange(N))


def test_a_subset_sampler_is_kept_to_its_rows() -> None:
    """As in every example that splits one data set into a labelled and an unlabelled loader by samplers."""
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, sampler=SubsetRandomSampler([7, 2, 9]))
    positions, rows, _ = all_rows(loader)
    assert positions == [2, 7, 9]
    assert torch.equal(rows, X[[2, 7, 9]])


def test_the_collate_function_is_used() -> None:
    pad = DataLoader([X[0], X[1]], batch_size=2, collate_fn=lambda rows: torch.stack(rows) * 2)
    assert torch.equal(all_rows(pad)[1], 2 * X[:2])
    drops = DataLoader(TensorDataset(X), batch_size=4, collate_fn=lambda rows: torch.stack([r[0] for r in rows[1:]]))
    with pytest.raises(UserError, match="made 3 rows out of 4"):
        all_rows(drops)


@pytest.mark.parametrize(
    "sampler",
    [
        {"sampler": WeightedRandomSampler([1.0] * N, N)},
        {"sampler": list(range(N))},
        {"batch_sampler": [[0, 1], [2]]},
        {"batch_size": None, "sampler": RandomSampler(range(N))},
    ],
    ids=["weighted", "list", "batches", "no collation"],
)
def test_a_sampler_of_which_nothing_is_known_is_refused(sampler: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"does not say which row is which.*shuffle=False"):
        all_rows(DataLoader(TensorDataset(X), **sampler))


@pytest.mark.parametrize("loader", [TensorDataset(X), X, Flow(), None, 3, "rows", {"x": X}])
def test_what_is_no_loader_is_refused(loader: Any) -> None:
    with pytest.raises(UserError, match=r"gives no batches. Wrap the rows"):
        all_rows(loader)


def test_rows_without_a_label() -> None:
    (rows,) = read_rows([(X, torch.where(Y == 1, -1, Y))])
    left = rows.without_label()
    assert left.positions.tolist() == [k for k in range(N) if Y[k] == 1]
    assert torch.equal(left.x, X[Y == 1])
    (bare,) = read_rows([X])
    assert bare.without_label() is bare
    (soft,) = read_rows([(X, torch.zeros(N, 3))])
    with pytest.raises(UserError, match=r"y is torch.float32 \[11, 3\].*ignore_labels"):
        soft.without_label()

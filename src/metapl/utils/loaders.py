"""Read loaders of any kind as rows with their positions: forms of batches, and their order.

A batch is ``x``, ``(x,)``, ``(x, y)``, ``(x, y, ids)``, ``(ids, x)`` or ``(ids, x, y)``: tensors over the same n rows.
The first tensor is read as ids if it holds whole numbers [n] and the next one has two or more dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
)

from metapl.errors import UserError

FORMS = "A batch is x, (x,), (x, y), (x, y, ids), (ids, x) or (ids, x, y), each a tensor over the same rows."


@dataclass(frozen=True, eq=False)
class LoadedRows:
    """Some rows of a loader.

    Attributes:
        positions: [n] int64, the rows' indices in the loader's data set, or else their position in its order.
        x: [n, ...] the rows.
        y: the labels in the batch, or None.
        ids: [n] int64 if the batch brought ids, or None.
        size: rows of the batch that they come from, those left out included.
    """

    positions: Tensor
    x: Tensor
    y: Tensor | None
    ids: Tensor | None
    size: int

    def select(self, keep: Tensor) -> LoadedRows:
        """Return the rows at ``keep`` [n] bool."""
        x, y, ids = (t if t is None else t[keep.to(t.device)] for t in (self.x, self.y, self.ids))
        assert x is not None  # for the type checker
        return LoadedRows(self.positions[keep], x, y, ids, self.size)

    def without_label(self) -> LoadedRows:
        """Return the rows whose y is below 0; all rows of a batch without y.

        Raises:
            UserError: y is not whole numbers [n].
        """
        if self.y is None:
            return self
        if not whole(self.y):
            remedy = "Give whole numbers [n], -1 for a row without a label, or say ignore_labels=True."
            raise UserError(f"y is {self.y.dtype} {list(self.y.shape)}", remedy, "loader")
        return self.select(self.y.cpu() < 0)


def whole(t: Tensor) -> bool:
    """Return whether ``t`` is whole numbers [n]."""
    return t.ndim == 1 and not t.is_floating_point() and not t.is_complex()


def unpack(batch: Any) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return (x, y or None, ids or None) of a batch in any of the forms at the top of this file.

    Raises:
        UserError: the batch has another form.
    """
    parts = [batch] if isinstance(batch, Tensor) else list(batch) if isinstance(batch, tuple | list) else []
    if not 1 <= len(parts) <= 3 or not all(isinstance(p, Tensor) and p.ndim for p in parts):
        kinds = ", ".join(type(p).__name__ for p in parts) or type(batch).__name__
        raise UserError(f"a batch is {kinds}", FORMS, "loader")
    ids = parts.pop(0) if len(parts) > 1 and whole(parts[0]) and parts[1].ndim > 1 else None
    x, y, last = parts[0], *[*parts[1:], None, None][:2]
    ids = last if ids is None else ids
    sizes = [len(p) for p in (x, y, ids) if p is not None]
    if len(set(sizes)) > 1 or (ids is not None and not whole(ids)):
        raise UserError(f"the parts of a batch have {sizes} rows, or ids are not whole numbers", FORMS, "loader")
    return x, y, ids


def check_loader(loader: Any) -> None:
    """Refuse a loader that gives rows instead of batches, or nothing; raise UserError."""
    iterable = hasattr(loader, "__iter__") or hasattr(loader, "__getitem__")
    if not iterable or isinstance(loader, Tensor | Dataset | str | dict):
        remedy = "Wrap the rows: DataLoader(dataset, batch_size=256)."
        raise UserError(f"a {type(loader).__name__} gives no batches", remedy, "loader")


def indexed(loader: Any) -> bool:
    """Return whether single rows of the loader can be fetched again by their positions."""
    return _order(loader) is not None


def read_rows(loader: Iterable[Any], places: Tensor | None = None) -> Iterator[LoadedRows]:
    """Yield every row of ``loader`` once, with its position.

    A ``DataLoader`` over a map-style data set is not iterated itself: its data set is, in order and with the loader's
    batch size, collate function and workers, so that a shuffling loader gives the same positions as any other and a
    last short batch is not dropped. A ``SubsetRandomSampler`` is kept to its rows. Other iterables are gone through as
    they are; they must give the same order every time.

    Args:
        places: [k] int64, only these positions; in this order if rows can be fetched, else in the loader's order.

    Raises:
        UserError: no loader, a batch of unknown form, or a sampler under which positions mean nothing.
    """
    order = _order(loader)
    if order is not None:
        assert isinstance(loader, DataLoader)
        yield from _fetched(loader, order if places is None else places.tolist())
        return
    start = 0
    for batch in loader:
        x, y, ids = unpack(batch)
        rows = LoadedRows(torch.arange(start, start + len(x)), x, y, None if ids is None else ids.cpu(), len(x))
        start += len(x)
        if places is not None:
            rows = rows.select(torch.isin(rows.positions, places))
        if len(rows.positions):
            yield rows


class _Chunks(Sampler[list[int]]):
    """``order`` in lists of ``size``, made as they are asked for."""

    def __init__(self, order: Sequence[int], size: int) -> None:
        self.order, self.size = order, size

    def __iter__(self) -> Iterator[list[int]]:
        for start in range(0, len(self.order), self.size):
            yield list(self.order[start : start + self.size])

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)


def _fetched(loader: DataLoader[Any], order: Sequence[int]) -> Iterator[LoadedRows]:
    """Yield the rows at ``order`` of the loader's data set, batched and collated as the loader would."""
    batches: Any = loader.batch_sampler
    chunks = _Chunks(order, batches.batch_size)
    again = DataLoader(
        loader.dataset,
        batch_sampler=chunks,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        prefetch_factor=loader.prefetch_factor,
    )
    for batch, chunk in zip(again, chunks):
        x, y, ids = unpack(batch)
        if len(x) != len(chunk):
            remedy = "Its collate_fn must keep every row, or it is not known which row is which."
            raise UserError(f"the loader made {len(x)} rows out of {len(chunk)}", remedy, "loader")
        yield LoadedRows(torch.tensor(chunk), x, y, None if ids is None else ids.cpu(), len(x))


def _order(loader: Any) -> Sequence[int] | None:
    """Return the positions of a loader's rows in its map-style data set, ascending; None if it can only be iterated."""
    check_loader(loader)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    batches = loader.batch_sampler
    sampler = loader.sampler if batches is None else batches.sampler if type(batches) is BatchSampler else batches
    if batches is None and isinstance(sampler, SequentialSampler):
        return None  # an item is a whole batch
    if batches is not None and isinstance(sampler, SequentialSampler | RandomSampler):
        return range(len(sampler.data_source))
    if batches is not None and isinstance(sampler, SubsetRandomSampler):
        return sorted({int(k) for k in sampler.indices})
    remedy = "Give a loader with shuffle=False over the unlabelled rows alone."
    raise UserError(f"a loader with a {type(sampler).__name__} does not say which row is which", remedy, "loader")

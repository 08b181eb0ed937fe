"""The stream: batch t depends on (seed, t) alone, and only on labelled and unlabelled rows."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.batches.row_readers import HeldRows
from metapl.data.batches.seeds import generator
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.batches.stream import BatchConfig, Stream
from metapl.data.batches.views import ViewConfig
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.data.modalities import make_views
from metapl.errors import UserError
from metapl.types import SemiBatch, Split

BOTH = frozenset({"weak", "strong"})


class NoisyViews:
    """Row plus uniform noise below 1/2, so that rounding down tells the row and the rest tells the draw."""

    def weak(self, x: Tensor, generator: torch.Generator) -> Tensor:
        return x.float() + 0.5 * torch.rand(x.shape, generator=generator, device=x.device)

    strong = weak

    def plain(self, x: Tensor) -> Tensor:
        return x.float()


class Spy(MemorySource):
    """Counts the rows that are read; holds no tensor that could be indexed past the counter."""

    read: Counter[int]
    held = None  # type: ignore[assignment]

    def rows(self, index: np.ndarray[Any, Any]) -> Tensor:
        self.read = getattr(self, "read", Counter()) + Counter(np.asarray(index).tolist())
        return super().rows(index)


def numbered(count: int, kind: type[MemorySource] = MemorySource) -> MemorySource:
    """A table whose row k holds the number k; labels alternate."""
    return kind(
        name="numbers",
        kind="table",
        data=torch.arange(count, dtype=torch.float32).unsqueeze(1),
        labels=np.arange(count) % 2,
        class_names=("even", "odd"),
    )


def split_of(labeled: int, unlabeled: int) -> Split:
    """Rows 0..labeled-1 labelled, the next unlabelled."""
    none = np.zeros(0, dtype=np.int64)
    return Split(np.arange(labeled), np.arange(labeled, labeled + unlabeled), none, none, 0, "")


def stream_of(labeled: int, unlabeled: int, batch: BatchConfig, seed: int = 0) -> Stream:
    return Stream(numbered(labeled + unlabeled), split_of(labeled, unlabeled), batch, NoisyViews(), seed, "cpu")


def assert_equal(a: SemiBatch, b: SemiBatch) -> None:
    for name in ("x_l", "y_l", "u_weak", "u_strong", "u_index"):
        one, other = getattr(a, name), getattr(b, name)
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one, other), name


def numbers(x: Tensor | None) -> list[int]:
    assert x is not None
    return x.floor().long().flatten().tolist()


def test_any_step_can_be_asked_for_in_any_order() -> None:
    batch = BatchConfig(labeled=4, unlabeled=7)
    straight = stream_of(10, 23, batch)
    batches = [straight(t, BOTH) for t in range(30)]  # 12 epochs of labelled rows, 9 of unlabelled ones
    torch.manual_seed(99)
    for t in range(30):
        assert_equal(stream_of(10, 23, batch)(t, BOTH), batches[t])
    again = stream_of(10, 23, batch)
    for t in (29, 3, 17, 3, 0, 28):
        assert_equal(again(t, BOTH), batches[t])


def test_resume_at_every_step() -> None:
    batch = BatchConfig(labeled=4, unlabeled=7)
    straight = stream_of(10, 23, batch)
    batches = [straight(t, BOTH) for t in range(12)]
    for cut in range(12):
        resumed = stream_of(10, 23, batch)
        for t in range(cut, 12):
            assert_equal(resumed(t, BOTH), batches[t])


def test_seeds_steps_and_views_draw_differently() -> None:
    class Listening(NoisyViews):
        def weak(self, x: Tensor, generator: torch.Generator) -> Tensor:
            heard.append(generator.initial_seed())
            return super().weak(x, generator)

        strong = weak

    heard: list[int] = []
    for seed in (0, 1):
        stream = Stream(numbered(33), split_of(10, 23), BatchConfig(4, 8), Listening(), seed)
        for t in (0, 1, 2):
            made = stream(t, BOTH)
            assert numbers(made.u_weak) == numbers(made.u_strong), "two views of the same rows"
    assert len(heard) == len(set(heard)) == 2 * 3 * 3
    one, other = (stream_of(10, 23, BatchConfig(4, 8), seed)(0, BOTH).u_index for seed in (0, 1))
    assert not torch.equal(one, other)


def test_only_needed_views_are_made_and_do_not_depend_on_each_other() -> None:
    stream = stream_of(10, 23, BatchConfig(4, 8))
    both, weak, strong, none = (
        stream(2, needs) for needs in (BOTH, frozenset({"weak"}), frozenset({"strong"}), frozenset())
    )
    assert weak.u_strong is None
    assert strong.u_weak is None
    assert none.u_weak is None
    assert none.u_strong is None
    assert weak.u_weak is not None
    assert both.u_weak is not None
    assert torch.equal(both.u_weak, weak.u_weak)
    assert both.u_strong is not None
    assert strong.u_strong is not None
    assert torch.equal(both.u_strong, strong.u_strong)
    assert torch.equal(both.x_l, none.x_l)


@pytest.mark.parametrize("labeled", [1, 7, 8, 9])
@pytest.mark.parametrize("unlabeled", [1, 11, 12, 13])
def test_all_sizes_see_every_row_once_per_epoch(labeled: int, unlabeled: int) -> None:
    batch = BatchConfig(labeled=8, unlabeled=12)
    stream = stream_of(labeled, unlabeled, batch)
    steps = labeled * unlabeled  # both sets end on an epoch border here
    seen_l: list[int] = []
    seen_u: list[int] = []
    for t in range(steps):
        made = stream(t, frozenset({"weak"}))
        assert made.x_l.shape == (8, 1)
        assert made.u_weak is not None
        assert made.u_weak.shape == (12, 1)
        assert made.y_l.dtype == made.u_index.dtype == torch.int64
        rows = numbers(made.x_l)
        assert made.y_l.tolist() == [row % 2 for row in rows]
        assert numbers(made.u_weak) == [labeled + k for k in made.u_index.tolist()]
        seen_l += rows
        seen_u += made.u_index.tolist()
    for seen, count in ((seen_l, labeled), (seen_u, unlabeled)):
        epochs = [seen[k : k + count] for k in range(0, len(seen), count)]
        assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
        if count >= 7:
            assert epochs[0] != epochs[1], "each epoch has its own order"


def test_validation_and_test_rows_are_never_read() -> None:
    source = numbered(100, Spy)
    assert isinstance(source, Spy)
    split = make_split(source, SplitConfig(labels=10, validation=3), 0)
    assert len(split.validation) == 6
    assert len(split.test) == 20
    stream = Stream(source, split, BatchConfig(8, 16), NoisyViews(), 0, "cpu")
    seen: set[int] = set()
    for t in range(40):
        made = stream(t, BOTH)
        seen |= set(numbers(made.x_l)) | set(numbers(made.u_weak))
    allowed = set(split.labeled.tolist()) | set(split.unlabeled.tolist())
    assert seen == allowed
    assert set(source.read) == allowed
    assert set(source.read.values()) == {1}, "gathered once"
    fit_preprocessing(source, split.unlabeled)
    assert set(source.read) == allowed


def test_held_rows_are_not_copied_and_give_the_same_batches() -> None:
    source, spy = numbered(50), numbered(50, Spy)
    split = make_split(source, SplitConfig(labels=5, validation=2), 0)
    held, gathered = (Stream(s, split, BatchConfig(8, 16), NoisyViews(), 0) for s in (source, spy))
    assert isinstance(held._rows, HeldRows)
    assert held._rows.data.data_ptr() == source.data.data_ptr()
    for t in range(10):
        assert_equal(held(t, BOTH), gathered(t, BOTH))


def test_labelled_rows_in_the_pool_and_their_positions() -> None:
    source = numbered(60)
    split = make_split(source, SplitConfig(labels=5, validation=1), 0)
    made = Stream(source, split, BatchConfig(8, 16), NoisyViews(), 0)(3, BOTH)
    assert numbers(made.u_weak) == split.unlabeled[made.u_index.numpy()].tolist()


def test_sizes_that_cannot_work_are_refused() -> None:
    with pytest.raises(UserError, match=r"batch\.labeled: labeled is 0\. Give at least 1"):
        stream_of(4, 4, BatchConfig(labeled=0))
    with pytest.raises(UserError, match="no labelled rows"):
        stream_of(0, 4, BatchConfig())
    empty = stream_of(4, 0, BatchConfig(3, 3))
    assert empty(5, frozenset()).u_index.shape == (0,)  # the supervised method goes on
    with pytest.raises(UserError, match="no unlabelled rows"):
        empty(5, BOTH)
    with pytest.raises(ValueError, match="step"):
        empty(-1, frozenset())


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    stream_of(10, 20, BatchConfig(4, 8))(3, BOTH)
    assert torch.equal(before, torch.get_rng_state())


def test_far_steps_cost_no_replay() -> None:
    stream = stream_of(10, 20, BatchConfig(4, 8))
    assert stream(10**9, BOTH).x_l.shape == (4, 1)
    assert len(stream._order_l._kept) <= 2


def test_generators_are_seeded_by_name() -> None:
    draws = [torch.rand(4, generator=generator("cpu", 0, "view", name, 1)) for name in ("weak", "weak", "strong")]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_pool_is_every_unlabelled_row_once_in_order() -> None:
    source = open_digits()
    split = make_split(source, SplitConfig(labels=2, validation="none"), 0)
    views = make_views(ViewConfig(), fit_preprocessing(source, split.unlabeled))
    stream = Stream(source, split, BatchConfig(4, 4), views, 0)
    chunks = list(stream.pool())
    assert len(chunks) > 1
    assert torch.equal(torch.cat([p for p, _ in chunks]), torch.arange(stream.pool_size))
    assert torch.equal(torch.cat([x for _, x in chunks]), views.plain(source.rows(split.unlabeled)))
    first, again, other = (torch.cat([x for _, x in stream.pool("weak", d)]) for d in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)

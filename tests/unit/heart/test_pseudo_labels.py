"""Pseudo labels for a whole pool: generated, filtered in each of the three ways, and trained on."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from metapl import SemiSupervisedDataset, UserError, filter_pseudo_labels, generate_pseudo_labels
from metapl.pseudo_labels import PseudoLabels

N, C = 23, 4
CPU = torch.device("cpu")


def noisy_net() -> nn.Module:
    """Conv, BatchNorm and dropout; its BatchNorm has seen rows."""
    torch.manual_seed(1)
    net = nn.Sequential(
        nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(5 * 16, C)
    )
    for _ in range(3):
        net(torch.randn(8, 1, 6, 6))
    with torch.no_grad():
        net[-1].weight.mul_(4.0)
    return net


def images(count: int = N) -> Tensor:
    return torch.randn(count, 1, 6, 6, generator=torch.Generator().manual_seed(2))


def truth(net: nn.Module, x: Tensor, threshold: float) -> tuple[list[int], list[int], list[float]]:
    """G1 row by row."""
    modes = [m.training for m in net.modules()]
    net.eval()
    found: tuple[list[int], list[int], list[float]] = ([], [], [])
    for k in range(len(x)):
        with torch.no_grad():
            p = [float(v) for v in torch.softmax(net(x[k : k + 1])[0], 0)]
        if max(p) >= threshold:
            for values, value in zip(found, (k, p.index(max(p)), max(p))):
                values.append(value)  # type: ignore[arg-type]
    for m, mode in zip(net.modules(), modes):
        m.training = mode
    return found


class Flow(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(images())


LOADERS: dict[str, Callable[[], Any]] = {
    "in order": lambda: DataLoader(TensorDataset(images()), batch_size=11),
    "shuffled": lambda: DataLoader(TensorDataset(images()), batch_size=11, shuffle=True, drop_last=True),
    "one row at a time": lambda: DataLoader(TensorDataset(images()), batch_size=1),
    "bare rows": lambda: DataLoader(list(images()), batch_size=5),
    "labels of -1": lambda: DataLoader(TensorDataset(images(), torch.full((N,), -1)), batch_size=5, shuffle=True),
    "one worker": lambda: DataLoader(TensorDataset(images()), batch_size=11, num_workers=1),
    "a stream": lambda: DataLoader(Flow(), batch_size=11),
    "a list of batches": lambda: [images()[:22], images()[22:]],
}


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.7])
@pytest.mark.parametrize("name", LOADERS)
def test_generate_equals_a_loop_over_single_rows(name: str, threshold: float) -> None:
    net = noisy_net()
    ids, labels, confidence = truth(net, images(), threshold)
    assert (len(ids) == N) == (threshold == 0)
    assert len(ids) > 2
    got = generate_pseudo_labels(net, LOADERS[name](), CPU, threshold)
    assert got.ids.tolist() == got.positions.tolist() == ids
    assert got.labels.tolist() == labels
    assert got.confidence.tolist() == pytest.approx(confidence, abs=1e-5)
    assert (got.seen, got.rows, len(got)) == (N, None, len(ids))
    assert [t.dtype for t in (got.ids, got.labels, got.confidence)] == [torch.int64, torch.int64, torch.float32]


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_no_trace(training: bool) -> None:
    """Modes of every part, weights, buffers, gradients and torch's generator, although the rows are drawn from it."""
    net = noisy_net().train(training)
    net[1].eval()  # a BatchNorm that its owner froze
    before = {n: t.clone() for n, t in net.state_dict().items()}
    modes, state, grad_mode = [m.training for m in net.modules()], torch.get_rng_state(), torch.is_grad_enabled()
    noise = DataLoader(TensorDataset(images()), batch_size=4, shuffle=True)
    made = generate_pseudo_labels(net, noise, threshold=0.5)
    filter_pseudo_labels(made, net, loader=noise, views=2, augment=lambda x: x + 0.1 * torch.randn_like(x))
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.is_grad_enabled() == grad_mode
    assert all(p.grad is None for p in net.parameters())


def test_the_model_is_put_back_after_an_error_too() -> None:
    net = noisy_net().train()
    with pytest.raises(RuntimeError):
        generate_pseudo_labels(net, [images(), torch.zeros(2, 3)])
    assert all(m.training for m in net.modules())


def test_nothing_and_nearly_nothing() -> None:
    net = noisy_net()
    for loader in ([], DataLoader(TensorDataset(images()[:0]), batch_size=4), DataLoader(Flow(), batch_size=4)):
        made = generate_pseudo_labels(net, loader, threshold=1.01)
        assert len(made) == len(made.ids) == len(made.labels) == len(made.confidence) == 0
        assert len(filter_pseudo_labels(made, net, loader=loader)) == 0
        assert len(filter_pseudo_labels(made, net)) == 0
    assert made.seen == N
    one = generate_pseudo_labels(net, DataLoader(TensorDataset(images()[:1])), threshold=0.0)
    assert (one.ids.tolist(), one.seen) == ([0], 1)
    assert len(filter_pseudo_labels(one, net, threshold=0.0, loader=[images()[:1]])) == 1


def test_a_batch_of_which_one_row_passes() -> None:
    """The mask of a batch may hold a single True: shapes must not collapse."""
    certain, doubtful = [8.0, 0.0, 0.0], [0.1, 0.0, 0.0]
    x = torch.tensor([certain, doubtful, doubtful, certain])
    made = generate_pseudo_labels(nn.Identity(), [x[:3], x[3:]], threshold=0.9)
    assert made.ids.tolist() == [0, 3]
    assert made.labels.shape == made.confidence.shape == (2,)


def test_the_threshold_is_reached_by_equality() -> None:
    x = torch.tensor([[3.0, 0.0], [1.0, 0.0]])
    p = float(torch.softmax(x[0], 0)[0])
    assert generate_pseudo_labels(nn.Identity(), [x], threshold=p).ids.tolist() == [0]
    assert len(generate_pseudo_labels(nn.Identity(), [x], threshold=p + 1e-6)) == 0
    assert len(generate_pseudo_labels(nn.Identity(), [torch.tensor([[float("nan"), 0.0]])], threshold=0.0)) == 0


class Own(Dataset[tuple[int, Tensor]]):
    """(own id, row), the ids in no order."""

    ids = (70, 3, 900, 41)

    def __len__(self) -> int:
        return 4

    def __getitem__(self, k: int) -> tuple[int, Tensor]:
        return self.ids[k], torch.eye(4)[k] * (9.0 if k else 0.0)


def test_own_ids_are_kept_beside_positions() -> None:
    loader = DataLoader(Own(), batch_size=3, shuffle=True)
    made = generate_pseudo_labels(nn.Identity(), loader)
    assert made.ids.tolist() == [3, 900, 41]
    assert made.positions.tolist() == made.labels.tolist() == [1, 2, 3]
    assert len(filter_pseudo_labels(made, nn.Identity(), loader=loader)) == 3
    rows = made.dataset(loader.dataset)
    assert [y for _, y in rows] == [1, 2, 3]
    assert torch.equal(rows[0][0], 9 * torch.eye(4)[1])
    moved = [(torch.tensor([7, 8, 9, 10]), torch.eye(4))]
    with pytest.raises(UserError, match="rows came again under other ids"):
        filter_pseudo_labels(made, nn.Identity(), loader=moved)


def test_rows_that_have_a_label_are_passed_over() -> None:
    x = 9 * torch.eye(3)[torch.tensor([0, 1, 2, 1])]
    mixed = SemiSupervisedDataset((x[:2], [0, 1]), x[2:])
    for shuffle in (False, True):
        made = generate_pseudo_labels(nn.Identity(), DataLoader(mixed, batch_size=2, shuffle=shuffle))
        assert (made.positions.tolist(), made.labels.tolist(), made.seen) == ([2, 3], [2, 1], 2)
    every = generate_pseudo_labels(nn.Identity(), DataLoader(mixed, batch_size=2), ignore_labels=True)
    assert every.positions.tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"every row of the loader carries a label.*ignore_labels=True"):
        generate_pseudo_labels(nn.Identity(), [(x, torch.zeros(4, dtype=torch.int64))])


def test_the_rows_are_kept_on_request_only() -> None:
    net = noisy_net()
    loader = LOADERS["shuffled"]()
    made = generate_pseudo_labels(net, loader, threshold=0.6, keep_rows=True)
    assert made.rows is not None
    assert torch.equal(made.rows, images()[made.ids])
    half = made.select(torch.arange(len(made)) % 2 == 0)
    assert half.rows is not None
    assert torch.equal(half.rows, images()[half.ids])
    assert len(filter_pseudo_labels(made, net, threshold=0.6)) == len(made)  # without a loader
    again = filter_pseudo_labels(made, net, threshold=0.8)
    assert 0 < len(again) < len(made)
    without = generate_pseudo_labels(net, loader, threshold=0.6)
    assert again.ids.tolist() == filter_pseudo_labels(without, net, threshold=0.8, loader=loader).ids.tolist()
    with pytest.raises(UserError, match=r"the rows are needed again.*keep_rows"):
        filter_pseudo_labels(without, net)


# ---- the filter really removes ----------------------------------------------------------------------------------


def test_the_same_model_asked_the_same_question_removes_nothing() -> None:
    """What the tutorial's filter does, and why another judge is needed."""
    net, loader = noisy_net(), LOADERS["in order"]()
    made = generate_pseudo_labels(net, loader, threshold=0.6)
    same = filter_pseudo_labels(made, net, CPU, 0.6, loader=loader)
    assert torch.equal(same.ids, made.ids)


@pytest.mark.parametrize("name", LOADERS)
def test_another_network_removes_what_it_doubts(name: str) -> None:
    """The averaged weights, or a second network: G2 with one view, row by row."""
    net, judge = noisy_net(), noisy_net()
    with torch.no_grad():
        for p in judge.parameters():
            p.add_(0.25 * torch.randn(p.shape, generator=torch.Generator().manual_seed(5)))
    made = generate_pseudo_labels(net, LOADERS[name](), threshold=0.5)
    says = dict(zip(*truth(judge, images(), 0.0)[:2]))
    sure = dict(zip(*truth(judge, images(), 0.0)[::2]))
    wanted = [k for k, y in zip(made.ids.tolist(), made.labels.tolist()) if says[k] == y and sure[k] >= 0.7]
    got = filter_pseudo_labels(made, judge, CPU, 0.7, loader=LOADERS[name]())
    assert got.ids.tolist() == wanted
    assert 0 < len(got) < len(made)
    assert got.seen == made.seen
    assert got.confidence.tolist() == pytest.approx([sure[k] for k in wanted], abs=1e-5)
    disagree = [k for k, y in zip(made.ids.tolist(), made.labels.tolist()) if says[k] != y]
    assert disagree, "some go because the class differs"
    lenient = filter_pseudo_labels(made, judge, CPU, 0.0, loader=LOADERS[name]())
    assert set(made.ids.tolist()) - set(lenient.ids.tolist()) == set(disagree)


def test_views_remove_what_does_not_stand_up_to_them() -> None:
    """Two views, one of which moves every second row over the border; the mean confidence counts."""
    x = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.9, 0.0], [4.0, 0.0]])
    push = torch.tensor([[0.0, 0.0], [0.0, 6.0], [0.0, 0.0], [0.0, 2.5]])
    made = generate_pseudo_labels(nn.Identity(), [x], threshold=0.7)
    views = [[x], [x + push]]
    got = filter_pseudo_labels(made, nn.Identity(), threshold=0.8, loader=lambda v: views[v], views=2)
    p = (torch.softmax(x, -1) + torch.softmax(x + push, -1))[:, 0] / 2
    assert got.ids.tolist() == [0, 3]  # 1 changes its class, 2 was never sure enough
    torch.testing.assert_close(got.confidence, p[[0, 3]])
    assert filter_pseudo_labels(
        made, nn.Identity(), threshold=0.93, loader=lambda v: views[v], views=2
    ).ids.tolist() == [0]


def test_views_by_an_augmentation_and_by_a_loader_that_augments() -> None:
    class Shaky(Dataset[Tensor]):
        def __len__(self) -> int:
            return 40

        def __getitem__(self, k: int) -> Tensor:
            return x[k] + 3 * torch.randn(2)

    x = torch.tensor([[2.0, 0.0]] * 20 + [[30.0, 0.0]] * 20)
    plain = DataLoader(TensorDataset(x), batch_size=16)
    made = generate_pseudo_labels(nn.Identity(), plain, threshold=0.8)
    assert len(made) == 40
    torch.manual_seed(0)
    by_function = {"loader": plain, "augment": lambda rows: rows + 3 * torch.randn_like(rows)}
    by_loader = {"loader": DataLoader(Shaky(), batch_size=16), "augment": "loader"}
    for how in (by_function, by_loader):
        kept = {
            k: filter_pseudo_labels(made, nn.Identity(), threshold=0.8, views=k, **how).ids.tolist() for k in (1, 6)
        }
        assert all(ids[-20:] == list(range(20, 40)) for ids in kept.values()), "certain rows stay"
        assert len(kept[6]) < len(kept[1]) < 40, "more views remove more"


def test_a_loader_that_augments_does_not_show_the_views_of_the_generation_again() -> None:
    class Shaky(Dataset[Tensor]):
        def __len__(self) -> int:
            return 30

        def __getitem__(self, k: int) -> Tensor:
            return torch.randn(2)

    loader = DataLoader(Shaky(), batch_size=30)
    made = generate_pseudo_labels(nn.Identity(), loader, threshold=0.0)
    assert len(made) == 30
    kept = filter_pseudo_labels(made, nn.Identity(), threshold=0.0, loader=loader, augment="loader")
    assert 0 < len(kept) < 30


def test_views_without_anything_to_tell_them_apart_are_refused() -> None:
    made = generate_pseudo_labels(nn.Identity(), [9 * torch.eye(3)])
    with pytest.raises(UserError, match="2 views of the same rows ask the same question"):
        filter_pseudo_labels(made, nn.Identity(), loader=[9 * torch.eye(3)], views=2)
    with pytest.raises(UserError, match="0 views"):
        filter_pseudo_labels(made, nn.Identity(), loader=[9 * torch.eye(3)], views=0)


def test_rows_that_do_not_come_again() -> None:
    made = generate_pseudo_labels(nn.Identity(), [9 * torch.eye(3)])
    with pytest.raises(UserError, match="1 of 3 rows with a pseudo label did not come again"):
        filter_pseudo_labels(made, nn.Identity(), loader=[9 * torch.eye(3)[:2]])


# ---- training on them -------------------------------------------------------------------------------------------


ITEMS = {
    "rows": lambda x: list(x),
    "(x,)": lambda x: TensorDataset(x),
    "(x, y)": lambda x: TensorDataset(x, torch.full((len(x),), 99)),
    "(id, x)": lambda x: [(k, row) for k, row in enumerate(x)],
    "(id, x, y)": lambda x: [(torch.tensor(k), row, 99) for k, row in enumerate(x)],
}


@pytest.mark.parametrize("name", ITEMS)
def test_the_labelled_rows_as_a_data_set(name: str) -> None:
    x = 9 * torch.eye(3)[torch.tensor([2, 0, 1, 2])]
    x[1] = 0
    data = ITEMS[name](x)
    made = generate_pseudo_labels(nn.Identity(), [x])
    rows, labels = next(iter(DataLoader(made.dataset(data), batch_size=8)))
    assert torch.equal(rows, x[[0, 2, 3]])
    assert labels.tolist() == [2, 1, 2]
    assert labels.dtype == torch.int64


def test_another_data_set_is_refused() -> None:
    made = generate_pseudo_labels(nn.Identity(), [9 * torch.eye(3)])
    with pytest.raises(UserError, match="row 2 holds a pseudo label, the data set has 2 rows"):
        made.dataset(TensorDataset(torch.eye(3)[:2]))
    with pytest.raises(UserError, match="cannot be fetched by index"):
        made.dataset(Flow())


# ---- memory -----------------------------------------------------------------------------------------------------


class Counted(Dataset[Tensor]):
    """Rows made when asked for; knows how many are alive."""

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.peak = count, 0, 0

    def __len__(self) -> int:
        return self.count

    def track(self, row: Tensor) -> Tensor:
        self.alive += 1
        self.peak = max(self.peak, self.alive)
        weakref.finalize(row, self._gone)
        return row

    def _gone(self) -> None:
        self.alive -= 1

    def __getitem__(self, k: int) -> Tensor:
        return self.track(torch.full((3,), 5.0).index_fill_(0, torch.tensor([k % 3]), 9.0))


class Watching(nn.Module):
    """Counts the logits that are alive."""

    def __init__(self, counter: Counted) -> None:
        super().__init__()
        self.counter = counter

    def forward(self, x: Tensor) -> Tensor:
        return self.counter.track(x * 1.0)


def peaks(count: int, threshold: float) -> list[int]:
    """Most rows, batches and logits alive at a time: while generating, while filtering over views."""
    rows, results = Counted(count), Counted(0)
    loader = DataLoader(rows, batch_size=4, collate_fn=lambda r: results.track(torch.stack(r)))
    net, found = Watching(results), list[int]()
    made = generate_pseudo_labels(net, loader, threshold=threshold)
    found += [rows.peak, results.peak]
    assert rows.alive == results.alive == 0
    kept = filter_pseudo_labels(made, net, threshold=threshold, loader=loader, views=2, augment=lambda x: x + 0.0)
    assert len(kept) == len(made) == (count if threshold < 1 else 0)
    return [*found, rows.peak, results.peak]


@pytest.mark.parametrize("threshold", [0.9, 1.01])
def test_memory_does_not_grow_with_the_pool(threshold: float) -> None:
    small, large = peaks(24, threshold), peaks(480, threshold)
    assert small == large
    assert 0 < max(large) < 16


# ---- what is refused --------------------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self, out: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Tensor) -> Any:
        return self.out(x)


@pytest.mark.parametrize(
    ("out", "got"),
    [
        (lambda x: (x, x), "tuple"),
        (lambda x: x[:, :1], r"\[3, 1\]"),
        (lambda x: x[:, 0], r"\[3\]"),
        (lambda x: x[:2], r"\[2, 3\]"),
    ],
)
def test_models_that_give_no_logits(out: Callable[[Tensor], Any], got: str) -> None:
    with pytest.raises(UserError, match=rf"the model gives {got} for 3 rows. It must give one logit per class"):
        generate_pseudo_labels(Odd(out), [torch.eye(3)])


def test_thresholds_and_devices_that_make_no_sense() -> None:
    net, made = noisy_net(), generate_pseudo_labels(nn.Identity(), [9 * torch.eye(3)])
    for threshold in (-0.1, float("nan")):
        with pytest.raises(UserError, match="the threshold is"):
            generate_pseudo_labels(net, [images()], threshold=threshold)
        with pytest.raises(UserError, match="the threshold is"):
            filter_pseudo_labels(made, nn.Identity(), threshold=threshold, loader=[torch.eye(3)])
    with pytest.raises(UserError, match=r"the model is on cpu, the device is meta. Move it first"):
        generate_pseudo_labels(net, [images()], "meta")


def test_a_loader_over_part_of_a_data_set() -> None:
    """Positions count in the loader's own data set."""
    part = Subset(TensorDataset(images()), [20, 4, 11])
    made = generate_pseudo_labels(noisy_net(), DataLoader(part, batch_size=2, shuffle=True), threshold=0.0)
    assert made.positions.tolist() == [0, 1, 2]
    assert torch.equal(made.dataset(part)[1][0], images()[4])
    assert isinstance(made, PseudoLabels)

"""The tutorial's loop: against loops written out by hand, and on digits."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

from metapl import SemiSupervisedDataset, SmallCNN, UserError, train_mpl
from metapl.api.tutorial import EpochReport
from metapl.data.memory.digits import open_digits

C, D = 3, 6
Loader = Any


def rows(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Three well separated blobs."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % C
    centres = 2 * torch.eye(D)[:C]
    return centres[y] + 0.7 * torch.randn(count, D, generator=g), y


def loaders(batch: int = 5, labeled: int = 12, unlabeled: int = 31, **how: Any) -> tuple[Loader, Loader]:
    x, y = rows(labeled, 1)
    pool = TensorDataset(rows(unlabeled, 2)[0])
    return DataLoader(TensorDataset(x, y), batch_size=batch, shuffle=True, **how), DataLoader(pool, batch_size=batch)


def noisy_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(D, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.4), nn.Linear(9, C))


def plain_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(D, 9), nn.Tanh(), nn.Linear(9, C))


def sgd(net: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=lr, momentum=0.9)


def train(
    net: nn.Module, train_loader: Loader, pool: Loader, epochs: int = 3, *, seed: int = 11, **options: Any
) -> tuple[nn.Module, list[EpochReport]]:
    """``train_mpl`` with the usual loss and optimiser; its model and reports."""
    reports: list[EpochReport] = []
    optimizer = options.pop("optimizer", None) or sgd(net)
    criterion = options.pop("criterion", nn.CrossEntropyLoss())
    torch.manual_seed(seed)
    options = {"verbose": False, **options}
    average = train_mpl(train_loader, pool, optimizer, criterion, epochs, model=net, on_epoch=reports.append, **options)
    return average, reports


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def supervised(net: nn.Module, loader: Loader, epochs: int, seed: int = 11, decay: float = 0.99) -> dict[str, Tensor]:
    """The loop that everybody writes, and the average of its weights and buffers by hand."""
    optimizer, average, t = sgd(net), {n: v.clone() for n, v in net.state_dict().items()}, 0
    torch.manual_seed(seed)
    net.train()
    for _ in range(epochs):
        for x, y in loader:
            loss = F.cross_entropy(net(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            d = min(decay, (t + 1) / (t + 10))
            for n, v in net.state_dict().items():
                average[n] = d * average[n] + (1 - d) * v if v.is_floating_point() else v.clone()
            t += 1
    return average


OFF: dict[str, dict[str, Any]] = {
    "alpha 0": {"alpha": 0.0},
    "alpha 0, threshold 0": {"alpha": 0.0, "threshold": 0.0},
    "threshold above 1": {"threshold": 1.01},
    "threshold above 1, views": {"threshold": 1.01, "judge": "views", "augment": lambda x: x + torch.randn_like(x)},
    "no unlabelled rows": {"threshold": 0.0, "pool": []},
    "an empty data set": {"threshold": 0.0, "pool": DataLoader(TensorDataset(torch.zeros(0, D)), batch_size=4)},
}


@pytest.mark.parametrize("name", OFF)
def test_without_pseudo_labels_it_is_the_supervised_loop_exactly(name: str) -> None:
    """Bit for bit, with dropout, BatchNorm, a shuffling loader and validation in between."""
    labeled, pool = loaders()
    options = dict(OFF[name])
    theirs, ours = noisy_net(), noisy_net()
    average = supervised(theirs, labeled, 3)
    state = torch.get_rng_state()
    got, reports = train(ours, labeled, options.pop("pool", pool), val_loader=loaders()[0], **options)
    assert same(ours, theirs)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(r.kept == r.generated == r.pseudo == 0 for r in reports)
    assert all(r.loss == r.supervised > 0 and r.steps == 3 for r in reports)
    for n, v in got.state_dict().items():  # the average, buffers included, is the one computed by hand
        torch.testing.assert_close(v, average[n], rtol=1e-5, atol=1e-6)
    assert not same(got, ours)


def test_the_average_starts_from_the_models_own_weights() -> None:
    net = noisy_net()
    start = copy.deepcopy(net)
    got, _ = train(net, *loaders(), 1, optimizer=sgd(net, lr=1e-12))
    for (n, v), w in zip(got.named_parameters(), start.parameters()):
        torch.testing.assert_close(v, w, rtol=0, atol=1e-9, msg=n)
    assert not torch.equal(got[1].running_mean, start[1].running_mean)
    assert 0 < got[1].running_mean.abs().max() < net[1].running_mean.abs().max(), "statistics are averaged too"


def test_it_gives_the_average_in_eval_mode_and_leaves_the_models_modes() -> None:
    for training in (True, False):
        net = noisy_net().train(training)
        got, _ = train(net, *loaders(), 1)
        assert got is not net
        assert not any(m.training for m in got.modules())
        assert all(m.training == training for m in net.modules())
        assert all(p.requires_grad for p in got.parameters())
    net = noisy_net().train()
    net[1].eval()
    before = net[1].running_mean.clone()
    net[0].requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.1)
    got, _ = train(net, *loaders(), 1, threshold=0.0, optimizer=optimizer)
    assert torch.equal(net[1].running_mean, before), "a part frozen in eval mode stays frozen"
    assert [p.requires_grad for p in got.parameters()] == [p.requires_grad for p in net.parameters()]


# ---- the two terms ----------------------------------------------------------------------------------------------


class Log:
    """A criterion that notes what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, list[int]]] = []

    def __call__(self, z: Tensor, y: Tensor) -> Tensor:
        self.asked.append((len(z), y.tolist()))
        return F.cross_entropy(z, y)


def after(alpha: float, **options: Any) -> tuple[Tensor, nn.Module]:
    """Where one update takes a plain net: 4 labelled rows, 4 others, all of which hold a label."""
    labeled, pool = loaders(batch=4, labeled=4, unlabeled=4)
    net = plain_net()
    how = {"threshold": 0.0, "judge": "none", "optimizer": torch.optim.SGD(net.parameters(), lr=0.5), **options}
    optimizer = how.pop("optimizer")
    optimizer = optimizer(net) if not isinstance(optimizer, torch.optim.Optimizer) else optimizer
    _, (report,) = train(net, labeled, pool, 1, alpha=alpha, optimizer=optimizer, **how)
    assert report.steps == 1
    assert report.kept == (4 if alpha else 0)
    return torch.cat([p.detach().flatten() for p in net.parameters()]), net


def test_alpha_scales_the_gradient() -> None:
    zero, half, one, three = (after(a)[0] for a in (0.0, 0.5, 1.0, 3.0))
    assert (one - zero).abs().max() > 1e-3
    torch.testing.assert_close(half - zero, 0.5 * (one - zero), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(three - zero, 3 * (one - zero), rtol=1e-3, atol=1e-6)


def test_the_update_is_that_of_the_equation() -> None:
    net = plain_net()
    (x_l, y_l), x_u = rows(4, 1), rows(4, 2)[0]
    with torch.no_grad():
        labels = net(x_u).argmax(-1)
    loss = F.cross_entropy(net(x_l), y_l) + 0.7 * F.cross_entropy(net(x_u), labels)
    expected = [p - 0.5 * g for p, g in zip(net.parameters(), torch.autograd.grad(loss, [*net.parameters()]))]
    torch.testing.assert_close(after(0.7)[0], torch.cat([p.detach().flatten() for p in expected]), rtol=1e-4, atol=1e-6)


def test_adam_does_not_undo_alpha() -> None:
    """A step on the pseudo-labelled rows alone would be as long at any alpha: Adam divides by the gradient's size."""
    adam = {"optimizer": lambda net: torch.optim.Adam(net.parameters(), lr=0.1, eps=1e-6)}
    zero, faint, full = (after(a, **adam)[0] for a in (0.0, 1e-7, 1.0))
    assert (full - zero).abs().max() > 0.05
    assert (faint - zero).abs().max() < 1e-3


@pytest.mark.parametrize(("batch", "labeled", "unlabeled", "steps"), [(5, 12, 31, 7), (5, 12, 8, 3), (4, 8, 8, 2)])
def test_an_epoch_goes_once_through_the_pseudo_labels_and_all_labels(
    batch: int, labeled: int, unlabeled: int, steps: int
) -> None:
    log, net = Log(), plain_net()
    _, (report,) = train(net, *loaders(batch, labeled, unlabeled), 1, threshold=0.0, judge="none", criterion=log)
    assert report.steps == steps
    assert (report.seen, report.generated, report.kept) == (unlabeled,) * 3
    pseudo = -(-unlabeled // batch)
    assert len(log.asked) == steps + pseudo
    assert sum(n for n, _ in log.asked[1 : 2 * pseudo : 2]) == unlabeled
    beside = [*log.asked[: 2 * pseudo : 2], *log.asked[2 * pseudo :]]
    assert sum(n for n, _ in beside) >= labeled
    torch.testing.assert_close(report.loss, report.supervised + 0.75 * report.pseudo, rtol=1e-5, atol=1e-6)


def test_every_pseudo_labelled_row_is_fetched_once_under_its_own_label() -> None:
    """Seen through a net that names each row's class by its largest number, whatever the order."""
    seen: list[tuple[int, int]] = []

    class Sign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    def criterion(z: Tensor, y: Tensor) -> Tensor:
        seen.extend(zip(z.argmax(-1).tolist(), y.tolist()))
        return F.cross_entropy(z, y)

    pool = 9 * torch.eye(C)[torch.arange(20) % C]
    net = Sign()
    labeled = [(9 * torch.eye(C), torch.arange(C))]
    for loader in (DataLoader(TensorDataset(pool), batch_size=7, shuffle=True), [pool[:7], pool[7:]]):
        seen.clear()
        train(net, labeled, loader, 2, criterion=criterion)
        assert all(a == b for a, b in seen)
        assert len(seen) >= 2 * (3 + 20)


def test_rows_of_two_shapes_go_through_one_after_the_other() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C))
    labeled = [(torch.randn(4, 1, 8, 8), torch.arange(4) % C)]
    _, (report,) = train(net, labeled, [torch.randn(5, 1, 6, 6)], 1, threshold=0.0)
    assert report.kept == 5
    assert report.pseudo > 0


# ---- the judges -------------------------------------------------------------------------------------------------


class Doubter(nn.Module):
    """Names class 0 only, and is sure of it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(torch.zeros(len(x), dtype=torch.int64), C) * 20.0


JUDGES: dict[str, dict[str, Any]] = {
    "ema": {"judge": "ema"},
    "views": {"judge": "views", "views": 3, "augment": lambda x: x + torch.randn_like(x)},
    "another network": {"judge": Doubter()},
}


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_removes_labels(name: str) -> None:
    labeled, pool = loaders(unlabeled=60)
    _, reports = train(noisy_net(), labeled, pool, 6, threshold=0.6, **JUDGES[name])
    removed = [r.generated - r.kept for r in reports]
    assert max(removed) > 0
    assert any(0 < r.kept < r.generated for r in reports), "and leaves some"
    _, reports = train(noisy_net(), labeled, pool, 6, threshold=0.6, judge="none")
    assert all(r.kept == r.generated for r in reports)
    assert reports[-1].kept > 0


# ---- loaders of all kinds ---------------------------------------------------------------------------------------


class Flow(IterableDataset[Tensor]):
    def __iter__(self) -> Iterator[Tensor]:
        return iter(rows(31, 2)[0])


def kinds_of_pools() -> dict[str, Loader]:
    x = rows(31, 2)[0]
    numbered = [(100 + k, row) for k, row in enumerate(x)]
    return {
        "shuffled": DataLoader(TensorDataset(x), batch_size=5, shuffle=True, drop_last=True),
        "bare rows": DataLoader(list(x), batch_size=5),
        "own ids": DataLoader(numbered, batch_size=5, shuffle=True),
        "a stream": DataLoader(Flow(), batch_size=5),
        "a list of batches": list(torch.split(x, 5)),
        "whole batches": DataLoader(list(torch.split(x, 5)), batch_size=None),  # type: ignore[arg-type]
        "one worker": DataLoader(TensorDataset(x), batch_size=16, num_workers=1),
        "marked -1": DataLoader(SemiSupervisedDataset(TensorDataset(*rows(12, 1)), x), batch_size=5, shuffle=True),
    }


@pytest.mark.parametrize("name", kinds_of_pools())
def test_pools_of_every_kind(name: str) -> None:
    _, reports = train(noisy_net(), loaders()[0], kinds_of_pools()[name], 2, threshold=0.0, judge="none")
    assert [(r.seen, r.kept) for r in reports] == [(31, 31)] * 2


def test_the_way_of_reading_the_pool_decides_nothing_but_the_order() -> None:
    """Same labels in the first epoch; a shuffling loader gives the very run of one that does not shuffle."""
    pools = kinds_of_pools()
    nets = {}
    for name in ("shuffled", "bare rows", "own ids"):
        nets[name] = noisy_net()
        train(nets[name], loaders()[0], pools[name], 2, threshold=0.5)
    assert same(nets["shuffled"], nets["bare rows"])
    assert same(nets["own ids"], nets["bare rows"])


@pytest.mark.parametrize("name", ["a stream", "whole batches"])
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_a_stream_gives_the_very_run_of_a_data_set_in_order(
    name: str, threshold: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a data set the rows are fetched in random order; told otherwise, it makes the same batches as a stream."""
    monkeypatch.setattr("metapl.api.tutorial.indexed", lambda loader: False)
    nets, reports = {}, {}
    for pool in ("bare rows", name):
        nets[pool] = noisy_net()
        _, reports[pool] = train(nets[pool], loaders()[0], kinds_of_pools()[pool], 5, threshold=threshold)
    assert any(0 < r.kept < r.seen for r in reports[name])
    assert same(nets[name], nets["bare rows"])
    assert reports[name] == reports["bare rows"]


def test_few_rows_of_a_long_stream_make_few_updates() -> None:
    """One row in fifty is named with confidence: 13 in 10 batches of 64 are one batch."""
    log, x = Log(), torch.zeros(640, C)
    x[::50] = 20 * torch.eye(C)[torch.arange(13) % C]
    labeled = [(torch.eye(C), torch.arange(C))]
    made = {}
    for pool in (DataLoader(TensorDataset(x), batch_size=64), [*torch.split(x, 64)], DataLoader(x.split(64), None)):
        torch.manual_seed(0)
        net = nn.Linear(C, C)
        nn.init.eye_(net.weight)
        log.asked.clear()
        _, (report,) = train(net, labeled, pool, 1, threshold=0.9, judge="none", criterion=log)
        assert (report.seen, report.kept, report.steps) == (640, 13, 1)
        made[type(pool)] = [count for count, _ in log.asked]
    assert list(made.values()) == [[3, 13]] * len(made)


def test_rows_of_two_shapes_in_a_stream_are_not_put_together() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, C))
    log, labeled = Log(), [(torch.randn(4, 1, 8, 8), torch.arange(4) % C)]
    pool = [torch.randn(n, 1, side, side) for n, side in ((5, 6), (2, 6), (2, 7), (2, 7), (5, 7), (1, 7))]
    _, (report,) = train(net, labeled, pool, 1, threshold=0.0, judge="none", criterion=log)
    assert report.kept == 17
    assert [n for n, _ in log.asked[1::2]] == [5, 2, 5, 5]


class Counted(Dataset[Tensor]):
    """Rows made when asked for; knows how many are alive."""

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.peak = count, 0, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, k: int) -> Tensor:
        row = rows(C, 2)[0][k % C].clone()
        self.alive += 1
        self.peak = max(self.peak, self.alive)
        weakref.finalize(row, self._gone)
        return row

    def _gone(self) -> None:
        self.alive -= 1


def test_rows_are_not_kept_between_or_within_the_passes() -> None:
    peaks = []
    for count in (20, 200):
        pool = Counted(count)
        _, reports = train(noisy_net(), loaders()[0], DataLoader(pool, batch_size=5), 2, threshold=0.0, judge="none")
        assert [r.kept for r in reports] == [count] * 2
        assert pool.alive == 0
        peaks.append(pool.peak)
    assert peaks == [5, 5]


def test_one_mixed_loader_for_both_parts() -> None:
    """The tutorial's own way: one data set, one loader, -1 where there is no label."""
    (x, y), x_u = rows(12, 1), rows(20, 2)[0]
    mixed = DataLoader(SemiSupervisedDataset((x, y), x_u), batch_size=8, shuffle=True)
    log = Log()
    _, (report,) = train(noisy_net(), mixed, mixed, 1, threshold=1.01, criterion=log)
    assert (report.seen, report.kept) == (20, 0)
    assert sorted(label for _, labels in log.asked for label in labels) == sorted(y.tolist())


def test_hidden_labels_are_used_only_when_asked_to_be_ignored() -> None:
    x, y = rows(31, 2)
    pool = DataLoader(TensorDataset(x, y), batch_size=5)
    with pytest.raises(UserError, match=r"every row of the loader carries a label.*ignore_labels=True"):
        train(noisy_net(), loaders()[0], pool, 1)
    one, other = noisy_net(), noisy_net()
    train(one, loaders()[0], pool, 2, threshold=0.5, ignore_labels=True)
    train(other, loaders()[0], DataLoader(TensorDataset(x), batch_size=5), 2, threshold=0.5)
    assert same(one, other)


@pytest.mark.parametrize("unlabeled", [1, 6])
def test_a_last_batch_of_one_row_and_batch_norm(unlabeled: int) -> None:
    """One pseudo-labelled row is trained on beside the labelled ones, which BatchNorm1d alone would refuse."""
    _, (report,) = train(noisy_net(), *loaders(labeled=10, unlabeled=unlabeled), 1, threshold=0.0, judge="none")
    assert report.kept == unlabeled
    labeled, _ = loaders(labeled=11)
    with pytest.raises(UserError, match=r"train_loader: BatchNorm cannot learn from a batch of one row.*drop_last"):
        train(noisy_net(), labeled, [], 1)
    _, (report,) = train(plain_net(), labeled, [], 1)
    assert report.steps == 3


# ---- what is measured and printed -------------------------------------------------------------------------------


def test_the_report_is_right() -> None:
    labeled, pool = loaders()
    x, y = rows(17, 3)
    y[:3] = -1  # without a label: not counted
    val = DataLoader(TensorDataset(x, y), batch_size=4, shuffle=True)
    net = noisy_net()
    got, reports = train(net, labeled, pool, 2, threshold=0.5, val_loader=val)
    with torch.no_grad():
        z = got(x[3:])
    assert reports[-1].val_rows == 14
    assert reports[-1].val_accuracy == pytest.approx(float((z.argmax(-1) == y[3:]).float().mean()))
    assert reports[-1].val_loss == pytest.approx(float(F.cross_entropy(z, y[3:])), rel=1e-5)
    assert [(r.epoch, r.epochs) for r in reports] == [(1, 2), (2, 2)]
    assert all(0 <= r.train_accuracy <= 1 for r in reports)
    _, (report,) = train(net, labeled, pool, 1, val_loader=[])
    assert (report.val_rows, report.val_loss, report.val_accuracy) == (0, None, None)


def test_the_training_accuracy_counts_the_rows_trained_on() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(1.0))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    labeled = [(torch.eye(C), torch.tensor([0, 1, 0])), (torch.eye(C)[:1], torch.tensor([0]))]
    net = Fixed()
    _, (report,) = train(net, labeled, [], 1, optimizer=sgd(net, lr=1e-6))
    assert report.train_accuracy == 3 / 4  # 2 of 3, then 1 of 1: not the mean of the two shares


def test_one_line_per_epoch(capsys: pytest.CaptureFixture[str]) -> None:
    labeled, pool = loaders()
    train(noisy_net(), labeled, pool, 12, verbose=True, val_loader=labeled, threshold=0.5)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 12
    assert lines[0].startswith("epoch  1/12  pseudo labels 0 of 31 (")
    for word in ("loss", "labelled", "pseudo", "train accuracy", "EMA: validation loss", "accuracy"):
        assert word in lines[-1]
    train(noisy_net(), labeled, pool, 1, verbose=True)
    assert "EMA" not in capsys.readouterr().out
    train(noisy_net(), labeled, pool, 2)
    assert capsys.readouterr().out == ""


def test_the_schedule_moves_once_per_epoch() -> None:
    net = plain_net()
    optimizer = sgd(net, lr=0.1)
    train(net, *loaders(), 3, optimizer=optimizer, scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 8)


# ---- what is refused --------------------------------------------------------------------------------------------


def test_an_optimizer_of_another_model_is_refused() -> None:
    net = plain_net()
    with pytest.raises(UserError, match=r"optimizer: it does not hold 4 of the model's 4 weights, such as 0.weight"):
        train(net, *loaders(), optimizer=sgd(plain_net()))
    with pytest.raises(UserError, match=r"does not hold 2 of .* such as 2.weight.*requires_grad_\(False\)"):
        train(net, *loaders(), optimizer=sgd(net[0]))
    net[2].requires_grad_(False)
    train(net, *loaders(), 1, optimizer=sgd(net[0]))
    with pytest.raises(UserError, match="the model has no weights to train"):
        train(net.requires_grad_(False), *loaders(), optimizer=sgd(net[0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -0.1}, "alpha is -0.1"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"threshold": -1.0}, "the threshold is -1.0"),
        ({"epochs": 0}, "num_epochs is 0"),
        ({"ema_decay": 1.0}, "ema_decay is 1.0"),
        ({"views": 0}, "views is 0"),
        ({"judge": "emma"}, "unknown judge 'emma'. Did you mean 'ema'"),
        ({"judge": "views"}, "judge: views of the same rows ask the same question"),
        ({"device": "meta"}, "the model is on cpu, the device is meta"),
        ({"criterion": nn.CrossEntropyLoss(reduction="none")}, r"criterion: the criterion gives \[5\], not one number"),
        ({"criterion": lambda z, y: 1.0}, "the criterion gives float"),
        ({"pool": TensorDataset(torch.zeros(3, D))}, "a TensorDataset gives no batches"),
        ({"pool": iter([])}, "unlabeled_loader: it can be gone through only once"),
        ({"train_loader": []}, "there are no labelled rows to train on"),
        ({"train_loader": [(torch.zeros(2, D), torch.tensor([-1, -1]))]}, "there are no labelled rows to train on"),
        ({"train_loader": [torch.zeros(2, D)]}, "a batch brings rows without labels"),
        ({"val_loader": [torch.zeros(2, D)]}, "a batch brings rows without labels"),
        ({"val_loader": 3}, "a int gives no batches"),
    ],
)
def test_arguments_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    labeled, pool = loaders()
    options = {"train_loader": labeled, "pool": pool, **options}
    with pytest.raises(UserError, match=message):
        train(plain_net(), **options)


def test_the_model_does_not_judge_itself() -> None:
    net = plain_net()
    with pytest.raises(UserError, match="the model would judge its own labels"):
        train(net, *loaders(), judge=net)
    with pytest.raises(TypeError, match="model"):
        train_mpl(*loaders(), sgd(net), F.cross_entropy, 1)  # type: ignore[call-arg]
    with pytest.raises(UserError, match="the model is a str"):
        train_mpl(*loaders(), sgd(net), F.cross_entropy, 1, model="net")  # type: ignore[arg-type]


def test_a_loss_that_is_no_longer_finite() -> None:
    net = plain_net()
    with pytest.raises(UserError, match="training diverged in epoch 1: the loss is not finite"):
        train(net, *loaders(), optimizer=sgd(net, lr=1e30), criterion=lambda z, y: (z**2).mean())


# ---- does it help? ----------------------------------------------------------------------------------------------


def test_on_digits_it_beats_its_own_alpha_0() -> None:
    """40 labels; the run without pseudo labels makes at least as many updates."""
    source = open_digits()
    x, y = source.data.float() / 255, torch.from_numpy(source.labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    test, rest = order[:500], order[500:1300]
    some = torch.cat([rest[y[rest] == c][:4] for c in range(10)])
    pool = rest[~torch.isin(rest, some)]
    data = SemiSupervisedDataset((x[some], y[some]), x[pool])
    labeled = DataLoader(Subset(data, data.labeled_range), batch_size=8, shuffle=True)
    unlabeled = DataLoader(Subset(data, data.unlabeled_range), batch_size=64)
    accuracy, steps = {}, {}
    for alpha, epochs in ((0.75, 30), (0.0, 40)):
        torch.manual_seed(0)
        net = SmallCNN(1, (8, 8), 10)
        got, reports = train(net, labeled, unlabeled, epochs, alpha=alpha, threshold=0.9, optimizer=sgd(net, 0.05))
        with torch.no_grad():
            accuracy[alpha] = float((got(x[test]).argmax(-1) == y[test]).float().mean())
        steps[alpha] = sum(r.steps for r in reports)
    assert steps[0.0] >= steps[0.75]
    assert accuracy[0.75] > accuracy[0.0] + 0.02, (accuracy, steps)

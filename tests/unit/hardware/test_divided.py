"""A divided network in one process: the other process is a twin with the same rows, so all sums are known."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from torch import Tensor, nn

from metapl.hardware import divided, ranks


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, of which this is the first; the second holds equal rows and does the same."""

    def sum_(mine: Tensor) -> Tensor:
        half = len(mine) // 2
        is_part = len(mine) % 2 == 0 and bool((mine[half:] == 0).all())  # its own half of a table for both
        return mine + (mine.roll(half, 0) if is_part else mine)

    monkeypatch.setattr(ranks, "count", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 0)
    monkeypatch.setattr(ranks, "sum_", sum_)
    monkeypatch.setattr(ranks, "broadcast_", lambda tensor: tensor)


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))


def twins(rows: int = 4) -> Tensor:
    x = torch.randn(rows, 2, 5, 5, generator=torch.Generator().manual_seed(1))
    return torch.cat([x, x])


@pytest.mark.usefixtures("twin")
def test_logits_gradients_and_statistics_are_those_of_the_whole_network() -> None:
    whole, x, y = network(), twins(), torch.tensor([0, 1, 2, 0] * 2)
    halves = divided.divide(copy.deepcopy(whole))
    results = []
    for net in (whole, halves):
        rows = x.clone().requires_grad_()
        logits = net(rows)
        F.cross_entropy(logits, y).backward()
        results.append([logits, rows.grad, *(p.grad for p in net.parameters()), *net.buffers()])
    for mine, wanted in zip(results[1], results[0], strict=True):
        torch.testing.assert_close(mine, wanted)
    torch.testing.assert_close(halves.eval()(x), whole.eval()(x))


@pytest.mark.usefixtures("twin")
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of PyTorch's own use of torch.jit.script
def test_forward_derivatives_are_those_of_the_whole_network() -> None:
    whole, x = network(), twins()
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.track_running_stats = False  # a buffer takes no derivative
            module.running_mean = module.running_var = None
    halves, tangents = divided.divide(copy.deepcopy(whole)), []
    for net in (whole, halves):
        with torch.no_grad(), fwd.dual_level():
            tangents.append(fwd.unpack_dual(net(fwd.make_dual(x, twins().flip(-1)))).tangent)
    assert tangents[0] is not None
    torch.testing.assert_close(tangents[1], tangents[0])


@pytest.mark.usefixtures("twin")
def test_dropout_draws_one_mask_for_the_rows_of_both() -> None:
    x = torch.ones(6, 10)
    torch.manual_seed(3)
    wanted = F.dropout(x, 0.5)[:3]
    torch.manual_seed(3)
    assert torch.equal(divided._dropout(6, x[:3], 0.5), wanted)
    assert 0 < (wanted == 0).sum() < wanted.numel()


@pytest.mark.usefixtures("twin")
def test_fewer_rows_than_processes_are_computed_whole() -> None:
    net = divided.divide(network().eval())
    assert torch.equal(net(twins(1)[:1]), network().eval()(twins(1)[:1]))


def test_one_process_divides_nothing() -> None:
    net = network()
    assert divided.divide(net) is net
    assert "forward" not in vars(net)

"""What processes agree on, with the other process played by the test or left out."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
import torch.distributed as dist

from metapl.errors import Silenced, UserError
from metapl.hardware import device, ranks


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables that torchrun sets for a run of one process, started again once."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"RANK": 0, "WORLD_SIZE": 1, "TORCHELASTIC_RESTART_COUNT": 1, "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**given, "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))


def play(monkeypatch: pytest.MonkeyPatch, rank: int, **others: Any) -> None:
    for name, value in {"count": lambda: 2, "rank": lambda: rank, **others}.items():
        monkeypatch.setattr(ranks, name, value)


@pytest.mark.usefixtures("alone")
def test_a_restart_finds_the_folder_of_the_attempt_before() -> None:
    assert ranks.earlier_folder() is None
    with ranks.joined():
        assert (ranks.count(), ranks.rank()) == (1, 0)
        assert ranks.earlier_folder() is None
        ranks.remember_folder("runs/a")
        assert ranks.earlier_folder() == "runs/a"
        assert ranks.gathered(torch.tensor([3, 4]), 2).tolist() == [3, 4]
    assert not dist.is_initialized()
    ranks.remember_folder("nobody listens")
    assert ranks.earlier_folder() is None


@pytest.mark.usefixtures("alone")
def test_only_the_first_error_of_a_run_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="mine"), ranks.joined():
        raise ValueError("mine")
    dist.destroy_process_group()
    monkeypatch.setattr(ranks.PrefixStore, "add", lambda *_: 2)  # another process has failed before
    with pytest.raises(Silenced), ranks.joined():
        raise ValueError("mine")
    dist.destroy_process_group()


def test_all_get_what_the_first_process_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[torch.Tensor] = []
    play(monkeypatch, 0, broadcast_=lambda tensor: sent.append(tensor.clone()) or tensor)
    value = {"name": "ä", "rows": [1, 2.5, None]}
    assert ranks.from_first(lambda: value) == value
    assert len(sent) == 2
    play(monkeypatch, 1, broadcast_=lambda tensor: tensor.copy_(sent.pop(0)))
    assert ranks.from_first(lambda: pytest.fail("only process 0 makes it")) == value


def test_a_difference_between_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 1, from_first=lambda _: "here")
    ranks.check_same("data", "here")
    with pytest.raises(UserError, match="process 1 has other data than process 0"):
        ranks.check_same("data", "there")


def test_the_largest_of_a_number_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    def all_reduce(mine: torch.Tensor, how: Any) -> None:
        assert how == dist.ReduceOp.MAX
        mine.copy_(torch.maximum(mine, torch.tensor([2.0, 2.0], dtype=torch.float64)))

    assert ranks.highest(1.0, 3.0) == [1.0, 3.0]
    play(monkeypatch, 0)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert ranks.highest(1.0, 3.0) == [2.0, 3.0]


def test_a_lost_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: Any) -> None:
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(dist, "all_reduce", closed)
    monkeypatch.setattr(dist, "broadcast", closed)
    for call in (ranks.sum_, ranks.broadcast_):
        with pytest.raises(ranks.Lost, match="metapl resume"):
            call(torch.zeros(1))


def test_rows_are_divided_without_a_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(range(7))
    parts = []
    for rank in (0, 1):
        play(monkeypatch, rank)
        parts.append(rows[ranks.part(7)])
    assert parts[0] + parts[1] == rows
    assert {len(part) for part in parts} == {3, 4}


def test_each_process_takes_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto").type == device.pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="several processes cannot share device 'cuda:0'"):
        device.pick_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="there are 1 GPUs for more processes"):
        device.pick_device("cuda")
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    assert device.pick_device("cuda") == torch.device("cuda", 1)
    assert taken == [1]
    monkeypatch.setattr(ranks, "count", lambda: 1)
    with pytest.raises(UserError, match="device 'nonsense' is not usable here"):
        device.pick_device("nonsense")

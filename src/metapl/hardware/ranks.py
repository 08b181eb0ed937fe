"""The processes of one run, and all that they say to each other.

R1  Every process runs the same program on the same batches. Only the inside of a network is divided: each process
    computes its part of the rows, and all of them get all logits (``hardware.divided``).
R2  So everything outside of networks is the same in every process, bit for bit. What could differ, a clock or a
    signal, is agreed on here. Process 0 alone writes.

Without ``joined`` there is one process, and everything here does nothing.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from metapl.errors import Silenced, UserError

FOLDER = "metapl/folder"  # in the launcher's store: the run folder, for the processes of a restart
VARIABLES = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")  # which torchrun sets
PATIENCE = timedelta(days=1)  # process 0 may prepare data for hours; a lost process is noticed by its connection
_store: Any = None  # where the processes met, which outlives them under torchrun; None without ``joined``


class Lost(UserError):
    """Another process of the run has ended."""

    def __init__(self) -> None:
        super().__init__("another process of this run was lost", "`metapl resume` goes on from the newest checkpoint.")


def count() -> int:
    """Return the number of processes."""
    return dist.get_world_size() if _store is not None else 1


def rank() -> int:
    """Return the number of this process, from 0 on."""
    return dist.get_rank() if _store is not None else 0


@contextmanager
def joined() -> Iterator[None]:
    """Join the processes that torchrun has started, for the block.

    Raises:
        Silenced: in place of an error, where another process has failed before this one.
        Lost: another process has ended without a word.
    """
    global _store
    number, size, attempt = (int(os.environ[name]) for name in VARIABLES)
    serve = number == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    _store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size, serve, multi_tenant=True)
    # Each attempt has keys of its own: those of processes that were killed lead nowhere.
    own = PrefixStore(f"metapl/{attempt}", _store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=own, rank=number, world_size=size, timeout=PATIENCE)
    try:
        yield
        dist.destroy_process_group()
    except Exception as error:
        if own.add("ended", 1) > 1:
            raise Silenced from error
        raise
    finally:
        _store = None


def earlier_folder() -> str | None:
    """Return the run folder of the attempt before this restart; None where this is not a restart."""
    if _store is None or os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        return None
    store = _store
    folder: str | None = from_first(lambda: store.get(FOLDER).decode() if store.check([FOLDER]) else None)
    return folder


def remember_folder(folder: str) -> None:
    """Keep the run folder for ``earlier_folder``."""
    if _store is not None and rank() == 0:
        _store.set(FOLDER, folder)


def sum_(tensor: Tensor) -> Tensor:
    """Replace ``tensor`` by its sum over all processes, and return it.

    Raises:
        Lost: another process has ended.
    """
    return _exchanged(dist.all_reduce, tensor)


def broadcast_(tensor: Tensor) -> Tensor:
    """Replace ``tensor`` by that of process 0, and return it."""
    return _exchanged(lambda t: dist.broadcast(t, 0), tensor)


def highest(*numbers: float) -> list[float]:
    """Return the largest of each number over all processes: for signals and clocks."""
    if count() == 1:
        return list(numbers)
    return _exchanged(
        lambda t: dist.all_reduce(t, dist.ReduceOp.MAX), torch.tensor(numbers, dtype=torch.float64)
    ).tolist()


def clock() -> float:
    """Return a time in seconds that is the same in all processes, so that they measure the same durations."""
    return highest(time.monotonic())[0]


def from_first(make: Callable[[], Any]) -> Any:
    """Return what ``make`` returns in process 0, where alone it is called: text, numbers, None, or lists of these."""
    if count() == 1:
        return make()
    text = json.dumps(make()).encode() if rank() == 0 else b""
    size = broadcast_(torch.tensor(len(text)))
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.zeros(int(size), dtype=torch.uint8)
    return json.loads(bytes(broadcast_(data).tolist()))


def check_same(what: str, value: str) -> None:
    """Check that ``value`` is the same in all processes.

    Raises:
        UserError: it is not.
    """
    if from_first(lambda: value) != value:
        remedy = "All processes must read the same files and run the same version."
        raise UserError(f"process {rank()} has other {what} than process 0", remedy)


def part(rows: int) -> slice:
    """Return this process's part of ``rows`` rows; sizes differ by at most 1."""
    return slice(rows * rank() // count(), rows * (rank() + 1) // count())


def gathered(own: Tensor, rows: int) -> Tensor:
    """Return all ``rows`` rows [rows, ...] of which this process holds ``own``, its ``part``."""
    everyone = own.new_zeros((rows, *own.shape[1:]), dtype=torch.promote_types(own.dtype, torch.uint8))
    everyone[part(rows)] = own
    return sum_(everyone)


def _exchanged(collective: Callable[[Tensor], Any], tensor: Tensor) -> Tensor:
    try:
        collective(tensor)
    except RuntimeError as error:  # gloo: the connection was closed
        raise Lost from error
    return tensor

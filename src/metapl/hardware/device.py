"""The device to compute on, and facts about it."""

from __future__ import annotations

import os
import platform
import resource
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from metapl._version import __version__
from metapl.errors import UserError
from metapl.hardware import ranks

_DRAWS = threading.RLock()  # PyTorch's random numbers are one state for all threads


def pick_device(name: str) -> torch.device:
    """Return the named device; ``auto`` means CUDA where there is one, else the CPU.

    Of several processes on a machine each takes a GPU of its own.

    Raises:
        UserError: the device does not exist here, or several processes cannot share it.
    """
    if ranks.count() > 1:
        return _own_device(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' is not usable here", "Use auto, cpu, cuda or cuda:N.", "device") from error
    return device


def _own_device(name: str) -> torch.device:
    """Return the device of one process among several."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(f"several processes cannot share device '{name}'", "Use auto, cpu or cuda.", "device")
    number, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if number >= gpus:
        raise UserError(f"there are {gpus} GPUs for more processes", "Start one process per GPU, or use cpu.", "device")
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


def seed_step(seed: int, device: torch.device) -> None:
    """Seed the global generators that a step on ``device`` draws from, as ``torch.manual_seed`` does.

    On a CPU ``torch.manual_seed`` also notes the seed for later GPUs, and formats a stack trace each time.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def rng_state(device: torch.device) -> Tensor:
    """Return the state of the global generator of ``device``, [bytes] uint8."""
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def set_rng_state(state: Tensor, device: torch.device) -> None:
    """Set the state of the global generator of ``device``, [bytes] uint8."""
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def own_generator(device: torch.device) -> Iterator[None]:
    """Restore the caller's global random numbers at the end of the block; trainings in other threads wait for it."""
    with _DRAWS, torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


@contextmanager
def saved_in_main_memory() -> Iterator[None]:
    """Keep what the block saves for backward passes in main memory; each tensor returns when its gradient is computed.

    The numbers are the same. A GPU then holds the activations of about one layer, and each step takes longer.
    """

    def pack(saved: Tensor) -> tuple[torch.device, Tensor]:
        return saved.device, saved.detach().to("cpu", copy=True)  # in the same memory layout, which kernels depend on

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed[1].to(packed[0])):
        yield


def peak_memory(device: torch.device) -> int:
    """Return the bytes that this process has held at most: of the GPU's memory on a GPU, else of main memory."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def environment(device: torch.device) -> dict[str, str]:
    """Return versions, platform and device, for ``env.json``."""
    return {
        "metapl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": str(torch.get_num_threads()),
        **({"processes": str(ranks.count())} if ranks.count() > 1 else {}),
        "exact_resume": "bit for bit" if device.type == "cpu" else "same batches; kernels may round differently",
    }

"""The device to compute on, and facts about it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from metapl._version import __version__
from metapl.errors import UserError


def pick_device(name: str) -> torch.device:
    """Return the named device; ``auto`` means CUDA where there is one, else the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device '{name}' is not usable here", "Use auto, cpu, cuda or cuda:N.", "device") from error
    return device


@contextmanager
def own_generator(device: torch.device) -> Iterator[None]:
    """Restore the caller's global random numbers at the end of the block."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield


def environment(device: torch.device) -> dict[str, str]:
    """Return versions, platform and device, for ``env.json``."""
    return {
        "metapl": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": str(torch.get_num_threads()),
        "exact_resume": "bit for bit" if device.type == "cpu" else "same batches; kernels may round differently",
    }

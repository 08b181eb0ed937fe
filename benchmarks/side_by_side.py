"""Time several things side by side: their blocks alternate, so that other load on the machine meets all alike."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

Clock = Callable[[], float]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that every script about speed has."""
    parser.add_argument("--threads", type=int, default=1, help="threads of PyTorch")
    parser.add_argument("--repetitions", type=int, default=7, help="blocks of each thing")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu", help="cpu: processor time of the process")
    parser.add_argument("--json", metavar="FILE", help="also write the figures as JSON; - prints them instead")


def save(figures: Any, target: str | None) -> None:
    """Write figures as JSON to the file that ``--json`` names; - prints them, None leaves them out."""
    text = json.dumps(figures, indent=1)
    if target == "-":
        print(text)
    elif target:
        Path(target).write_text(text + "\n", encoding="utf-8")


def clock(name: str) -> Clock:
    """Return the clock of that name; processor time is the steadier one on a machine with other load."""
    return time.process_time if name == "cpu" else time.perf_counter


def seconds(things: Mapping[str, Callable[[], Any]], repetitions: int, now: Clock, block: int = 1) -> dict[str, Any]:
    """Return the seconds per call of each thing in every block: {name: [repetitions]}; one call first warms it up."""
    for call in things.values():
        call()
    found: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repetitions):
        for name, call in things.items():
            began = now()
            for _ in range(block):
                call()
            _wait()
            found[name].append((now() - began) / block)
    return found


def ratio(times: list[float], base: list[float]) -> dict[str, float]:
    """Return the ratio of the medians, and the least and the largest ratio of two blocks made side by side."""
    each = [a / b for a, b in zip(times, base)]
    return {"ratio": statistics.median(times) / statistics.median(base), "low": min(each), "high": max(each)}


def hardware() -> dict[str, Any]:
    """Return what the figures depend on: the processor's bf16 units, the GPU, PyTorch and its threads."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    cpu = torch.backends.cpu.get_cpu_capability()
    bf16 = {name: bool(getattr(torch.cpu, f"_is_{name}_supported")()) for name in ("avx512_bf16", "amx_tile")}
    return {"cpu": cpu, **bf16, "gpu": gpu, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()

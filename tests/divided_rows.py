"""Train rows of the test table in one of several processes; called as ``divided_rows.py OUT DTYPE STEPS ROW...``.

Process 0 stores the reports and the state of every row. ``launch`` starts the processes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import metapl
import methods_table as table
from metapl.hardware import ranks
from metapl.hardware.divided import divide

SOURCES = (Path(metapl.__file__).parents[1], Path(__file__).parent)


def launch(processes: int, *arguments: str) -> None:
    """Run this script in ``processes`` processes, as torchrun would start them; all must succeed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    given = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    given |= {"TORCHELASTIC_RESTART_COUNT": "0", "PYTHONPATH": os.pathsep.join(map(str, SOURCES))}
    started = [
        subprocess.Popen([sys.executable, __file__, *arguments], env={**os.environ, **given, "RANK": str(k)})
        for k in range(processes)
    ]
    assert [process.wait() for process in started] == [0] * processes


def train(names: tuple[str, ...], dtype: torch.dtype, steps: int) -> dict[str, Any]:
    """Return the reports and the state of each row after ``steps`` steps and those after the main phase."""

    def net() -> nn.Module:
        model = table.noisy_net().to(dtype)
        model.register_forward_pre_hook(lambda _, given: (given[0].to(dtype),))
        return divide(model)

    usual, found = table.STEPS, {}
    for name in names:
        try:
            table.STEPS = steps
            torch.set_default_dtype(dtype)  # for what a method keeps beside its networks
            method, stream = table.build(table.BY_NAME[name], net=net)
            torch.set_default_dtype(torch.float32)
            reports = table.run(method, stream, 0, steps + method.extra_steps)
        finally:
            table.STEPS = usual
            torch.set_default_dtype(torch.float32)
        found[name] = {"reports": reports, "state": method.state_dict()}
    return found


if __name__ == "__main__":
    out, dtype, steps, *names = sys.argv[1:]
    with ranks.joined():
        found = train(tuple(names), getattr(torch, dtype), int(steps))
        if ranks.rank() == 0:
            torch.save(found, out)

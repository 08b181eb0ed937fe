"""Train rows of the test table in one of several processes; called as ``divided_rows.py OUT DTYPE STEPS ROW...``.

Process 0 stores the reports and the state of every row. ``launch`` starts the processes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import nn

import metapl
import methods_table as table
from metapl.models.divided import divide
from metapl.utils import ranks

HERE = Path(__file__).parent


def launch(processes: int, *arguments: str, timeout: float = 600) -> None:
    """Run this script in ``processes`` processes, as torchrun would start them; all must succeed."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(Path(metapl.__file__).parents[1]), str(HERE)])
    given = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "localhost", "MASTER_PORT": port, "PYTHONPATH": path}
    given |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_RESTART_COUNT": "0", "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, __file__, *arguments], env=os.environ | given | {"RANK": str(k)})
        for k in range(processes)
    ]
    assert [process.wait(timeout) for process in started] == [0] * processes


def main(out: str, dtype: str, steps: str, *rows: str) -> None:
    """Train each row and store its reports and its state."""
    table.STEPS, wide = int(steps), getattr(torch, dtype)

    def net() -> nn.Module:
        model = table.noisy_net().to(wide)
        model.register_forward_pre_hook(lambda _, given: (given[0].to(wide),))
        return divide(model)

    with ranks.joined() if int(os.environ["WORLD_SIZE"]) > 1 else nullcontext():
        found = {}
        for name in rows:
            torch.set_default_dtype(wide)  # for what a method keeps beside its networks
            method, stream = table.build(table.BY_NAME[name], net=net)
            torch.set_default_dtype(torch.float32)
            reports = table.run(method, stream, 0, table.STEPS + method.extra_steps)
            found[name] = {"reports": reports, "state": method.state_dict()}
        if ranks.rank() == 0:
            torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])

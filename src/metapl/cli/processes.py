"""Several processes for one training: ``--procs N`` starts them as torchrun does."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import sys
import uuid
from contextlib import AbstractContextManager, nullcontext

import typer

from metapl.cli.options import State
from metapl.errors import UserError
from metapl.utils.progress import Progress, Silent, make_progress

PR_SET_PDEATHSIG = 1  # of Linux
RESTARTED = ("TORCHELASTIC_RESTART_COUNT", "TORCHELASTIC_MAX_RESTARTS", "RANK")  # which torchrun sets
SHUTDOWN = "20"  # seconds that the processes have to save their state after a signal, before they are killed


def started_together() -> bool:
    """Return whether torchrun or ``--procs`` started this process, as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "TORCHELASTIC_RUN_ID" in os.environ


def start_processes(count: int, restarts: int) -> None:
    """Run the command at hand in ``count`` processes and exit as they do; return where this is one of them.

    Raises:
        UserError: torchrun has started another number of processes, or restarts are asked for without ``--procs``.
    """
    if started_together():
        if count not in (1, int(os.environ["WORLD_SIZE"])):
            raise UserError(
                "torchrun and --procs start different numbers of processes", "Leave --procs out.", "--procs"
            )
        if sys.platform == "linux":  # if the launcher is killed, stop as by SIGTERM
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
        return
    if count > 1:
        raise typer.Exit(_launched(count, restarts))
    if restarts:
        raise UserError("--max-restarts is for several processes", "Give --procs, too.", "--max-restarts")


def _launched(count: int, restarts: int) -> int:
    """Return the exit code of the first process that failed; 0 if all succeeded."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the processes say what is wrong
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // count)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", SHUTDOWN)
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=restarts,
    )
    try:
        elastic_launch(config, sys.executable)("-m", "metapl", *State.argv)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        return abs(failure.exitcode)
    except SignalException as stop:
        return 128 + int(stop.sigval)
    return 0


def joined() -> AbstractContextManager[None]:
    """Join the other processes for a block, where there are some; see ``ranks.joined``. A restart is said once."""
    if not started_together():
        return nullcontext()
    restarts, most, rank = (os.environ.get(name, "0") for name in RESTARTED)
    if restarts != "0" and rank == "0":
        said = f"a process of this run was lost: all start again (restart {restarts} of {most})"
        print(said, file=sys.stderr, flush=True)
    from metapl.hardware import ranks

    return ranks.joined()


def own_progress(quiet: bool) -> Progress:
    """Return the progress of this process: only process 0 shows it."""
    from metapl.hardware.ranks import rank

    return make_progress(quiet) if rank() == 0 else Silent()

"""One writer per folder: a lock that the system gives back when its holder ends, even by a kill."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from metapl.errors import UserError
from metapl.utils.files import remove_leftovers


@contextmanager
def locked(path: Path, *, patient: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``; its folder is made where it is missing.

    Args:
        path: the lock file. A second file beside it, ``NAME.holder``, names the process that holds the lock.
        patient: wait until the lock is free.

    Raises:
        UserError: another process holds the lock; the message names it.
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(path), path.with_name(f"{path.name}.holder")
    try:
        lock.acquire(timeout=-1 if patient else 0)
    except Timeout as error:
        remedy = "Wait for its end, or stop it."
        what = f"another program is at work in this folder{_described(holder)}"
        raise UserError(what, remedy, str(path.parent)) from error
    try:
        with suppress(OSError):  # a name to show, no part of the lock
            command = " ".join(["metapl", *sys.argv[1:]]) if sys.argv else "python"
            remove_leftovers(path.parent)
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}: {command}", encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _described(holder: Path) -> str:
    """Return `` (process 12 on host: metapl train photos)``; empty where the holder has not written its name."""
    try:
        text = holder.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return ""
    return f" ({text})" if text else ""

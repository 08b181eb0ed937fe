"""One writer per folder: a lock that the system gives back when its holder ends, even by a kill."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from metapl.errors import UserError
from metapl.utils.files import remove_leftovers, write_text

NAME_WAIT = 5.0
"""Seconds to wait for the name of a lock's holder."""


@contextmanager
def locked(path: Path, *, patient: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``; its folder is made where it is missing.

    Args:
        path: the lock file. A second file beside it, ``NAME.holder``, names the process that holds the lock.
        patient: wait until the lock is free.

    Raises:
        UserError: another process holds the lock; the message names it. Or the lock file is a link, so that writing it
            would write elsewhere.
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() or path.is_dir():
        raise UserError("the lock is not a file of its own", "Remove it; no file of yours is kept there.", str(path))
    lock, holder = FileLock(path), path.with_name(f"{path.name}.holder")
    if patient:
        lock.acquire()
    else:
        _acquire_or_name(lock, holder)
    try:
        with suppress(OSError):  # a name to show; the lock holds without it
            command = " ".join(["metapl", *sys.argv[1:]]) if sys.argv else "python"
            # In one step, which replaces a link instead of the file that it leads to.
            write_text(holder, f"process {os.getpid()} on {socket.gethostname()}: {command}")
            remove_leftovers(path.parent)
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def _acquire_or_name(lock: FileLock, holder: Path) -> None:
    """Take the lock, or raise a UserError that names its holder.

    A holder writes its name just after it has taken the lock. So a lock without a name is tried again for a while.
    """
    last_try = time.monotonic() + NAME_WAIT
    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout as error:
            name = _name(holder)
            if name or time.monotonic() > last_try:
                what = "another program is at work in this folder" + (f" ({name})" if name else "")
                raise UserError(what, "Wait for its end, or stop it.", str(holder.parent)) from error
        time.sleep(0.02)


def _name(holder: Path) -> str:
    """Return ``process 12 on host: metapl train photos``; empty where the holder has not written its name."""
    try:
        return holder.read_text(encoding="utf-8", errors="replace")[:200]
    except OSError:
        return ""

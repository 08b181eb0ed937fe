"""One writer per folder: a lock that the system gives back when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metapl.errors import UserError


@contextmanager
def locked(path: Path, *, patient: bool = False) -> Iterator[None]:
    """Hold the lock file ``path``; ``patient`` waits for whoever holds it.

    Raises:
        UserError: somebody else holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if patient else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            remedy = "Wait for its end, or stop it."
            raise UserError("another program is at work in this folder", remedy, str(path.parent)) from error
        yield

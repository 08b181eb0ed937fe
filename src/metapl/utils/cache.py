"""The cache: results that can be computed again, in a folder outside the user's data that may be deleted."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from metapl.utils.locks import locked

LOCK = ".lock"  # in a set's folder, while it is filled
LIMIT = 4 * 2**30  # bytes on disk that the sets of one kind may take together
FREE_SHARE = 0.1  # of the disk's free space that one set may take


def cache_folder() -> Path:
    """Return ``$METAPL_CACHE``, else ``$XDG_CACHE_HOME/metapl``, else ``~/.cache/metapl``; it need not exist."""
    if own := os.environ.get("METAPL_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "metapl"


@contextmanager
def locked_cache(folder: Path) -> Iterator[None]:
    """Wait until no other process works in ``folder``; if it cannot be created or locked, continue without a lock."""
    with ExitStack() as stack:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            stack.enter_context(locked(folder / LOCK, patient=True))
        yield


def has_room(folder: Path, size: int, limit: int = LIMIT) -> bool:
    """Return whether a set of ``size`` bytes may be stored in the existing ``folder``."""
    try:
        return size <= min(limit, FREE_SHARE * shutil.disk_usage(folder).free)
    except OSError:
        return False


def used(path: Path) -> None:
    """Record that a file was used now; the files used longest ago are removed first."""
    with suppress(OSError):
        os.utime(path)


def tidy(root: Path, sets: re.Pattern[str], ours: re.Pattern[str], limit: int = LIMIT) -> None:
    """Remove the files used longest ago until all sets take at most ``limit`` bytes; only files that metapl wrote.

    Args:
        root: the folder of all sets of one kind.
        sets: the name of a set's folder.
        ours: the name of a file in it that may go.
        limit: bytes.
    """
    files = []
    with suppress(OSError):
        for folder in root.iterdir():
            if sets.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                files += [(path.stat(), path) for path in folder.iterdir() if ours.fullmatch(path.name)]
        total = 0
        for status, path in sorted(files, key=lambda one: -one[0].st_mtime_ns):
            total += status.st_size
            if total > limit:
                path.unlink(missing_ok=True)
                rest = list(path.parent.iterdir())
                if all(other.name.startswith(LOCK) for other in rest):
                    for other in rest:
                        other.unlink(missing_ok=True)
                    path.parent.rmdir()

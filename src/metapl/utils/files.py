"""Files that are either whole or absent: write aside, flush to disk, rename."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from metapl.errors import UserError
from metapl.utils.limits import check_regular

if TYPE_CHECKING:
    from torch import Tensor

FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would compute
_ASIDE = re.compile(r"\..+\.(\d+)\.tmp")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?")


def write_with(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` by the bytes that ``write`` puts into an open file, in one step; a failure leaves no file.

    The file is not flushed to disk. Use it for data that carry a checksum and can be computed again.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "wb") as file:
            write(file)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def guarded(value: Any) -> Any:
    """Return ``value`` as a cell of a CSV file: a text that a spreadsheet would compute gets an apostrophe in front.

    Numbers stay as they are, also those that are text ("-1"); None is an empty cell. The apostrophe is not taken off
    again when a file is read, since a text may begin with one.
    """
    if value is None:
        return ""
    computed = isinstance(value, str) and value.startswith(FORMULA) and not _NUMBER.fullmatch(value)
    return f"'{value}" if computed else value


def by_cell(names: Iterable[str]) -> dict[str, str]:
    """Return each name by itself and by the cell that ``guarded`` makes of it."""
    known = list(names)
    return {str(guarded(name)): name for name in known} | {name: name for name in known}


def check_output(path: Path, overwrite: bool, is_own: Callable[[Path], bool] = lambda path: False) -> None:
    """Refuse to write a file where one is that nobody asked to replace; every command asks before any work is done.

    Args:
        path: the file to write.
        overwrite: replace any file. A folder, a pipe and a device are never replaced.
        is_own: whether a file is an earlier result of the same kind, which is replaced without a word.

    Raises:
        UserError: the folder does not exist, or there is something at ``path``.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise UserError("the file cannot be written there", "Name a file in an existing folder.", str(path))
    if not os.path.lexists(path):
        return
    if path.exists() and not path.is_file():
        raise UserError("this is not a regular file", "Name another.", str(path))
    if not overwrite and not is_own(path):
        raise UserError("the file exists already", "Name another, or add --overwrite.", str(path))


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` (UTF-8) in one step; a crash leaves the old file or the new one.

    Raises:
        OSError: it cannot be written; the error names ``path``, and nothing is left beside it.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(aside, "w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise type(error)(error.errno, error.strerror, str(path)) from error
    except UnicodeError:
        aside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, in one step."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def remove_leftovers(folder: Path, age: float = 60.0) -> None:
    """Remove the files that a killed process wrote aside in ``folder``: ``.NAME.PROCESS.tmp``, older than ``age`` s."""
    with suppress(OSError):
        for path in folder.glob(".*.tmp"):
            found = _ASIDE.fullmatch(path.name)
            if found and not _is_alive(int(found[1])) and time.time() - path.stat().st_mtime > age:
                path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def sync_folder(folder: Path) -> None:
    """Make a rename inside ``folder`` survive a power loss (where the system can)."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write contiguous CPU tensors of any shape as safetensors, flushed to disk.

    The library gives the file the mode 0600. Here those who may read its folder may read the file.

    Raises:
        OSError: it cannot be written; the error names ``path``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file  # slow to import, and not every command stores tensors

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        full = "os error 28" in str(error)
        raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(path)) from error
    path.chmod(path.parent.stat().st_mode & 0o666)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def replace_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as ``write_tensors`` does, in one step: an earlier file stays until the new one is whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write_tensors(aside, tensors)
        os.replace(aside, path)
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file.

    Raises:
        OSError: it cannot be read, or is a pipe or a device, which may never end.
    """
    check_regular(path)
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 (hex) over a tree of JSON values: a flipped bit in a card must not pass for another card."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

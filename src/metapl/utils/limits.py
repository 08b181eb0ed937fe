"""Limits on input, so that a damaged or hostile file cannot fill the memory or hang a command."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from metapl.errors import UserError

LINE = 1 << 24  # bytes of one line of a file of rows
DEPTH = 32  # groups within groups of a file of settings
NODES = 100_000  # values in it; a value counts once per reference
RATIO, SMALL = 200, 1 << 28  # unpacked bytes per packed byte; up to SMALL bytes any ratio is taken
_BLOCK = 1 << 20


def check_lines(path: Path, where: str) -> None:
    """Refuse a file with an endless line, in constant memory: a reader would hold all of it several times.

    Raises:
        UserError: a line is longer than ``LINE``; the message names it.
        OSError: the file cannot be read.
    """
    if path.stat().st_size <= LINE:
        return
    number, length = 1, 0
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            ends = max(block.count(b"\n"), block.count(b"\r"))
            last = max(block.rfind(b"\n"), block.rfind(b"\r"))
            length = length + len(block) if last < 0 else len(block) - last - 1
            number += ends
            if length > LINE:
                what = f"the line has more than {LINE >> 20} MB"
                raise UserError(what, "Write one row per line.", f"{where}, line {number}")


def check_ratio(unpacked: int, packed: int, where: str) -> None:
    """Refuse a part of an archive that unpacks to far more than it takes on the disk.

    Raises:
        UserError: its ratio is above the limit.
    """
    if unpacked > SMALL and unpacked > RATIO * packed:
        what = f"{packed / 1e6:.1f} MB unpack to {unpacked / 1e9:.1f} GB, more than {RATIO} times as much"
        raise UserError(what, "Save it unpacked if these are your data, as .npy for instance.", where)


def check_tree(tree: Any, where: str) -> None:
    """Refuse settings that are nested too deeply, refer to themselves, or multiply by references.

    Raises:
        UserError: the settings are beyond the limits.
    """
    waiting, nodes = [(tree, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        nodes += 1
        if depth > DEPTH or nodes > NODES:
            raise UserError("the settings are nested too deeply or too many", "Write plain groups.", where)
        if isinstance(value, int) and value.bit_length() > 64:
            raise UserError("a number has too many digits", "Write a smaller one.", where)
        parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        waiting += [(part, depth + 1) for part in parts]


def read_json(path: Path) -> Any:
    """Return the content of a JSON file.

    Raises:
        OSError: it cannot be read, or is not a regular file: a pipe may never end.
        ValueError: it is not JSON in UTF-8, or is nested too deeply.
    """
    check_regular(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def check_regular(path: Path) -> None:
    """Refuse a pipe or a device, which may never end; a missing file is left to its reader.

    Raises:
        OSError: it is one.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "not a regular file", str(path))

"""What the tests of the command line share."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CLASSES = ("a zero", "the [one]", "Zwei ü")
QUICK = (
    "--steps",
    "6",
    "batch.labeled=8",
    "batch.unlabeled=16",
    "mpl.finetune_steps=2",
    "--no-report",
    "--guard",
    "off",
)


@dataclass
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


Call = Callable[..., Done]


def save(pixels: np.ndarray[Any, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)


def sums(root: Path) -> dict[str, str]:
    """SHA-256 of every file under ``root``."""
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def refused(done: Done, *parts: str) -> None:
    """Exit code 2, nothing on stdout, one last line with the cause and the remedy, no traceback."""
    assert done.code == 2, done
    assert done.out == ""
    *before, last = done.err.splitlines()
    assert last.startswith("error: ")
    assert not any(line.startswith(("error", "Traceback", "  File")) for line in before)
    for part in parts:
        assert part in last

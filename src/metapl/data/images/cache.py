"""Store facts about image files for the next opening, so that only new and changed files are decoded again.

The cache lies in ``$METAPL_CACHE``, else ``$XDG_CACHE_HOME/metapl``, else ``~/.cache/metapl``; a folder in it belongs
to one set of images. It holds, per file, the size, times and inode at the last reading, the SHA-256, the size of the
image or the reason why it cannot be read. If there is room, it also holds the decoded rows as an array that is mapped
into memory. It is optional: damaged, foreign and outdated files are passed over, and it may be deleted at any time.
All of it takes at most ``LIMIT`` bytes, and rows at most a tenth of the free space; the files used longest ago go
first.

A file counts as unchanged if size, both times and inode are the same. If it had changed less than two seconds before it
was seen, its contents are compared too: a change within one tick of the clock would not show in its times.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import time
import zipfile
import zlib
from array import array
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, features
from torch import Tensor

from metapl.data.images.decode import Unreadable, digest_of_file
from metapl.data.images.facts import BAD, GOOD, UNKNOWN, Facts
from metapl.types import Array
from metapl.utils.cache import LIMIT, cache_folder, has_room, tidy, used
from metapl.utils.files import write_with

FORMAT = "metapl images 2"
FRESH = 2 * 10**9  # nanoseconds between a file's last change and the look at it, below which times prove nothing
SETS = re.compile(r"[0-9a-f]{32}")
OURS = re.compile(r"facts\.npz|pixels-\w+\.npz|pixels-\w+-[0-9a-f]{8}\.npy|\.[\w.-]+\.tmp")
ENTRY = np.dtype(
    [
        ("status", "<i8", (4,)),  # size, time of the last write, time of the last change, inode
        ("seen", "<i8"),
        ("digest", "u1", (32,)),
        ("head", "<i4", (3,)),
        ("span", "<f8", (4,)),
        ("state", "i1"),
        ("reason", "<i4"),
    ]
)
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error)


def open_cache(place: str) -> ImageCache | None:
    """Return the cache of the set of images at ``place``; None without a folder for it outside the user's data."""
    try:
        root, data = cache_folder().resolve(), Path(place).resolve()
    except (OSError, RuntimeError, ValueError):  # no home, or a path that no file system would take
        return None
    return None if root.is_relative_to(data) else ImageCache(root / "images", str(data))


def decoder() -> str:
    """Return the versions that decoded pixels depend on, beside the files."""
    parts = [features.version(name) or "" for name in ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff")]
    return " ".join([FORMAT, Image.__version__, *parts])  # type: ignore[attr-defined]


class ImageCache:
    """The cache of one set of images.

    Args:
        root: the folder of all sets.
        place: the absolute path that identifies the set.
    """

    def __init__(self, root: Path, place: str) -> None:
        self.root, self.place = root, place
        self.folder = root / hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:32]
        self._status, self._names, self._seen = np.zeros((0, 4), dtype=np.int64), b"", 0
        self._changed = True  # whether there is more to store than is stored

    def facts(self, root: str, names: Sequence[str]) -> Facts:
        """Return the stored facts of the files ``names`` in ``root`` that are unchanged; each file's status is read
        once."""
        self._seen = time.time_ns()
        self._status, self._names = _status(root, names), b"\0".join(map(os.fsencode, names))
        facts = Facts.none(len(names))
        found = self._read("facts.npz")
        if found is None or found["entries"].dtype != ENTRY:
            return facts
        entries, reasons = found["entries"], found["meta"]["reasons"]
        at = _positions(found["names"].tobytes(), self._names, len(entries))
        if at is None or not all(isinstance(reason, str) for reason in reasons):
            return facts
        there = at >= 0
        entries = entries[np.where(there, at, 0)] if len(entries) else np.zeros(len(names), dtype=ENTRY)
        there &= (entries["status"] == self._status).all(1) & np.isin(entries["state"], (GOOD, BAD))
        there &= (entries["state"] == GOOD) | ((entries["reason"] >= 0) & (entries["reason"] < len(reasons)))
        fresh = there & (self._status[:, 1:3].max(1) > entries["seen"] - FRESH)
        for k in np.flatnonzero(fresh).tolist():
            there[k] = entries["state"][k] == GOOD and _digest(root, names[k]) == entries["digest"][k].tobytes()
        good = there & (entries["state"] == GOOD)
        facts.state[there] = entries["state"][there]
        facts.digest[good], facts.head[good], facts.hashed[good] = entries["digest"][good], entries["head"][good], True
        facts.span[good] = entries["span"][good]
        for k in np.flatnonzero(there & ~good).tolist():
            facts.reason[k] = reasons[entries["reason"][k]]
        self._changed = bool(fresh.any()) or not there.all() or len(found["entries"]) != len(names)
        used(self.folder / "facts.npz")
        return facts

    def keep_facts(self, facts: Facts) -> None:
        """Store the facts, unless they are stored already."""
        if not self._changed:
            return
        kept = (facts.state != UNKNOWN) & (self._status[:, 0] >= 0)
        kept[np.array(sorted(facts.fleeting), dtype=np.int64)] = False
        reasons = sorted({facts.reason[k] for k in np.flatnonzero(kept & (facts.state == BAD)).tolist()})
        number = {reason: k for k, reason in enumerate(reasons)}
        entries = np.zeros(len(facts.state), dtype=ENTRY)
        entries["status"], entries["seen"], entries["reason"] = self._status, self._seen, -1
        entries["digest"], entries["head"], entries["span"] = facts.digest, facts.head, facts.span
        entries["state"] = np.where(kept, facts.state, UNKNOWN)
        for k, reason in facts.reason.items():
            entries["reason"][k] = number.get(reason, -1)
        names = np.frombuffer(self._names, dtype=np.uint8)
        self._write("facts.npz", {"reasons": reasons}, entries=entries, names=names)
        tidy(self.root, SETS, OURS, LIMIT)

    def pixels(self, form: str, digests: Array) -> tuple[Array, Array] | None:
        """Return decoded rows [k, ...], mapped, and [m] int64: the row of each of ``digests`` [m, 32]; -1: none."""
        found = self._read(f"pixels-{form}.npz")
        try:
            if found is None or found["digests"].shape[1:] != (32,):
                return None
            path = self.folder / f"pixels-{form}-{found['meta']['crc']}.npy"
            rows = np.load(path, mmap_mode="c", allow_pickle=False)
            if rows.dtype != np.uint8 or len(rows) != len(found["digests"]) or rows.ndim != 4:
                return None
            if f"{_crc(rows):08x}" != found["meta"]["crc"]:
                return None
        except _DAMAGED:
            return None
        used(self.folder / path.name)
        used(self.folder / f"pixels-{form}.npz")
        if np.array_equal(found["digests"], digests):
            return rows, np.arange(len(rows))
        number = {digest.tobytes(): k for k, digest in enumerate(found["digests"])}
        return rows, np.array([number.get(digest.tobytes(), -1) for digest in digests], dtype=np.int64)

    def keep_pixels(self, form: str, digests: Array, rows: Tensor) -> str:
        """Store decoded rows if there is room; return a note about it, or ""."""
        size = rows.numel()
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not has_room(self.folder, size, LIMIT):
                return ""
            name = f"pixels-{form}-{_crc(rows.numpy()):08x}"
            write_with(self.folder / f"{name}.npy", lambda file: np.save(file, rows.numpy()))
            self._write(f"pixels-{form}.npz", {"crc": name[-8:]}, digests=digests)
            for path in self.folder.glob(f"pixels-{form}-*.npy"):
                if path.stem != name:
                    path.unlink(missing_ok=True)
            tidy(self.root, SETS, OURS, LIMIT)
        except OSError:
            return ""
        about = f"{size / 2**20:.0f} MiB in {self.folder}"
        return f"decoded images are kept for the next time ({about}; source.image.cache=false does without)"

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return the arrays of one file and its "meta"; None if it is missing, damaged or foreign."""
        path = self.folder / name
        try:
            if hasattr(os, "geteuid") and path.stat().st_uid != os.geteuid():
                return None
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as stored:
                found: dict[str, Any] = {key: stored[key] for key in stored.files}  # a wrong sum is an error here
            found["meta"] = json.loads(found["meta"].tobytes())
            return found if (found["meta"]["decoder"], found["meta"]["place"]) == (decoder(), self.place) else None
        except _DAMAGED:
            return None

    def _write(self, name: str, meta: dict[str, Any], **arrays: Array) -> None:
        """Write one file of arrays, whole or not at all; errors are ignored."""
        text = json.dumps({"decoder": decoder(), "place": self.place, **meta}).encode()
        buffer = io.BytesIO()
        np.savez(buffer, meta=np.frombuffer(text, dtype=np.uint8), **arrays)  # type: ignore[arg-type]
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_with(self.folder / name, lambda file: file.write(buffer.getbuffer()))


def _status(root: str, names: Sequence[str]) -> Array:
    """Return [n, 4] int64: size, times and inode of each file; size -1 if they cannot be read."""
    numbers = array("q")
    for name in names:
        try:
            s = os.stat(os.path.join(root, name))
            numbers.extend((s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino & 0x7FFFFFFFFFFFFFFF))
        except (OSError, ValueError):
            numbers.extend((-1, 0, 0, 0))
    return np.frombuffer(numbers, dtype=np.int64).reshape(-1, 4) if len(names) else np.zeros((0, 4), dtype=np.int64)


def _positions(stored: bytes, wanted: bytes, count: int) -> Array | None:
    """Return where each of the ``wanted`` names (joined by NUL) is among the ``count`` stored ones, -1 for none."""
    if stored == wanted:
        return np.arange(count)
    names = stored.split(b"\0") if count else []
    if len(names) != count:
        return None
    number = {name: k for k, name in enumerate(names)}
    return np.array([number.get(name, -1) for name in wanted.split(b"\0")], dtype=np.int64)


def _digest(root: str, name: str) -> bytes:
    try:
        return digest_of_file(os.path.join(root, name))
    except Unreadable:
        return b""


def _crc(rows: Array) -> int:
    """Return the CRC-32 of the bytes, computed a piece at a time."""
    flat, total = rows.reshape(-1), 0
    for start in range(0, len(flat), 2**24):
        total = zlib.crc32(flat[start : start + 2**24].data, total)
    return total

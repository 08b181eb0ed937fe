"""Checkpoints: one folder per step, tensors as safetensors, the rest as JSON, a manifest of SHA-256 sums.

Nothing here can run code on load: no pickle. A folder appears under its final name only when it is whole and on disk.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metapl.errors import UserError
from metapl.utils.files import seal, sha256, sync_folder, write_json, write_tensors
from metapl.utils.limits import read_json

FORMAT = 1
PARTS = ("tensors.safetensors", "state.json")
MANIFEST = "manifest.json"
NAME = re.compile(r"step-(\d+)")


class DamagedCheckpoint(UserError):
    """A checkpoint whose bytes are not those that were written."""


def snapshot(value: Any) -> Any:
    """Return the same tree with every tensor copied to the CPU: later steps do not reach it.

    Raises:
        TypeError: it holds something that a checkpoint cannot store.
    """
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True).contiguous()
    if isinstance(value, Mapping):
        return {key: snapshot(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return (list if isinstance(value, list) else tuple)(snapshot(v) for v in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def size(value: Any) -> int:
    """Return the bytes of all tensors in a tree."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    parts = value.values() if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else ()
    return sum(map(size, parts))


def save(
    folder: Path, step: int, state: Mapping[str, Any], keep: int = 2, run: str = "", spared: Collection[int] = ()
) -> Path:
    """Write ``state`` as ``folder/step-N``, as ``write`` does."""
    return write(folder, step, snapshot(state), keep, run, spared)


def write(
    folder: Path, step: int, state: Mapping[str, Any], keep: int = 2, run: str = "", spared: Collection[int] = ()
) -> Path:
    """Write what ``snapshot`` gave as ``folder/step-N``; keep the newest ``keep`` up to N, and none later than N.

    Later ones are damaged: a run goes on from its newest whole checkpoint. Those of the steps ``spared`` stay, too.
    ``state`` is a tree of dicts (str or int keys), lists, tuples, tensors, numbers, strings, booleans and None.
    ``run`` is the id of the run, so that a checkpoint that was copied from another run is not taken for its own.

    Raises:
        UserError: it cannot be written (a full disk, say); the earlier checkpoints stand.
    """
    try:
        return _write(folder, step, state, keep, run, spared)
    except (OSError, SafetensorError) as error:
        _remove_orphans(folder)  # a full disk wants the space back
        remedy = "Make room, then go on with `metapl resume`: the earlier checkpoints are whole."
        raise UserError(f"the checkpoint of step {step} cannot be saved ({error})", remedy, str(folder)) from error


def _write(folder: Path, step: int, state: Mapping[str, Any], keep: int, run: str, spared: Collection[int]) -> Path:
    folder.mkdir(exist_ok=True)  # without its parents: a run folder that was moved is not made anew
    _remove_orphans(folder)
    final, aside = folder / f"step-{step:08d}", folder / f".tmp-{step:08d}-{os.getpid()}"
    aside.mkdir()
    tensors: dict[str, Tensor] = {}
    skeleton = _pack(state, tensors)
    write_tensors(aside / PARTS[0], tensors)
    write_json(aside / PARTS[1], skeleton)
    facts = {"format": FORMAT, "step": step, "run": run, "sha256": {p: sha256(aside / p) for p in PARTS}}
    write_json(aside / MANIFEST, {**facts, "seal": seal(facts)})
    sync_folder(aside)
    replaced = folder / f".tmp-{step:08d}-replaced"
    if final.exists():
        os.replace(final, replaced)
    try:
        os.replace(aside, final)
    except OSError:
        if replaced.exists():
            os.replace(replaced, final)
        raise
    sync_folder(folder)
    shutil.rmtree(replaced, ignore_errors=True)
    earlier, later = [s for s in steps(folder) if s <= step], [s for s in steps(folder) if s > step]
    for old in [*later, *(s for s in (earlier[:-keep] if keep else []) if s not in spared)]:
        shutil.rmtree(folder / f"step-{old:08d}")
    return final


def _remove_orphans(folder: Path) -> None:
    """Remove the files of a process that was killed while saving."""
    for orphan in folder.glob(".tmp-*"):
        shutil.rmtree(orphan, ignore_errors=True)


def steps(folder: Path) -> list[int]:
    """Return the step numbers of the checkpoints in ``folder``, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(int(m[1]) for p in folder.iterdir() if (m := NAME.fullmatch(p.name)))


def load(path: Path, run: str = "") -> dict[str, Any]:
    """Read the state in ``path``. Check every byte, and that it belongs to ``run`` where an id is given.

    Raises:
        DamagedCheckpoint: a file is missing, differs from its recorded sum, or belongs to another run; it is named.
    """
    manifest = _read_manifest(path / MANIFEST)
    if run and manifest.get("run") != run:
        raise DamagedCheckpoint("the checkpoint belongs to another run", "", str(path))
    for part in PARTS:
        try:
            whole = sha256(path / part) == manifest["sha256"][part]
        except OSError as error:
            raise DamagedCheckpoint(f"the file cannot be read ({error.strerror})", "", str(path / part)) from error
        if not whole:
            raise DamagedCheckpoint("the file is damaged (SHA-256 differs)", "", str(path / part))
    try:
        tensors = load_file(path / PARTS[0])
        state = _unpack(read_json(path / PARTS[1]), tensors)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
        raise DamagedCheckpoint(f"the checkpoint cannot be read ({error})", "", str(path)) from error
    if not isinstance(state, dict):
        raise DamagedCheckpoint("the checkpoint holds no state", "", str(path))
    return state


def load_latest(folder: Path, run: str = "") -> tuple[int, dict[str, Any], list[str]]:
    """Read the newest whole checkpoint: its step, its state, and the faults of newer ones.

    Raises:
        UserError: no checkpoint is whole.
    """
    damaged: list[str] = []
    for step in reversed(steps(folder)):
        try:
            return step, load(folder / f"step-{step:08d}", run), damaged
        except DamagedCheckpoint as error:
            damaged.append(str(error))
    cause = "; ".join(damaged) if damaged else "no checkpoint was saved"
    raise UserError(f"nothing to resume from ({cause})", "Start the training again.", str(folder))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        facts = dict(read_json(path))
        whole, named = facts.pop("seal") == seal(facts), NAME.fullmatch(path.parent.name)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedCheckpoint(f"the file cannot be read ({error})", "", str(path)) from error
    if not whole:
        raise DamagedCheckpoint("the file is damaged (its sum differs)", "", str(path))
    if facts["format"] != FORMAT:
        raise UserError(f"checkpoint format {facts['format']} is not {FORMAT}", "Use the version that wrote it.")
    if named and int(named[1]) != facts["step"]:
        raise DamagedCheckpoint(f"the file belongs to step {facts['step']}", "", str(path))
    return facts


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return a JSON tree that names its tensors, which go into ``tensors``; tags keep int keys and tuples."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors):05d}"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, _pack(v, tensors)] for key, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(v, tensors) for v in value]}
    return value


def _unpack(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((tag, inner),) = value.items()
    if tag == "tensor":
        return tensors[inner]
    if tag == "dict":
        return {key: _unpack(v, tensors) for key, v in inner}
    items = [_unpack(v, tensors) for v in inner]
    return tuple(items) if tag == "tuple" else items


def to_device(value: Any, device: torch.device) -> Any:
    """Return the same tree with its tensors on ``device``."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: to_device(v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(to_device(v, device) for v in value)
    return value

"""The versions that made each run of a comparison: stored with it, and named under the table if they differ."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from metapl._version import __version__
from metapl.errors import UserError
from metapl.hardware.device import environment

KEPT = ("metapl", "torch", "device")  # of ``device.environment``
UNKNOWN, AND = "unknown", " and "


def made_with(folder: Path, device: torch.device | None = None) -> dict[str, str]:
    """Return ``KEPT`` of the run in ``folder``: as it began, and, with ``device``, as it ends here; both where they
    differ.
    """
    try:
        began = json.loads((folder / "env.json").read_text(encoding="utf-8"))
        environments = [{name: str(began.get(name, UNKNOWN)) for name in KEPT}]
    except (OSError, ValueError, AttributeError):
        environments = [dict.fromkeys(KEPT, UNKNOWN)]
    return joined([*environments, *([environment(device)] if device else [])])


def joined(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return ``2.13.0 and 2.14.1`` where two stand; each once."""
    found = list(found)
    return {name: AND.join(dict.fromkeys(v for one in found for v in one[name].split(AND))) for name in KEPT}


def check_version(made: str, what: str, where: Path) -> None:
    """Refuse to go on with a comparison of another version.

    Raises:
        UserError: it names both versions.
    """
    if made not in (__version__, UNKNOWN):
        remedy = "Continue with that version, or name another folder with --out."
        raise UserError(f"{what} was made with metapl {made}, this is {__version__}", remedy, str(where))


def mixed(runs: Iterable[Mapping[str, Any]], device: torch.device) -> str:
    """Return a warning if finished ``runs`` were made with another torch, or on another device, than those to come."""
    now, old = environment(device), joined(run["versions"] for run in runs)
    changes = []
    for name in ("torch", "device"):
        if other := [value for value in old[name].split(AND) if value != now[name]]:
            changes.append(f"{name} {AND.join(other)} (now {now[name]})")
    return f"warning: finished runs were made with {', '.join(changes)}; the table will mix them" if changes else ""


def versions(runs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Return the versions behind the figures, for the last line of the table."""
    recorded = [run["versions"] for run in runs if not run.get("error")]
    return {**joined(recorded), "python": platform.python_version()}

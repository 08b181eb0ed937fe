"""``metapl`` alone: the next steps for the files in the working folder, by their names; nothing is opened."""

from __future__ import annotations

import os
import shlex
from itertools import islice
from pathlib import Path

from metapl._version import __version__
from metapl.utils.printing import one_line, table

MOST = 5  # things of one kind
LOOKED_AT = 2000  # names read in a folder at most
IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
TABLES = {".csv", ".tsv", ".jsonl", ".parquet", ".npz"}


def home_text(folder: Path) -> str:
    """Return the next steps for the runs and the data in ``folder``, or how to begin."""
    lines = [f"metapl {__version__} trains classifiers from few labels and many unlabelled rows.", ""]
    found = [*_runs(folder), *_data(folder)]
    if found:
        lines += [
            "Here you could:",
            table(("", ""), [("  " + command, about) for command, about in found]).lstrip("\n"),
        ]
    else:
        begin = [
            ("  metapl demo", "five methods on real digits, about a minute"),
            ("  metapl check DATA", "look over a folder of images or a file of rows"),
            ("  metapl train DATA", "train on it; a report.html says what came out"),
        ]
        lines += ["To begin:", table(("", ""), begin).lstrip("\n")]
    lines += ["", "`metapl --help` lists the commands, and each explains itself: `metapl train --help`."]
    return "\n".join(lines)


def _names(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(islice((e for e in entries if not e.name.startswith(".")), LOOKED_AT), key=lambda e: e.name)
    except OSError:
        return []


def _runs(folder: Path) -> list[tuple[str, str]]:
    """Return the next steps for the newest runs in ``runs`` and in the folder itself."""
    places = [e for where in (folder / "runs", folder) for e in _names(where) if e.is_dir()]
    runs = [Path(e.path) for e in places if (Path(e.path) / "config.yaml").is_file()]
    runs.sort(key=lambda run: (run / "config.yaml").stat().st_mtime, reverse=True)
    suggestions = []
    for run in runs[:MOST]:
        name = shlex.quote(one_line(os.path.relpath(run, folder)))
        if (run / "diverged.json").is_file():
            suggestions.append((f"metapl report {name}", "it diverged: the report says what to do"))
        elif not (run / "results.json").is_file():
            suggestions.append((f"metapl resume {name}", "it has not finished"))
        elif not (run / "evaluation.json").is_file():
            suggestions.append((f"metapl evaluate {name}", "judge it on its test rows, if it has any"))
        else:
            suggestions.append((f"metapl report {name}", "it is finished and judged"))
    return suggestions


def _data(folder: Path) -> list[tuple[str, str]]:
    """Return the next steps for files of rows and folders of images."""
    suggestions = []
    for entry in _names(folder):
        name, suffix = shlex.quote(one_line(entry.name)), os.path.splitext(entry.name)[1].lower()
        if entry.is_file() and suffix in TABLES:
            suggestions.append((f"metapl check {name}", f"then metapl train {name}"))
        elif entry.is_dir() and not _is_known(Path(entry.path)) and _holds_images(Path(entry.path)):
            suggestions.append((f"metapl check {name}", f"it holds images; then metapl train {name}"))
    return suggestions[:MOST]


def _is_known(folder: Path) -> bool:
    """Return whether the images of a folder are pictures of pages or of a run, not data."""
    return (
        folder.name in ("docs", "site") or (folder / "config.yaml").is_file() or (folder / "comparison.json").is_file()
    )


def _holds_images(folder: Path, depth: int = 3) -> bool:
    """Return whether an image stands in the folder or in one of its folders."""
    entries = _names(folder)
    if any(os.path.splitext(e.name)[1].lower() in IMAGES for e in entries if e.is_file()):
        return True
    return depth > 0 and any(_holds_images(Path(e.path), depth - 1) for e in entries[:20] if e.is_dir())

"""Files as users have them, opened through the public names alone."""

from __future__ import annotations

import textwrap
from pathlib import Path

import metapl
from metapl.data.sources import SourceOptions
from metapl.types import Source


def write(path: Path, text: str) -> Path:
    """``text`` without its indentation, as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text).lstrip("\n"), encoding="utf-8")
    return path


def opened(data: Path | str, **settings: object) -> Source:
    """The source over ``data`` with settings by their short names: ``no_label="-1"``."""
    return metapl.open_source(str(data), options=SourceOptions(**settings))  # type: ignore[arg-type]


def labels(source: Source) -> list[str | None]:
    """The class name of every row; None where it has none."""
    return [source.class_names[k] if k >= 0 else None for k in source.labels.tolist()]


def notes(source: Source) -> str:
    """All notes as one text."""
    return "\n".join(source.notes)

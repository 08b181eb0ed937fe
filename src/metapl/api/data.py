"""``open_source`` for users, who name the data by a text."""

from __future__ import annotations

from collections.abc import Callable

from metapl.data import sources
from metapl.data.sources import SourceOptions, read_ref
from metapl.types import Source


def open_source(
    spec: str,
    options: SourceOptions | None = None,
    given: Source | None = None,
    tell: Callable[[str], None] | None = None,
) -> Source:
    """Open what ``spec`` names: a folder, a file, ``idx:FOLDER``, ``hf:NAME``, ``digits``.

    A known name wins over a folder of that name; write ``./digits`` for the folder.

    Args:
        spec: as on the command line.
        options: how rows are read. Where they name an encoder, rows become its features.
        given: a source that is open already, in the place of ``spec``.
        tell: called with a line on how far the opening is, where it takes long.

    Raises:
        UserError: an unknown name or path (with the nearest name), or whatever the source finds wrong.
    """
    return sources.open_source(read_ref(spec) if given is None else given, options, progress=tell)

"""Check that images named by path exist, and propose a remedy if they do not."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice

from metapl.data.images.decode import SUFFIXES
from metapl.data.images.scan import shown
from metapl.errors import UserError

LOOKED_AT = 20  # paths; if all are missing, something is wrong with the column
FOLDERS = 200  # folders that are looked through for the first image


def check_there(written: Sequence[str], paths: Sequence[str], root: str, where: str) -> None:
    """Refuse a column of paths if its first paths are all missing.

    Args:
        written: the first paths as the file has them.
        paths: the same as full paths.
        root: the folder that relative paths start from.

    Raises:
        UserError: all are missing; the message shows the first full path, and proposes a setting that finds it.
    """
    if not paths or any(os.path.exists(path) for path in paths[:LOOKED_AT]):
        return
    what = f"the first {len(paths[:LOOKED_AT])} images are not there: looked for '{shown(paths[0])}'"
    if len(paths) == 1:
        what = f"the image is not there: looked for '{shown(paths[0])}'"
    remedy, setting = _proposal(written[0], paths[0], root)
    raise UserError(what, remedy, where, setting)


def _proposal(written: str, path: str, root: str) -> tuple[str, str]:
    """Return (the remedy, a setting that helps, too)."""
    if "\\" in written and os.path.exists(os.path.join(root, written.replace("\\", "/"))):
        return "Write / for \\ in the paths.", ""
    for suffix in sorted(SUFFIXES):
        for form in (suffix, suffix.upper()):
            if os.path.exists(path + form):
                return f"The files end in {form}: write that in the column", f"or set source.table.suffix={form}."
    name = os.path.basename(written.replace("\\", "/"))
    for folder, names in _folders(root):
        found = next((n for n in names if n == name or os.path.splitext(n)[0] == name), None)
        if found is not None:
            ending = os.path.splitext(found)[1] if found != name else ""
            more = f" and source.table.suffix={ending}" if ending else ""
            remedy = f"There is '{shown(os.path.join(folder, found))}': write the paths so that they lead there"
            return remedy, f"or set source.root={shown(folder)}{more}."
    remedy = "Put the images there, or write absolute paths: others start from the folder of the file"
    return remedy, "or set source.root=DIR (or source.table.path=none: no images)."


def _folders(root: str) -> Iterator[tuple[str, list[str]]]:
    """Yield some folders in ``root`` with the names of their files."""
    for folder, inside, names in islice(os.walk(root), FOLDERS):
        inside[:] = sorted(name for name in inside if not name.startswith("."))
        yield folder, names

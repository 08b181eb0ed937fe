"""A table whose entries are imported when they are first asked for."""

from __future__ import annotations

import importlib
from collections import UserDict
from typing import Any

from metapl.utils.names import split_name


class LazyTable(UserDict[str, Any]):
    """A dictionary in which a text ``package.module:name`` stands for that name of the module.

    ``table[key]`` imports the module and gives the object itself; the names alone cost no import. Objects may be
    entered, too.
    """

    def __getitem__(self, key: str) -> Any:
        entry = self.data[key]
        if isinstance(entry, str):
            module, name = split_name(entry)
            entry = self.data[key] = getattr(importlib.import_module(module or ""), name)
        return entry

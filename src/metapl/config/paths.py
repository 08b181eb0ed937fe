"""Paths in a run's settings made absolute, so that the run can be used from any folder."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from metapl.config.settings import RunConfig
from metapl.data.memory.numpy_files import is_numpy
from metapl.data.sources import PUBLISHED, SOURCES
from metapl.data.tables.files import is_table

IN_MEMORY = "arrays"  # what stands for data that only Python can bring again


def anchored(config: RunConfig, spec: bool = True) -> RunConfig:
    """The config with every path in it made absolute; data that were given as arrays stay what they are.

    Args:
        spec: whether ``config.data`` is what a user wrote for the data, and "arrays" a folder of that name.
    """
    changes: dict[str, Any] = {}
    for key in ("weights", "teacher_weights"):
        changes[key] = _absolute(path) if (path := getattr(config, key)) else ""
    for key in ("model", "teacher_model"):
        kind, colon, path = getattr(config, key).partition(":")
        changes[key] = f"hf:{_absolute(path)}" if kind == "hf" and colon else getattr(config, key)
    more = ("unlabeled", "test", "root", "labels", "encoder_weights")
    source: dict[str, Any] = {key: _absolute(path) for key in more if (path := getattr(config.source, key))}
    for key in ("encoder", "tokenizer"):
        kind, colon, path = getattr(config.source, key).partition(":")
        source |= {key: f"hf:{_absolute(path)}"} if kind == "hf" and colon else {}
    config = replace(config, **changes, source=replace(config.source, **source))
    if config.data == IN_MEMORY and not spec:
        return config
    name, colon, path = config.data.partition(":")
    if name in PUBLISHED and not os.path.isdir(os.path.expanduser(path)):
        return config
    if colon and name in SOURCES and path:
        return replace(config, data=f"{name}:{_absolute(path)}")
    place = os.path.expanduser(config.data)
    if config.data not in SOURCES and (os.path.isdir(place) or is_table(place) or is_numpy(place)):
        return replace(config, data=_absolute(config.data))
    return config


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))

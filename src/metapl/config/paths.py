"""Paths in a run's settings made absolute, so that the run can be used from any folder."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from metapl.config.settings import RunConfig
from metapl.data.options import SourceOptions
from metapl.utils.minilm import SPEC
from metapl.utils.names import split_name

IN_MEMORY = "arrays"  # what stands for data that only Python can bring again


def anchored(config: RunConfig, spec: bool = True) -> RunConfig:
    """Return the config with every path in it made absolute; data that were given as arrays stay what they are.

    Args:
        spec: whether ``config.data`` is what a user wrote for the data, and "arrays" a folder of that name.
    """
    changes: dict[str, Any] = {}
    for key in ("weights", "teacher_weights"):
        changes[key] = _absolute(path) if (path := getattr(config, key)) else ""
    for key in ("model", "teacher_model"):
        changes[key] = _absolute_name(getattr(config, key))
    config = replace(config, **changes, source=_source(config.source))
    if config.data == IN_MEMORY and not spec:
        return config
    return replace(config, data=config.ref.absolute().text)


def _absolute_name(name: str) -> str:
    """Return ``hf:FOLDER`` with an absolute path; any other name as it is, and ``hf:minilm``, which is not a folder."""
    prefix, path = split_name(name)
    return f"hf:{_absolute(path)}" if prefix == "hf" and name != SPEC else name


def _source(options: SourceOptions) -> SourceOptions:
    more = ("unlabeled", "test", "root", "labels", "corrections")
    files: dict[str, Any] = {key: _absolute(path) for key in more if (path := getattr(options, key))}
    encoder, text = options.encoder, options.text
    weights = _absolute(encoder.weights) if encoder.weights else ""
    encoder = replace(encoder, name=_absolute_name(encoder.name), weights=weights)
    return replace(options, **files, encoder=encoder, text=replace(text, tokenizer=_absolute_name(text.tokenizer)))


def _absolute(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))

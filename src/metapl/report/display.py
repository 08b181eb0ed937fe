"""Rows as people see them on a page: each kind of rows shows its own (``Modality.show``)."""

from __future__ import annotations

from typing import Any

from metapl.data.modalities import modality_of
from metapl.data.traits import traits
from metapl.types import Array, Source
from metapl.utils.printing import cut as cut


def display(source: Source, index: Array) -> list[dict[str, Any]]:
    """Describe the rows at ``index`` [n] for the page as plain JSON values; test rows never come here.

    Returns:
        Per row ``{"image": data URI, "small": bool}``, ``{"text": str}`` or ``{"cells": [[name, value], ...]}``.
    """
    assert not source.is_test[index].any(), "test rows are opened by evaluate alone"
    source = traits(source).inner or source  # features of an encoder say nothing: the rows that it encodes do
    return modality_of(source.kind).show(source, index) if len(index) else []

"""Warnings that name the line of the caller outside this package."""

from __future__ import annotations

import sys
import warnings

PACKAGE = __name__.split(".")[0]


def warn(text: str) -> None:
    """Warn, with the line of the first caller outside this package."""
    frame, depth = sys._getframe(), 1
    while (outer := frame.f_back) is not None and frame.f_globals.get("__name__", "").split(".")[0] == PACKAGE:
        frame, depth = outer, depth + 1
    warnings.warn(text, UserWarning, stacklevel=depth)

"""Imported by the server process of ``run_jobs``: it ends without a word where its program is killed.

A program that is killed while it asks the server for a process leaves half a request. ``multiprocessing`` raises
EOFError for it, in the server, and Python would print a traceback after the program is gone.
"""

from __future__ import annotations

import sys
from types import TracebackType


def end_quietly(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print an uncaught error as Python does, but for the end of a request."""
    if not issubclass(kind, EOFError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = end_quietly

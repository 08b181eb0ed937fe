"""Ctrl-C and SIGTERM: the end of a command, or a request that the loop serves between two steps."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Give a list that receives the number of the first SIGINT or SIGTERM; a second Ctrl-C stops at once.

    Outside the main thread, where Python takes no signals, it stays empty.
    """
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield seen
        return

    def note(number: int, frame: Any) -> None:
        if seen and number == signal.SIGINT:
            raise KeyboardInterrupt
        seen.append(number)

    old: dict[int, Any] = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield seen
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


class Terminated(KeyboardInterrupt):
    """SIGTERM, served like Ctrl-C.

    It has a class of its own, since a plain ``KeyboardInterrupt`` that leaves code run by ``exec``, such as a dataclass
    in the making, lets Python end with the exit code of Ctrl-C whatever the command says.
    """


def end_by_sigterm() -> None:
    """Let SIGTERM raise ``Terminated``, whose argument is the signal's number.

    Outside the main thread, where Python takes no signals, nothing changes.
    """

    def end(number: int, frame: Any) -> None:
        raise Terminated(number)

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, end)


def stopped(stop: KeyboardInterrupt) -> int:
    """Say on stderr which signal ended the command, and give the exit code for it."""
    number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
    print(f"stopped by {number.name}", file=sys.stderr, flush=True)
    return 128 + number

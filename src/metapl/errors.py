"""The one error for what a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input, told as what is wrong, where, and what to do.

    The command line prints it in one line and exits with code 2; from Python it is a ``ValueError``.

    Args:
        what: the cause, without a full stop.
        remedy: what to do about it.
        where: file (and line) or option that holds the mistake.
    """

    def __init__(self, what: str, remedy: str = "", where: str = "") -> None:
        self.what, self.remedy, self.where = what, remedy, where
        super().__init__(f"{where + ': ' if where else ''}{what}.{' ' + remedy if remedy else ''}")


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint naming the known word closest to ``word``, or the whole list when none is close."""
    known = sorted(known)
    if inside := [name for name in known if name.rpartition(".")[2] == word != name]:
        return f"Did you mean {' or '.join(repr(name) for name in inside[:3])}?"
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known: {', '.join(known)}."

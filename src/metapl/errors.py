"""The errors that a user can mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in the input: what is wrong, where, and what to do.

    The command line prints it in one line and exits with code 2; from Python it is a ``ValueError``.

    Args:
        what: the cause, without a full stop.
        remedy: what to do about it.
        where: file (and line) or option that holds the mistake.
        setting: what else helps, a setting: "or set source.table.encoding=cp1252." It is appended to ``remedy``.
    """

    def __init__(self, what: str, remedy: str = "", where: str = "", setting: str = "") -> None:
        self.what, self.where, self.setting, self._plain = what, where, setting, remedy
        self.remedy = f"{remedy.removesuffix('.')}, {setting}" if setting else remedy
        super().__init__(f"{where + ': ' if where else ''}{what}.{' ' + self.remedy if self.remedy else ''}")

    def without_setting(self) -> UserError:
        """Return the error without the advice to change a setting, for commands that take no settings."""
        plain = self._plain if self._plain.endswith((".", "?", ")", "!")) or not self._plain else f"{self._plain}."
        return type(self)(self.what, plain, self.where)


class BadRow(UserError):
    """One row of a file cannot be read; ``source.table.skip_bad_rows`` leaves such rows out."""


class NoRow(UserError):
    """A file holds no row, or all of its rows were left out."""


class UnclearDelimiter(UserError):
    """The header of a file does not show which sign separates its fields."""


class Doubt(str):
    """A note on how data were read that may spoil a training; ``metapl check`` lists it as a finding.

    Args:
        what: what was read, and how, without a full stop.
        remedy: what to do if it was meant otherwise.
        kind: a short name that stays the same from version to version.
        harmful: whether it will hurt, as far as can be seen; else somebody should look.
    """

    what: str
    remedy: str
    kind: str
    harmful: bool

    def __new__(cls, what: str, remedy: str, kind: str, harmful: bool = True) -> Doubt:
        note = super().__new__(cls, f"{what}. {remedy}".removesuffix("."))
        note.what, note.remedy, note.kind, note.harmful = what, remedy, kind, harmful
        return note


def closest(word: str, known: Iterable[str]) -> str:
    """Return the known word closest to ``word``; "" where none is close."""
    return next(iter(difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.5)), "")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return a hint naming the known word closest to ``word``, or the whole list when none is close."""
    known = sorted(known)
    if inside := [name for name in known if name.rpartition(".")[2] == word != name]:
        return f"Did you mean {' or '.join(repr(name) for name in inside[:3])}?"
    close = closest(word, known)
    return f"Did you mean '{close}'?" if close else f"Known: {', '.join(known)}."


class Silenced(Exception):
    """This process of a run ends because another one did, which has said why."""

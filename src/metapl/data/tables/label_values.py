"""Rules for texts in the label column: texts that mean "no label", and texts that rename a class."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from metapl.data.tables.readers.frame import Texts, short
from metapl.data.tables.spelling import doubtful, plain, renamed
from metapl.errors import Doubt, UserError

AUTO, EMPTY = "auto", "empty"
_SPLIT = re.compile(r"\s*[|;,/+&]\s*")
SEVERAL = 0.05  # share of rows with several known labels in one cell that is worth a note


@dataclass(frozen=True)
class LabelRule:
    """The parsed settings ``source.no_label`` and ``source.label_map``.

    Attributes:
        marks: texts that mean "no label", in the form of ``spelling.plain`` and in small letters.
        names: text in the form of ``plain`` -> the class that it means; "": no label.
        asked: whether the user named the texts that mean "no label".
    """

    marks: frozenset[str] = frozenset()
    names: Mapping[str, str] = field(default_factory=dict)
    asked: bool = False

    def no_label(self, text: str) -> bool:
        """Return whether ``text`` means "no label"; the empty text always does."""
        return text == "" or plain(text).casefold() in self.marks

    def __call__(self, text: str) -> str:
        """Return the class that ``text`` means; "": no label."""
        named = self.names.get(plain(text), text)
        return "" if self.no_label(named) else named

    def applied(self, texts: Texts) -> Texts:
        """Return the label column with each text replaced by its class."""
        if not self.marks and not self.names:
            return texts
        return renamed(texts, {level: self(level) for level in texts.levels})


NO_RULE = LabelRule()


def read_rule(no_label: str, label_map: str) -> LabelRule:
    """Return the rule that two settings describe.

    Args:
        no_label: texts between commas; "auto" and "empty": only an empty cell means "no label".
        label_map: ``text:class`` pairs between commas, such as ``<=50K.:<=50K``.

    Raises:
        UserError: a pair without a colon, or one text with two classes.
    """
    asked = no_label != AUTO
    marks = () if no_label in (AUTO, EMPTY) else _listed(no_label)
    names: dict[str, str] = {}
    for pair in _listed(label_map):
        text, colon, name = pair.rpartition(":")
        if not colon or not text.strip():
            what = f"label_map has '{short(pair)}', which is not a pair"
            raise UserError(
                what, "Write text:class, pairs between commas: <=50K.:<=50K,>50K.:>50K.", "source.label_map"
            )
        if names.setdefault(plain(text), name.strip()) != name.strip():
            remedy = "Keep one of the two."
            raise UserError(f"label_map has two classes for '{short(text)}'", remedy, "source.label_map")
    return LabelRule(frozenset(plain(mark).casefold() for mark in marks), names, asked)


def _listed(text: str) -> list[str]:
    """Return the values between commas; a value that holds a comma stands in double quotes."""
    values = next(csv.reader([text], skipinitialspace=True), [])
    return [value for value in values if value.strip()]


def check_doubtful(names: Sequence[str], counts: Mapping[str, int], rule: LabelRule, where: str) -> list[str]:
    """Return a note on classes that may mean "no label".

    Args:
        counts: class name -> number of its rows.

    Raises:
        UserError: such a class holds most of the labelled rows, and the user has not confirmed it.
    """
    odd = [] if rule.asked else doubtful(names)
    total = sum(counts[name] for name in names)
    for name in odd:
        if 2 * counts[name] > total and len(names) > 2:
            what = f"the label '{short(name)}' stands in {counts[name]:,} of {total:,} labelled rows"
            remedy = (
                f"If it means that a row has no label, set source.no_label={short(name)}. "
                f"If it is a class, set source.no_label={EMPTY}."
            )
            raise UserError(what, remedy, where)
    if not odd:
        return []
    taken = "is taken for a class; if it means" if len(odd) == 1 else "are taken for classes; if they mean"
    listed, marks = ", ".join(f"'{short(name)}'" for name in odd), ",".join(odd)
    return [f"{listed} {taken} that a row has no label, set source.no_label={marks}"]


def several_labels(names: Sequence[str], counts: Mapping[str, int]) -> list[str]:
    """Return a note if cells hold several labels, as in ``comedy|drama``."""
    known = {plain(name).casefold() for name in names}
    several = [name for name in names if _is_several(name, known, names)]
    rows, total = sum(counts[name] for name in several), sum(counts[name] for name in names)
    if rows < max(2, SEVERAL * total):
        return []
    what = f"{rows:,} of {total:,} labels hold several in one cell, such as '{short(several[0])}', taken for a class"
    return [Doubt(what, "Write one label per row, or merge classes with source.label_map.", "several_labels")]


def _is_several(name: str, known: set[str], names: Sequence[str]) -> bool:
    parts = [part.casefold() for part in _SPLIT.split(name.strip()) if part]
    if len(parts) < 2 or not any(c.isalpha() for c in name):
        return False
    others = {part for other in names if other != name for part in _SPLIT.split(other.strip().casefold())}
    return all(part in known or part in others for part in parts)

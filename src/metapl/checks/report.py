"""``Check``: the findings and counts, printed and stored."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from metapl.data.modalities import modality_of
from metapl.data.row_checks import HURT, UNUSABLE, Finding, plural
from metapl.errors import UserError
from metapl.runs.folder import write_csv
from metapl.utils import printing
from metapl.utils.files import write_json

MOST = 6  # findings on the screen
CLASSES = 12  # classes on the screen
NOTES = 12  # notes of the source on the screen
FORMAT = 1
FACTS, LIST = "check.json", "problems.csv"
HEADER = ("kind", "id", "other id", "detail")  # of the list


@dataclass(frozen=True)
class Check:
    """What ``metapl check`` found.

    Attributes:
        findings: by seriousness, the worst first.
        facts: counts and measurements, as plain JSON values.
        problems: (kind, id, other id, detail) of every row that a finding is about.
    """

    findings: tuple[Finding, ...]
    facts: dict[str, Any]
    problems: list[tuple[str, str, str, str]] = field(repr=False)

    @property
    def verdict(self) -> str:
        """``OK``, or the level of the worst finding: ``LOOK AT THIS``, ``WILL HURT``, ``CANNOT BE USED``."""
        return self.findings[0].level if self.findings else "OK"

    @property
    def usable(self) -> bool:
        """Whether ``train`` could start on these data."""
        return self.verdict != UNUSABLE

    @property
    def harmful(self) -> bool:
        """Whether a finding will make the model, or the figures about it, worse or wrong."""
        return self.verdict in (UNUSABLE, HURT)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the list of problems, as plain JSON values."""
        listed = [asdict(finding) for finding in self.findings]
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "findings": listed,
            **self.facts,
            "problems": len(self.problems),
        }

    def save(self, folder: str | Path) -> Path:
        """Write ``check.json`` and ``problems.csv`` into ``folder``, which is created if it is missing.

        A cell that a spreadsheet would take for a formula gets an apostrophe in front.

        Raises:
            UserError: ``folder`` is a file, or holds a file of one of these names that no check wrote.
        """
        place = check_place(folder)
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / FACTS, self.to_dict())
        write_csv(place / LIST, list(HEADER), [list(p) for p in self.problems])
        return place

    def __str__(self) -> str:
        head = f"{self.verdict}: {_what(self.facts)}"
        return "\n".join(
            [
                head,
                *_lines(self.findings),
                "",
                _table(self.facts),
                *_read_as(self.facts),
                *_rest(self.facts),
                *_where(self.problems),
            ]
        )


def check_place(folder: str | Path) -> Path:
    """Return the path of the folder if a check can be stored there without loss.

    Raises:
        UserError: it is a file, or holds a file of the same name that no check wrote.
    """
    place = Path(folder).expanduser()
    if place.exists() and not place.is_dir():
        raise UserError("this is a file, not a folder", "Name a folder.", printing.one_line(place))
    for name, is_own in ((FACTS, _is_facts), (LIST, _is_list)):
        if os.path.lexists(place / name) and not is_own(place / name):
            what = f"'{name}' is there already, and no check wrote it"
            raise UserError(what, "Name another folder.", printing.one_line(place))
    return place


def _is_facts(path: Path) -> bool:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(stored, dict) and {"format", "verdict", "findings", "problems"} <= stored.keys()


def _is_list(path: Path) -> bool:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            return file.readline(1000) == ",".join(HEADER) + "\n"
    except (OSError, ValueError):
        return False


def _what(facts: dict[str, Any]) -> str:
    modality = modality_of(facts["kind"])
    size = modality.size(tuple(facts["shape"]))
    of_size, classes = f" of {size}" if size else "", plural(len(facts["classes"]), "class", "classes")
    return printing.one_line(f"{facts['source']}, {plural(facts['rows']['all'], modality.row)}{of_size}, {classes}")


def _lines(findings: tuple[Finding, ...]) -> list[str]:
    lines = []
    for finding in findings[:MOST]:
        lines.append(f"- {finding.level}: {printing.one_line(finding.text)}. {printing.one_line(finding.remedy)}")
    if len(findings) > MOST:
        lines.append(f"- and {len(findings) - MOST} more, see check.json (--out DIR)")
    return lines


def _table(facts: dict[str, Any]) -> str:
    """Return the table of rows by class and part, without empty parts."""
    parts = [part for part in ("labelled", "unlabelled", "test") if facts["rows"][part]]
    rows = [("all", *(f"{facts['rows'][part]:,}" for part in parts), "")]
    classes = list(facts["classes"].items())
    for name, counts in classes[:CLASSES]:
        rows.append((printing.one_line(name), *(_count(counts, part) for part in parts), ""))
    if len(classes) > CLASSES:
        rows.append((f"and {len(classes) - CLASSES} more", *("" for _ in parts), ""))
    return printing.table(("class", *parts, ""), rows)


def _count(counts: dict[str, int], part: str) -> str:
    return f"{counts[part]:,}" if part in counts else ""


def _read_as(facts: dict[str, Any]) -> list[str]:
    """Return the notes that ``train`` would print on reading: the roles of columns, and columns left out."""
    notes = facts["notes"]
    more = [f"- and {len(notes) - NOTES} more, see check.json (--out DIR)"] if len(notes) > NOTES else []
    listed = [f"- {printing.one_line(note)}" for note in notes[:NOTES]]
    return ["", "as train reads them:", *listed, *more] if notes else []


def _rest(facts: dict[str, Any]) -> list[str]:
    """Return one line each on copies and on files, if there are any."""
    lines = []
    copies = [
        f"{name} {c['exact']:,} + {c['near']:,}" for name, c in facts["copies"].items() if c["exact"] or c["near"]
    ]
    if copies:
        lines += ["", f"copies (exact + near): {', '.join(copies)}"]
    files = facts.get("files")
    if files:
        (low, wide), (high, wider) = files["smallest"], files["largest"]
        sizes = (
            f"{wide} x {low}" if files["sizes"] == 1 else f"{wide} x {low} to {wider} x {high} ({files['sizes']} sizes)"
        )
        modes = ", ".join(f"{count:,} {mode}" for mode, count in files["modes"].items())
        extra = [f"{files[name]:,} {text}" for name, text in _MARKS if files[name]]
        lines.append(f"files: {'; '.join([sizes, modes, *extra])}")
    return lines


def _where(problems: list[tuple[str, str, str, str]]) -> list[str]:
    names = len({problem[1] for problem in problems})
    return [f"{plural(names, 'row')} concerned: --out DIR lists each in problems.csv"] if names else []


_MARKS = (
    ("alpha", "with transparency (laid over white)"),
    ("deep", "with more than 8 bits (brought to 8)"),
    ("animated", "animated (first frame)"),
    ("turned", "turned by EXIF (put upright)"),
)

"""Check data before a training: copies, leakage, contradicting labels, unreadable and odd rows.

Beside evaluation this is the one place that opens test rows, to find those that also occur among the training rows.
No result of a check influences a training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from metapl.checks.duplicates import Copies, RowProblem, find_copies
from metapl.checks.findings import (
    about_classes,
    about_copies,
    about_headers,
    about_names,
    about_parts,
    about_photographs,
    about_problems,
    about_reading,
    about_strange,
    ordered,
)
from metapl.checks.headers import header_facts
from metapl.checks.names import twins
from metapl.checks.outliers import find_strange
from metapl.checks.reading import LABELED, PART_NAMES, TEST, CheckedRows, ReadProgress, read_rows
from metapl.checks.report import Check as Check
from metapl.data.modalities import modality_of
from metapl.data.ref import DataRef
from metapl.data.row_checks import Finding
from metapl.data.sources import SourceOptions, open_source, read_ref
from metapl.data.tables.spelling import doubtful
from metapl.errors import BadRow, UserError
from metapl.types import Source
from metapl.utils.progress import Progress, Silent


def check(
    source: Source | str | Path, *, options: SourceOptions | None = None, progress: Progress | None = None
) -> Check:
    """Check data before a training: counts, copies, leakage, contradicting labels, unreadable and odd rows.

    Nothing is changed, and no result influences a training. Test rows are read only to find copies.

    Args:
        source: a source, or what ``open_source`` takes: a folder, a file, ``idx:FOLDER``, ``digits``.
        options: how rows are read. All unreadable rows are reported, and all bad rows of a file, where a training would
            stop at the first.
        progress: shows the progress of reading.

    Raises:
        UserError: the data cannot be opened at all.
    """
    options, progress, stops = options or SourceOptions(), progress or Silent(), False
    with progress:
        if isinstance(source, str | Path):
            forgiving = replace(options, image=replace(options.image, allow_bad=True))
            source, stops = _open_without_bad_rows(read_ref(str(source)), forgiving)
        rows = read_rows(source, _updates(progress))
        copies = find_copies(rows)
        files = header_facts(source, lambda done, total: None)
    problems: list[RowProblem] = [("unreadable", row, "", why) for row, why in source.problems]
    problems += copies.problems
    facts = {**_counts(source, rows), "copies": _copies(copies), "files": files, "notes": list(source.notes)}
    findings = _findings(source, rows, copies, facts, problems, stops)
    return Check(tuple(ordered(findings)), facts, problems)


def _open_without_bad_rows(ref: DataRef, options: SourceOptions) -> tuple[Source, bool]:
    """Return the source without its bad rows, and whether a training with these options would stop at one."""
    try:
        return open_source(ref, options), False
    except BadRow as first:
        if options.table.skip_bad_rows:
            raise
        try:
            return open_source(ref, replace(options, table=replace(options.table, skip_bad_rows=True))), True
        except UserError:  # without its bad rows the file has another fault
            raise first from None


def _updates(progress: Progress) -> ReadProgress:
    def update(done: int, total: int) -> None:
        if done < total:  # the end needs no line of its own
            progress.update(done, total, {})

    return update


def _findings(
    source: Source, rows: CheckedRows, copies: Copies, facts: dict[str, Any], problems: list[RowProblem], stops: bool
) -> list[Finding]:
    names = source.class_names
    per_class = np.bincount(rows.labels[rows.part == LABELED], minlength=len(names)).tolist()
    made = about_copies(rows, copies)
    made += about_problems(source, rows, stops)
    made += about_reading(source)
    made += about_photographs(source)
    made += about_classes(source, per_class, bool((rows.part == LABELED).all()))
    made += about_names(twins(names), doubtful(names))
    made += about_parts(rows)
    strange = find_strange(rows)
    if strange is not None:
        counted = {
            "share": strange.share,
            "usual_up_to": strange.expected,
            "auc": strange.auc,
            "auc_error": strange.error,
        }
        facts["strange"] = {name: round(value, 4) for name, value in counted.items()}
        if strange.some:
            named = zip(strange.positions, strange.scores, strict=True)
            problems += [("strange", rows.id(k), "", f"{score} times the limit") for k, score in named]
    made += about_strange(rows, strange)
    if len(rows.index):
        parts = [np.flatnonzero(rows.part == part) for part in PART_NAMES]
        contents = modality_of(source.kind).checks.contents(rows.kept, source, parts)
        facts.update(contents.facts)
        problems += [(reason, rows.id(k), "", "") for reason, positions in contents.problems for k in positions]
        made += contents.findings
    return made + about_headers(facts["files"])


def _counts(source: Source, rows: CheckedRows) -> dict[str, Any]:
    """Return the source, its rows by part, and its classes by part."""
    by_part = {name: int((rows.part == part).sum()) for part, name in PART_NAMES.items()}
    classes = {
        name: {
            PART_NAMES[part]: int(((rows.labels == k) & (rows.part == part)).sum())
            for part in (LABELED, TEST)
            if by_part[PART_NAMES[part]]
        }
        for k, name in enumerate(source.class_names)
    }
    return {
        "source": source.name,
        "kind": source.kind,
        "shape": list(rows.shape),
        "rows": {"all": len(rows.index), **by_part, "unreadable": len(source.problems)},
        "classes": classes,
    }


def _copies(copies: Copies) -> dict[str, dict[str, int]]:
    within = {f"within {PART_NAMES[part]}": pair for part, pair in copies.within.items()}
    across = {f"{PART_NAMES[a]} in {PART_NAMES[b]}": pair for (a, b), pair in copies.across.items()}
    named = {**across, "with another class": copies.conflicts, **within}
    return {name: {"exact": exact, "near": near} for name, (exact, near) in named.items()}


__all__ = ["Check", "check"]

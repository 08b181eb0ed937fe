"""Turn counts into findings: what is wrong, how serious it is, and the remedy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from metapl.checks.duplicates import Copies
from metapl.checks.outliers import Strange
from metapl.checks.reading import LABELED, TEST, UNLABELED, CheckedRows
from metapl.config.photographs import CLAIM, advice, are_photographs
from metapl.data.batches.split import SplitConfig
from metapl.data.modalities import modality_of
from metapl.data.row_checks import HURT, LEVELS, LOOK, UNUSABLE, Finding, of_rows, plural, share, some
from metapl.data.tables.readers.rules import SYSTEMATIC, fault_of, systematic_remedy
from metapl.errors import Doubt
from metapl.types import Source

MUCH = 0.01  # leakage or contradicting labels in this share of rows will hurt
SKEW = 10.0
FEW_SHADES = 16  # an image whose values share fewer grey levels shows little
MAX_BAD = 0.05  # share of unreadable images at which train stops


def ordered(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings by seriousness, and in the given order within a level."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def about_copies(rows: CheckedRows, copies: Copies) -> list[Finding]:
    """Return findings on copies: leakage first, then contradicting labels, then repeats."""
    counts = {part: int((rows.part == part).sum()) for part in (LABELED, UNLABELED, TEST)}
    made = [
        *_leaks(rows, copies, counts),
        *_conflicts(copies, counts),
        *_own_copies(rows, copies, counts),
    ]
    exact, _ = copies.within[UNLABELED]
    if exact > 0.1 * counts[UNLABELED]:
        text = of_rows(
            exact, counts[UNLABELED], "unlabelled rows repeats another one", "unlabelled rows repeat another one"
        )
        made.append(Finding(LOOK, "unlabelled_copies", text, "Keep one of each: they add time, not knowledge.", exact))
    return made


def _leaks(rows: CheckedRows, copies: Copies, counts: dict[int, int]) -> list[Finding]:
    made = []
    for other, name, harm in (
        (LABELED, "labelled", "the test accuracy will look better than it is"),
        (UNLABELED, "unlabelled", "the model sees them while it trains"),
    ):
        exact, near = copies.across[TEST, other]
        total = exact + near
        if not total:
            continue
        also = of_rows(total, counts[TEST], "test rows also stands", "test rows also stand")
        certain = total >= MUCH * counts[TEST] and other == LABELED and not _chance(rows, copies)
        made.append(
            Finding(
                HURT if certain else LOOK,
                f"test_in_{name}",
                f"{also} among the {name} rows ({exact:,} exactly, {near:,} nearly): {harm}",
                f"Take these rows out of the {'training' if other == LABELED else 'unlabelled'} rows.",
                total,
            )
        )
    return made


def _chance(rows: CheckedRows, copies: Copies) -> bool:
    """Return whether equal rows are to be expected, as in tables of few values."""
    return len(rows.index) > 0 and modality_of(rows.source.kind).checks.repeats_by_nature(rows.kept)


def _conflicts(copies: Copies, counts: dict[int, int]) -> list[Finding]:
    exact, near = copies.conflicts
    known = counts[LABELED] + counts[TEST]
    made = []
    if exact:
        made.append(
            Finding(
                HURT if exact >= MUCH * known else LOOK,
                "label_conflict",
                of_rows(exact, known, "rows with a label has", "rows with a label have")
                + " an exact copy of another class",
                "Decide which label is right, or leave these rows out.",
                exact,
            )
        )
    if near:
        made.append(
            Finding(
                LOOK,
                "near_label_conflict",
                of_rows(near, known, "rows with a label has", "rows with a label have")
                + " a near copy of another class",
                "Look at the pairs: one label of each is probably wrong.",
                near,
            )
        )
    return made


def _own_copies(rows: CheckedRows, copies: Copies, counts: dict[int, int]) -> list[Finding]:
    """Return a finding on repeated labelled rows: validation rows, and maybe test rows, are drawn from them."""
    exact, near = copies.within[LABELED]
    total = exact + near
    if total < max(1, MUCH * counts[LABELED]) or _chance(rows, copies):
        return []
    drawn = "validation rows are" if counts[TEST] or counts[UNLABELED] else "validation and test rows are"
    repeat = of_rows(total, counts[LABELED], "labelled rows repeats", "labelled rows repeat")
    text = f"{repeat} another one ({exact:,} exactly, {near:,} nearly)"
    remedy = f"Keep one of each: {drawn} drawn from these, and copies make their figures too good."
    return [Finding(LOOK, "labelled_copies", text, remedy, total)]


def about_classes(source: Source, per_class: list[int], draws_test: bool = False) -> list[Finding]:
    """Return findings on too few classes or labels, and on uneven ones.

    Args:
        per_class: number of readable labelled training rows of each class.
        draws_test: whether test rows will be drawn from these rows.
    """
    names, made = source.class_names, []
    if not sum(per_class):
        made.append(Finding(UNUSABLE, "no_labels", "no row has a label", "Label a few rows of each class."))
        return made
    if len(names) < 2:
        made.append(Finding(UNUSABLE, "one_class", f"there is one class, {some(names)}", "Label rows of another one."))
    empty = [name for name, count in zip(names, per_class) if not count]
    if empty:
        text = f"{plural(len(empty), 'class has', 'classes have')} no labelled row to train from: {some(empty)}"
        made.append(Finding(UNUSABLE, "empty_class", text, "Label at least one row of each.", len(empty)))
    single = [name for name, count in zip(names, per_class) if count == 1]
    few = [name for name, count in zip(names, per_class) if 1 < count < 5]
    if single:
        text = f"{plural(len(single), 'class has', 'classes have')} one labelled row: {some(single)}"
        remedy = "Label more: with one row there is none to validate on, and --labels N must be 1."
        made.append(Finding(LOOK, "single_label", text, remedy, len(single)))
    if few:
        text = f"{plural(len(few), 'class has', 'classes have')} fewer than 5 labelled rows: {some(few)}"
        remedy = (
            f"Label more, or ask for at most --labels {_left(min(c for c in per_class if c), draws_test)}; validation "
            "takes one of each."
        )
        made.append(Finding(LOOK, "few_labels", text, remedy, len(few)))
    low, high = min(c for c in per_class if c), max(per_class)
    if high > SKEW * low:
        rare, common = names[per_class.index(low)], names[per_class.index(high)]
        text = f"the labels are uneven: '{common}' has {high:,}, '{rare}' {low:,} (1 to {high / low:.0f})"
        most = _left(low, draws_test)
        remedy = f"Label more of the rare ones, or draw evenly: --labels {most}{' or fewer' if most > 1 else ''}."
        made.append(Finding(LOOK, "skew", text, remedy, high))
    return made


def _left(count: int, draws_test: bool) -> int:
    """Return how many labels of a class a training may ask for, after a share is set aside for testing."""
    return count - max(1, round(SplitConfig().test * count)) if draws_test and count > 1 else count


def about_parts(rows: CheckedRows) -> list[Finding]:
    """Return a finding on a pool smaller than the labelled rows."""
    labeled, unlabeled = (int((rows.part == part).sum()) for part in (LABELED, UNLABELED))
    if unlabeled and labeled and unlabeled < labeled:
        text = f"there are fewer unlabelled rows ({unlabeled:,}) than labelled ones ({labeled:,})"
        return [Finding(LOOK, "few_unlabelled", text, "Compare with `--method supervised`: the gain may be small.")]
    return []


def about_problems(source: Source, rows: CheckedRows, stops: bool = False) -> list[Finding]:
    """Return a finding on unreadable rows; ``stops``: they are rows of a file, and a training stops at the first."""
    bad = len(source.problems)
    if not bad:
        return []
    every = bad + len(rows.index)
    why = source.problems[0]
    text = f"{share(bad, every)} rows cannot be read, such as '{why[0]}': {why[1]}"
    if stops:
        same = sum(fault_of(reason) == fault_of(why[1]) for _, reason in source.problems)
        remedy = "Mend them (--out DIR lists each), or leave them out with source.table.skip_bad_rows=true."
        if same >= SYSTEMATIC * every and same > 1:
            remedy = systematic_remedy(why[1], "Mend the file, not its rows (--out DIR lists each).")
        return [Finding(UNUSABLE, "bad_rows", text, remedy, bad)]
    stops = bad > max(5, MAX_BAD * every)
    remedy = "Repair or remove them" + (
        "; train stops at so many, unless source.image.allow_bad=true." if stops else "."
    )
    return [Finding(HURT if stops else LOOK, "unreadable", text, remedy, bad)]


def about_names(twins: list[tuple[str, str, str]], empty: list[str]) -> list[Finding]:
    """Return findings on class names that look alike, or that may mean "no label"."""
    made = []
    if twins:
        one, other, by = twins[0]
        more = f" (and {plural(len(twins) - 1, 'more pair')})" if len(twins) > 1 else ""
        sure = any(by != "a plural s" for _, _, by in twins)
        text = f"the classes '{one}' and '{other}' differ only by {by}{more}"
        made.append(Finding(HURT if sure else LOOK, "class_twins", text, "Merge them if they are one.", len(twins)))
    if empty:
        text = f"{some(empty)} is taken for a class"
        remedy = f"If it means that a row has no label, set source.no_label={','.join(empty)}."
        made.append(Finding(HURT, "class_without_name", text, remedy, len(empty)))
    return made


def about_reading(source: Source) -> list[Finding]:
    """Return the doubts of the source about how it was read, as findings."""
    doubts = [note for note in source.notes if isinstance(note, Doubt)]
    return [Finding(HURT if note.harmful else LOOK, note.kind, note.what, note.remedy) for note in doubts]


def about_photographs(source: Source) -> list[Finding]:
    """Return the advice to use a frozen encoder for photographs, which usually gains more than any method."""
    if not are_photographs(source):
        return []
    return [Finding(LOOK, "photographs", CLAIM, advice())]


def about_strange(rows: CheckedRows, strange: Strange | None) -> list[Finding]:
    """Return findings on unlabelled rows that differ from the labelled rows."""
    if strange is None:
        return []
    made, pool = [], int((rows.part == UNLABELED).sum())
    if strange.some:
        count = round(strange.share * pool)
        worst = rows.id(strange.positions[0])
        text = of_rows(count, pool, "unlabelled rows looks", "unlabelled rows look")
        text += f" unlike every labelled one, such as '{worst}'"
        remedy = "Look at a few: rows of no known class teach the wrong thing. Remove them, or label some."
        made.append(Finding(LOOK, "strange_rows", text, remedy, count))
    if strange.apart:
        text = f"unlabelled and labelled rows differ as a whole: a classifier tells them apart (AUC {strange.auc:.2f})"
        remedy = "Fine if the classes are only mixed otherwise; if they come from elsewhere, label some of these too."
        made.append(Finding(LOOK, "parts_differ", text, remedy))
    return made


def about_headers(facts: dict[str, Any] | None) -> list[Finding]:
    """Return findings on image files that are read in a way that may surprise."""
    if facts is None:
        return []
    made = []
    (low_h, low_w), (high_h, high_w) = facts["smallest"], facts["largest"]
    if high_h * high_w > 64 * low_h * low_w:
        text = f"the images' sizes run from {low_w} x {low_h} to {high_w} x {high_h}"
        made.append(Finding(LOOK, "sizes", text, "Small ones are enlarged: check that they show what the others show."))
    if facts["shades"] < FEW_SHADES:
        held = plural(facts["deep"], "image has", "images have")
        text = f"{held} more than 8 bits, but 98 % of the values share {plural(facts['shades'], 'grey level')} of 256"
        remedy = "A few values lie far from the others: cut these off, or save the images with 8 bits per value."
        made.append(Finding(HURT, "narrow_depth", text, remedy, facts["deep"]))
    if facts["cut"]:
        text = f"{plural(facts['cut'], 'image has', 'images have')} 16 bits per colour, of which the upper 8 are read"
        dark = f"{plural(facts['dark'], 'image is', 'images are')} nearly black so" if facts["dark"] else ""
        remedy = "Bring their values to 0..255 and save them with 8 bits per colour."
        text += f", and {dark}" if dark else ""
        made.append(Finding(HURT if facts["dark"] else LOOK, "deep_colours", text, remedy, facts["cut"]))
    if facts["animated"]:
        text = f"{plural(facts['animated'], 'image moves', 'images move')}"
        made.append(Finding(LOOK, "animated", text, "Only the first frame is read.", facts["animated"]))
    return made

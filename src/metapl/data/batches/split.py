"""Splits: divide the rows into labelled, unlabelled, validation and test rows, by a seed; hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch

from metapl.data.batches.seeds import generator
from metapl.data.images.levels import to_dict
from metapl.data.modalities import modality_of
from metapl.data.row_checks import plural, some
from metapl.data.tables.spelling import doubtful
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.types import Array, Source, Split
from metapl.utils.fields import AT_LEAST_ONE, BELOW_ONE, Settings

ByClass = dict[int, Array]
PARTS = ("labeled", "unlabeled", "validation", "test")


@dataclass(frozen=True)
class SplitConfig(Settings, group="split"):
    """How the rows are divided into parts."""

    labels: Annotated[
        int | None,
        "labelled rows per class, drawn by seed, validation rows included; null keeps every label",
        AT_LEAST_ONE,
    ] = None
    labels_total: Annotated[
        int | None,
        "labelled rows in all, spread evenly over the classes; not together with `labels`",
        AT_LEAST_ONE,
    ] = None
    validation: Annotated[
        str | float | int,
        '"auto" (20 % of the labelled rows of each class, at least one where a class has two or more; none for tables '
        "and texts where every class has fewer than 50), a fraction "
        'below 1, a whole number per class, or 0 / "none"',
    ] = "auto"
    test: Annotated[
        float,
        "share of each class set aside for testing where the source has no test rows and every row a label",
        BELOW_ONE,
    ] = 0.2
    hold_out: Annotated[
        float,
        "share of the labelled rows of each class set aside for testing where the source has no test rows and not "
        "every row a label; `compare` sets it where it must",
        BELOW_ONE,
    ] = 0.0
    include_labeled: Annotated[
        bool, "whether labelled training rows also stand in the unlabelled pool, as in the paper"
    ] = True


def make_split(source: Source, config: SplitConfig, seed: int, *, require_unlabeled: bool = True) -> Split:
    """Divide the rows of ``source``: test first, then the labels, then validation out of the labelled rows.

    Labels are drawn from one permutation per class, so that a larger ``labels`` contains a smaller one. Corrections
    come after: the draw is that of the data without them, then corrected rows change their part.

    Args:
        require_unlabeled: refuse a split without unlabelled rows.

    Raises:
        UserError: the config contradicts itself, or asks for more rows than there are.
    """
    corrected, source = source, traits(source).uncorrected or source
    _check(source, config)
    notes: list[str] = []
    test = _test_rows(source, config, seed, notes)
    rest = np.setdiff1d(np.flatnonzero(~source.is_test), test)
    drawn = _draw_labels(source, rest, config, seed)
    validation = _validation_rows(source, drawn, _wanted(source, drawn, config.validation), seed, notes)
    labeled = np.setdiff1d(_join(drawn), validation)
    unlabeled = np.setdiff1d(rest, _join(drawn))
    if corrected is not source:
        labeled, unlabeled, validation, test = _correct(corrected, (labeled, unlabeled, validation, test))
        source = corrected
    if require_unlabeled and not len(unlabeled):
        remedy = (
            "Set --labels N (split.labels=N, rows per class) below the size of the classes, or add unlabelled rows."
        )
        if marks := doubtful(source.class_names):
            remedy = (
                f"If the label '{marks[0]}' means that a row has none, set source.no_label={marks[0]}. Else: {remedy}"
            )
        raise UserError("no unlabelled rows are left", remedy, source.name)
    if config.include_labeled:
        unlabeled = np.sort(np.concatenate([unlabeled, labeled]))
    _note_counts(source, labeled, unlabeled, validation, test, config, notes)
    sha = split_sha(source, labeled, unlabeled, validation, test)
    return Split(labeled, unlabeled, validation, test, seed, sha, tuple(notes))


def _correct(source: Source, parts: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    """Move corrected rows between the parts (labelled, unlabelled, validation, test), as ``make_split`` drew them.

    A pool row with a label becomes a labelled row. A labelled or validation row without its label becomes a pool row,
    a test row without its label is left out. Validation and test rows with another label stay where they are.

    Raises:
        UserError: a class is left without a labelled row.
    """
    labeled, unlabeled, validation, test = parts
    given = traits(source).corrections or {}
    answered = np.flatnonzero([name in given for name in source.ids])
    labels, none = answered[source.labels[answered] >= 0], answered[source.labels[answered] < 0]
    added = np.intersect1d(unlabeled, labels)
    dropped = np.intersect1d(np.concatenate([labeled, validation]), none)
    labeled = np.setdiff1d(np.union1d(labeled, added), none)
    unlabeled = np.union1d(np.setdiff1d(unlabeled, added), dropped)
    for k, count in enumerate(np.bincount(source.labels[labeled], minlength=len(source.class_names)).tolist()):
        if not count:
            what = f"the corrections leave class '{source.class_names[k]}' no labelled row for training"
            raise UserError(what, "Label at least one row of it.", source.name)
    return labeled, unlabeled, np.setdiff1d(validation, none), np.setdiff1d(test, none)


def split_sha(source: Source, labeled: Array, unlabeled: Array, validation: Array, test: Array) -> str:
    """Return the SHA-256 (hex) over the four arrays of row numbers and the source's fingerprint."""
    digest = hashlib.sha256(f"metapl split 1 {source.fingerprint()}".encode())
    for part in (labeled, unlabeled, validation, test):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()


def to_json(split: Split, source: Source) -> dict[str, Any]:
    """Return the split as plain JSON values, and the levels of its images.

    Rows are stored by their ids, which stay the same if the order of files changes.
    """
    parts = {part: [source.ids[k] for k in getattr(split, part)] for part in PARTS}
    levels = to_dict(traits(source).levels)
    head = {"format": 1, "source": source.name, "fingerprint": source.fingerprint(), **levels}
    return {**head, "seed": split.seed, "sha": split.sha, "notes": list(split.notes), **parts}


def from_json(stored: Mapping[str, Any], source: Source) -> Split:
    """Return the split that ``to_json`` stored.

    Raises:
        UserError: the data changed since, the rows do not match their hash, or a part is missing.
    """
    try:
        fingerprint, seed, sha = stored["fingerprint"], int(stored["seed"]), stored["sha"]
        names, notes = {part: list(stored[part]) for part in PARTS}, tuple(stored["notes"])
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the stored split is incomplete ({error})", "Make a new run.", source.name) from error
    if fingerprint != source.fingerprint():
        raise UserError(
            "the data changed since the split was made, or metapl now reads them otherwise",
            "Restore the data as they were, or start a new run (an earlier version's with that version).",
            source.name,
        )
    number = {row_id: k for k, row_id in enumerate(source.ids)}
    rows = {part: np.array([number.get(i, -1) for i in ids], dtype=np.int64) for part, ids in names.items()}
    if split_sha(source, **rows) != sha:
        raise UserError("the stored split does not match its hash", "Start a new run.", source.name)
    return Split(**rows, seed=seed, sha=sha, notes=notes)


def _check(source: Source, config: SplitConfig) -> None:
    """Refuse settings that no rows could satisfy."""
    classes = len(source.class_names)
    if not (source.labels >= 0).any():
        raise UserError("there are no labelled rows", "Label at least one row of each class.", source.name)
    if classes < 2:
        raise UserError("there is only one class", "A classifier needs rows of at least two classes.", source.name)
    if config.labels is not None and config.labels_total is not None:
        raise UserError("labels and labels_total are both set", "Set one of the two.", "split")
    if config.labels_total is not None and config.labels_total < classes:
        raise UserError(
            f"labels_total is {config.labels_total}, below the {classes} classes",
            f"Give at least {classes}.",
            "split.labels_total",
        )


def _by_class(source: Source, rows: Array) -> ByClass:
    """Return the rows of each class among ``rows``, in ascending order; every class has an entry."""
    labels = source.labels[rows]
    return {k: rows[labels == k] for k in range(len(source.class_names))}


def _join(groups: ByClass) -> Array:
    """Return all rows of all classes, ascending."""
    return np.sort(np.concatenate([np.zeros(0, dtype=np.int64), *groups.values()]))


def _shuffled(rows: Array, seed: int, part: str, name: str) -> Array:
    """Return ``rows`` in an order that depends on the seed, the part of the split and the class name."""
    order: Array = torch.randperm(len(rows), generator=generator("cpu", seed, "split", part, name)).numpy()
    shuffled: Array = rows[order]
    return shuffled


def _share(count: int, share: float) -> int:
    """Return the number of rows for a ``share`` of ``count``: from one to all but one; 0 for fewer than two rows."""
    return min(max(1, round(share * count)), count - 1) if count >= 2 else 0


def _test_rows(source: Source, config: SplitConfig, seed: int, notes: list[str]) -> Array:
    """Return the source's own test rows, or a stratified share of its labelled rows, or none."""
    own = np.flatnonzero(source.is_test & (source.labels >= 0))
    if source.is_test.any():
        without = int(source.is_test.sum()) - len(own)
        if without:
            notes.append(f"{plural(without, 'test row')} without a label left out")
        return own
    if config.test == 0:
        notes.append("no test rows: test=0")
        return own
    share = config.hold_out if (source.labels < 0).any() else config.test
    if share == 0:
        notes.append("no test rows: the data bring none and are not fully labelled")
        return own
    groups = _by_class(source, np.arange(len(source.ids)))
    return _join(
        {
            k: _shuffled(rows, seed, "test", source.class_names[k])[: _share(len(rows), share)]
            for k, rows in groups.items()
        }
    )


def _quota(source: Source, config: SplitConfig, seed: int) -> list[int] | None:
    """Return the number of labels wanted of each class, or None for all."""
    classes = len(source.class_names)
    if config.labels is not None:
        return [config.labels] * classes
    if config.labels_total is None:
        return None
    even, over = divmod(config.labels_total, classes)
    lucky = set(_shuffled(np.arange(classes), seed, "quota", "")[:over].tolist())
    return [even + (k in lucky) for k in range(classes)]


def _draw_labels(source: Source, rest: Array, config: SplitConfig, seed: int) -> ByClass:
    """Return the rows of each class that keep their label."""
    quota = _quota(source, config, seed)
    drawn: ByClass = {}
    for k, rows in _by_class(source, rest).items():
        name = source.class_names[k]
        if not len(rows):
            raise UserError(
                f"class '{name}' has no labelled row for training", "Label at least one row of it.", source.name
            )
        if quota is not None and len(rows) < quota[k]:
            away = int(((source.labels == k) & ~source.is_test).sum()) - len(rows)
            held = f" (and {away} held out for testing)" if away else ""
            have = plural(len(rows), "labelled row")
            raise UserError(
                f"class '{name}' has {have} for training{held}, fewer than the {quota[k]} asked for",
                f"Ask for at most {len(rows)} per class, or label more rows.",
                source.name,
            )
        order = _shuffled(rows, seed, "labels", name)
        drawn[k] = order if quota is None else order[: quota[k]]
    return drawn


def _validation_rows(source: Source, drawn: ByClass, wanted: str | float | int, seed: int, notes: list[str]) -> Array:
    """Return validation rows, taken out of the labelled rows class by class; notes say which classes give none."""
    take = {k: _validation_count(source.class_names[k], len(rows), wanted) for k, rows in drawn.items()}
    if not sum(take.values()):
        why = "as asked" if wanted in (0, "none") else "no class has two labelled rows"
        why = "all labels teach, since they are few (--validation 0.2 holds a fifth back)" if wanted == "few" else why
        notes.append(f"no validation rows: {why}")
    elif wanted in (0, "none"):
        notes.append("no validation rows: as asked")
    else:
        bare = [source.class_names[k] for k, count in take.items() if not count]
        if bare:
            have = plural(len(bare), "class has", "classes have")
            notes.append(f"{have} too few labelled rows for a validation row: {some(bare)}")
    names = source.class_names
    return _join({k: _shuffled(np.sort(drawn[k]), seed, "validation", names[k])[:n] for k, n in take.items()})


def _wanted(source: Source, drawn: ByClass, wanted: str | float | int) -> str | float | int:
    """Return ``wanted``; ``"few"`` for ``"auto"`` with so few labelled rows that all of them are trained on."""
    few = modality_of(source.kind).few_labels
    return "few" if wanted == "auto" and max(map(len, drawn.values())) < few else wanted


def _validation_count(name: str, count: int, wanted: str | float | int) -> int:
    """Return the number of validation rows out of a class's ``count`` labelled rows.

    Raises:
        UserError: ``wanted`` is invalid, or leaves the class without a labelled row.
    """
    if wanted == "auto":
        return _share(count, 0.2)
    if wanted in ("none", "few") or (wanted == 0 and not isinstance(wanted, bool)):
        return 0
    if isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0:
        if wanted >= count:
            have = f"class '{name}' has {plural(count, 'labelled row')}"
            raise UserError(
                f"{have}: beside {wanted} for validation, no row is left to train on",
                "Ask for fewer validation rows or more labels.",
                "split.validation",
            )
        return wanted
    if isinstance(wanted, float) and 0 < wanted < 1:
        return _share(count, wanted)
    raise UserError(
        f"validation is {wanted!r}",
        "Give 'auto', 'none', a fraction below 1, or a whole number of rows per class.",
        "split.validation",
    )


def _note_counts(
    source: Source,
    labeled: Array,
    unlabeled: Array,
    validation: Array,
    test: Array,
    config: SplitConfig,
    notes: list[str],
) -> None:
    """Insert a note on the counts first, and append one on uneven labels."""
    counts = np.bincount(source.labels[labeled], minlength=len(source.class_names))
    low, high = int(counts.min()), int(counts.max())
    spread = f"{low}" if low == high else f"{low} to {high}"
    pool = "labelled rows included" if config.include_labeled else "labelled rows not included"
    notes.insert(
        0,
        f"{len(labeled)} labelled ({spread} per class), {len(unlabeled)} unlabelled ({pool}), "
        f"{len(validation)} validation, {plural(len(test), 'test row')}",
    )
    if high > 10 * low:
        few, many = source.class_names[int(counts.argmin())], source.class_names[int(counts.argmax())]
        notes.append(f"the labels are uneven: class '{few}' has {low}, class '{many}' has {high}")

"""The check whether judged rows were among the training rows, in whatever file.

Nothing about single rows is stored with a run: its own files are read again, where that is quick.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from metapl.config.settings import RunConfig
from metapl.data.modalities import modality_of
from metapl.data.sources import open_source
from metapl.data.tables.columns import matching
from metapl.data.tables.readers.files import tables_in
from metapl.errors import UserError
from metapl.runs.folder import load_split
from metapl.runs.model_folder import Predictor
from metapl.types import Array, Source

MAX_BYTES = 64 * 2**20  # of the run's files: a few seconds
ROWS = 4096  # read at a time
ALIKE = 0.1  # share of training rows that repeat, from which an equal row says little (few columns of categories)


def seen_rows(run: Path, config: RunConfig, predictor: Predictor, rows: Source, index: Array) -> str:
    """Return a warning if rows of ``rows`` at ``index`` [n] int64 are among the run's training rows; else "".

    It is also "" where that is not known: images, runs with an encoder, large files, files that are gone or changed.
    """
    p = predictor.takes
    if modality_of(p.kind).sized or config.source.encoder.name or not _is_quick(config):
        return ""
    try:
        own = open_source(config.ref, config.source)
        split = load_split(run, own)
        fit = matching(own.columns, p.columns, own.name)
    except UserError:
        return ""
    if own.kind != p.kind or own.tokens != p.tokens:
        return ""
    labeled = np.union1d(split.labeled, split.validation)
    both = np.union1d(labeled, split.unlabeled)
    digests, has_label = list(_digests(own, both, fit)), np.isin(both, labeled)
    known, with_label = set(digests), {digest for digest, has in zip(digests, has_label) if has}
    if len(known) < (1 - ALIKE) * len(both):
        return ""
    found = list(_digests(rows, index, matching(rows.columns, p.columns, rows.name)))
    count = sum(digest in known for digest in found)
    if not count:
        return ""
    labels = sum(digest in with_label for digest in found)
    stand = "stands" if count == 1 else "stand"
    warning = f"{count:,} of these {len(found):,} rows {stand} among the rows that the model was trained on"
    return f"{warning} ({labels:,} with their label): they make the figures too good"


def _is_quick(config: RunConfig) -> bool:
    """Return whether the run's data are files of rows, small enough to be read once more."""
    ref, files = config.ref, list[Path]()
    if ref.path is not None and (ref.is_table or ref.is_arrays):
        files = [ref.path]
    elif ref.path is not None and ref.is_folder:
        files = list(tables_in(ref.path).values())
    further = (config.source.unlabeled, config.source.test, config.source.labels)
    named = [Path(name).expanduser() for name in further if name and files]
    try:
        return bool(files) and sum(path.stat().st_size for path in [*files, *named]) <= MAX_BYTES
    except OSError:
        return False


def _digests(source: Source, index: Array, fit: Any) -> Iterator[bytes]:
    """Yield a digest of the contents of each row; any NaN is like any other, and -0 like 0."""
    for start in range(0, len(index), ROWS):
        values = fit(source.rows(index[start : start + ROWS])).numpy()
        if values.dtype.kind == "f":
            values = np.where(np.isnan(values), np.float32("nan"), values + np.float32(0))
        for row in np.ascontiguousarray(values).reshape(len(values), -1).view(np.uint8):
            yield hashlib.blake2b(row.data, digest_size=16).digest()

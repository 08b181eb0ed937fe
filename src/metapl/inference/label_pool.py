"""Label a pool of any size, part by part, into a folder of Parquet files that a killed run goes on with.

    labels.json            which model, which pool, how many rows in a part; at the end the counts
    part-00000.parquet     id, label, confidence, margin
    part-00000.json        counts, problems and sums of this part: with it, the part is done
    problems.csv           id or place, and why it has no label; written at the end

A part is read, labelled and written as a whole, by whichever process an engine chooses. The same pool is always cut
into the same parts, so every engine writes the same files, and none holds more than a few parts in memory.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from metapl.data.options import SourceOptions
from metapl.data.ref import DataRef
from metapl.data.sources import read_ref
from metapl.errors import UserError
from metapl.inference.labels import COLUMNS, PROBLEM, label_batch
from metapl.inference.pool_parts import ROWS, Part, Pool
from metapl.inference.stored_run import Tell, open_model
from metapl.runs.model_folder import CARD, Predictor, load_model
from metapl.utils.files import guarded, seal, sha256, write_json, write_with
from metapl.utils.limits import read_json
from metapl.utils.locks import locked
from metapl.utils.progress import silent

LABELS, PROBLEMS, LOCK = "labels.json", "problems.csv", ".lock"


@dataclass(frozen=True)
class PartJob:
    """What labels one part, in any process: the folders of the model and of the answers, and how rows are read."""

    model: str
    out: str
    device: str
    options: SourceOptions
    trust_code: bool = False

    def __call__(self, part: Part) -> dict[str, Any]:
        """Label the part, write its files, and return the counts."""
        return write_part(Path(self.out), part, _model(self.model, self.device, self.trust_code), self.options)


Engine = Callable[[PartJob, Iterable[Part]], Iterator[dict[str, Any]]]


def run_here(job: PartJob, parts: Iterable[Part]) -> Iterator[dict[str, Any]]:
    """Label the parts one after the other in this process."""
    return map(job, parts)


def label_pool(
    run: Path,
    pool: str,
    out: Path,
    device: str | None = None,
    tell: Tell = silent,
    trust_code: bool = False,
    engine: Engine = run_here,
    rows: int = ROWS,
) -> dict[str, Any]:
    """Label every row of ``pool`` into the folder ``out``, or go on with what an earlier call has left there.

    Args:
        run: the run folder whose model is used.
        pool: a folder of images, a file of rows, or a folder of such files.
        out: new, empty, or the folder of an earlier call.
        device: as ``open_model`` takes it.
        tell: called with progress.
        trust_code: whether code that the run names may be called.
        engine: runs a ``PartJob`` on the parts that are not done.
        rows: of a part.

    Returns:
        What ``labels.json`` holds: rows, problems and parts in all.

    Raises:
        UserError: no finished run, an unknown pool, a folder with other files or with labels of another model or pool,
            or pyarrow is missing.
    """
    _parquet()
    config, predictor = open_model(run, device, trust_code)
    ref = read_ref(pool)
    source = Pool(ref, config.source, predictor.input())
    identity = {"model": sha256(run / "model" / CARD), "pool": _identity(ref, source), "rows_per_part": rows}
    _claim(out)
    with locked(out / LOCK):
        for orphan in out.glob(".*.tmp"):  # left by a process that was killed while writing
            orphan.unlink(missing_ok=True)
        _check_identity(out, identity)
        counts = _Counts(tell)
        job = PartJob(
            os.path.abspath(run / "model"), os.path.abspath(out), str(predictor.device), source.options, trust_code
        )
        for count in engine(job, _missing(out, source.parts(rows), counts)):
            counts.add(count)
        result = {**identity, "rows": counts.rows, "problems": counts.problems, "parts": counts.parts, "done": True}
        _write_problems(out, counts.parts)
        write_json(out / LABELS, result)
    return result


class _Counts:
    """Rows, problems and parts so far."""

    def __init__(self, tell: Tell) -> None:
        self.rows = self.problems = self.parts = 0
        self._tell = tell

    def add(self, count: dict[str, Any]) -> None:
        self.rows, self.problems = self.rows + count["rows"], self.problems + len(count["problems"])
        self.parts += 1
        self._tell(f"{self.rows:,} rows labelled, {self.problems:,} left out, {self.parts:,} parts")


def _missing(out: Path, parts: Iterable[Part], counts: _Counts) -> Iterator[Part]:
    """Yield the parts that are not done; count the others."""
    for part in parts:
        done = read_part(out, part.number)
        if done is None:
            yield part
        elif done["digest"] != part.digest:
            remedy = "Name another folder with --out, or bring back the rows."
            raise UserError("the pool has changed since these labels were begun", remedy, str(out))
        else:
            counts.add(done)


def write_part(out: Path, part: Part, model: Predictor, options: SourceOptions) -> dict[str, Any]:
    """Label a part and write its files; return what its JSON file holds."""
    pyarrow, parquet = _parquet()
    answers = label_batch(model, part.columns, options) if part.columns else {name: [] for name in (*COLUMNS, PROBLEM)}
    kept = [row for row, problem in enumerate(answers[PROBLEM]) if problem is None]
    problems = [*part.problems]
    problems += [(name, problem) for name, problem in zip(answers["id"], answers[PROBLEM]) if problem is not None]
    types = [pyarrow.string(), pyarrow.string(), pyarrow.float32(), pyarrow.float32()]
    columns = {name: [answers[name][row] for row in kept] for name in COLUMNS}
    table = pyarrow.table(columns, schema=pyarrow.schema(list(zip(COLUMNS, types))))
    path = _path(out, part.number)
    write_with(path, lambda file: parquet.write_table(table, file))
    facts = {"rows": len(kept), "problems": problems, "digest": part.digest, "sha256": sha256(path)}
    write_json(path.with_suffix(".json"), {**facts, "seal": seal(json.loads(json.dumps(facts)))})
    return facts


def read_part(out: Path, number: int) -> dict[str, Any] | None:
    """Return what the JSON file of a part holds; None where the part is not done, or not as it was written."""
    path = _path(out, number)
    try:
        facts: dict[str, Any] = read_json(path.with_suffix(".json"))
        return facts if facts.pop("seal") == seal(facts) and sha256(path) == facts["sha256"] else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _path(out: Path, number: int) -> Path:
    return out / f"part-{number:05d}.parquet"


def _identity(ref: DataRef, source: Pool) -> dict[str, Any]:
    """Name the pool: its path, and the sizes and times of its files of rows."""
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source.tables]
    return {"path": os.path.abspath(ref.path or ""), "files": hashlib.sha256(repr(stats).encode()).hexdigest()}


def _claim(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        others = [path for path in out.iterdir() if not path.name.startswith(LOCK)]
    except OSError as error:
        raise UserError(f"the folder cannot be made ({error.strerror})", "Name another.", str(out)) from error
    if others and not (out / LABELS).is_file():
        raise UserError("the folder is not empty", "Name a new one.", str(out))


def _check_identity(out: Path, identity: dict[str, Any]) -> None:
    """Begin with labels, or go on with those of the same model and pool.

    Raises:
        UserError: the folder holds others.
    """
    if not (out / LABELS).exists():
        write_json(out / LABELS, identity)
        return
    try:
        found = read_json(out / LABELS)
        other = next((name for name, value in identity.items() if found.get(name) != value), None)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"the file cannot be read ({error})", "Name another folder.", str(out / LABELS)) from error
    if other is not None:
        what = f"the folder holds labels of another {other.replace('_', ' ')}"
        raise UserError(what, "Name another folder with --out.", str(out))


def _write_problems(out: Path, parts: int) -> None:
    def write(file: Any) -> None:
        with open(file.fileno(), "w", encoding="utf-8", newline="", closefd=False) as text:
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(["id", "reason"])
            for number in range(parts):
                found = read_part(out, number) or {"problems": []}
                writer.writerows([guarded(cell) for cell in problem] for problem in found["problems"])

    write_with(out / PROBLEMS, write)


def _model(folder: str, device: str, trust_code: bool) -> Predictor:
    return _model_of(folder, Path(folder, CARD).stat().st_mtime_ns, device, trust_code)


@lru_cache(maxsize=1)
def _model_of(folder: str, written: int, device: str, trust_code: bool) -> Predictor:
    """Return the model of a folder; ``written`` tells one that was trained anew from the one before."""
    return load_model(folder, device, trust_code=trust_code)


def _parquet() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("label writes Parquet with pyarrow", 'Install it: pip install "metapl[parquet]".') from error
    return pyarrow, pyarrow.parquet

"""The table of pseudo labels: the model's answer for each row that came without a label, one line per row.

It is ``pseudo_labels.parquet`` where pyarrow is installed and ``pseudo_labels.csv`` where it is not.
"""

from __future__ import annotations

import csv
import importlib.util
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.inference.evaluate import answers
from metapl.report.gather import threshold_of
from metapl.report.record import Record, read_record
from metapl.runs.folder import write_csv
from metapl.runs.model_folder import ValidationAnswers
from metapl.training.alarms import pool_sample
from metapl.training.result import Result
from metapl.types import Array, Split
from metapl.utils.files import write_with

PARQUET, CSV = "pseudo_labels.parquet", "pseudo_labels.csv"
DIGITS = {"confidence": ".4f", "margin": ".4f", "agreement": ".3f", "feedback": ".4g"}  # in a CSV file


@dataclass(frozen=True)
class PoolRow:
    """One line of the table; ``docs/run-folder.md`` explains the columns."""

    id: str
    label: str
    confidence: float
    margin: float
    agreement: float | None
    feedback: float | None
    accepted: bool | None
    reason: str


HEADER = list(PoolRow.__annotations__)


def pseudo_labels_of(result: Result) -> Path:
    """Write the table of a run that has ended into its folder; gives the file.

    Raises:
        UserError: a run in memory, or a folder that cannot be read.
    """
    if result.folder is None:
        raise UserError("a run in memory has no folder for a table", "Save it first: result.save(folder).")
    record, pool = read_record(result.folder), result.pseudo_labels()
    judged = answers(result.predictor, result.source, result.split.validation)
    p = torch.from_numpy(pool.probabilities)
    agreement = _agreement(record, result.split, pool.index, p.argmax(-1))
    scores = record.feedback(result.split.unlabeled)
    feedback = [scores.get(row) for row in pool.index.tolist()]
    known = ValidationAnswers(judged.p, judged.y) if len(judged.y) else None
    calibrated = replace(result.predictor, validation=known).calibrated(p)
    answer = _Answers(p, calibrated, agreement, feedback)
    return write_table(result.folder, _lines(pool.ids, pool.labels, answer, *_rule(record)))


def try_pseudo_labels(result: Result) -> str:
    """Call ``pseudo_labels_of``; return a message about a failure, or ""."""
    try:
        pseudo_labels_of(result)
    except Exception as error:
        return f"the table of pseudo labels could not be written ({type(error).__name__}: {error}); the run is complete"
    return ""


def write_table(folder: Path, lines: list[PoolRow]) -> Path:
    """Write the table into a run folder; one of the other format goes."""
    if importlib.util.find_spec("pyarrow") is None:
        path, other = folder / CSV, folder / PARQUET
        write_csv(path, HEADER, [[_cell(name, value) for name, value in asdict(line).items()] for line in lines])
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path, other = folder / PARQUET, folder / CSV
        types = {"accepted": pa.bool_()} | {name: pa.float32() for name in DIGITS}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in HEADER])
        table = pa.Table.from_pylist([asdict(line) for line in lines], schema)
        write_with(path, lambda file: pq.write_table(table, file))
    other.unlink(missing_ok=True)
    return path


def _cell(name: str, value: Any) -> str:
    if value is None or name not in DIGITS:
        return str({None: "", True: "yes", False: "no"}.get(value, value))
    return format(value, DIGITS[name])


def read_table(folder: Path) -> list[PoolRow] | None:
    """Read the table of a run folder; None if it is missing or cannot be read.

    Ids and labels of a CSV file are as it has them: an apostrophe that guards a spreadsheet stays.

    Raises:
        UserError: it is damaged, or another version made it.
    """
    path = folder / PARQUET
    if not path.is_file() or importlib.util.find_spec("pyarrow") is None:
        path = folder / CSV
    if not path.is_file():
        return None
    try:
        rows = _csv_rows(path) if path.suffix == ".csv" else _parquet_rows(path)
        return [PoolRow(**row) for row in rows]
    except (OSError, ValueError, TypeError, KeyError, csv.Error) as error:  # pyarrow's errors are of these
        remedy = "Remove the file: it is made again."
        raise UserError(f"the pseudo labels cannot be read ({error})", remedy, str(path)) from error


def _csv_rows(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row |= {name: float(row[name]) if row[name] else None for name in DIGITS}
        row["accepted"] = {"yes": True, "no": False, "": None}[row["accepted"]]
    return rows


def _parquet_rows(path: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    return list(pq.read_table(path).to_pylist())


@dataclass(frozen=True)
class _Answers:
    """Probabilities [n, C] as the model gives them and after calibration.

    ``agreement`` [n] is NaN and ``feedback`` (n) is None where nothing is recorded.
    """

    own: Tensor
    calibrated: Tensor
    agreement: Array
    feedback: list[float | None]


def _lines(ids: tuple[str, ...], labels: Array, answer: _Answers, threshold: float, why_not: str) -> list[PoolRow]:
    if not len(ids):
        return []
    top, own = answer.calibrated.topk(2).values, answer.own.max(-1).values.tolist()
    confidence, margin = top[:, 0].tolist(), (top[:, 0] - top[:, 1]).tolist()
    lines = list[PoolRow]()
    for k, (row, label) in enumerate(zip(ids, labels.tolist())):
        agreement = None if np.isnan(answer.agreement[k]) else float(answer.agreement[k])
        accepted = own[k] >= threshold if threshold else None
        reason = f"{own[k]:.4f} before calibration, threshold {threshold:g}" if threshold else why_not
        lines.append(
            PoolRow(row, str(label), confidence[k], margin[k], agreement, answer.feedback[k], accepted, reason)
        )
    return lines


def _rule(record: Record) -> tuple[float, str]:
    """Return the threshold of the run's method; or 0 and why no row is accepted or refused."""
    if record.results.get("chosen_by") == "guard":
        return 0.0, "the guard chose another model"  # the method's threshold says nothing about its answers
    if record.results["method"] == "supervised":
        return 0.0, "supervised training takes no pseudo labels"
    return threshold_of(record), "the method has no fixed threshold"


def _agreement(record: Record, split: Split, index: Array, final: Tensor) -> Array:
    """Return [n] share of the snapshots in which a row had the class ``final`` [n]; NaN outside the sample."""
    share = np.full(len(index), np.nan)
    drawn = pool_sample(len(split.unlabeled), int(record.results["seed"])).numpy()
    looks = [
        row["pool"]["class"] for row in record.snapshots if len(row.get("pool", {}).get("class", ())) == len(drawn)
    ]
    if looks and len(drawn):
        place = {row: k for k, row in enumerate(split.unlabeled[drawn].tolist())}
        named = np.array(looks)  # [snapshots, sample]
        for k, row in enumerate(index.tolist()):
            if row in place:
                share[k] = (named[:, place[row]] == int(final[k])).mean()
    return share

"""The file of answers for new rows, written chunk by chunk: CSV or Parquet, or CSV on a terminal."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from metapl._version import __version__
from metapl.errors import UserError
from metapl.inference.abstain import threshold_for
from metapl.inference.predict import HEADER, Predictions, Problem
from metapl.runs.model_folder import Predictor
from metapl.utils.files import guarded
from metapl.utils.paths import shown

PARQUET = ".parquet"
_OWNER = b"metapl"  # the key in the metadata of a Parquet file of answers


@dataclass(frozen=True)
class AnswerForm:
    """What is written for each row.

    Attributes:
        top: the number of classes, the most probable first; beyond the classes of the model it has no effect.
        abstain_below: rows whose most probable class is below this probability get no label; 0 labels every row.
        precision: the share of answers that should be right; it decides ``abstain_below``, see ``settled``.
    """

    top: int = 1
    abstain_below: float = 0.0
    precision: float | None = None

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UserError(f"top is {self.top}", "Give at least 1.", "--top")
        if not 0 <= self.abstain_below <= 1:
            raise UserError(f"abstain-below is {self.abstain_below}", "Give 0 to 1.", "--abstain-below")
        if self.precision is not None and self.abstain_below:
            raise UserError("--precision and --abstain-below are both given", "Give one of the two.")

    def settled(self, predictor: Predictor, tell: Callable[[str], None]) -> AnswerForm:
        """Return the form with the threshold that the target precision means for this model; ``tell`` is given it.

        Raises:
            UserError: no threshold is known to reach it.
        """
        if self.precision is None:
            return self
        threshold = threshold_for(predictor, self.precision)
        tell(str(threshold))
        return AnswerForm(self.top, threshold.value)

    def header(self, classes: int) -> list[str]:
        """Return the names of the columns for a model of ``classes`` classes."""
        more = range(2, min(self.top, classes) + 1)
        return [*HEADER, *(f"{name}_{k}" for k in more for name in HEADER[1:])]

    def rows(self, chunk: Predictions, class_names: Sequence[str]) -> list[list[Any]]:
        """Return one list per row, in the order of ``header``; probabilities as numbers."""
        values, places = chunk.probabilities.topk(min(self.top, len(class_names)), dim=-1)
        answers = []
        for row_id, p, k in zip(chunk.ids, values.tolist(), places.tolist(), strict=True):
            answer: list[Any] = [row_id]
            for probability, place in zip(p, k, strict=True):
                answer += [class_names[place], probability]
            if p[0] < self.abstain_below:
                answer[1] = ""
            answers.append(answer)
        return answers


class AnswerFile(Protocol):
    """Receives answers in the order of their rows."""

    def write(self, rows: list[list[Any]]) -> None:
        """Append rows."""
        ...

    def close(self) -> None:
        """Finish the file; an open text stream stays open."""
        ...


class CsvAnswers:
    """CSV on an open text file. On a terminal, control characters are escaped, since names may hold any."""

    def __init__(self, file: Any, header: list[str]) -> None:
        self._writer = csv.writer(file, lineterminator="\n")
        self._cell: Callable[[Any], Any] = _printable if file.isatty() else guarded
        self._writer.writerow(header)

    def write(self, rows: list[list[Any]]) -> None:
        self._writer.writerows(
            [f"{cell:.6f}" if isinstance(cell, float) else self._cell(cell) for cell in row] for row in rows
        )

    def close(self) -> None:
        return None


def _printable(cell: Any) -> Any:
    return shown(guarded(cell)) if isinstance(cell, str) else guarded(cell)


class ParquetAnswers:
    """A Parquet file; its metadata name metapl and its version."""

    def __init__(self, path: Path, header: list[str]) -> None:
        pyarrow, parquet = _pyarrow()
        types = [pyarrow.float32() if name.startswith(HEADER[2]) else pyarrow.string() for name in header]
        self._schema = pyarrow.schema(list(zip(header, types)), metadata={_OWNER: __version__.encode()})
        self._writer, self._table = parquet.ParquetWriter(path, self._schema), pyarrow.table

    def write(self, rows: list[list[Any]]) -> None:
        columns = list(zip(*rows)) if rows else [()] * len(self._schema)
        named = dict(zip(self._schema.names, map(list, columns)))
        self._writer.write_table(self._table(named, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def write_answers(
    chunks: Iterable[Predictions], file: AnswerFile, form: AnswerForm, class_names: Sequence[str]
) -> tuple[int, list[Problem]]:
    """Write every chunk, and return the number of rows written and the problems."""
    count, problems = 0, list[Problem]()
    for chunk in chunks:
        file.write(form.rows(chunk, class_names))
        count += len(chunk.ids)
        problems += chunk.problems
    return count, problems


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet needs pyarrow", 'Install it: pip install "metapl[parquet]".', "--out") from error
    return pyarrow, pyarrow.parquet

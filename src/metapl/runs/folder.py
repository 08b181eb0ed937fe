"""The run folder: the files that a training writes, and the checks around them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from metapl.config.settings import RunConfig, load_config
from metapl.data.batches.split import from_json
from metapl.data.images.levels import from_dict
from metapl.errors import UserError
from metapl.types import Levels, Source, Split
from metapl.utils.files import guarded, write_text
from metapl.utils.limits import check_regular, read_json
from metapl.utils.names import last_part

CORRECTIONS = "corrections-used.csv"  # in a run folder: the corrected labels that it was trained with
LOCK = ".lock"  # in a run folder, while a process writes to it


def new_folder(out: str | Path | None, config: RunConfig | None = None) -> Path:
    """Create the folder of the run, never a used one.

    It is ``out``, or the first free ``runs/DATA-METHOD-SEED[-k]`` of ``config``.

    Raises:
        UserError: ``out`` exists and holds something, or cannot be made.
    """
    if out is None:
        assert config is not None
        base = f"{config.ref.stem}-{last_part(config.method)}-{config.seed}"
        names = [base, *(f"{base}-{k}" for k in range(2, 10_000))]
        out = next(p for n in names if not (p := Path("runs") / n).exists())
    out = Path(out).expanduser()
    if out.exists() and (not out.is_dir() or any(not p.name.startswith(LOCK) for p in out.iterdir())):
        stopped = config is not None and (out / "config.yaml").is_file() and not (out / "results.json").exists()
        remedy = f"Name another folder{', or use `metapl resume` to go on with the stopped run' if stopped else ''}."
        raise UserError("the output folder is not empty", remedy, str(out))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the output folder cannot be made ({error.strerror})", "Name another.", str(out)) from error
    return out


def open_run(folder: Path, training: bool = True) -> RunConfig:
    """Read the config of the run in ``folder``; ``training`` as in ``load_config``.

    Raises:
        UserError: ``folder`` is not a run folder.
    """
    if not (folder / "config.yaml").is_file():
        raise UserError(
            "this is not a run folder (it has no config.yaml)", "Give a folder that train made.", str(folder)
        )
    config = load_config(folder / "config.yaml", training)
    own = folder / CORRECTIONS  # the file that was given may have grown since
    if not config.source.corrections or not own.is_file():
        return config
    return replace(config, source=replace(config.source, corrections=str(own)))


def load_split(folder: Path, source: Source) -> Split:
    """Read the stored split of ``source``.

    Raises:
        UserError: the split cannot be read, or the data have changed since.
    """
    try:
        stored = read_json(folder / "split.json")
    except (OSError, ValueError) as error:
        raise UserError(f"the stored split cannot be read ({error})", "Train again.", str(folder)) from error
    return from_json(stored, source)


def stored_levels(folder: Path) -> Levels:
    """Read how the run in ``folder`` reads images with more than 8 bits; no levels where an earlier version began it.

    What is damaged counts as absent: ``load_split`` says so.
    """
    try:
        return from_dict(read_json(folder / "split.json"))
    except (OSError, AttributeError, TypeError, ValueError):
        return Levels()


def is_of_0_1_0(folder: Path) -> bool:
    """Return whether version 0.1.0 began the run: its settings of the source do not stand in groups."""
    tree = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return not isinstance(tree["source"]["encoder"], dict)


def csv_text(header: list[str], rows: list[list[Any]]) -> str:
    """Return a whole CSV file as text; a text that a spreadsheet would compute gets an apostrophe in front."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([guarded(value) for value in row] for row in rows)
    return text.getvalue()


def write_csv(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    """Write ``csv_text`` as a file, in one step."""
    write_text(path, csv_text(header, rows))


def left_out(folder: Path) -> dict[str, str]:
    """Read the list that ``write_problems`` wrote: reasons by id; empty if the run has no such list."""
    try:
        with open(folder / "problems.csv", encoding="utf-8", newline="") as file:
            return {row["id"]: row["reason"] for row in csv.DictReader(file)}
    except (OSError, ValueError, KeyError, csv.Error):
        return {}


def write_problems(path: Path, problems: list[tuple[str, str]]) -> None:
    """Write ``problems.csv``: id and reason of each row that was left out; no file if all rows were read."""
    if problems:
        write_csv(path, ["id", "reason"], [list(p) for p in problems])


class Metrics:
    """``metrics.jsonl``: one JSON object per logged step; ``metrics.csv`` is made from it at the end."""

    def __init__(self, folder: Path, name: str = "metrics.jsonl") -> None:
        self.path = folder / name

    def truncate(self, step: int) -> None:
        """Remove rows logged after ``step`` by a run that was killed, and a last line that is not whole."""
        if self.path.exists():
            kept = [row for row in self.read() if row["step"] <= step]
            write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **values}) + "\n")
        except OSError as error:  # a full disk is noticed when the file is closed, without its name
            raise type(error)(error.errno, error.strerror, str(self.path)) from error

    def read(self) -> list[dict[str, Any]]:
        check_regular(self.path)
        rows = []
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines() if self.path.exists() else []:
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):  # cut short by a crash, or damaged
                continue
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                rows.append(row)
        return rows

    def write_csv(self) -> None:
        rows = self.read()
        names = list(dict.fromkeys(k for row in rows for k in row))
        write_csv(self.path.with_suffix(".csv"), names, [[row.get(n, "") for n in names] for row in rows])

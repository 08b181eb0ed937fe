"""Recorders: a run's logged numbers, states and models, kept in memory or in its run folder."""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from metapl.config.settings import RunConfig, load_config, save_config
from metapl.data.batches.split import to_json
from metapl.data.traits import traits
from metapl.errors import UserError
from metapl.hardware import ranks
from metapl.hardware.device import environment
from metapl.runs import checkpoint
from metapl.runs.folder import CORRECTIONS, LOCK, Metrics, write_csv, write_problems
from metapl.runs.model_folder import Predictor, save_model
from metapl.types import Source, Split
from metapl.utils.files import write_json
from metapl.utils.limits import read_json
from metapl.utils.locks import locked
from metapl.utils.signals import stop_signals

SNAPSHOTS = 20  # of what the model answers, in a run
SNAPSHOT_FILE = "snapshots.jsonl"
DIVERGED_FILE = "diverged.json"
GROWTH = 2  # a later state is at most twice as large: Adam adds two numbers to each weight and its average


@dataclass(frozen=True)
class RunStart:
    """What is known when a run begins."""

    config: RunConfig
    device: torch.device
    source: Source
    split: Split


@dataclass(frozen=True)
class TrainedModel:
    """A network that a run ends with.

    Attributes:
        place: name of its folder within a run folder.
        name: what ``build_model`` takes.
        card: how it was trained.
    """

    place: str
    predictor: Predictor
    name: str
    card: dict[str, Any]


class Recorder:
    """Keeps a run in memory. It writes no checkpoints, so a stop is a plain ``KeyboardInterrupt`` and loses the run."""

    folder: Path | None = None

    def __init__(self) -> None:
        self.start: RunStart | None = None
        self.models: list[TrainedModel] = []
        self.summary: dict[str, Any] = {}
        self._rows: list[dict[str, Any]] = []
        self._snapshots: list[dict[str, Any]] = []
        self._origin: tuple[int, dict[str, Any]] = -1, {}  # the last state to go back to, on the CPU

    def claimed(self) -> AbstractContextManager[None]:
        """Keep other processes away while the run is written."""
        return nullcontext()

    def begin(self, start: RunStart) -> None:
        """Begin a new run; called once, before its first step."""
        self.start = start

    def listen(self) -> AbstractContextManager[list[int]]:
        """Give the signals that ask the run to stop, as ``stop_signals`` does; in memory they are not caught."""
        return nullcontext([])

    def truncate(self, step: int) -> None:
        """Drop what was logged after ``step``."""
        self._rows = [row for row in self._rows if row["step"] <= step]
        self._snapshots = [row for row in self._snapshots if row["step"] <= step]

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._rows.append({"step": step, **values})

    def rows(self) -> list[dict[str, Any]]:
        """Return all that was logged, oldest first."""
        return list(self._rows)

    def wants_snapshot(self, step: int, total: int) -> bool:
        """Return whether to record the answers at ``step`` of ``total``: about ``SNAPSHOTS`` times, and at the end."""
        last = self._snapshots[-1]["step"] if self._snapshots else 0
        return step == total or step - last >= total / SNAPSHOTS

    def snapshot(self, step: int, pool: Tensor, validation: Tensor, y: Tensor, scores: Tensor | None = None) -> None:
        """Record what the model answers at ``step``: of each row the class it names, and its confidence in per mille.

        Args:
            step: how many steps are done.
            pool: [n, C] probabilities of the same unlabelled rows each time; without rows it is left out.
            validation: [m, C] probabilities of validation rows; likewise.
            y: [m] their true classes.
            scores: [N] feedback of every unlabelled row so far, NaN for rows without feedback; only at the end.
        """
        row: dict[str, Any] = {"step": step}
        if len(pool):
            row["pool"] = _kept(pool)
        if len(y):
            row["validation"] = {**_kept(validation), "true": y.tolist()}
        if scores is not None:
            row["feedback"] = [None if math.isnan(score) else float(f"{score:.4g}") for score in scores.tolist()]
        self.keep_snapshot(row)

    def keep_snapshot(self, row: dict[str, Any]) -> None:
        """Record one row of ``snapshots``."""
        self._snapshots.append(row)

    def snapshots(self) -> list[dict[str, Any]]:
        """Return all that ``snapshot`` recorded, oldest first: step, pool and validation, see ``_kept``."""
        return list(self._snapshots)

    def check_room(self, state: Mapping[str, Any]) -> None:
        """Refuse a disk on which two checkpoints of a run with this first state have no room."""

    def keep_state(self, step: int, state: Mapping[str, Any], keep: int, origin: int = 0) -> None:
        """Keep a state that the run could go on from.

        Args:
            step: how many steps are done.
            state: of the method; it is copied at once.
            keep: how many of the newest states stay.
            origin: the step, up to ``step``, to whose state the run goes back if a number is not finite later on.
        """
        if step == origin:
            self._origin = step, checkpoint.snapshot(state)

    def settle(self) -> None:
        """Wait until the states are kept.

        Raises:
            UserError: one could not be written.
        """

    def origin_state(self, origin: int) -> tuple[int, dict[str, Any]]:
        """Return a copy of the state to go back to, and its step: that of ``origin`` where it is there."""
        step, state = self._origin
        return step, checkpoint.snapshot(state)  # an optimiser that loads it goes on in the same memory

    def keep_model(self, trained: TrainedModel) -> None:
        self.models.append(trained)

    def give_up(self, facts: dict[str, Any]) -> None:
        """End a run that diverged; ``facts`` for its report, step, cause and rollbacks. In memory they are not kept."""

    def finish(self, summary: dict[str, Any], problems: list[tuple[str, str]]) -> None:
        """End the run; called once, after the models."""
        self.summary = summary
        self._origin = -1, {}  # nothing goes back any more

    def copy_to(self, other: Recorder) -> None:
        """Give ``other`` all of a finished run."""
        assert self.start is not None
        other.begin(self.start)
        for row in self._rows:
            other.log(int(row["step"]), {k: v for k, v in row.items() if k != "step"})
        for row in self._snapshots:
            other.keep_snapshot(row)
        for trained in self.models:
            other.keep_model(trained)
        other.finish(self.summary, self.start.source.problems)


RUN_ID = "run"  # the key in env.json


class RunFolder(Recorder):
    """All goes to a folder, where the run can be resumed from."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder: Path = folder
        self._metrics, self._answers = Metrics(folder), Metrics(folder, SNAPSHOT_FILE)
        self._board: Any = None  # TensorBoard's writer, where the setting asks for it
        self._held = False  # whether ``_rows`` has all of the file: the loop asks for them often
        self._writer: ThreadPoolExecutor | None = None
        self._writing: Future[Path] | None = None  # the checkpoint that is on its way to the disk

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the run folder's lock, and write checkpoints in a thread until its end.

        Raises:
            UserError: another process trains in this folder, or a checkpoint could not be written.
        """
        with locked(self.folder / LOCK), ThreadPoolExecutor(1, "checkpoint") as writer:
            self._writer = writer
            try:
                yield
                self.settle()
            finally:
                self._writer = None

    def begin(self, start: RunStart) -> None:
        """Write the files that are known before the first step.

        Raises:
            UserError: another training has begun in this folder since it was found empty.
        """
        if (self.folder / "config.yaml").exists():
            raise UserError("another training began in this folder", "Name another folder.", str(self.folder))
        self._open_board(start.config)
        super().begin(start)
        write_json(self.folder / "env.json", {**environment(start.device), RUN_ID: uuid.uuid4().hex})
        write_json(self.folder / "split.json", to_json(start.split, start.source))
        write_problems(self.folder / "problems.csv", start.source.problems)
        if (given := traits(start.source).corrections) is not None:
            write_csv(self.folder / CORRECTIONS, ["id", "label"], [list(pair) for pair in given.items()])
        save_config(start.config, self.folder / "config.yaml")  # last: with this file it is a run that can be resumed

    def listen(self) -> AbstractContextManager[list[int]]:
        return stop_signals()

    def _open_board(self, config: RunConfig, step: int = 0) -> None:
        """Open TensorBoard's event file, if the settings ask for one; what it holds after ``step`` is dropped.

        Raises:
            UserError: tensorboard is not installed.
        """
        if not config.loop.tensorboard or self._board is not None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            remedy = 'Install it: pip install "metapl[tensorboard]".'
            raise UserError("loop.tensorboard needs tensorboard", remedy, "loop.tensorboard") from error
        self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=step + 1)  # type: ignore[no-untyped-call]

    def truncate(self, step: int) -> None:
        if (self.folder / "config.yaml").is_file():
            self._open_board(load_config(self.folder / "config.yaml", training=False), step)
            (self.folder / DIVERGED_FILE).unlink(missing_ok=True)  # it goes on
        self._metrics.truncate(step)
        self._answers.truncate(step)
        self._rows, self._held = self._metrics.read(), True
        self._snapshots = self._answers.read()

    def _check_there(self) -> None:
        """Refuse to make a folder anew that was moved or removed while the run trains.

        Raises:
            UserError: it was.
        """
        if not self.folder.is_dir():
            remedy = "If it was moved, go on there with `metapl resume`."
            raise UserError("the run folder was moved or removed", remedy, str(self.folder))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._check_there()
        self._metrics.write(step, values)
        super().log(step, values)
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)

    def keep_snapshot(self, row: dict[str, Any]) -> None:
        self._check_there()
        self._answers.write(row["step"], {name: value for name, value in row.items() if name != "step"})
        super().keep_snapshot(row)

    def rows(self) -> list[dict[str, Any]]:
        return super().rows() if self._held else self._metrics.read()

    def check_room(self, state: Mapping[str, Any]) -> None:
        """Refuse a disk with less room than two checkpoints take; the optimiser's part of the state is still to come.

        Raises:
            UserError: there is less.
        """
        needed, free = 2 * GROWTH * checkpoint.size(state), shutil.disk_usage(self.folder).free
        if free < needed:
            what = f"two checkpoints take up to {_megabytes(needed)}, and {_megabytes(free)} of the disk are free"
            raise UserError(what, "Make room, or name a folder on another disk with --out.", str(self.folder))

    def keep_state(self, step: int, state: Mapping[str, Any], keep: int, origin: int = 0) -> None:
        self._check_there()
        copied = checkpoint.snapshot(state)
        if step == origin:
            self._origin = step, copied
        self.settle()
        facts = (self.folder / "checkpoints", step, copied, keep, self.run_id(), (origin,))
        if self._writer is None:  # nobody waits at the end
            checkpoint.write(*facts)
        else:
            self._writing = self._writer.submit(checkpoint.write, *facts)

    def settle(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def origin_state(self, origin: int) -> tuple[int, dict[str, Any]]:
        if self._origin[0] == origin:
            return super().origin_state(origin)
        folder = self.folder / "checkpoints"
        try:
            return origin, checkpoint.load(folder / f"step-{origin:08d}", self.run_id())
        except checkpoint.DamagedCheckpoint:
            step, state, _ = checkpoint.load_latest(folder, self.run_id())
            return step, state

    def latest_state(self) -> tuple[int, dict[str, Any], list[str]]:
        """Read the newest whole checkpoint of this run, as ``checkpoint.load_latest`` does.

        Returns:
            Step 0 and an empty state where the run was killed before its first checkpoint.
        """
        folder = self.folder / "checkpoints"
        found = checkpoint.load_latest(folder, self.run_id()) if checkpoint.steps(folder) else (0, {}, [])
        ranks.from_first(lambda: found[0])  # for the followers
        return found

    def run_id(self) -> str:
        """Return the run's id; empty for runs of 0.1.0, which have none."""
        try:
            return str(read_json(self.folder / "env.json").get(RUN_ID, ""))
        except (OSError, ValueError, AttributeError):
            return ""

    def keep_model(self, trained: TrainedModel) -> None:
        save_model(self.folder / trained.place, trained.predictor, trained.name, trained.card)

    def give_up(self, facts: dict[str, Any]) -> None:
        self._check_there()
        write_json(self.folder / DIVERGED_FILE, facts)

    def finish(self, summary: dict[str, Any], problems: list[tuple[str, str]]) -> None:
        super().finish(summary, problems)
        self._metrics.write_csv()
        if self._board is not None:
            self._board.close()
        write_problems(self.folder / "problems.csv", problems)
        write_json(self.folder / "results.json", summary)


class Follower(Recorder):
    """The recorder of every process but 0, which writes the run folder: it reads there and writes nothing."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder: Path = folder

    def listen(self) -> AbstractContextManager[list[int]]:
        return stop_signals()

    def truncate(self, step: int) -> None:
        """Take over what was logged up to ``step``, before process 0 goes on."""
        self._rows = Metrics(self.folder).read()
        self._snapshots = Metrics(self.folder, SNAPSHOT_FILE).read()
        super().truncate(step)

    def origin_state(self, origin: int) -> tuple[int, dict[str, Any]]:
        if self._origin[0] == origin:
            return super().origin_state(origin)
        return origin, checkpoint.load(self.folder / "checkpoints" / f"step-{origin:08d}")

    def latest_state(self) -> tuple[int, dict[str, Any], list[str]]:
        """Read the checkpoint that process 0 has found to be the newest whole one."""
        step = int(ranks.from_first(lambda: None))
        folder = self.folder / "checkpoints"
        return step, checkpoint.load(folder / f"step-{step:08d}") if checkpoint.steps(folder) else {}, []


def _kept(p: Tensor) -> dict[str, list[int]]:
    """Return the class that each row of ``p`` [n, C] names, and its probability in per mille."""
    confidence, named = p.max(-1)
    return {"class": named.tolist(), "confidence": (1000 * confidence).round().int().tolist()}


def _megabytes(count: int) -> str:
    return f"{count / 1e6:,.1f} MB"

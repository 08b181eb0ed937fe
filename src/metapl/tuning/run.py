"""Settings chosen by cross-validation on the labelled rows. Test rows are not even read."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from metapl._version import __version__
from metapl.config.paths import anchored
from metapl.config.settings import RunConfig, make_config, to_dict
from metapl.data.batches.split import make_split
from metapl.errors import UserError
from metapl.methods import method_class
from metapl.runs.folder import write_csv
from metapl.training.job import resolved, with_steps
from metapl.training.loop import open_rows
from metapl.training.workers import Outcome, run_jobs
from metapl.tuning.figure import draw_tuning
from metapl.tuning.material import FoldData, check_start, gather, train_fold
from metapl.tuning.score import Choice, Score, decide, entry, make_score, ranked
from metapl.tuning.search import Ask, Rank, Search, make_search
from metapl.tuning.space import Axis, Space, get, make_space, resolve, with_setting, word
from metapl.tuning.store import Trials, open_folder
from metapl.types import Source
from metapl.utils.files import write_json, write_text
from metapl.utils.locks import locked
from metapl.utils.names import last_part
from metapl.utils.progress import Progress, Silent, clock

LOCK = ".lock"  # in the folder of a tuning, while a process works in it


@dataclass(frozen=True)
class Tuning:
    """The result of a tuning.

    Attributes:
        folder: the folder of all files.
        config: the run with the chosen settings, ready for ``train``.
        scores: every setting that was trained for all steps, best first.
        summary: the content of ``results.json``.
    """

    folder: Path
    config: RunConfig
    scores: tuple[Score, ...]
    summary: dict[str, Any]


def tune(
    config: RunConfig | str | None = None,
    out: str | Path | None = None,
    *,
    space: Space | None = None,
    trials: int | None = None,
    sampler: str = "single",
    folds: int | None = None,
    minutes: float = 0.0,
    workers: int = 1,
    source: Source | None = None,
    progress: Progress | None = None,
) -> Tuning:
    """Choose settings by K-fold cross-validation on the labelled rows, validation rows included.

    Every setting trains on the same folds with the same seeds. Test rows are not read. The same arguments and the same
    ``out`` continue a tuning that was stopped.

    Args:
        config: the run whose settings are varied (``make_config``); unchanged it is the default to compare with. A text
            names the data; the other settings are then those of ``train``.
        out: folder for the results, new, empty or of the same tuning; by default a free name under ``tuned/``.
        space: the settings to try, see ``tuning.space.make_space``; by default the method's own list.
        trials: the largest number of settings, beside the default.
        sampler: ``single`` (one setting at a time), ``grid``, ``random`` (with successive halving) or ``optuna``.
        folds: K; by default as many as the rarest class has labelled rows, 2 to 5.
        minutes: do not begin a setting that would end later, earlier starts included; 0 = no limit.
        workers: trainings side by side, each in a process of one thread; 1 = one after the other in this process.
        source: rows in memory instead of ``config.data``; ``config`` can then be left out.
        progress: shows progress; by default nothing.

    Raises:
        UserError: bad data, settings, space or folder, before the first training; another process works in the folder;
            or a training's process was killed.
        JobsStopped: asked to stop (only with several workers); finished trainings are stored.
    """
    progress = progress or Silent()
    if not isinstance(config, RunConfig):
        config = make_config("arrays" if config is None and source is not None else config)
    config = anchored(config, spec=source is None)
    _check_numbers(config, minutes, workers)
    source, config = open_rows(config, source, progress)
    split = make_split(source, config.split, config.seed, require_unlabeled=bool(method_class(config.method).needs))
    material = gather(source, split, folds, config.seed)
    config = resolved(with_steps(config, source), material.preprocessing)
    axes = make_space(config, space)
    search = make_search(sampler, config, axes, trials, config.seed)
    if sampler != "optuna" and search.cost <= 1:
        raise UserError("there is nothing to try: every value is the run's own", "Search other values.", "--search")
    check_start(material, config)
    for axis in axes:
        for value in axis.values:
            if str(value).startswith("precision"):  # needs rows that a number does not
                check_start(material, with_setting(config, resolve(config, {axis.key: value})))
    plan = {
        "format": 1,
        "metapl": __version__,
        "folds": len(material.folds),
        "sampler": sampler,
        "trials": trials,
        "search": [f"{axis.key}={axis.text()}" for axis in axes],
        "settings": {k: v for k, v in to_dict(config).items() if k not in ("data", "device", "loop", "minutes")},
        "data_and_split": split.sha,
    }
    folder = Path(out).expanduser() if out is not None else free_folder(config)
    resumed = open_folder(folder, plan)
    for note in (*source.notes, *split.notes, f"results go to {folder}"):
        progress.note(note)
    with locked(folder / LOCK):
        bench = _Bench(config, material, Trials(folder), search, progress, 60 * minutes, workers)
        bench.choose = len(split.validation) > 0
        if resumed:
            count = len(bench.trials.rows)
            progress.status(f"{count} training{' is' if count == 1 else 's are'} done already")
        bench.run()
        return _finish(folder, plan, config, axes, bench)


def _check_numbers(config: RunConfig, minutes: float, workers: int) -> None:
    if config.minutes:
        raise UserError("every training needs the same number of steps", "Set steps instead of minutes.", "minutes")
    if not 0 <= minutes < math.inf:
        raise UserError(f"minutes is {minutes}", "Give more than 0, or 0 for no limit.", "--minutes")
    if workers < 1:
        raise UserError(f"workers is {workers}", "Give at least 1.", "--workers")


def free_folder(config: RunConfig) -> Path:
    """Return the first free ``tuned/DATA-METHOD[-k]``."""
    base = f"{config.ref.stem}-{last_part(config.method)}"
    names = [base, *(f"{base}-{k}" for k in range(2, 10_000))]
    return next(p for n in names if not (p := Path("tuned") / n).exists())


class _Bench:
    """Trains the settings that the search asks for, fold by fold, and stores their scores."""

    def __init__(
        self,
        config: RunConfig,
        material: FoldData,
        trials: Trials,
        search: Search,
        progress: Progress,
        limit: float,
        workers: int,
    ) -> None:
        self.config, self.material, self.trials, self.search = config, material, trials, search
        self.progress, self.limit, self.workers, self.folds = progress, limit, workers, len(material.folds)
        self.choose = True  # whether the network to judge is chosen by its score, see make_score
        self.scores: list[Score] = []  # of the settings that are done, whatever their steps
        self.began, self.cost, self.trained = time.monotonic(), 0.0, 0.0  # cost is in whole settings
        self.out_of_time = False

    @property
    def elapsed(self) -> float:
        """Return the seconds of this start and of those before it."""
        return self.trials.spent + time.monotonic() - self.began

    def run(self) -> None:
        """Follow the search to its end, or until the time is up."""
        asks = next(self.search.asking)
        while True:
            ranks = self._judge(asks)
            if ranks is None:
                return
            try:
                asks = self.search.asking.send(ranks)
            except StopIteration:
                return

    def _judge(self, asks: Sequence[Ask]) -> list[Rank] | None:
        """Return the ranks of ``asks``, or None if the time is up before all are done."""
        done: dict[int, Score] = {}
        for n, ask in enumerate(asks):
            self._note_if_done(n, ask, done, quiet=True)
        taken: list[tuple[int, int]] = []

        def store(position: int, outcome: Outcome) -> None:
            if outcome.end == "killed":
                remedy = "Try fewer workers. Started again with the same folder, it goes on where it was."
                raise UserError(f"a training was killed: {outcome.error}", remedy)
            n, fold = taken[position]
            self.trials.add(asks[n].setting, self._steps(asks[n]), fold, outcome.result(), self.elapsed)
            self.trained += asks[n].share / self.folds
            self._note_if_done(n, asks[n], done)

        tasks = self._tasks(asks, done, taken)
        if self.workers == 1:
            for position, (tree, fold) in enumerate(tasks):
                store(position, Outcome("done", train_fold(self.material, tree, fold)))
        else:
            # A copy without the source made from it: only the bare arrays travel.
            jobs = ((replace(self.material), tree, fold) for tree, fold in tasks)
            run_jobs(train_fold, jobs, self.workers, store, preload=("metapl.tuning.material",))
        self.scores += [done[n] for n in sorted(done)]
        return [done[n].rank for n in range(len(asks))] if len(done) == len(asks) else None

    def _tasks(
        self, asks: Sequence[Ask], done: dict[int, Score], taken: list[tuple[int, int]]
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """Yield the trainings still to do, setting by setting. No further setting begins when the time is up.

        ``taken`` gets the position in ``asks`` and the fold of each.
        """
        for n, ask in enumerate(asks):
            open_folds = [k for k in range(self.folds) if self.trials.get(ask.setting, self._steps(ask), k) is None]
            if n in done or not open_folds:
                continue
            if ask.setting and self._too_late(ask):  # the default is judged whatever the time
                self.out_of_time = True
                return
            try:
                tree = to_dict(replace(with_setting(self.config, ask.setting), steps=self._steps(ask)))
            except UserError as error:  # values that are valid alone but not together
                done[n] = Score(ask.setting, self._steps(ask), "", (), (), 0.0, str(error))
                continue
            for fold in open_folds:
                taken.append((n, fold))
                yield tree, fold

    def _too_late(self, ask: Ask) -> bool:
        if not self.limit:
            return False
        each = (time.monotonic() - self.began) / self.trained if self.trained else 0.0  # seconds per whole setting
        return self.elapsed + each * ask.share > self.limit

    def _note_if_done(self, n: int, ask: Ask, done: dict[int, Score], quiet: bool = False) -> None:
        steps = self._steps(ask)
        rows = [self.trials.get(ask.setting, steps, fold) for fold in range(self.folds)]
        found = [row for row in rows if row is not None]
        if len(found) < self.folds:
            return
        done[n] = score = make_score(ask.setting, steps, found, sum(row["seconds"] for row in found), self.choose)
        self.cost += ask.share
        if not quiet:
            self.progress.status(self._line(ask, score))

    def _line(self, ask: Ask, score: Score) -> str:
        left = (time.monotonic() - self.began) / self.trained * max(0.0, self.search.cost - self.cost)
        what = score.error or f"{100 * score.accuracy:.1f} % right, log loss {score.log_loss:.3f}"
        steps = f" ({score.steps} steps)" if ask.share < 1 else ""
        until = f", about {clock(left)} left" if self.cost < self.search.cost else ""
        return f"[{100 * self.cost / self.search.cost:.0f} %] {name(score)}{steps}: {what}{until}"

    def _steps(self, ask: Ask) -> int:
        return max(1, round(ask.share * self.config.steps))


def name(score: Score) -> str:
    """Return ``optim.lr=0.1 fixmatch.threshold=0.8``, or ``default``."""
    return " ".join(f"{key}={word(value)}" for key, value in score.setting.items()) or "default"


def _finish(folder: Path, plan: dict[str, Any], config: RunConfig, axes: Sequence[Axis], bench: _Bench) -> Tuning:
    """Choose the settings, and write the results, the table, the settings file and the picture."""
    full = [score for score in bench.scores if score.steps == config.steps]
    scores = ranked([score for k, score in enumerate(full) if score.setting not in [s.setting for s in full[:k]]])
    verdict = decide(scores)
    if verdict is None:
        raise UserError(f"every training failed: {scores[0].error}", "Lower optim.lr or set optim.clip=1.", str(folder))
    chosen = with_setting(config, verdict.chosen.setting)
    keys = [axis.key for axis in axes]
    summary = {
        "data": config.data,
        "method": config.method,
        "model": config.model,
        "seed": config.seed,
        "steps": config.steps,
        "folds": plan["folds"],
        "rows": verdict.best.rows,
        "sampler": plan["sampler"],
        "search": plan["search"],
        "default": {key: get(config, key) for key in keys},
        "settings": [entry(score, scores) for score in scores],
        "fewer_steps": [entry(s, []) for s in bench.scores if s.steps != config.steps],
        "best": verdict.best.setting,
        "chosen": verdict.chosen.setting,
        "difference": verdict.difference,
        "standard_error": verdict.standard_error,
        "needed": verdict.needed,
        "verdict": explain(verdict, len(scores)),
        "complete": not bench.out_of_time,
        "seconds": round(bench.trials.spent + time.monotonic() - bench.began, 1),
    }
    write_text(folder / "best.yaml", _settings_file(chosen, verdict, summary))
    _write_table(folder / "trials.csv", keys, config, scores)
    draw_tuning(folder / "tune.png", axes, config, scores, verdict, plan["sampler"] != "single")
    write_json(folder / "results.json", summary)
    return Tuning(folder, chosen, tuple(scores), summary)


def explain(verdict: Choice, count: int) -> str:
    """Return the choice in a sentence or two."""
    best, rows = name(verdict.best), verdict.best.rows
    if count == 1:
        return "only the default was judged, so it is kept"
    if verdict.difference is None or verdict.standard_error is None:
        return f"the default failed; the best of the others is taken: {best}"
    if not verdict.best.setting:
        return f"nothing beats the default on the {rows} held-out rows, so it is kept"
    gain = f"{100 * verdict.difference:+.1f} points, standard error {100 * verdict.standard_error:.1f}"
    bar = f"{verdict.needed:.1f} standard errors are asked of the best of {count - 1}"
    if verdict.chosen.setting:
        return f"{best} beats the default by more than noise ({gain}; {bar}) and is taken"
    return f"the best, {best}, is within noise of the default ({gain}; {bar}), so the default is kept"


def _settings_file(config: RunConfig, verdict: Choice, summary: dict[str, Any]) -> str:
    accuracy = f"{100 * verdict.chosen.accuracy:.1f} % of {summary['rows']} labelled rows in {summary['folds']} folds"
    head = [
        f"Settings chosen by metapl tune: {name(verdict.chosen)}, {accuracy}.",
        f"{summary['verdict']}.",
        "To train with them: metapl train DATA --config best.yaml",
    ]
    return "".join(f"# {line}\n" for line in head) + yaml.safe_dump(to_dict(config), sort_keys=False)


def _write_table(path: Path, keys: Sequence[str], config: RunConfig, scores: Sequence[Score]) -> None:
    header = ["default", *keys, "fold", "rows", "accuracy", "log_loss", "network", "steps", "error"]
    rows: list[list[Any]] = []
    for score in scores:
        values = [score.setting.get(key, get(config, key)) for key in keys]
        start, end = [int(not score.setting), *values], [score.network, score.steps, score.error]
        for k, (right, log_loss) in enumerate(zip(score.right, score.log_losses)):
            rows.append([*start, k + 1, len(right), score.fold_accuracy[k], log_loss, *end])
        rows.append([*start, "all", score.rows, *(("", "") if score.error else (score.accuracy, score.log_loss)), *end])
    write_csv(path, header, rows)

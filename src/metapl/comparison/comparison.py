"""``compare``: plan the runs of several methods, make them side by side, and write tables and verdict."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from metapl.comparison.budget import By, cost, measure, share_out
from metapl.comparison.figure import draw
from metapl.comparison.plan import PLAN, Plan, going_on, load_plan, make_plan
from metapl.comparison.render import markdown, runs_csv, text
from metapl.comparison.specs import Base, Spec, based_on, check_base, configure, parse
from metapl.comparison.table import TableRow, make_table, verdict
from metapl.comparison.versions import mixed, versions
from metapl.comparison.worker import run_one, stored_row
from metapl.config.paths import anchored
from metapl.config.settings import RunConfig, known_keys
from metapl.data.sources import open_source
from metapl.errors import UserError, nearest
from metapl.hardware.device import pick_device
from metapl.methods import fits_once
from metapl.training.job import with_steps
from metapl.training.loop import Stopped, open_rows
from metapl.training.workers import JobsStopped, Outcome, default_workers, run_jobs
from metapl.types import Source
from metapl.utils.files import write_json, write_text
from metapl.utils.locks import locked
from metapl.utils.progress import Progress, Silent, clock

HOME, LOCK = "comparisons", ".lock"
RESULTS, TABLE, RUNS, PICTURE = "results.json", "table.md", "results.csv", "comparison.png"


class ComparisonStopped(Stopped):
    """The comparison was asked to stop; finished runs are kept, and the others have saved their state."""

    def __str__(self) -> str:
        return f"stopped with {self.step} runs finished"


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison.

    Attributes:
        folder: the folder of ``results.json``, ``results.csv``, ``table.md``, ``comparison.png`` and the run folders.
        plan: the question, and the budget of each method.
        table: one row per method, see ``compare.table.make_table``.
        runs: one entry per run: method, seed, ``test_accuracy`` in percent or ``error``, seconds, memory in bytes.
        verdict: the answer in two or three sentences.
    """

    folder: Path
    plan: Plan
    table: list[TableRow]
    runs: list[TableRow]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Return the content of ``results.json``."""
        head = {"verdict": self.verdict, "unit": "percent", "table": self.table, "runs": self.runs}
        return {**head, "plan": self.plan.to_dict(), "versions": versions(self.runs)}

    def to_markdown(self) -> str:
        """Return the text of ``table.md``: the table, the verdict and how to read them, ready to paste."""
        return markdown(self.plan, self.table, versions(self.runs))

    def __str__(self) -> str:
        return text(self.plan, self.table)


def compare(
    data: str | RunConfig | None = None,
    methods: str | Iterable[str] = "all",
    seeds: int | Sequence[int] = 5,
    *,
    out: str | Path | None = None,
    settings: Sequence[str] = (),
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    budget: By = "steps",
    minutes: float | None = None,
    reference: str | None = None,
    workers: int | None = None,
    source: Source | None = None,
    progress: Progress | None = None,
    command: str = "",
) -> Comparison:
    """Train every method with every seed, judge each run on its test rows once, and compare them seed by seed.

    Args:
        data: the data, or a whole config that all methods start from.
        methods: names and settings, such as ``["supervised", "fixmatch", "mpl", "mpl:feedback=none"]``; see
            ``metapl.comparison.specs``.
        seeds: their number (0, 1, ...), or a list of seeds.
        out: folder of the results; by default a free one under ``comparisons/``. If it holds the same comparison, this
            is continued: finished runs are kept, and seeds may be added.
        settings: ``key=value`` for all methods, or for one (``mpl.feedback_weight=0.5``).
        file: settings as YAML.
        options: settings by dotted key.
        budget: the quantity that is equal for all methods: "steps", "passes" (rows forward and backward; as many as
            the first method passes in its steps) or "minutes".
        minutes: minutes of training per run, for the budget "minutes".
        reference: the method to compare with; by default supervised, or else the first.
        workers: runs at a time, one thread each; by default as many as there are cores, and one on a GPU.
        source: rows in memory instead of ``data``, which then only names them and can be left out.
        progress: shows progress; by default nothing.
        command: stored with the results.

    Raises:
        UserError: bad data, methods or settings, another comparison in ``out``, or no run that finished.
        Stopped: asked to stop (as ``ComparisonStopped``); the same call with the same ``out`` goes on.
    """
    if workers is not None and workers < 1:
        raise UserError(f"workers is {workers}", "Give at least 1.", "--workers")
    base = _base(ARRAYS if data is None and source is not None else data, file, options, settings)
    specs = parse(methods)
    check_base(base, specs)
    configs = {spec: anchored(configure(base, spec, _guard_off(spec.method))) for spec in specs}
    chosen = _reference(reference, specs)
    numbers = _seeds(seeds, next(iter(configs.values())).seed)
    progress, kept = progress or Silent(), source
    first = max(configs.values(), key=lambda config: config.model != "auto")  # a network of images wants images
    source, first = open_rows(first, source, progress)
    configs = {spec: with_steps(replace(config, source=first.source), source) for spec, config in configs.items()}
    trained = [config for config in configs.values() if not fits_once(config.method)]
    wanted = _budget(budget, minutes, next(iter(trained or configs.values())))
    plan = make_plan(configs, source, numbers, wanted, chosen, command or "metapl.compare(...)")
    out = Path(out).expanduser() if out is not None else _free_folder(first.ref.stem)
    stored = load_plan(out)
    if stored is None:
        _check_empty(out)
    else:
        plan = going_on(stored, plan, out)
    with locked(out / LOCK):
        return _carry_on(out, plan, kept, workers, progress)


def resume_comparison(
    out: str | Path, *, source: Source | None = None, workers: int | None = None, progress: Progress | None = None
) -> Comparison:
    """Continue a comparison that was stopped or killed; read a finished one.

    Raises:
        UserError: no comparison in ``out``, changed data, or a comparison of another version of metapl.
        Stopped: asked to stop again.
    """
    out = Path(out).expanduser()
    plan = load_plan(out)
    if plan is None:
        raise UserError("there is no comparison in this folder", "Give a folder that compare made.", str(out))
    first = plan.config(plan.labels[0], plan.seeds[0])
    if open_source(first.ref if source is None else source, first.source).fingerprint() != plan.fingerprint:
        raise UserError("the data changed since the comparison began", "Restore them as they were.", str(out))
    with locked(out / LOCK):
        return _carry_on(out, plan, source, workers, progress or Silent())


def is_comparison(folder: Path) -> bool:
    """Return whether ``folder`` holds a comparison."""
    return (folder / PLAN).is_file()


# ---- the question --------------------------------------------------------------------------------------------


ARRAYS = "arrays"  # the name of rows in memory


def _base(
    data: str | RunConfig | None, file: Path | None, options: Mapping[str, Any] | None, settings: Sequence[str]
) -> Base:
    if isinstance(data, RunConfig):
        given = based_on(data)
        return replace(given, file=file, options={**given.options, **(options or {})}, overrides=tuple(settings))
    return Base(data, file, dict(options or {}), tuple(settings))


def _guard_off(method: str) -> dict[str, Any]:
    """Return the setting that turns the guard off, so that each row shows the method itself."""
    return {"guard.mode": "off"} if "guard.mode" in known_keys(method) else {}


def _budget(by: By, minutes: float | None, first: RunConfig) -> dict[str, Any]:
    if by not in ("steps", "passes", "minutes"):
        raise UserError(f"unknown budget '{by}'", nearest(by, ("steps", "passes", "minutes")), "--budget")
    minutes = minutes or first.minutes or None
    if by == "minutes" and not minutes:
        raise UserError("the budget is minutes, but their number is missing", "Add --minutes M.", "--budget")
    if by != "minutes" and minutes:
        raise UserError(f"minutes are given, but the budget is {by}", "Add --budget minutes.", "--minutes")
    if minutes is not None and minutes <= 0:
        raise UserError(f"minutes is {minutes:g}", "Give more than 0.", "--minutes")
    return {"by": by, "steps": None if minutes else first.steps, "minutes": minutes}


def _reference(label: str | None, specs: Sequence[Spec]) -> str:
    labels = [spec.label for spec in specs]
    if label is None:
        return "supervised" if "supervised" in labels else labels[0]
    if label not in labels:
        raise UserError(f"the reference '{label}' is not compared", nearest(label, labels), "--reference")
    return label


def _seeds(seeds: int | Sequence[int], first: int) -> list[int]:
    if isinstance(seeds, int):
        if seeds < 1:
            raise UserError(f"seeds is {seeds}", "Give at least 1.", "--seeds")
        return list(range(first, first + seeds))
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError("seeds are missing or come twice", "Give different seeds.", "seeds")
    return list(seeds)


def _free_folder(stem: str) -> Path:
    names = (stem, *(f"{stem}-{k}" for k in range(2, 10_000)))
    return next(p for name in names if not (p := Path(HOME) / name).exists())


def _check_empty(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(not p.name.startswith(LOCK) for p in out.iterdir())):
        raise UserError("the output folder is not empty and holds no comparison", "Name another.", str(out))


def _discard(out: Path) -> None:
    """Remove a folder without a run."""
    for path in (out / PLAN, *out.glob(f"{LOCK}*")):
        path.unlink(missing_ok=True)
    with suppress(OSError):  # it holds something, or is the working folder
        out.rmdir()
        if out.parent.name == HOME:
            out.parent.rmdir()


# ---- the runs ------------------------------------------------------------------------------------------------


def _carry_on(out: Path, plan: Plan, source: Source | None, workers: int | None, progress: Progress) -> Comparison:
    """Share out the budget, make the missing runs, and write the results."""
    progress.status(f"{plan.asked['data']}: {plan.facts['labels']}")
    for note in plan.facts["notes"]:
        progress.note(note)
    plan.save(out)
    if not plan.budget:
        try:
            plan = _shared_out(out, plan, source, workers, progress)
        except UserError:
            _discard(out)
            raise
        plan.save(out)
    return _write(out, plan, _runs(out, plan, source, workers, progress))


def _shared_out(out: Path, plan: Plan, source: Source | None, workers: int | None, progress: Progress) -> Plan:
    """Return the plan with the steps of each method.

    Raises:
        UserError: a method cannot be built, or its cost cannot be measured where the budget needs it.
    """
    asked, labels = plan.asked["budget"], [label for label in plan.labels if plan.trained(label)]
    jobs = [(plan.config(label, plan.seeds[0]), source, asked["minutes"] or 0.0) for label in labels]
    costs: dict[str, dict[str, Any]] = {}

    def done(position: int, outcome: Outcome) -> None:
        if outcome.end == "refused":
            raise UserError(outcome.refusal[0], outcome.refusal[1], outcome.refusal[2] or labels[position])
        if outcome.end == "done":
            costs[labels[position]] = outcome.value
        elif asked["by"] != "steps":
            raise UserError(f"its cost cannot be measured ({outcome.error})", "Use --budget steps.", labels[position])

    progress.status("measuring what a step of each method costs")
    _in_jobs(out, 0, measure, jobs, _count(workers, jobs), done, plan)
    found = {label: cost(costs[label]) for label in labels if label in costs}
    shares = share_out(asked["by"], found, labels[0], asked["steps"] or 0, asked["minutes"] or 0.0) if labels else {}
    budget = {
        label: {"steps": shares.get(label, asked["steps"] or 1), "cost": costs.get(label)} for label in plan.labels
    }
    for label in plan.labels:  # a linear model and a peer have one step, whatever the budget
        budget[label]["steps"] = replace(plan, budget=budget).config(label, plan.seeds[0]).steps
    return replace(plan, budget=budget)


def _runs(out: Path, plan: Plan, source: Source | None, workers: int | None, progress: Progress) -> list[TableRow]:
    """Return all runs of the plan in its order: read the stored runs, and make the others."""
    names = folder_names(plan.labels)
    found: dict[tuple[str, int], TableRow] = {}
    missing: list[tuple[str, int]] = []
    for seed in plan.seeds:
        for label in sorted(plan.labels, key=lambda name: -_passes(plan, name)):  # the longest first
            row = stored_row(out / "runs" / f"{names[label]}-{seed}", plan.config(label, seed))
            if row is None:
                missing.append((label, seed))
            else:
                found[label, seed] = row
    if found:
        progress.status("1 run is finished already" if len(found) == 1 else f"{len(found)} runs are finished already")
    if found and missing and (warning := mixed(found.values(), pick_device(plan.config(*missing[0]).device))):
        progress.note(warning)
    began, total = time.monotonic(), len(missing)

    def done(position: int, outcome: Outcome) -> None:
        label, seed = missing[position]
        found[label, seed] = row = outcome.value if outcome.end == "done" else {"error": outcome.error}
        finished = sum(key in found for key in missing)
        left = (time.monotonic() - began) / finished * (total - finished)
        head = f"[{finished}/{total}] {label}, seed {seed}"
        what = row.get("error") or f"{row['test_accuracy']:.1f} % in {row['seconds']:.1f} s"
        progress.status(f"{head}: {what}{f', about {clock(left)} left' if total - finished else ''}")
        for note in outcome.notes:
            progress.note(f"note: {label}: {note}")

    jobs = [
        (plan.config(label, s), out / "runs" / f"{names[label]}-{s}", source, plan.peer(label)) for label, s in missing
    ]
    count = _count(workers, jobs)
    if jobs:
        progress.status(f"{total} runs, {count} at a time, into {out}")
        _in_jobs(out, len(found), run_one, jobs, count, done, plan)
    for (label, seed), row in found.items():
        if not row.get("error") and row["split_sha"] != plan.splits[seed]:
            raise UserError(f"{label}, seed {seed} was trained on another split", "Move that run away.", str(out))
    return [{"method": label, "seed": seed, **found[label, seed]} for label in plan.labels for seed in plan.seeds]


def _passes(plan: Plan, label: str) -> float:
    """Return the rows that networks see in one run; 0 if not known."""
    share = plan.budget[label]
    return cost(share["cost"]).rows(share["steps"]).total if share["cost"] else 0.0


def _in_jobs(
    out: Path,
    finished: int,
    work: Callable[..., Any],
    jobs: Sequence[tuple[Any, ...]],
    workers: int,
    done: Callable[[int, Outcome], None],
    plan: Plan,
) -> None:
    """Call ``run_jobs``, whose stop becomes the comparison's."""
    ended = 0

    def counted(position: int, outcome: Outcome) -> None:
        nonlocal ended
        ended += outcome.end == "done" and work is run_one
        done(position, outcome)

    preload = ["metapl.comparison.worker", *(["sklearn.datasets"] if plan.asked["data"] == "digits" else [])]
    try:
        run_jobs(work, jobs, workers, counted, preload=preload)
    except JobsStopped as stopped:
        raise ComparisonStopped(out, finished + ended, stopped.signal_number) from None


def _count(workers: int | None, jobs: Sequence[tuple[Any, ...]]) -> int:
    if workers is not None or not jobs:
        return workers or 1
    device: str = jobs[0][0].device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return default_workers(len(jobs), device)


def folder_names(labels: Sequence[str]) -> dict[str, str]:
    """Return label -> folder name: all different, and valid on any file system."""
    names: dict[str, str] = {}
    for label in labels:
        stem = re.sub(r"[^A-Za-z0-9._]+", "-", label).strip("-.")[:80]
        free = (stem, *(f"{stem}--{k}" for k in range(2, 10_000)))
        names[label] = next(n for n in free if n.lower() not in {m.lower() for m in names.values()})
    return names


# ---- the answer ----------------------------------------------------------------------------------------------


def _write(out: Path, plan: Plan, runs: list[TableRow]) -> Comparison:
    """Write the four files, and return the comparison.

    Raises:
        UserError: no run finished.
    """
    if all(run.get("error") for run in runs):
        raise UserError(f"no run finished; the first says: {runs[0]['error']}", "Mend that first.", str(out))
    table = make_table(plan, runs)
    result = Comparison(out, plan, table, runs, verdict(plan, table))
    write_json(out / RESULTS, result.to_dict())
    write_text(out / RUNS, runs_csv(runs))
    write_text(out / TABLE, result.to_markdown())
    draw(out / PICTURE, plan, table, runs)
    return result

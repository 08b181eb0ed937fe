"""The loop: owns time, device and evaluation. Methods own their steps, and recorders the place of a run.

Step t is a pure function of (weights, seed, t): the stream gives batch t, and the global generator is seeded from
(seed, t) before ``method.step``. So a checkpoint needs no generator state, and a resumed run equals an unbroken one
bit for bit on the CPU.

Several processes go through the same loop in step, and process 0 alone writes (``hardware.ranks``).
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from metapl.config.paths import anchored
from metapl.config.photographs import with_encoder
from metapl.config.settings import RunConfig
from metapl.data.batches.split import make_split
from metapl.data.embedded import EmbeddedSource
from metapl.data.sources import open_source
from metapl.errors import UserError
from metapl.hardware import ranks
from metapl.hardware.device import own_generator, peak_memory, pick_device
from metapl.inference.evaluate import answers, best_of, evaluate
from metapl.inference.model_card import write_card
from metapl.methods import method_class
from metapl.models import Factory
from metapl.runs import checkpoint
from metapl.runs.extension import extended
from metapl.runs.folder import is_of_0_1_0, load_split, new_folder, open_run, stored_levels
from metapl.runs.model_folder import Predictor, ValidationAnswers
from metapl.runs.recorder import Follower, Recorder, RunFolder, RunStart, TrainedModel
from metapl.training import evidence, guard
from metapl.training.announce import encoder_hint, found_text, plan_text
from metapl.training.job import Job, build_job, resolved, with_steps
from metapl.training.prepared import prepare
from metapl.training.result import Result as Result
from metapl.training.steps import BACK, Steps, halved
from metapl.training.steps import Observer as Observer
from metapl.training.steps import Stopped as Stopped
from metapl.training.timing import measure_pace
from metapl.types import Source
from metapl.utils.progress import Progress, Silent

KEPT_ROWS = 5000  # validation rows whose answers are stored with the model
CALIBRATION = 5.0  # seconds spent on measuring the speed when a run is sized in minutes


def train(
    config: RunConfig,
    out: str | Path | None = None,
    *,
    source: Source | None = None,
    progress: Progress | None = None,
    observe: Observer | None = None,
    network: Factory | None = None,
) -> Result:
    """Train from scratch into a new run folder.

    Args:
        config: everything that decides the run.
        out: the run folder, new or empty; by default a free name under ``runs/``.
        source: rows in memory instead of ``config.data`` (which then only names them); such a run cannot be resumed
            from the command line.
        progress: what to show; by default nothing.
        observe: called as ``observe(step, predictor)`` whenever the validation rows are judged; the numbers it gives
            join the metrics. It must change nothing.
        network: makes the networks in place of ``config.model`` (which then only names them); called as
            ``network(shape=..., num_classes=...)``.

    Raises:
        UserError: bad data, settings or folder, or a loss that is no longer finite.
        Stopped: asked to stop; the state is saved.
    """
    return start(config, lambda made: _new_store(out, made), source, progress, observe, network)


def _new_store(out: str | Path | None, config: RunConfig) -> Recorder:
    return _store(Path(ranks.from_first(lambda: str(new_folder(out, config)))))


def _store(folder: Path) -> RunFolder | Follower:
    ranks.remember_folder(str(folder))
    return RunFolder(folder) if ranks.rank() == 0 else Follower(folder)


def start(
    config: RunConfig,
    open_store: Callable[[RunConfig], Recorder],
    source: Source | None = None,
    progress: Progress | None = None,
    observe: Observer | None = None,
    network: Factory | None = None,
    require_unlabeled: bool = True,
) -> Result:
    """Train like ``train``, into the recorder that ``open_store`` gives for the final config.

    Without ``require_unlabeled`` labelled rows may be all there is: they then are the pool.
    """
    progress, device = progress or Silent(), pick_device(config.device)
    source, config = open_rows(anchored(config, spec=source is None), source, progress)
    required = require_unlabeled and bool(method_class(config.method).needs)
    try:
        split = make_split(source, config.split, config.seed, require_unlabeled=required)
    except UserError:
        for note in source.notes:  # the reason may stand there: a wrong column of labels, say
            progress.note(note)
        raise
    ranks.check_same("data", split.sha)
    prepared = prepare(source, split, device, network)
    config = resolved(with_steps(config, source), prepared.preprocessing)  # stored as it is run
    with own_generator(device):
        job = build_job(config, prepared)  # before any writing
        with progress:
            progress.status(found_text(source))
            for note in [*source.notes, *encoder_hint(job), *split.notes, *job.notes]:
                progress.note(note)
            progress.status(plan_text(job))
            if config.minutes:
                config = _sized(job, progress)
                job = build_job(config, prepared)
            store = open_store(config)
            if store.folder is not None:
                progress.status(f"run folder: {store.folder}")
            with store.claimed():
                store.check_room(state := job.method.state_dict())
                store.begin(RunStart(config, device, source, split))
                store.keep_state(0, state, config.loop.keep)
                store.settle()  # a kill in step 1 can be resumed, too
                return _loop(Steps(job, 0, store, progress, observe))


def open_rows(config: RunConfig, source: Source | None, progress: Progress) -> tuple[Source, RunConfig]:
    """Open the rows of a run, a comparison or a tuning: photographs as features of a pretrained encoder by default.

    Returns:
        The rows, and the config with the encoder that was chosen. Rows that are given already stay as they are.
    """
    if source is not None:
        return open_source(source, config.source, progress=progress.status), config
    source = open_source(config.ref, config.source, progress=progress.status)
    config, note = with_encoder(config, source)
    if note:
        progress.note(note)
    if config.source.encoder.name and not isinstance(source, EmbeddedSource):
        source = open_source(config.ref, config.source, progress=progress.status)
    return source, config


def resume(
    folder: str | Path,
    *,
    source: Source | None = None,
    progress: Progress | None = None,
    network: Factory | None = None,
) -> Result:
    """Go on with a stopped or killed run from its newest whole checkpoint, exactly as if it had not stopped.

    ``source`` and ``network`` as they were given to ``train``.

    Raises:
        UserError: no run, no checkpoint, changed data, or a run that has finished.
    """
    folder = Path(folder).expanduser()
    open_run(folder)  # before the lock: nothing is written into a folder that is not a run
    store = _store(folder)
    with store.claimed():
        return _resumed(store, source, progress or Silent(), network)


def extend(
    run: str | Path,
    steps: int,
    out: str | Path | None = None,
    *,
    source: Source | None = None,
    progress: Progress | None = None,
    network: Factory | None = None,
) -> Result:
    """Go on with a finished run until its main phase has ``steps`` steps.

    The run goes on from the end of its main phase. From there on the schedules are those of a run of ``steps`` steps:
    the learning rate, which a cosine had brought to zero, rises again to where the longer cosine stands.

    Args:
        run: the folder of a finished run.
        steps: of the main phase in all, more than the run has.
        out: ``run`` itself, or a new or empty folder; by default a free name under ``runs/``.
        source, network: as they were given to ``train``.
        progress: what to show; by default nothing.

    Raises:
        UserError: as ``runs.extension.extended`` and ``resume``.
    """
    place = None if out is None else Path(out).expanduser()
    folder = ranks.from_first(lambda: str(extended(Path(run).expanduser(), steps, place)))
    return resume(folder, source=source, progress=progress, network=network)


def _resumed(store: RunFolder | Follower, source: Source | None, progress: Progress, network: Factory | None) -> Result:
    folder, config = store.folder, open_run(store.folder)
    if (folder / "results.json").exists():
        raise UserError("the run has finished", "Use `metapl evaluate` or `metapl predict`.", str(folder))
    levels = stored_levels(folder)
    source = open_source(config.ref if source is None else source, config.source, levels=levels)
    if is_of_0_1_0(folder):
        config = replace(config, norms="data")
        if isinstance(source, EmbeddedSource):
            source.kind = "table"  # 0.1.0 standardised features like the columns of a table
    split = load_split(folder, source)
    ranks.check_same("data", split.sha)
    device = pick_device(config.device)
    prepared = prepare(source, split, device, network)
    step, state, damaged = store.latest_state()
    rollbacks = state.pop(BACK, [])
    with own_generator(device):
        job = build_job(halved(config, prepared, len(rollbacks)) if rollbacks else config, prepared)
        with progress:
            for text in damaged:
                progress.note(f"skipped: {text}")
            progress.status(f"resuming at step {step}")
            if state:
                job.method.load_state_dict(checkpoint.to_device(state, job.device))
            else:  # killed before its first checkpoint: the first state follows from the settings
                store.keep_state(0, job.method.state_dict(), config.loop.keep)
            return _loop(Steps(job, step, store, progress, rollbacks=rollbacks))


def _loop(steps: Steps) -> Result:
    store = steps.store
    with store.listen() as stop:
        steps.run(stop)

        def halt() -> None:
            if number := int(ranks.highest(*stop[:1] or [0])[0]):
                store.settle()
                raise Stopped(store.folder, steps.job.total, number)

        return _finish(steps, ranks.clock() - steps.began, halt)


def _finish(steps: Steps, seconds: float, halt: Callable[[], None]) -> Result:
    """Choose among the candidates on the validation rows, ask the guard, store the models, write the results."""
    job, store, start, progress = steps.job, steps.store, steps.start, steps.progress
    candidates = job.method.candidates()
    rows = len(job.split.validation)
    judged = {name: _validation(job, model) for name, model in candidates.items()} if rows else {}
    figures = {name: (j["accuracy"], j["log_loss"]) for name, j in judged.items()}
    chosen = best_of(figures) if figures else next(iter(candidates))  # without rows the method's order decides
    split, config = job.split, job.config
    made = {name: job.predictor(model.eval()) for name, model in candidates.items()}
    pace = seconds / (job.total - start) if job.total > start else None
    model, verdict = made[chosen], guard.run_guard(job, made, progress, halt, pace, chosen)
    summary = {
        "data": config.data,
        "method": config.method,
        "model": verdict.network if verdict.returned and verdict.mean is None else config.model,
        "seed": config.seed,
        "steps": job.config.steps,
        "extra_steps": job.extra_steps,
        "seconds": round(seconds, 2),
        "peak_memory": peak_memory(job.device),
        "resumed_at": start,
        "rows": {p: len(getattr(split, p)) for p in ("labeled", "unlabeled", "validation", "test")},
        "chosen": verdict.name if verdict.returned else chosen,
        "chosen_by": "guard" if verdict.returned else "validation rows" if judged else "default (no validation rows)",
        "candidate": chosen,
        "validation": {n: {k: j[k] for k in ("accuracy", "balanced_accuracy", "log_loss")} for n, j in judged.items()},
        "guard": verdict.summary,
        "alarms": steps.alarms(),
        "rollbacks": steps.rollbacks,
    }
    predictor = _keep(job, store, _models(job, chosen, model, verdict))
    store.finish(summary, job.source.problems)
    if isinstance(store, RunFolder):
        write_card(store.folder)
    return Result(store.folder, predictor, job.source, split, summary, store)


def _models(job: Job, chosen: str, own: Predictor, verdict: guard.GuardVerdict) -> list[TrainedModel]:
    """Return the run's model, and after it one that the guard compared it with."""
    method = TrainedModel("model", own, job.config.model, {"method": job.config.method, "network": chosen})
    models = [method]
    if verdict.baseline is not None:
        baseline = str(verdict.summary["baseline"])
        card = {"method": baseline, "network": guard.NAMES[baseline]}
        models.append(TrainedModel("model-not-chosen", verdict.baseline, verdict.network, card))
    if verdict.mean is not None:
        card = {"method": job.config.method, "network": verdict.name}
        return [
            TrainedModel("model", verdict.mean, job.config.model, card),
            replace(method, place="model-not-chosen"),
        ]
    if verdict.returned:
        return [replace(models[1], place="model"), replace(method, place="model-not-chosen")]
    return models


def _keep(job: Job, store: Recorder, models: list[TrainedModel]) -> Predictor:
    """Store the models, the first with its answers for the validation rows; return that one."""
    own = models[0].predictor
    some = job.split.validation[:: -(-len(job.split.validation) // KEPT_ROWS) or 1]
    if len(some):
        judged = answers(own, job.source, some)
        own = replace(own, validation=ValidationAnswers(judged.p.contiguous(), judged.y) if len(judged.y) else None)
    for model in [replace(models[0], predictor=own), *models[1:]]:
        store.keep_model(replace(model, card={**model.card, "split_sha": job.split.sha}))
    return own


def _validation(job: Job, model: nn.Module) -> dict[str, Any]:
    return evaluate(job.predictor(model), job.source, job.split.validation)


def _sized(job: Job, progress: Progress) -> RunConfig:
    """Return ``minutes`` turned into steps by timing throw-away copies of the run; 10 % are kept for judging and
    saving.
    """
    budget, began = job.config.minutes * 60, ranks.clock()
    plan, limit = evidence.plan_guard(job), min(CALIBRATION, 0.05 * budget)
    pace = measure_pace(job, limit)
    baseline = 0.0 if plan.none or not plan.supervised else guard.baseline_pace(job, limit / 5)
    left = 0.9 * (budget - (ranks.clock() - began))
    left -= pace.extra * job.extra_steps * (1 + plan.trainings)

    def cost(steps: int) -> float:
        config = replace(job.config, steps=steps)
        folds = plan.trainings * pace.seconds(evidence.fold_steps(config))
        return pace.seconds(steps) + folds + baseline * plan.steps(config)[1]

    steps = max(1, bisect.bisect_right(range(1, max(2, int(left / pace.step))), left, key=cost))
    guarding = 1 - pace.seconds(steps) / cost(steps)
    pool = f", {pace.pool_seconds(steps):.1f} s over the pool" if pace.pool_seconds(steps) else ""
    share = f", {100 * guarding:.0f} % of the time for the guard" if guarding > 0 else ""
    progress.status(f"{job.config.minutes:g} minutes at {1000 * pace.step:.0f} ms per step{pool}: {steps} steps{share}")
    return replace(job.config, steps=steps, minutes=0.0)  # the stored settings make the same run again

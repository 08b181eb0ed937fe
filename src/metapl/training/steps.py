"""The steps of a run one after another: logging, judging, saving, and the ways back from a NaN and from full memory.

A number that is not finite is noticed in its own step. The run then goes back to the last state of the regular grid
(``origin``) and goes on with half the learning rate, at most ``ROLLBACKS`` times. The grid depends on the settings
alone, not on the clock or on stops, so a resumed run goes back as an unbroken one does.

Where the memory of a GPU runs out in a step, the run goes back likewise, with the same learning rate. From then on the
tensors that backward passes need wait in main memory. The result is the same, for every method and BatchNorm too.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from metapl.config.settings import RunConfig
from metapl.hardware import ranks
from metapl.hardware.device import saved_in_main_memory
from metapl.inference.evaluate import answers, judge
from metapl.runs import checkpoint
from metapl.runs.model_folder import NotFinite, Predictor
from metapl.runs.recorder import Recorder
from metapl.training import alarms, evidence
from metapl.training.announce import forecast
from metapl.training.finite import Diverged, bad_values, diverged, is_finite, is_sound
from metapl.training.job import Job, build_job, due, interval, resolved
from metapl.training.prepared import Prepared
from metapl.types import Scoring
from metapl.utils.printing import rollback_text
from metapl.utils.progress import Progress

SAVE_SECONDS = 60.0  # between checkpoints at most, beside those at fixed steps
SNAPSHOT_ROWS = 1000  # validation rows whose answers are kept at each look
TIMED, TIMED_SECONDS = 10, 2.0  # steps, and seconds, after which the run's length is announced
ROLLBACKS = 3  # ways back in a run, each with half the learning rate of the one before
BACK = "rollbacks"  # the key in a stored state

Observer = Callable[[int, Predictor], Mapping[str, float]]


class Stopped(Exception):
    """The run was asked to stop (Ctrl-C or SIGTERM) and has saved its state."""

    def __init__(self, folder: Path | None, step: int, signal_number: int) -> None:
        self.folder, self.step, self.signal_number = folder, step, signal_number
        super().__init__(folder, step, signal_number)  # all three, so that it survives the way between processes

    def __str__(self) -> str:
        return f"stopped at step {self.step}"


class Steps:
    """Makes the steps of a run, from ``start`` on.

    Args:
        job: the run in memory, with the state of step ``start``.
        start: steps that are done.
        store: where the run is kept.
        progress: what to show.
        observe: as ``loop.train`` takes it.
        rollbacks: the ways back so far, as ``results.json`` has them.
    """

    def __init__(
        self,
        job: Job,
        start: int,
        store: Recorder,
        progress: Progress,
        observe: Observer | None = None,
        rollbacks: list[dict[str, Any]] | None = None,
    ) -> None:
        self.job, self.start, self.store, self.progress, self.observe = job, start, store, progress, observe
        self.rollbacks = list(rollbacks or [])
        self.began = self.saved = ranks.clock()
        self.timed, self.alarmed = False, set[str]()
        self.short_of_memory = False

    def run(self, stop: list[int]) -> None:
        """Make all steps.

        Args:
            stop: receives the number of a signal that asks to stop.

        Raises:
            Diverged: a number is not finite, also after ``ROLLBACKS`` ways back.
            Stopped: asked to stop; the state is saved.
            torch.OutOfMemoryError: memory ran out again, or in one of several processes: the others wait in this step.
        """
        self.store.truncate(self.start)
        done = self.start
        while done < self.job.total:
            full = False
            try:
                done = self._step(done, stop)
            except Diverged as fault:
                done = self._go_back(done + 1, fault)
            except torch.OutOfMemoryError:
                if self.short_of_memory or ranks.count() > 1:
                    raise
                full = True  # goes back after this block: until its end the error holds the step's tensors
            if full:
                done = self._save_memory(done)

    def _step(self, t: int, stop: list[int]) -> int:
        """Make step t; log, judge and save if due; return the number of steps done."""
        job, loop, total = self.job, self.job.config.loop, self.job.total
        with saved_in_main_memory() if self.short_of_memory else nullcontext():
            values, done = job.step(t), t + 1
        if not is_finite(job.method, values):
            raise diverged(done, bad_values(job.method, values))
        self._announce(done)
        # Read once: a signal from here on is served after the next step.
        stopping, now = ranks.highest(stop[0] if stop else 0, time.monotonic())
        look, save = due(done, loop.eval_every, total), origin(job, done) == done or due(done, loop.save_every, total)
        # By the clock too, so that a kill costs little; when a state is saved changes nothing in the run.
        keep_state = save or stopping or now - self.saved > SAVE_SECONDS
        state = self._state() if keep_state else {}
        if keep_state and not is_sound(job.method, state):
            raise diverged(done, bad_values(job.method, {}))
        if look or save or done % loop.log_every == 0:
            self._log(done, {k: float(v) for k, v in values.items()}, look)
        if look:
            self._show(self.alarms())
        if keep_state:
            self.store.keep_state(done, state, loop.keep, origin(job, done))
            self.saved = now
        if stopping and done < total:
            self.store.settle()
            ranks.clock()  # no process stops before process 0 has saved
            raise Stopped(self.store.folder, done, int(stopping))
        return done

    def _state(self) -> dict[str, Any]:
        return {**self.job.method.state_dict(), **({BACK: self.rollbacks} if self.rollbacks else {})}

    def _go_back(self, done: int, fault: Diverged) -> int:
        """Return to the last regular state, with half the learning rate; return its step."""
        if len(self.rollbacks) == ROLLBACKS:
            self.store.give_up({"step": done, "cause": fault.bad, "rollbacks": self.rollbacks})
            end = self._given_up(fault) if self.rollbacks else fault
            end.folder = self.store.folder
            raise end
        config = halved(self.job.config, self.job.prepared, 1)
        step = self._restore(done - 1, config)
        self.rollbacks.append({"step": done, "to": step, "learning_rate": config.optim.lr, "cause": fault.bad})
        self.progress.note(rollback_text(self.rollbacks[-1]))
        return step

    def _save_memory(self, done: int) -> int:
        """Return to the last regular state, to go on with less memory; return its step."""
        self.short_of_memory = True
        step = self._restore(done, self.job.config)
        self.progress.note(
            f"step {done + 1}: memory ran out; the run went back to step {step} and keeps activations in main memory, "
            "which is slower and changes no result"
        )
        return step

    def _restore(self, done: int, config: RunConfig) -> int:
        """Load the last regular state up to ``done`` into a run of ``config``; return its step."""
        self.store.settle()
        step, state = self.store.origin_state(origin(self.job, done))
        state.pop(BACK, None)
        self.job = build_job(config, self.job.prepared)
        self.job.method.load_state_dict(checkpoint.to_device(state, self.job.device))
        self.store.truncate(step)
        return step

    def _given_up(self, fault: Diverged) -> Diverged:
        places = ", ".join(str(back["step"]) for back in self.rollbacks)
        what = f"{fault.what}, as at step {places} before: lower learning rates did not help"
        remedy = (
            "Look at the data with `metapl check`, lower optim.lr, or set optim.clip=1. The last checkpoint is whole."
        )
        return Diverged(what, remedy, fault.bad)

    def _log(self, done: int, shown: dict[str, float], look: bool) -> None:
        if self.rollbacks:
            shown |= {"rollbacks": len(self.rollbacks), "learning_rate": self.rollbacks[-1]["learning_rate"]}
        if look:
            try:
                shown |= self._judged(done)
            except NotFinite as error:  # the weights are finite, and so large that the answers are not
                raise diverged(done, "an answer for validation rows") from error
        self.store.log(done, shown)
        self.progress.update(done, self.job.total, shown)

    def _announce(self, done: int) -> None:
        """Say once how long the run will take."""
        made, passed = done - self.start, time.monotonic() - self.began
        if not self.timed and made >= TIMED and passed > TIMED_SECONDS:
            self.timed = True
            plan = evidence.plan_guard(self.job)
            self.progress.status(forecast(self.job, plan, passed / made, self.job.total - done))

    def _judged(self, done: int) -> dict[str, float]:
        """Judge the validation rows and a sample of the unlabelled rows; both answers are kept for the report."""
        job, store = self.job, self.store
        model, predictor = job.method.eval_model(), job.predictor(job.method.eval_model())
        judged = answers(predictor, job.source, job.split.validation)
        pool = alarms.pool_answers(job, model)
        figures = judge(judged.p, judged.y, predictor.class_names)
        found = {"validation_accuracy": figures["accuracy"]} if figures["rows"] else {}
        found |= alarms.class_shares(job, pool)
        if store.wants_snapshot(done, job.total):
            some = slice(None, None, -(-len(judged.y) // SNAPSHOT_ROWS) or 1)  # rows of one class may lie side by side
            scores = job.method.feedback_scores() if done == job.total and isinstance(job.method, Scoring) else None
            store.snapshot(done, torch.softmax(pool.float(), -1), judged.p[some], judged.y[some], scores)
        observed = self.observe(done, predictor) if self.observe else {}
        return found | {name: float(value) for name, value in observed.items()}

    def alarms(self) -> list[dict[str, Any]]:
        """Return the alarms that the logged numbers raise."""
        config, names = self.job.config, self.job.source.class_names
        return alarms.find(self.store.rows(), config.steps, config.method, config.settings, names)

    def _show(self, found: list[dict[str, Any]]) -> None:
        """Show each alarm once."""
        for alarm in found:
            if alarm["name"] not in self.alarmed:
                self.alarmed.add(alarm["name"])
                self.progress.note(f"alarm at step {alarm['step']}: {alarm['text']}")


def origin(job: Job, done: int) -> int:
    """Return the last step up to ``done`` on the grid of saves; from the main phase's end on, that end."""
    steps, every = job.config.steps, interval(job.config.loop.save_every, job.total)
    return steps if done >= steps else done // every * every


def halved(config: RunConfig, prepared: Prepared, times: int) -> RunConfig:
    """Return the config with the learning rate halved so many times."""
    optim = resolved(config, prepared.preprocessing).optim
    return replace(config, optim=replace(optim, lr=optim.lr * 0.5**times))

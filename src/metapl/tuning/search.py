"""Searches: which settings are tried, in which order. A search is a generator: it yields settings and is sent their
ranks.

A search is a pure function of the space, the seed and the ranks. If it starts again, it asks for the same settings in
the same order, so that finished trainings are used again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from itertools import product, zip_longest
from typing import Any

from metapl.config.settings import RunConfig
from metapl.data.batches.seeds import derive_seed
from metapl.errors import UserError, nearest
from metapl.tuning.space import Axis, Changes, resolve

MOST = 100  # settings of a grid without a given number
RANDOM, OPTUNA = 16, 20  # settings by default
DRAWS = 50  # draws per setting until it is a new one


@dataclass(frozen=True)
class Ask:
    """A setting to judge by cross-validation, each fold trained for this share of the run's steps."""

    setting: Changes
    share: float = 1.0


Rank = tuple[float, float]  # accuracy, minus log loss: the larger the better; a failure has minus infinity
Asking = Generator[list[Ask], list[Rank], None]


@dataclass(frozen=True)
class Search:
    """``asking`` yields settings, the default first; ``cost``: the most trainings of all steps that it takes."""

    asking: Asking
    cost: float


def make_search(sampler: str, config: RunConfig, axes: Sequence[Axis], trials: int | None, seed: int) -> Search:
    """Return the search called ``sampler``, over at most ``trials`` settings beside the default.

    Raises:
        UserError: an unknown sampler, a number of trials that does not fit, or optuna is not installed.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler '{sampler}'", nearest(sampler, SAMPLERS), "--sampler")
    if trials is not None and trials < 1:
        raise UserError(f"trials is {trials}", "Give at least 1.", "--trials")
    return SAMPLERS[sampler](config, axes, trials, seed)


def single(config: RunConfig, axes: Sequence[Axis], trials: int | None, seed: int) -> Search:
    """Vary one setting at a time; then try the best values of all together."""
    moves = [[(axis.key, value) for value in axis.points()] for axis in axes]
    turns = [move for turn in zip_longest(*moves) for move in turn if move is not None]  # each axis in turn
    settings = _distinct(config, [dict([move]) for move in turns])
    together = int(len(axes) > 1)
    settings = settings[: None if trials is None else max(1, trials - together)]

    def asking() -> Asking:
        own, *ranks = yield [Ask({}), *map(Ask, settings)]
        best: dict[str, tuple[Rank, Any]] = {}
        for setting, rank in zip(settings, ranks):
            ((key, value),) = setting.items()
            if rank > best.get(key, (own, None))[0]:
                best[key] = (rank, value)
        if len(best) > 1 and (trials is None or trials > len(settings)):
            yield [Ask({axis.key: best[axis.key][1] for axis in axes if axis.key in best})]

    return Search(asking(), 1 + len(settings) + together)


def grid(config: RunConfig, axes: Sequence[Axis], trials: int | None, seed: int) -> Search:
    """Try every combination.

    Raises:
        UserError: more combinations than ``trials``.
    """
    count = math.prod(len(axis.points()) for axis in axes)
    if count > (trials or MOST):
        limit = f"more than the {trials} of --trials" if trials else f"more than {MOST}"
        remedy = "Search fewer values, use --sampler random or single, or name the number with --trials."
        raise UserError(f"the grid has {count} settings, {limit}", remedy, "--sampler")
    keys = [axis.key for axis in axes]
    settings = _distinct(config, [dict(zip(keys, values)) for values in product(*(a.points() for a in axes))])

    def asking() -> Asking:
        yield [Ask({}), *map(Ask, settings)]

    return Search(asking(), 1 + len(settings))


def halving(config: RunConfig, axes: Sequence[Axis], trials: int | None, seed: int) -> Search:
    """Try random settings: all for a quarter of the steps, the better half for a half, half of these for all."""
    draw, settings = random.Random(derive_seed(seed, "tuning")), list[Changes]()
    wanted = trials or RANDOM
    for _ in range(DRAWS * wanted):
        settings = _distinct(config, [*settings, {axis.key: axis.at(draw.random()) for axis in axes}])
        if len(settings) == wanted:
            break
    shares = [0.25, 0.5, 1.0][2 - min(2, int(math.log2(max(1, len(settings) // 2)))) :]

    def asking() -> Asking:
        alive, first = settings, [Ask({})]
        for share in shares:
            ranks = (yield [*first, *(Ask(setting, share) for setting in alive)])[len(first) :]
            order = sorted(range(len(alive)), key=lambda k: ranks[k], reverse=True)  # stable: earlier wins a tie
            alive, first = [alive[k] for k in sorted(order[: math.ceil(len(alive) / 2)])], []

    count, cost = len(settings), 1.0
    for share in shares:
        cost, count = cost + share * count, math.ceil(count / 2)
    return Search(asking(), cost)


def optuna(config: RunConfig, axes: Sequence[Axis], trials: int | None, seed: int) -> Search:
    """Try the settings that Optuna's TPE sampler draws, one after the other (Bergstra et al. 2011).

    Raises:
        UserError: Optuna is not installed.
    """
    try:
        import optuna as package
    except ImportError as error:
        remedy = "Install the extra: pip install 'metapl[tune]'; or use --sampler random."
        raise UserError("the sampler optuna needs the package optuna", remedy, "--sampler") from error
    count = trials or OPTUNA
    package.logging.set_verbosity(package.logging.WARNING)
    sampler = package.samplers.TPESampler(
        n_startup_trials=min(10, max(2, count // 3)), seed=derive_seed(seed, "tuning") % 2**32
    )
    study = package.create_study(direction="maximize", sampler=sampler)

    def asking() -> Asking:
        yield [Ask({})]
        for _ in range(count):
            trial = study.ask()
            ((accuracy, minus_log_loss),) = yield [Ask(resolve(config, {a.key: _suggest(trial, a) for a in axes}))]
            if math.isfinite(accuracy):
                study.tell(trial, accuracy + 1e-4 * max(minus_log_loss, -10.0))  # the log loss breaks ties
            else:
                study.tell(trial, state=package.trial.TrialState.FAIL)

    return Search(asking(), 1 + count)


def _suggest(trial: Any, axis: Axis) -> Any:
    if axis.values:
        return axis.values[trial.suggest_categorical(axis.key, list(range(len(axis.values))))]
    if axis.whole:
        return trial.suggest_int(axis.key, axis.low, axis.high, log=axis.log)
    return axis.rounded(trial.suggest_float(axis.key, axis.low, axis.high, log=axis.log))


def _distinct(config: RunConfig, picks: Sequence[dict[str, Any]]) -> list[Changes]:
    """Return each setting once, without the default."""
    distinct: list[Changes] = []
    for pick in picks:
        setting = resolve(config, pick)
        if setting and setting not in distinct:
            distinct.append(setting)
    return distinct


SAMPLERS: dict[str, Callable[[RunConfig, Sequence[Axis], int | None, int], Search]] = {
    "single": single,
    "grid": grid,
    "random": halving,
    "optuna": optuna,
}

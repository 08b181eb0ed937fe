"""The guard against harm: it chooses between the method's model and models learnt from the labels alone.

G1  baselines = models of the run's own labels alone. Images: supervised training under the run's views, network,
    optimiser, batches, seed and steps. Features and texts: the same and the linear model. Tables: the linear model and
    a random forest, which cost no training
G2  evidence = labelled rows that each side judges (``training.evidence``)
G3  images: return the side that is probably right more often on new rows. On rows that
    the two judge differently the method is right with a chance of q ~ Beta(a, b), so that it is kept where
        a + wins > b + losses,   or   wins - losses + credit > 0 with credit = a - b
    wins, losses: judged rows on which only the method, only the baseline is right. The credit is what earlier studies
    say; it is another where the pool has other class shares than the labelled rows (``training.pool``)
G3' tables, texts, features: so few labelled rows cannot separate the sides, and in studies neither side is always
    the better one. The result is a mean of several: logits = (log p_method + s log p_baseline) / 2. Of two baselines
    the last counts, or the first where it is right on more than ``AHEAD`` rows more. On texts whose pool has other
    shares s makes the baseline as sure of the pool as the method is (P3), else s = 1. On tables both baselines join:
    logits = (log p_method + log p_linear) / 4 + log p_forest / 2. On features ``mpl`` is returned alone, which studies
    found ahead of the mean
G4  refusal = a class lost on the pool, no better than chance, or behind a baseline on rows that the method learnt from
    and the baseline did not: the baseline is returned. Where a mean would be returned, it is the mean that must not
    lose a class

``docs/guard.md`` has the reasons, the studies behind the numbers and what the guard costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from metapl.config.settings import RunConfig
from metapl.errors import UserError
from metapl.models.combined import PLAIN, Blend
from metapl.runs.model_folder import Predictor
from metapl.training import evidence as ev
from metapl.training.evidence import Answers, fold_steps, plan_guard
from metapl.training.job import Job, build_job
from metapl.training.pairs import Pair
from metapl.training.pool import PoolView, look, lost_class, matched_sharpness, shift, training_shares
from metapl.training.timing import seconds_per_step
from metapl.utils.progress import Progress, clock

SUPERVISED, LINEAR, FOREST = "supervised", "linear", "forest"
NAMES = {SUPERVISED: "supervised baseline", LINEAR: "linear baseline", FOREST: "forest baseline"}
PACE = 0.5  # seconds spent on timing each side's steps, for the announcement
# Rows; docs/guard.md has the studies.
CREDIT, CREDIT_OTHER_SHARES = 3.0, -6.0  # G3: a pool of the labelled rows' class shares, and of others
AHEAD = 4  # G3'
ALONE = (("features", "mpl"),)  # G3': kinds of rows and methods that are returned without the linear model
MATCHED = ("text",)  # G3': kinds of rows whose baseline is made as sure as the method if the pool has other shares
OTHER_SHARES = 0.3  # of the pool's rows would have to change class to match the labelled rows' shares
ALIKE = 0.02  # share of the pool on which method and baseline differ, up to which the choice hardly matters


@dataclass(frozen=True)
class Case:
    """What is known before any labelled row is judged.

    Attributes:
        method: its name.
        baselines: their names.
        judged: whether labelled rows decide (G3).
        averaged: whether a mean is what a good result ends in (G3'), and ``joined``: whether all baselines join it.
        apart: share of the pool on which the method and each baseline name different classes.
        shift: share of the pool's rows that would have to change class to match the labelled rows' shares, by what
            the first baseline says (``training.pool``).
        refusal: why the method's model cannot be returned; empty where nothing speaks against it (G4).
        sharpness: s of G3' by baseline, where it is not 1.
    """

    method: str
    baselines: tuple[str, ...]
    judged: bool
    averaged: bool
    apart: Mapping[str, float]
    shift: float
    refusal: str = ""
    joined: bool = False
    sharpness: Mapping[str, float] = field(default_factory=dict)

    def partners(self, best: str) -> tuple[str, ...]:
        """Return the baselines that join the mean; ``best``: the one that counts where one does."""
        return self.baselines if self.joined else (best,)

    @property
    def settled(self) -> bool:
        """Return whether labelled rows need not be judged: the one baseline is returned, or is as good."""
        return len(self.baselines) == 1 and (bool(self.refusal) or max(self.apart.values()) <= ALIKE)

    @property
    def credit(self) -> float:
        """Return the credit of the method against a baseline, in rows (G3)."""
        return CREDIT_OTHER_SHARES if self.shift > OTHER_SHARES else CREDIT


@dataclass(frozen=True)
class GuardVerdict:
    """What the guard found.

    Attributes:
        summary: what ``results.json`` holds.
        baseline: the baseline that the method was compared with; None without a comparison.
        network: the name of its network.
        mean: the mean of method and baseline, where that is returned.
    """

    summary: dict[str, Any]
    baseline: Predictor | None = None
    network: str = ""
    mean: Predictor | None = None

    @property
    def returned(self) -> bool:
        """Return whether another model takes the result's place."""
        return self.baseline is not None and self.summary["returned"] != self.summary["method"]

    @property
    def name(self) -> str:
        """Return the name of the returned model."""
        return str(self.summary.get("returned", ""))


def run_guard(
    job: Job,
    candidates: Mapping[str, Predictor],
    progress: Progress,
    before_step: Callable[[], None] | None = None,
    pace: float | None = None,
    chosen: str = "",
) -> GuardVerdict:
    """Train the baselines, gather the evidence and decide; the same again from the same job.

    Args:
        candidates: what the method ended with, preferred first.
        before_step: called before each step; what it raises ends the guard.
        pace: seconds per step of the method where they are known.
        chosen: the candidate that would be returned; by default the preferred one.
    """
    plan, mode = plan_guard(job), job.config.guard.mode
    if plan.none:
        if mode != "off" and job.config.method not in NAMES:
            progress.note(f"no guard: {plan.none}")
        return GuardVerdict({"mode": mode, "way": "none", "text": f"no guard: {plan.none}"})
    own = candidates[chosen or next(iter(candidates))]
    _announce(job, plan, pace, progress)
    try:
        baselines = {
            name: ev.train_candidate(job, ev.baseline_config(job, name), job.split, before_step)
            for name in baseline_names(job)
        }
        case, answers = _look(job, own, baselines), dict[str, Answers]()
        if not case.settled:
            report = _reporter(plan, progress)
            answers = ev.gather_evidence(
                job, plan, candidates, baselines, report, before_step, None if plan.retrained else own
            )
    except UserError as error:  # a training of the guard's that diverged
        progress.note(f"no guard: {error.what}")
        return GuardVerdict({"mode": mode, "way": "none", "text": f"no guard: {error.what}"})
    summary = decide(case, answers, job.config, plan)
    progress.note(summary["text"].partition(". ")[0])  # the figures come with the run's end
    best, mean = str(summary["baseline"]), None
    if summary["partners"]:
        mean = _mean(job, own, {name: baselines[name] for name in summary["partners"]}, case.sharpness)
    return GuardVerdict(summary, baselines[best], ev.baseline_config(job, best).model, mean)


def baseline_names(job: Job) -> list[str]:
    """Return the baselines of a run (G1); a linear model of raw pixels is not one."""
    if ev.judged_in_folds(job):
        return [SUPERVISED]
    return [LINEAR, FOREST] if ev.fitted_alone(job) else [SUPERVISED, LINEAR]


def mean_of(method: str, baselines: Sequence[str]) -> str:
    """Return the name of the mean of a method and some baselines."""
    *others, last = [method, *(f"the {NAMES[name]}" for name in baselines)]
    return f"mean of {', '.join(others)} and {last}"


def _mean(job: Job, own: Predictor, partners: Mapping[str, Predictor], sharpness: Mapping[str, float]) -> Predictor:
    """Return the mean of G3': each partner counts as much as all that stand before it."""
    model = own.model
    for name, partner in partners.items():
        network = PLAIN if name == SUPERVISED else ev.baseline_config(job, name).model
        model = Blend(model, partner.model, network, sharpness.get(name, 1.0))
    return replace(own, model=model.eval())


def _look(job: Job, own: Predictor, baselines: Mapping[str, Predictor]) -> Case:
    """Judge the method's model by the pool and the labelled rows that it was trained on."""
    mine, last = look(job, own.model), list(baselines)[-1]
    others = {name: look(job, baseline.model) for name, baseline in baselines.items()}
    known = ev.answers(job.source, job.source.readable(job.split.labeled), own)
    moved, sharpness = shift(next(iter(others.values())).shares, training_shares(job)), dict[str, float]()
    if job.source.kind in MATCHED and moved > OTHER_SHARES:
        sharpness = {name: matched_sharpness(mine.logits, view.logits) for name, view in others.items()}
    case = Case(
        method=job.config.method,
        baselines=tuple(baselines),
        judged=ev.judged_in_folds(job),
        averaged=LINEAR in baselines and (job.source.kind, job.config.method) not in ALONE,
        apart={name: mine.differs(view) for name, view in others.items()},
        shift=moved,
        joined=ev.fitted_alone(job),
        sharpness=sharpness,
    )
    named = mine
    if case.averaged:
        named = look(job, _mean(job, own, {name: baselines[name] for name in case.partners(last)}, sharpness).model)
    return replace(case, refusal=_refusal(job, case, named, others, float(known.right.mean())))


def _refusal(
    job: Job,
    case: Case,
    named: PoolView,
    others: Mapping[str, PoolView],
    known: float,
) -> str:
    """Return why the method's model cannot be returned (G4, before baselines are judged); "" if it can.

    Args:
        named: what the model that would be returned says of the pool; others: what the baselines say.
        known: share of the labelled rows on which the method is right.
    """
    names, method = job.source.class_names, job.config.method
    lost = [lost_class(named, view.shares) for view in others.values()]
    if lost[0] is not None and None not in lost:
        share = 100 * float((named.named == lost[0]).double().mean())
        expected = 100 * float(next(iter(others.values())).shares[lost[0]])
        return (
            f"{'the mean' if case.averaged else method} names class '{names[lost[0]]}' on {share:.1f} % of the "
            f"unlabelled rows, where about {expected:.0f} % are expected"
        )
    if known <= 1 / len(names):
        return f"{method} is right on {100 * known:.0f} % of the labelled rows, not more than by chance"
    return ""


def decide(case: Case, answers: Mapping[str, Answers], config: RunConfig, plan: ev.GuardPlan) -> dict[str, Any]:
    """Return the summary of the verdict: G3, G3' and G4.

    Args:
        answers: of each side about the same rows; empty where the case is settled.
        plan: the rows behind them.
    """
    method, best, pairs, refusal = case.method, case.baselines[-1], list[Pair](), case.refusal
    if len(case.baselines) > 1 and answers:
        pairs.append(_pair(case.baselines[0], best, answers, -AHEAD))
        best = case.baselines[0] if pairs[0].score > 0 else best
    if answers:
        pairs.append(_pair(method, best, answers, case.credit if case.judged else 0.0))
    if not case.judged and pairs and pairs[-1].score < 0 and not refusal:
        refusal = _behind(pairs[-1], plan)
    kept = not refusal and (not case.judged or not answers or pairs[-1].score > 0)
    partners = case.partners(best) if kept and case.averaged else ()
    choice = (mean_of(method, partners) if partners else method) if kept else NAMES[best]
    returned = method if config.guard.mode == "warn" else choice
    rows = pairs[-1].rows if pairs else 0
    summary: dict[str, Any] = {
        "mode": config.guard.mode,
        "way": "pool" if not rows else "cross-fitting" if plan.folds else "validation rows",
        "method": method,
        "rows": rows,
        "validation_rows": len(plan.validation) if rows else 0,
        "folds": len(plan.folds) if rows else 0,
        "steps_per_fold": fold_steps(config) if rows and plan.folds else 0,
        "held_out": bool(rows) and (plan.retrained or not plan.folds),  # whether no side learnt from these rows
        "baseline": best,
        "baselines": list(case.baselines),
        "accuracy": {name: float(a.right.mean()) for name, a in answers.items()},
        "log_loss": {name: ev.log_loss(a.p) for name, a in answers.items()},
        "pairs": [_plain(pair) for pair in pairs],
        "pool_differs": dict(case.apart),
        "pool_shift": case.shift,
        "refusal": refusal,
        "better": kept,
        "returned": returned,
        "partners": list(partners) if returned == choice else [],  # the baselines in a returned mean
    }
    return {**summary, "text": _text(case, summary, pairs, choice)}


def _pair(first: str, second: str, answers: Mapping[str, Answers], credit: float) -> Pair:
    """Return how two sides did on the judged rows."""
    one, other = answers[first].right, answers[second].right
    wins, losses, both = (int(rows.sum()) for rows in (one & ~other, other & ~one, one & other))
    return Pair(first, second, wins, losses, both, len(one), credit)


def _plain(pair: Pair) -> dict[str, Any]:
    figures = {"only_first_right": pair.wins, "only_second_right": pair.losses, "credit": pair.credit}
    head = {"first": pair.first, "second": pair.second, **figures}
    return {**head, "difference": pair.difference, "difference_95": list(pair.interval)}


def _behind(pair: Pair, plan: ev.GuardPlan) -> str:
    learnt = "which it learnt from and the other did not" if plan.folds else "which neither learnt from"
    return (
        f"{pair.first} is right on {pair.wins + pair.both} of {pair.rows} labelled rows and the {NAMES[pair.second]} "
        f"on {pair.losses + pair.both}, {learnt}"
    )


def _text(case: Case, summary: Mapping[str, Any], pairs: Sequence[Pair], choice: str) -> str:
    """Return the verdict in words: the returned model, the rule that decided, and its figures."""
    method, returned = case.method, str(summary["returned"])
    if returned != choice:
        head = f"guard: the {choice} would be the better choice, but guard.mode=warn keeps {method}"
    elif returned == method:
        head = f"guard: {method} is kept and stands in model"
    else:
        head = f"guard: the {returned} is returned and stands in model, {method} alone in model-not-chosen"
    return f"{head}. {_reason(case, summary, pairs)}" + ("" if summary["better"] else f" {_ADVICE}")


_ADVICE = (
    "Check that the unlabelled rows are of the same classes and kind as the labelled ones, or label more rows; "
    "guard.mode=warn keeps the method's model."
)


def _other_shares(case: Case, best: str) -> str:
    """Return why the baseline in the mean is made as sure as the method, as a further sentence; "" if it is not."""
    if not case.sharpness:
        return ""
    return (
        f" The pool has other class shares than the labelled rows ({100 * case.shift:.0f} % of the rows would have to "
        f"change class), so the {NAMES[best]} is made as sure as {case.method}."
    )


def _reason(case: Case, summary: Mapping[str, Any], pairs: Sequence[Pair]) -> str:
    """Return the sentence about the rule that decided."""
    method, best = case.method, str(summary["baseline"])
    if summary["refusal"]:
        return f"{summary['refusal']}."
    if not pairs:
        most = 100 * max(case.apart.values())
        return f"It names the same classes as the {NAMES[best]} on all but {most:.1f} % of the unlabelled rows."
    pair = pairs[-1]
    if not case.judged:
        better = f"{method} alone was right more often than the mean of both"
        if case.averaged:
            better = f"their mean was right more often than {'each of them' if case.joined else 'either'}"
        return (
            f"{pair.rows} labelled rows cannot tell {'them' if case.joined else 'the two'} apart, and in earlier "
            f"studies {better}. {method} and the {NAMES[best]} name different classes on "
            f"{100 * case.apart[best]:.0f} % of the unlabelled rows.{_other_shares(case, best)}"
        )
    low, high = (100 * bound for bound in pair.interval)
    side, sign = ("for", "+") if pair.credit >= 0 else ("against", "-")
    ground = "images"
    if case.shift > OTHER_SHARES:
        ground = f"pools of other class shares ({100 * case.shift:.0f} % of the rows would have to change class)"
    return (
        f"Of {pair.rows} judged rows {method} alone is right on {pair.wins} and the {NAMES[best]} alone on "
        f"{pair.losses} ({100 * pair.difference:+.0f} points, 95 % interval {low:+.0f} to {high:+.0f}). Earlier "
        f"studies on {ground} count as {abs(pair.credit):g} rows {side} {method}: {pair.wins} - {pair.losses} {sign} "
        f"{abs(pair.credit):g} = {pair.score:g}, {'above' if pair.score > 0 else 'not above'} 0."
    )


def _reporter(plan: ev.GuardPlan, progress: Progress) -> Callable[[int], None]:
    return lambda number: progress.status(f"guard: fold {number} of {len(plan.folds)} is done")


def _announce(job: Job, plan: ev.GuardPlan, pace: float | None, progress: Progress) -> None:
    method_steps, supervised_steps = plan.steps(job.config, job.extra_steps)
    each = (pace or seconds_per_step(_copy(job, job.config), PACE)) if method_steps else 0.0
    seconds = each * method_steps + (baseline_pace(job, PACE) * supervised_steps if supervised_steps else 0.0)
    folds = f" and {len(plan.folds)}-fold cross-fitting" if plan.folds else ""
    folds += f" ({fold_steps(job.config)} steps each)" if plan.folds and supervised_steps else ""
    names = " and ".join(NAMES[name] for name in baseline_names(job))
    cost = f"at most {clock(seconds)}" if seconds else "no network to train"
    progress.status(f"guard: {names}{folds}, {plan.rows} rows to judge, {cost}; guard.mode=off leaves it out")


def baseline_pace(job: Job, limit: float) -> float:
    """Return the seconds per step of the run's supervised baseline, timed for ``limit`` seconds on a copy."""
    return seconds_per_step(_copy(job, ev.baseline_config(job, SUPERVISED)), limit)


def _copy(job: Job, config: RunConfig) -> Job:
    return build_job(config, job.prepared)

"""Alarms: signs of wrong pseudo labels in a training's own numbers. Thresholds and reasons: docs/guard.md.

All is read from the logged rows, so that a resumed run raises what an unbroken one raises. A moment is a row that
carries ``class_shift`` (the validation rows were judged) in the second half of the main phase or after it.

A1  collapse: class_shift > 0.5, or class_least < 0.2 of the same class, at two moments in a row
A2  mask:     mean mask_rate < 0.005 or > 0.995 over the last quarter of the rows so far that carry it, which may end
              before the moment (mpl_reduced's teacher), where a threshold above 0 is in use
A3  gap:      mean agreement < 0.5 over the last quarter of what the main phase has done. A student that begins later or
              anew is judged by its own rows, from half of its time on

class_shift = 1/2 sum_c |share[c] - prior[c]| and class_least = min_c share[c] / prior[c], of the classes that the model
names on a fixed sample of the unlabelled rows, against the labelled rows' shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from metapl.data.batches.seeds import generator
from metapl.thresholds import read_threshold
from metapl.training.job import Job

SAMPLE = 1000  # unlabelled rows looked at: about 1 % of a run's time, shares within 3 points
SHIFT, LEAST = 0.5, 0.2  # A1
EXPECTED = 10  # rows of a class expected in the sample, below which its absence says nothing (chance: 0.0005)
MASK_LOW, MASK_HIGH = 0.005, 0.995  # A2
AGREEMENT = 0.5  # A3

LoggedRow = Mapping[str, float]
Raised = tuple[str, float, str]  # name, value, text


def pool_sample(pool_size: int, seed: int) -> Tensor:
    """Draw the pool rows that are looked at during a run: positions in ``Split.unlabeled``, [at most SAMPLE] int64."""
    return torch.randperm(pool_size, generator=generator("cpu", seed, "alarms"))[:SAMPLE]


def pool_answers(job: Job, model: nn.Module) -> Tensor:
    """Ask a model about the ``pool_sample``: logits [n, C] on the CPU.

    Supervised training sees no unlabelled rows: n is then 0.
    """
    stream = job.stream
    if job.config.method == "supervised" or not stream.pool_size:
        return torch.zeros(0, len(job.source.class_names))
    drawn = pool_sample(stream.pool_size, job.config.seed)
    return torch.cat([_logits(model, stream.plain(part)) for part in torch.split(drawn, 256)])


def class_shares(job: Job, logits: Tensor) -> dict[str, float]:
    """Compute ``class_shift``, ``class_least`` and the number of that least named class, for the metrics.

    Args:
        job: the run.
        logits: [n, C] as ``pool_answers`` returns them; for n = 0 nothing is computed.
    """
    if not len(logits):
        return {}
    classes = len(job.source.class_names)
    shares = torch.bincount(logits.argmax(-1), minlength=classes).double() / len(logits)
    labels = torch.from_numpy(job.source.labels[job.split.labeled])
    prior = torch.bincount(labels, minlength=classes).double() / len(labels)
    return measure(shares, prior, len(logits))


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor) -> Tensor:
    was_training = model.training
    logits: Tensor = model.eval()(x).cpu()
    model.train(was_training)
    return logits


def measure(shares: Tensor, prior: Tensor, rows: int) -> dict[str, float]:
    """Return the measures of A1 for shares [C] among ``rows`` rows; classes too rare to judge have no
    ``class_least``.
    """
    ratio = torch.where(prior * rows >= EXPECTED, shares / prior.clamp_min(1e-12), torch.inf)
    least = int(ratio.argmin())
    found = {"class_shift": float((shares - prior).abs().sum() / 2)}
    if ratio[least] < torch.inf:
        found |= {"class_least": float(ratio[least]), "least_class": float(least)}
    return found


def find(
    rows: Sequence[LoggedRow], steps: int, method: str, settings: Any, class_names: Sequence[str]
) -> list[dict[str, Any]]:
    """Return the alarms that the logged ``rows`` raise, each once: name, step, value and what to do.

    Args:
        rows: as ``Metrics.read`` gives them.
        steps: length of the main phase.
        method, settings: the method's name and settings, for its thresholds and what to advise.
    """
    moments = [r for r in rows if "class_shift" in r and 2 * r["step"] >= steps]
    alarms: dict[str, dict[str, Any]] = {}
    for previous, row in zip([None, *moments], moments):
        so_far = [r for r in rows if r["step"] <= min(row["step"], steps)]
        raised = _collapse(row, previous, class_names) + _mask(so_far, settings) + _gap(so_far, steps, method, settings)
        for name, value, text in raised:
            alarms.setdefault(name, {"name": name, "step": int(row["step"]), "value": round(value, 4), "text": text})
    return list(alarms.values())


def _collapse(row: LoggedRow, previous: LoggedRow | None, names: Sequence[str]) -> list[Raised]:
    """Look for a collapse of the classes named on the pool (A1)."""
    alarms = []
    if previous is not None and min(row["class_shift"], previous["class_shift"]) > SHIFT:
        alarms.append(("class_shift", row["class_shift"], _SHIFT.format(100 * row["class_shift"])))
    least = 1.0
    if previous is not None and row.get("least_class") == previous.get("least_class"):
        least = max(r.get("class_least", 1.0) for r in (row, previous))
    if least < LEAST:
        text = _LEAST.format(names[int(row["least_class"])], row["class_least"])
        alarms.append(("class_missing", row["class_least"], text))
    return alarms


def _mask(rows: Sequence[LoggedRow], settings: Any) -> list[Raised]:
    """Look for a mask that is shut or wide open (A2), over the logged rows that have a mask."""
    rates = [r["mask_rate"] for r in rows if "mask_rate" in r]
    if not rates or not 0 < threshold(settings) <= 1:
        return []
    mean = fmean(rates[3 * len(rates) // 4 :])
    if mean < MASK_LOW:
        return [("mask_shut", mean, _SHUT.format(100 * mean))]
    return [("mask_open", mean, _OPEN.format(100 * mean))] if mean > MASK_HIGH else []


def _gap(rows: Sequence[LoggedRow], steps: int, method: str, settings: Any) -> list[Raised]:
    """Look for a student and a teacher that disagree late in the run (A3)."""
    logged = [r for r in rows if "agreement" in r]
    if not logged:
        return []
    logged = [r for r in logged if r.get("round") == logged[-1].get("round")]  # self_training: the present student
    done, begun = rows[-1]["step"], max((r["step"] for r in rows if r["step"] < logged[0]["step"]), default=0)
    late = [r["agreement"] for r in logged if r["step"] > 0.75 * done]
    if 2 * done < begun + steps or not late or (mean := fmean(late)) >= AGREEMENT:
        return []
    who, advice = gap_words(method, settings)
    return [("gap", mean, f"{who} for only {100 * mean:.0f} % of the unlabelled rows. {advice}")]


def threshold(settings: Any) -> float:
    """Return the highest of the settings whose name ends with "threshold"; 0 without such a setting, or if not used.

    A target precision stands for itself.
    """
    given = {f.name: getattr(settings, f.name) for f in fields(settings)}
    if {v for k, v in given.items() if k.endswith("selection")} & {"adaptive", "soft"} or given.get("select") == "top":
        return 0.0
    return max((read_threshold(v)[1] for k, v in given.items() if k.endswith("threshold")), default=0.0)


def gap_words(method: str, settings: Any) -> tuple[str, str]:
    """Return who disagrees and what can be done, in words, for the method that runs."""
    strong = "soften the strong views (the views.* settings)"
    if method == "mpl":
        uses_feedback = settings.feedback != "none" and settings.feedback_weight > 0
        free = settings.feedback == "exact" and not settings.feedback_cap
        helps = ["cap the feedback (mpl.feedback_cap=1)"] if uses_feedback and free else []
        early = settings.feedback_start < 0.25
        helps += ["begin the feedback later (mpl.feedback_start=0.25)"] if uses_feedback and early else []
        stuck = f", or, where the student stays at chance, {' or '.join(helps)}" if helps else ""
        return "teacher and student name the same class", f"Train longer, {strong}{stuck}"
    if method == "mpl_reduced":
        more = "give the student more of the run (a lower mpl_reduced.teacher_share)"
        return "the student names the stored teacher's class", f"Train longer, {strong} or {more}"
    if method == "self_training":
        fewer = " or cut the run into fewer rounds (self_training.rounds)" if settings.rounds > 2 else ""
        return "the student names its teacher's class", f"Train longer, {strong}{fewer}"
    if method == "self_mpl":
        return "the network names the same class for both views", f"Train longer, or {strong}"
    if method == "mean_teacher":
        return "the network and its average name the same class", f"Train longer, or {strong}"
    split = method == "co_training" and settings.views == "features"
    more = " or give both nets all columns (co_training.views=nets)" if split else ""
    return "the two networks name the same class", f"Train longer, label more rows{more}"


_SHIFT = (
    "the classes that the model names on the unlabelled rows are far from the labelled rows' shares ({:.0f} % would "
    "have to move). If the unlabelled rows are not so, the pseudo labels have collapsed: lower the unlabelled weight, "
    "label more rows, or try another seed"
)
_LEAST = (
    "the model hardly names class '{}' on the unlabelled rows ({:.2f} of its share among the labelled rows). If the "
    "class is not that rare there, it has been lost: label more rows of it, or try another seed"
)
_SHUT = (
    "hardly an unlabelled row passes the threshold ({:.1f} %), so they teach next to nothing: lower the threshold or "
    "train longer"
)
_OPEN = (
    "nearly every unlabelled row passes the threshold ({:.1f} %), so wrong pseudo labels pass it, too: where the "
    "classes are hard to tell apart, set it higher (docs/thresholds.md)"
)

"""Alarms: what a training's own numbers say about pseudo labels that go wrong. Thresholds and reasons: docs/guard.md.

All is read from the logged rows, so that a resumed run raises what an unbroken one raises. A moment is a row that
carries ``class_shift`` (the validation rows were judged) in the second half of the main phase or after it; a mean is
taken over the last quarter of what the main phase has done by then.

A1  collapse: class_shift > 0.5, or class_least < 0.2, at two moments in a row
A2  mask:     mean mask_rate < 0.005 or > 0.995, where the method has a threshold above 0
A3  gap:      mean agreement < 0.5 (a method's two networks, such as teacher and student, name the same class)

class_shift = 1/2 sum_c |share[c] - prior[c]| and class_least = min_c share[c] / prior[c], of the classes that the model
names on a fixed sample of the unlabelled rows, against the labelled rows' shares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from metapl.data.seeds import generator
from metapl.job import Job
from metapl.thresholds import read

SAMPLE = 1000  # unlabelled rows looked at: about 1 % of a run's time, shares within 3 points
SHIFT, LEAST = 0.5, 0.2  # A1
EXPECTED = 10  # rows of a class expected in the sample, below which its absence says nothing (chance: 0.0005)
MASK_LOW, MASK_HIGH = 0.005, 0.995  # A2
AGREEMENT = 0.5  # A3

Row = Mapping[str, float]


def class_shares(job: Job, model: nn.Module) -> dict[str, float]:
    """``class_shift``, ``class_least`` and the number of that least named class, for the metrics.

    Empty for supervised training, which sees no unlabelled row, and where there are none.
    """
    stream, classes = job.stream, len(job.source.class_names)
    if job.config.method == "supervised" or not stream.pool_size:
        return {}
    drawn = torch.randperm(stream.pool_size, generator=generator("cpu", job.config.seed, "alarms"))[:SAMPLE]
    named = torch.cat([_named(model, stream.plain(part)) for part in torch.split(drawn, 256)])
    shares = torch.bincount(named, minlength=classes).double() / len(drawn)
    labels = torch.from_numpy(job.source.labels[job.split.labeled])
    prior = torch.bincount(labels, minlength=classes).double() / len(labels)
    return measure(shares, prior, len(drawn))


@torch.no_grad()
def _named(model: nn.Module, x: Tensor) -> Tensor:
    was_training = model.training
    named: Tensor = model.eval()(x).argmax(-1).cpu()
    model.train(was_training)
    return named


def measure(shares: Tensor, prior: Tensor, rows: int) -> dict[str, float]:
    """The measures of A1 for shares [C] among ``rows`` rows; classes too rare to judge have no ``class_least``."""
    ratio = torch.where(prior * rows >= EXPECTED, shares / prior.clamp_min(1e-12), torch.inf)
    least = int(ratio.argmin())
    found = {"class_shift": float((shares - prior).abs().sum() / 2)}
    if ratio[least] < torch.inf:
        found |= {"class_least": float(ratio[least]), "least_class": float(least)}
    return found


def find(rows: Sequence[Row], steps: int, settings: Any, class_names: Sequence[str]) -> list[dict[str, Any]]:
    """The alarms that the logged ``rows`` raise, each once: name, step, value and what to do.

    Args:
        rows: as ``Metrics.read`` gives them.
        steps: length of the main phase.
        settings: the method's, for its thresholds.
    """
    moments = [r for r in rows if "class_shift" in r and 2 * r["step"] >= steps]
    found: dict[str, dict[str, Any]] = {}
    for previous, row in zip([None, *moments], moments):
        for name, value, text in _raised(rows, row, previous, steps, settings, class_names):
            found.setdefault(name, {"name": name, "step": int(row["step"]), "value": round(value, 4), "text": text})
    return list(found.values())


def _raised(
    rows: Sequence[Row], row: Row, previous: Row | None, steps: int, settings: Any, names: Sequence[str]
) -> list[tuple[str, float, str]]:
    found = []
    if previous is not None and min(row["class_shift"], previous["class_shift"]) > SHIFT:  # A1
        found.append(("class_shift", row["class_shift"], _SHIFT.format(100 * row["class_shift"])))
    least = max(r.get("class_least", 1.0) for r in (row, previous)) if previous is not None else 1.0
    if least < LEAST:
        text = _LEAST.format(names[int(row["least_class"])], row["class_least"])
        found.append(("class_missing", row["class_least"], text))
    done = min(row["step"], steps)
    lately = [r for r in rows if 0.75 * done < r["step"] <= done]
    mask, agreement = _mean(lately, "mask_rate"), _mean(lately, "agreement")
    if mask is not None and 0 < threshold(settings) <= 1:  # A2
        if mask < MASK_LOW:
            found.append(("mask_shut", mask, _SHUT.format(100 * mask)))
        elif mask > MASK_HIGH:
            found.append(("mask_open", mask, _OPEN.format(100 * mask)))
    if agreement is not None and agreement < AGREEMENT:  # A3
        found.append(("gap", agreement, _GAP.format(100 * agreement)))
    return found


def threshold(settings: Any) -> float:
    """The highest of the settings whose name ends with "threshold"; 0 where there is none or it is not used.

    A target precision stands for itself.
    """
    given = {f.name: getattr(settings, f.name) for f in fields(settings)}
    if {v for k, v in given.items() if k.endswith("selection")} & {"adaptive", "soft"}:
        return 0.0
    return max((read(v)[1] for k, v in given.items() if k.endswith("threshold")), default=0.0)


def _mean(rows: Sequence[Row], name: str) -> float | None:
    values = [r[name] for r in rows if name in r]
    return sum(values) / len(values) if values else None


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
    "nearly every unlabelled row passes the threshold ({:.1f} %), so it keeps no wrong pseudo label out: raise it, "
    "unless the classes are easy to tell"
)
_GAP = (
    "the two networks (in mpl: teacher and student) name the same class for only {:.0f} % of the unlabelled rows. "
    "Train longer, soften the strong views (views.ops, views.cutout) or, where a student stays at chance, begin the "
    "feedback later (mpl.feedback_start=0.25)"
)

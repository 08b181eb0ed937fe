"""The figures of a report. matplotlib is imported when a figure is drawn."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metapl.report.display import cut
from metapl.report.record import Record
from metapl.report.svg import LIGHT, SERIES, inline, svg_text, write_png

WIDE, HIGH = 4.4, 2.5  # inches
SMOOTH = 20  # points of a curve from which a running mean is laid over it
WIDE_RANGE = 30  # largest over smallest value from which an axis is logarithmic
BURST = 1e4  # largest over first value of a loss that has burst, whose axis is logarithmic
MOST = 9  # classes with a colour of their own; the others are added up

TERMS = {
    "loss": "Whole loss",
    "supervised": "Loss on the labelled rows",
    "unlabeled": "Loss on the unlabelled rows",
    "uda": "Teacher's consistency loss",
    "consistency": "Consistency loss",
    "student": "Student's loss on pseudo labels",
    "student_labeled": "Student's loss on the labelled rows",
    "feedback": "Feedback term",
    "finetune": "Loss while fine-tuning",
    "agreement": "Rows on which both networks agree",
}
ELSEWHERE = {
    *("mask_rate", "validation_accuracy", "class_shift", "class_least", "least_class", "feedback_spread", "gain"),
    *("rollbacks", "learning_rate"),
}


@dataclass(frozen=True)
class Chart:
    """One figure.

    Attributes:
        name: of its files in ``figures/``.
        title: above it. about: what it shows, for people who do not see it, too.
        svg: the element for the page.
        group: section of the page.
    """

    name: str
    title: str
    about: str
    svg: str
    group: str


Draw = Callable[[Any], None]


def draw_all(record: Record, material: dict[str, Any], folder: Path | None) -> list[Chart]:
    """Draw every figure that the run has numbers for; with a ``folder`` each also as SVG and PNG file there."""
    planned = [*_accuracy(record), *_losses(record), *_masks(record, material), *_classes(record, material)]
    planned += [*_feedback(record), *_reliability(material), *_confusion(record, material)]
    return render(planned, folder)


def render(planned: Sequence[tuple[str, str, str, str, Draw]], folder: Path | None) -> list[Chart]:
    """Draw figures given as (group, name, title, about, draw)."""
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    settings: Any = {
        "svg.fonttype": "none",
        "figure.facecolor": "none",  # the page's own background shows through
        "axes.facecolor": "none",
        "svg.hashsalt": "metapl",
        "text.parse_math": False,  # a dollar sign in a class name is a dollar sign
        "font.size": 10,
        "figure.constrained_layout.w_pad": 0.1,  # the page's font may be wider than the one measured
        "text.color": LIGHT["ink"],
        "axes.labelcolor": LIGHT["soft"],
        "axes.edgecolor": LIGHT["soft"],
        "xtick.color": LIGHT["soft"],
        "ytick.color": LIGHT["soft"],
        "grid.color": LIGHT["grid"],
        "axes.prop_cycle": cycler(color=list(SERIES)),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    charts = []
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a letter that the font lacks does not stop the report
        for group, name, title, about, draw in planned:
            figure = Figure(figsize=(WIDE, HIGH), layout="constrained")
            draw(figure)
            text = svg_text(figure)
            if folder is not None:
                folder.mkdir(exist_ok=True)
                (folder / f"{name}.svg").write_text(text, encoding="utf-8")
                write_png(figure, folder / f"{name}.png")
            charts.append(Chart(name, title, about, inline(text, f"{name}-"), group))
    return charts


def _lines(
    curves: Sequence[tuple[str, Sequence[int], Sequence[float]]], share: bool = False, log: bool = False
) -> Draw:
    """Draw curves over steps; one alone has no legend. ``share``: of 0 to 100 %; ``log``: on a logarithmic axis."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        axes.grid(axis="y")
        for k, (label, steps, values) in enumerate(curves):
            colour, count = SERIES[k], len(values)
            if count == 2 and len(curves) > 1:  # a level, not a measurement
                axes.plot(steps, values, color=colour, linewidth=1.2, linestyle="--", label=label)
            elif count >= SMOOTH:
                axes.plot(steps, values, color=colour, alpha=0.25, linewidth=0.8)
                axes.plot(steps, smoothed(values), color=colour, linewidth=1.6, label=label)
            else:
                axes.plot(steps, values, color=colour, linewidth=1.6, marker="o", markersize=3, label=label)
        axes.set_xlabel("step")
        if share:
            axes.set_ylim(-0.03, 1.03)
            axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        if len(curves) > 1:
            axes.legend(frameon=False, fontsize=8)

    return draw


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the running mean over a tenth of the points, shorter at both ends."""
    half = max(1, len(values) // 20)
    return [float(np.mean(values[max(0, k - half) : k + half + 1])) for k in range(len(values))]


def _accuracy(record: Record) -> list[tuple[str, str, str, str, Draw]]:
    steps, values = record.series("validation_accuracy")
    if not values:
        return []
    about = f"Share of validation rows that are right: {whole(values[0])} at first, {whole(values[-1])} at last."
    return [("learning", "accuracy", "Validation accuracy", about, _lines([("", steps, values)], share=True))]


def _losses(record: Record) -> list[tuple[str, str, str, str, Draw]]:
    names = dict.fromkeys(k for row in record.metrics for k in row if k != "step" and k not in ELSEWHERE)
    ordered = [n for n in TERMS if n in names] + [n for n in names if n not in TERMS]
    planned = []
    for name in ordered:
        steps, values = record.series(name)
        if not values:
            continue
        share, title = name == "agreement", TERMS.get(name, cut(name, 40))
        first, last = (whole(v) if share else short(v) for v in (values[0], values[-1]))
        about = f"{name}: {first} at first, {last} at last, logged {len(values)} times."
        burst = min(values) > 0 and max(values) > BURST * values[0]
        draw = _lines([("", steps, values)], share, burst)
        planned.append(("learning", f"term-{safe(name)}", title, about, draw))
    return planned


def _masks(record: Record, material: dict[str, Any]) -> list[tuple[str, str, str, str, Draw]]:
    """Return how many pseudo labels count, and how many of these are right, as far as validation rows can tell."""
    threshold, planned = float(material.get("threshold") or 0), []
    steps, values = record.series("mask_rate")
    if values:
        about = f"Unlabelled rows of a batch that count: {whole(values[0])} at first, {whole(values[-1])} at last."
        planned.append(("pseudo", "mask-rate", "Pseudo labels that count", about, _lines([("", steps, values)], True)))
    looks = [(row["step"], row["validation"]) for row in record.snapshots if "validation" in row]
    kept, right, at = list[float](), list[float](), list[int]()
    for step, look in looks:
        sure = np.array(look["confidence"]) >= 1000 * threshold
        if sure.any():
            at.append(step)
            kept.append(float(sure.mean()))
            right.append(float((np.array(look["class"]) == np.array(look["true"]))[sure].mean()))
    if at:
        rule = f"at least {whole(threshold)} sure" if threshold else "any confidence"
        about = (
            f"Validation rows, {rule}: at the end {whole(kept[-1])} count, and {whole(right[-1])} of these are right."
        )
        curves = [("right, of those", at, right), (f"rows {rule}", at, kept)]
        planned.append(("pseudo", "precision", "Precision on validation rows", about, _lines(curves, share=True)))
    return planned


def _classes(record: Record, material: dict[str, Any]) -> list[tuple[str, str, str, str, Draw]]:
    """Draw the shares of the classes that the model names on the same unlabelled rows over time."""
    looks = [(row["step"], row["pool"]["class"]) for row in record.snapshots if "pool" in row]
    names, labels = material.get("classes", []), np.array(material.get("labels", []), dtype=float)
    if len(looks) < 2 or not names:
        return []
    shares = np.stack([np.bincount(named, minlength=len(names)) / len(named) for _, named in looks])
    order = np.argsort(-shares.mean(0), kind="stable")
    kept, rest = order[:MOST], order[MOST:]
    stack = [shares[:, k] for k in kept] + ([shares[:, rest].sum(1)] if len(rest) else [])
    words = [cut(names[k], 18) for k in kept] + ([f"{len(rest)} other{'s' * (len(rest) > 1)}"] if len(rest) else [])
    prior = labels / max(1.0, labels.sum())
    ideal = [prior[k] for k in kept] + ([prior[rest].sum()] if len(rest) else [])

    def draw(figure: Any) -> None:
        axes, bar = figure.subplots(1, 2, width_ratios=[8, 1], sharey=True)
        named = [f"\u200b{word}" for word in words]  # matplotlib keeps names that begin with _ out of a legend
        axes.stackplot([step for step, _ in looks], stack, colors=SERIES, alpha=0.75, labels=named)
        bar.bar([0] * len(ideal), ideal, 1, np.cumsum([0, *ideal[:-1]]), color=SERIES[: len(ideal)], alpha=0.75)
        axes.set(xlabel="step", ylim=(0, 1))
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
        bar.set_xticks([0], ["labels"])
        bar.spines[["left", "bottom"]].set_visible(False)
        bar.tick_params(length=0)
        handles, texts = axes.get_legend_handles_labels()
        figure.legend(handles[::-1], texts[::-1], loc="outside right center", frameon=False, fontsize=9)

    ends = ", ".join(f"{word} {whole(share[-1])}" for word, share in zip(words, stack))
    rows = f"the same {len(looks[0][1])} unlabelled rows"
    about = f"Classes that the model names on {rows}; at the end: {ends}. Bar: shares of the labels."
    return [("pseudo", "class-shares", "Class shares on the unlabelled rows", about, draw)]


def _feedback(record: Record) -> list[tuple[str, str, str, str, Draw]]:
    planned = []
    steps, spread = record.series("feedback_spread")
    cap = record.settings.get("feedback_cap") or 0
    if spread:
        about = f"Its standard deviation in a batch: {short(spread[0])} at first, {short(spread[-1])} at last."
        curves: list[tuple[str, Sequence[int], Sequence[float]]] = [("strength", steps, spread)]
        if cap:
            curves.append((f"cap {cap:g}", [steps[0], steps[-1]], [cap, cap]))
            about += f" A strength above {cap:g} is scaled down to {cap:g}."
        wide = min(spread) > 0 and max(spread) > WIDE_RANGE * min(min(spread), cap or min(spread))
        planned.append(("feedback", "feedback", "Strength of the feedback", about, _lines(curves, log=wide)))
    steps, gain = record.series("gain")
    if gain:
        about = f"Gain on the labelled rows by a student's step, {short(gain[-1])} at last."
        planned.append(("feedback", "gain", "Gain by a student's step", about, _lines([("", steps, gain)])))
    return planned


def _reliability(material: dict[str, Any]) -> list[tuple[str, str, str, str, Draw]]:
    found = material.get("calibration")
    if not found:
        return []

    def draw(figure: Any) -> None:
        figure.set_size_inches(6.4, 3.4)
        for k, (axes, name) in enumerate(zip(figure.subplots(1, 2, sharey=True), ("before", "after"))):
            confidence, right, count = np.array(found[name]["bins"]).T
            axes.plot([0, 1], [0, 1], color=LIGHT["soft"], linestyle="--", linewidth=1)
            axes.plot(confidence, right, color=SERIES[k], linewidth=1, alpha=0.6)
            axes.scatter(confidence, right, 12 + 160 * count / count.sum(), color=SERIES[k], alpha=0.85, linewidths=0)
            axes.set(xlim=(0, 1.03), ylim=(0, 1.03), xlabel="confidence", aspect="equal")
            axes.set_title(f"{name}: off by {100 * found[name]['error']:.1f} points", fontsize=10)
            axes.grid(True)
        figure.axes[0].set_ylabel("share that is right")

    about = (
        f"Share that is right against confidence, {found['rows']} validation rows: off by "
        f"{100 * found['before']['error']:.1f} points before and {100 * found['after']['error']:.1f} after calibration."
    )
    return [("calibration", "reliability", "Confidence against accuracy", about, draw)]


def _confusion(record: Record, material: dict[str, Any]) -> list[tuple[str, str, str, str, Draw]]:
    """Draw the confusion matrix as a file; the page shows a table, which can be read aloud and copied."""
    figures = record.evaluation or material.get("validation")
    names = [cut(name, 18) for name in material.get("classes", [])]
    if not figures or len(names) > 40:
        return []
    matrix = np.array(figures["confusion"], dtype=float)
    shares = matrix / np.maximum(1, matrix.sum(1, keepdims=True))

    def draw(figure: Any) -> None:
        side = max(3.2, 0.42 * len(names) + 1.6)
        figure.set_size_inches(side, side)
        axes = figure.add_subplot()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set(xlabel="answer", ylabel="true class")
        for k, row in enumerate(matrix.astype(int).tolist()):
            for j, count in enumerate(row):
                if count:
                    axes.text(j, k, count, ha="center", va="center", color="w" if shares[k, j] > 0.5 else LIGHT["ink"])

    return [("files", "confusion", "Confusion matrix", "", draw)]


def whole(share: float) -> str:
    """Return ``93 %``."""
    return f"{100 * share:.0f} %"


def short(value: float) -> str:
    """Return a number with about three digits, and in plain digits where it has few places."""
    return f"{value:,.0f}".replace(",", " ") if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def safe(name: str) -> str:
    """Return the name as a part of a file's name."""
    return "".join(c if c.isalnum() and c.isascii() else "-" for c in name)[:40]

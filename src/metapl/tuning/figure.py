"""``tune.png``: one panel per setting that was searched, accuracy on the held-out rows against its value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from metapl.config.settings import RunConfig
from metapl.tuning.score import Choice, Score
from metapl.tuning.space import Axis, effective, word

WIDTHS = (7.0, 9.5, 13.5)  # inches, for one panel, two and three in a row
MEAN, FOLD, OTHERS, DEFAULT, CHOSEN = LEGEND = (
    "mean, standard error",
    "a fold",
    "other settings changed too",
    "default",
    "chosen",
)
WIDE = 8.0  # with this ratio of largest to smallest value, the axis is logarithmic


def draw_tuning(
    path: Path, axes: Sequence[Axis], config: RunConfig, scores: Sequence[Score], verdict: Choice, joint: bool
) -> None:
    """Draw folds as small points, means with their standard error as large ones; mark the default and the choice.

    ``joint``: settings were changed several at a time, so each panel shows all of them.
    """
    from matplotlib.figure import Figure

    sound = [score for score in scores if not score.error]
    columns = min(len(WIDTHS), len(axes))
    figure = Figure(figsize=(WIDTHS[columns - 1], 3.8 * math.ceil(len(axes) / columns) + 1.0), layout="constrained")
    panels = figure.subplots(math.ceil(len(axes) / columns), columns, squeeze=False, sharey=True).ravel()
    for panel, axis in zip(panels, axes):
        _panel(panel, axis, config, sound, verdict, joint)
    for panel in panels[len(axes) :]:
        panel.remove()
    for panel in panels[: len(axes) : columns]:
        panel.set_ylabel("right among the held-out rows, %")
    best = verdict.best
    figure.suptitle(f"{config.method}: {len(best.right)} folds, {best.rows} labelled rows held out, {best.steps} steps")
    entries: dict[str, Any] = {}
    for panel in panels[: len(axes)]:
        handles, names = panel.get_legend_handles_labels()
        entries |= dict(zip(names, handles))
    names = [n for n in LEGEND if n in entries]
    figure.legend(
        [entries[n] for n in names], names, loc="outside lower center", ncols=4 if columns == 1 else 5, frameon=False
    )
    figure.savefig(path, dpi=110)


def _panel(panel: Any, axis: Axis, config: RunConfig, scores: Sequence[Score], verdict: Choice, joint: bool) -> None:
    own = effective(config, axis.key)
    # If only this setting varies, the lines of the folds show whether they agree.
    alone = [score for score in scores if score.setting.keys() <= {axis.key}]
    together = [s for s in scores if s.setting.keys() - {axis.key} and (joint or axis.key in s.setting)]
    values = [score.setting.get(axis.key, own) for score in scores]
    place = _scale(panel, axis, values)
    alone.sort(key=lambda score: place(score.setting.get(axis.key, own)))
    x = [place(score.setting.get(axis.key, own)) for score in alone]
    for k in range(len(verdict.best.right)):
        accuracies = [100 * score.fold_accuracy[k] for score in alone]
        panel.plot(
            x, accuracies, "o-", color="0.5", alpha=0.45, markersize=3, linewidth=0.7, label=FOLD if k == 0 else None
        )
    if together:
        x_other = [place(score.setting.get(axis.key, own)) for score in together]
        means, errors = [100 * score.accuracy for score in together], [100 * score.spread for score in together]
        panel.errorbar(x_other, means, errors, fmt="o", color="C1", alpha=0.6, markersize=5, capsize=2, label=OTHERS)
        for place_of, score in zip(x_other, together):
            folds = [100 * accuracy for accuracy in score.fold_accuracy]
            panel.plot([place_of] * len(folds), folds, "o", color="0.5", alpha=0.3, markersize=3)
    means, errors = [100 * score.accuracy for score in alone], [100 * score.spread for score in alone]
    panel.errorbar(x, means, errors, fmt="o-", color="C0", linewidth=2, capsize=3, label=MEAN)
    for score in scores:
        at = (place(score.setting.get(axis.key, own)), 100 * score.accuracy)
        if not score.setting:
            panel.plot(*at, "D", color="k", markersize=8, zorder=5, label=DEFAULT)
            panel.axhline(at[1], color="k", linestyle=":", linewidth=0.8, zorder=0)
        if score is verdict.chosen:
            panel.plot(*at, "o", color="C3", fillstyle="none", markersize=16, markeredgewidth=2, zorder=6, label=CHOSEN)
    panel.set_xlabel(axis.key)
    panel.grid(alpha=0.25)


def _scale(panel: Any, axis: Axis, values: Sequence[Any]) -> Any:
    """Set up the panel's x axis for ``values``; return the function from a value to its position."""
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        if axis.log or (min(values) > 0 and max(values) / min(values) >= WIDE):
            panel.set_xscale("log")
        ticks = sorted(set(values))
        if axis.values and len(ticks) <= 8:
            panel.set_xticks(ticks, [f"{v:g}" for v in ticks], rotation=45 if len(ticks) > 5 else 0)
            panel.minorticks_off()
        return float
    names = list(dict.fromkeys(map(word, [*axis.points(), *values])))
    panel.set_xticks(range(len(names)), names)
    return lambda value: names.index(word(value))

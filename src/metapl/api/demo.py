"""``metapl demo``: five methods on real digits with 20 labels, side by side, in about a minute on two cores."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from metapl.errors import UserError
from metapl.training.workers import Outcome, default_workers, run_jobs
from metapl.utils.files import write_json
from metapl.utils.progress import Progress

# Settings were chosen on other seeds, judged on rows that are not test rows here: docs/notes/demo.md.
COMMON: dict[str, Any] = {
    "split.labels": 2,
    "split.validation": 0,
    "batch.labeled": 20,
    "batch.unlabeled": 64,
    "steps": 600,
    "guard.mode": "off",  # supervised training stands in the table, and each method is shown as it is
}
# Each family gets the views that suit it: methods with one network lose much under mpl's.
MILD: dict[str, Any] = {"views.shift": 0.125, "views.ops": 1, "views.cutout": 0.25}
STRONG: dict[str, Any] = {"views.shift": 0.0, "views.ops": 2, "views.cutout": 0.4}
ROWS: tuple[tuple[str, str | None], ...] = (
    ("supervised", None),
    ("pseudo_label", None),
    ("fixmatch", None),
    ("mpl", "none"),
    ("mpl", "exact"),
)


def run_demo(out: Path | None, seeds: int, progress: Progress) -> dict[str, Any]:
    """Train every row of ROWS with seeds 0 .. seeds-1, judge each on its test rows once, write the results.

    Writes ``results.json``, ``demo.png`` and the run folders under ``out`` (default: a free ``demo`` folder).

    Raises:
        UserError: ``seeds`` below 1, or ``out`` holds something.
    """
    if seeds < 1:
        raise UserError(f"seeds is {seeds}", "Give at least 1.", "--seeds")
    out, began = _folder(out), time.monotonic()
    progress.note("each family has the views that suit it: mpl harsher ones than the others (docs/notes/demo.md)")
    rows = run_rows(ROWS, range(seeds), out, progress)
    order = {key: k for k, key in enumerate(ROWS)}
    rows.sort(key=lambda r: (r["seed"], order[r["method"], r["feedback"]]))
    curves = {(r["method"], r["feedback"], r["seed"]): r.pop("curve") for r in rows}
    result = {"rows": rows, "unit": "percent", "seconds_total": round(time.monotonic() - began, 1)}
    write_json(out / "results.json", result)
    _picture(out / "demo.png", curves)
    return {**result, "folder": str(out), "table": table(rows)}


def run_rows(
    methods: Iterable[tuple[str, str | None]],
    seeds: Iterable[int],
    out: Path,
    progress: Progress,
    options: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """Train (method, feedback) x seed on digits, as many at a time as there are cores, each judged on its test rows.

    ``options`` are settings by dotted key that replace the demo's.
    """
    methods, seeds = list(methods), list(seeds)
    jobs = [
        (method, feedback, seed, str(out), options or {}) for seed in seeds for method, feedback in reversed(methods)
    ]
    workers = default_workers(len(jobs))
    count = f"{len(methods)} methods x {len(seeds)} seeds, {workers} at a time"
    progress.note(f"digits with 20 labels (2 per class): {count}, into {out}")
    rows: list[dict[str, Any]] = []

    def done(position: int, outcome: Outcome) -> None:
        row = outcome.result()
        rows.append(row)
        what = f"{label(row)}, seed {row['seed']}: {row['test_accuracy']:.1f} % in {row['seconds']:.0f} s"
        progress.note(f"[{len(rows)}/{len(jobs)}] {what}")

    run_jobs(_one, jobs, workers, done, preload=("sklearn.datasets",))
    return rows


def label(row: dict[str, Any]) -> str:
    """Return ``mpl/exact``, or the method's name alone."""
    return f"{row['method']}/{row['feedback']}" if row["feedback"] else str(row["method"])


def table(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one row per method: mean, deviation and worst of the test accuracy (percent), mean seconds, seeds."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    result = []
    for name, members in groups.items():
        accuracies = [m["test_accuracy"] for m in members]
        result.append(
            {
                "method": name,
                "mean": statistics.mean(accuracies),
                "sd": statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0,
                "worst": min(accuracies),
                "seconds": statistics.mean(m["seconds"] for m in members),
                "seeds": len(members),
            }
        )
    return result


def demo_config(method: str, feedback: str | None, seed: int, options: dict[str, Any] | None = None) -> Any:
    """Return the run config of one row; also what the benchmarks run."""
    from metapl.config.settings import make_config

    views = STRONG if method == "mpl" else MILD
    settings = {**COMMON, **views, "method": method, "seed": seed, "device": "cpu", "loop.eval_every": 100}
    settings["loop.save_every"] = COMMON["steps"]
    if feedback:
        # Without validation rows the fine-tuned copy would not be chosen.
        settings |= {f"{method}.feedback": feedback, f"{method}.finetune_steps": 0}
    return make_config("digits", options={**settings, **(options or {})})


def _folder(out: Path | None) -> Path:
    if out is None:
        out = next(p for k in range(1, 10_000) if not (p := Path("demo" if k == 1 else f"demo-{k}")).exists())
    out = out.expanduser()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the output folder is not empty", "Name another.", str(out))
    out.mkdir(parents=True, exist_ok=True)
    return out


def _one(method: str, feedback: str | None, seed: int, out: str, options: dict[str, Any]) -> dict[str, Any]:
    """Train once and judge the result once on the test rows."""
    from metapl.inference.evaluate import evaluate
    from metapl.runs.folder import Metrics
    from metapl.runs.model_folder import Predictor
    from metapl.training.loop import train

    config = demo_config(method, feedback, seed, options)
    folder = Path(out) / "runs" / f"{label({'method': method, 'feedback': feedback}).replace('/', '-')}-{seed}"
    began = time.monotonic()
    source, hidden = _digits_and_hidden(config)

    def observe(step: int, predictor: Predictor) -> dict[str, float]:
        # The pool's true labels are known for digits. They draw the curve; nothing learns or is chosen by them.
        return {"pool_accuracy": evaluate(predictor, source, hidden)["accuracy"]}

    result = train(config, folder, source=source, observe=observe)
    seconds = time.monotonic() - began
    accuracy = 100 * evaluate(result.predictor, result.source, result.split.test)["accuracy"]
    curve = [(m["step"], 100 * m["pool_accuracy"]) for m in Metrics(folder).read() if "pool_accuracy" in m]
    return {
        "method": method,
        "feedback": feedback,
        "seed": seed,
        "test_accuracy": round(accuracy, 3),
        "seconds": round(seconds, 2),
        "curve": curve,
    }


def _digits_and_hidden(config: Any) -> tuple[Any, np.ndarray[Any, Any]]:
    from metapl.data.batches.split import make_split
    from metapl.data.sources import open_source, read_ref

    source = open_source(read_ref("digits"))
    split = make_split(source, config.split, config.seed)
    return source, np.setdiff1d(split.unlabeled, split.labeled)


def _picture(path: Path, curves: dict[tuple[str, str | None, int], list[tuple[int, float]]]) -> None:
    """Draw accuracy on the unlabelled rows against steps, one thin line per seed, and below it rows and their views."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 9), layout="constrained")
    top, bottom = np.asarray(figure.subfigures(2, 1, height_ratios=[3, 2]))
    axes = top.subplots()
    for k, (method, feedback) in enumerate(ROWS):
        lines = [c for (m, f, _), c in curves.items() if (m, f) == (method, feedback) and c]
        for line in lines:
            axes.plot(*zip(*line), color=f"C{k}", alpha=0.3, linewidth=1)
        steps = sorted(set.intersection(*[{s for s, _ in line} for line in lines])) if lines else []
        means = [statistics.mean(dict(line)[s] for line in lines) for s in steps]
        axes.plot(steps, means, color=f"C{k}", linewidth=2.5, label=label({"method": method, "feedback": feedback}))
    axes.set(
        xlabel="step",
        ylabel="accuracy on the unlabelled rows, %",
        title="digits with 20 labels: mean over seeds, thin lines are seeds",
    )
    axes.legend(loc="lower right")
    axes.grid(alpha=0.3)
    _draw_views(bottom)
    figure.savefig(path, dpi=110)


def _draw_views(figure: Any, columns: int = 12) -> None:
    from metapl.data.batches.preprocess import fit_preprocessing
    from metapl.data.batches.seeds import generator
    from metapl.data.batches.views import ViewConfig
    from metapl.data.images.views import ImageViews
    from metapl.data.memory.digits import open_digits

    source, index = open_digits(), np.arange(columns)
    views = ImageViews(
        ViewConfig(shift=STRONG["views.shift"], cutout=STRONG["views.cutout"]),
        fit_preprocessing(source, np.arange(500)),
    )
    raw = source.rows(index)
    pictures = {
        "original": views.plain(raw),
        "weak view": views.weak(raw, generator("cpu", 0, "weak")),
        "strong view": views.strong(raw, generator("cpu", 0, "strong")),
    }
    grid = figure.subplots(3, columns)
    for row, (name, batch) in zip(grid, pictures.items()):
        for axes, image in zip(row, views.pixels(batch)):
            axes.imshow(image[0], cmap="gray", vmin=0, vmax=1)
            axes.set(xticks=[], yticks=[])
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    figure.suptitle("what mpl's student is taught on: the strong view")

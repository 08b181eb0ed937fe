"""Does the guard keep harm away? Good and wrong unlabelled rows on digits, with and without the guard.

    python benchmarks/guard_cases.py --seeds 0:8 --out guard_cases.jsonl
    python benchmarks/guard_cases.py --out guard_cases.jsonl --seeds none        # only the table of what is there

Each run is one line of JSON in the file; what is there already is not run again, so the study can be stopped and gone
on with. At the end the table is printed as JSON: test accuracy in percent of supervised training, of the method without
a guard and of the model that the guard returned (all three from one run), how often that was the baseline, and the mean
paired difference returned - supervised, which should be at least -0.5 in every case.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from metapl.api.demo import COMMON, MILD

CASES = ("good", "photos", "inverted", "one-class", "threshold-0", "threshold-1")
METHODS = ("mpl", "fixmatch", "pseudo_label")
TEST = 359  # as in the demo's split
THRESHOLD = {"mpl": "mpl.uda_threshold", "fixmatch": "fixmatch.threshold", "pseudo_label": "pseudo_label.threshold"}
Array = np.ndarray[Any, Any]


def make_source(case: str, labels: int, seed: int) -> Any:
    """Digits with ``labels`` labelled rows in all, their test rows, and the unlabelled rows of the case."""
    from sklearn.datasets import load_digits

    from metapl.data.memory.arrays import from_arrays

    draw, bunch = np.random.default_rng([seed, 20]), load_digits()
    images, y = np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target
    order = draw.permutation(len(y))
    test, rest = order[:TEST], order[TEST:]
    labeled = np.concatenate([rest[y[rest] == k][: labels // 10] for k in range(10)])
    free = np.setdiff1d(rest, labeled)
    pool = {
        "photos": lambda: photo_pieces(len(free), draw),
        "inverted": lambda: 255 - images[free],
        "one-class": lambda: images[nine_in_ten(free, y[free], draw)],
    }.get(case, lambda: images[free])()
    return from_arrays(images[labeled], y[labeled], X_unlabeled=pool, X_test=images[test], y_test=y[test])


def photo_pieces(count: int, draw: np.random.Generator) -> Array:
    """uint8 [count, 8, 8]: grey pieces of 32 x 32 pixels of scikit-learn's two photographs, four pixels made one."""
    from sklearn.datasets import load_sample_images

    made = []
    photos = [photo.mean(-1) for photo in load_sample_images().images]
    for k in range(count):
        photo = photos[k % 2]
        top, left = (int(draw.integers(side - 32)) for side in photo.shape)
        made.append(photo[top : top + 32, left : left + 32].reshape(8, 4, 8, 4).mean((1, 3)))
    return np.rint(np.stack(made)).astype(np.uint8)


def nine_in_ten(rows: Array, y: Array, draw: np.random.Generator) -> Array:
    """All rows of one class, drawn, and a ninth as many of the others."""
    one = draw.integers(10)
    others = draw.permutation(rows[y != one])
    own = rows[y == one]
    return np.concatenate([own, others[: len(own) // 9]])


def run_one(case: str, method: str, labels: int, seed: int, options: dict[str, Any]) -> dict[str, Any]:
    """One guarded training, its two models judged on the test rows."""
    from metapl.config.settings import make_config
    from metapl.inference.evaluate import evaluate
    from metapl.runs.model_folder import load_model
    from metapl.training.loop import train

    common = {k: v for k, v in COMMON.items() if not k.startswith(("split.", "guard."))}
    settings = {**common, **MILD, "split.validation": 0, "method": method, "seed": seed, "device": "cpu"}
    if method == "mpl":
        settings["mpl.finetune_steps"] = 0
    if case.startswith("threshold"):
        settings[THRESHOLD[method]] = float(case[-1])
    source, began = make_source(case, labels, seed), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        result = train(make_config("arrays", options={**settings, **options}), Path(folder) / "run", source=source)
        verdict, accuracy = result.summary["guard"], {}
        if verdict["way"] == "none":
            raise RuntimeError(f"{case}, {method}, seed {seed}: {verdict['text']}")
        for place in ("model", "model-not-chosen"):
            card = json.loads((result.folder / place / "model.json").read_text(encoding="utf-8"))
            judged = evaluate(load_model(result.folder / place), source, result.split.test)
            accuracy[card["method"]] = accuracy[place] = 100 * judged["accuracy"]
    return {
        "case": case, "method": method, "labels": labels, "seed": seed, "options": options,
        "supervised": accuracy["supervised"], "unguarded": accuracy[method], "guarded": accuracy["model"],
        "returned": verdict["returned"] != method, "guard": verdict,
        "alarms": [a["name"] for a in result.summary["alarms"]], "seconds": round(time.monotonic() - began, 1),
    }  # fmt: skip


def table(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per case, method and number of labels, over its seeds."""
    groups: dict[tuple[str, str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["method"], row["labels"]), []).append(row)
    made = []
    for (case, method, labels), members in sorted(groups.items()):
        line: dict[str, Any] = {"case": case, "method": method, "labels": labels, "seeds": len(members)}
        for column in ("supervised", "unguarded", "guarded"):
            values = [m[column] for m in members]
            line[column] = {"mean": statistics.mean(values), "sd": _sd(values), "worst": min(values)}
        for column in ("unguarded", "guarded"):
            gains = [m[column] - m["supervised"] for m in members]
            line[f"{column}_minus_supervised"] = {"mean": statistics.mean(gains), "sd": _sd(gains), "worst": min(gains)}
        line["baseline_returned"] = sum(m["returned"] for m in members)
        line["with_alarm"] = sum(bool(m["alarms"]) for m in members)
        made.append(line)
    return made


def _sd(values: list[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _seeds(text: str) -> range:
    first, _, stop = text.partition(":")
    return range(0) if text == "none" else range(int(first), int(stop) if stop else int(first) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=_seeds, default="0:8", metavar="FIRST:STOP")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--labels", nargs="+", type=int, default=[20, 40], help="labelled rows in all")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="other settings, such as steps=100")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    a = parser.parse_args()
    options = {key: json.loads(value) for key, _, value in (text.partition("=") for text in a.set)}
    there = {(r["case"], r["method"], r["labels"], r["seed"]) for r in _read(a.out)}
    wanted = [
        (c, m, n, s) for s, n, c, m in product(a.seeds, a.labels, a.cases, a.methods) if (c, m, n, s) not in there
    ]
    with ProcessPoolExecutor(a.workers, multiprocessing.get_context("spawn"), initializer=_one_thread) as pool:
        try:
            for future in as_completed([pool.submit(run_one, *job, options) for job in wanted]):
                with open(a.out, "a", encoding="utf-8") as file:
                    file.write(json.dumps(future.result()) + "\n")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    print(json.dumps(table(_read(a.out)), indent=2))


if __name__ == "__main__":
    main()

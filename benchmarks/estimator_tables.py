"""The scikit-learn estimator on tables: semi-supervised, supervised, and what scikit-learn has, paired by seed.

    python benchmarks/estimator_tables.py --seeds 10 --labels 5,10

Each seed draws its own test rows (30 %) and labels; all contenders get the same. Prints a Markdown table, then JSON
with every row. ``--development`` judges on the pool's hidden labels and leaves the test rows shut: for choosing
settings, on seeds from 1000.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.semi_supervised import SelfTrainingClassifier

from metapl import SemiSupervisedClassifier

Array = np.ndarray[Any, Any]
DATA = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}
TEST = 0.3  # share of the rows
REFERENCE = "supervised"


class Task:
    """One seed's rows: a pool of which a few rows have labels, and rows to judge on."""

    def __init__(self, data: str, labels: int, seed: int, development: bool) -> None:
        X, y = DATA[data](return_X_y=True)
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(X))
        test, pool = np.split(order, [round(TEST * len(X))])
        self.X, truth = X[pool], y[pool]
        self.y = np.full(len(pool), -1)
        for label in np.unique(y):
            chosen = rng.permutation(np.flatnonzero(truth == label))[:labels]
            self.y[chosen] = label
        hidden = self.y < 0
        self.judged = (self.X[hidden], truth[hidden]) if development else (X[test], y[test])


def _logistic(task: Task, seed: int) -> Any:
    """Scaled by all rows of the pool, taught by the labelled ones."""
    scaler, labeled = StandardScaler().fit(task.X), task.y >= 0
    model = LogisticRegression(max_iter=1000).fit(scaler.transform(task.X[labeled]), task.y[labeled])
    return make_pipeline(scaler, model)


def _self_training(task: Task, seed: int) -> Any:
    base = SelfTrainingClassifier(LogisticRegression(max_iter=1000))
    return make_pipeline(StandardScaler(), base).fit(task.X, task.y)


def _ours(options: dict[str, Any]) -> Callable[[Task, int], Any]:
    def fitted(task: Task, seed: int) -> Any:
        return SemiSupervisedClassifier(random_state=seed, device="cpu", **options).fit(task.X, task.y)

    return fitted


def contenders(methods: list[str], options: dict[str, Any]) -> dict[str, Callable[[Task, int], Any]]:
    ours = {method: _ours({**options, "method": method}) for method in methods}
    return {**ours, "LogisticRegression": _logistic, "SelfTrainingClassifier": _self_training}


def paired(values: list[float], reference: list[float]) -> dict[str, float]:
    """Mean difference, seed by seed, with its 95 % t interval."""
    gains = [a - b for a, b in zip(values, reference, strict=True)]
    half = float(stats.t.ppf(0.975, len(gains) - 1)) * statistics.stdev(gains) / math.sqrt(len(gains))
    mean = statistics.mean(gains)
    return {"gain": mean, "low": mean - half, "high": mean + half}


def summary(accuracies: dict[str, list[float]]) -> list[dict[str, Any]]:
    """One row per contender, best mean first."""
    rows = []
    for name, values in accuracies.items():
        row = {"name": name, "mean": statistics.mean(values), "sd": statistics.stdev(values), "worst": min(values)}
        if name != REFERENCE and REFERENCE in accuracies:
            row |= paired(values, accuracies[REFERENCE])
        rows.append({**row, "accuracies": values})
    return sorted(rows, key=lambda row: -row["mean"])


def table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| classifier | mean | sd | worst | to {REFERENCE} |", "|---|---|---|---|---|"]
    for row in rows:
        gain = f"{row['gain']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]" if "gain" in row else "-"
        lines.append(f"| {row['name']} | {row['mean']:.1f} | {row['sd']:.1f} | {row['worst']:.1f} | {gain} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="breast_cancer")
    parser.add_argument("--labels", default="5,10", help="labels per class")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--methods", default="mpl,fixmatch,supervised")
    parser.add_argument("--options", type=json.loads, default={}, help="the estimator's parameters, as JSON")
    parser.add_argument("--development", action="store_true")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    found: dict[str, Any] = {}
    for labels in map(int, arguments.labels.split(",")):
        accuracies: dict[str, list[float]] = {}
        for seed in seeds:
            task = Task(arguments.data, labels, seed, arguments.development)
            for name, fit in contenders(arguments.methods.split(","), arguments.options).items():
                right = fit(task, seed).predict(task.judged[0]) == task.judged[1]
                accuracies.setdefault(name, []).append(100 * float(right.mean()))
        rows = summary(accuracies)
        print(f"\n{arguments.data}, {labels} labels per class, {len(seeds)} seeds\n\n{table(rows)}", flush=True)
        found[str(labels)] = rows
    print(json.dumps({"data": arguments.data, "seeds": list(seeds), "results": found}, indent=2))


if __name__ == "__main__":
    main()

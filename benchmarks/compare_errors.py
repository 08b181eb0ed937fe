"""How often does a table of ``metapl compare`` find a difference to the best baseline that is not there?

    python benchmarks/compare_errors.py

Made-up accuracies: mpl and 13 baselines, normal, with an effect of the seed that all share. ``t``: a t interval against
the baseline with the highest mean, as if it had been named beforehand. ``best``: the interval that the table has.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

from metapl.comparison.budget import Cost
from metapl.comparison.paired import holm
from metapl.comparison.passes import Rows
from metapl.comparison.plan import Plan
from metapl.comparison.table import make_table

# True means of mpl and of the baselines, in standard deviations of a run.
CASES: dict[str, list[float]] = {
    "all 14 equal": [0.0] * 14,
    "mpl equal to the best of 13, the others lower by 0 to 3": [0.0, *np.linspace(0, -3, 13)],
    "mpl equal to the one best, the others lower by 5": [0.0, 0.0, *[-5.0] * 12],
    "mpl and one baseline": [0.0, 0.0],
    "mpl higher by 2 than 13": [2.0] + [0.0] * 13,
    "mpl higher by 4 than 13": [4.0] + [0.0] * 13,
    "mpl lower by 4 than the best of 13": [0.0, 4.0] + [0.0] * 12,
}


def a_plan(count: int, seeds: int) -> Plan:
    labels = ["mpl", *(f"baseline{k}" for k in range(count - 1))]
    rows = {label: {"data": "made up", "method": label} for label in labels}
    asked = {"data": "made up", "rows": rows, "reference": labels[-1], "budget": {"by": "steps", "steps": 1}}
    share = {"steps": 1, "cost": asdict(Cost(Rows(), Rows(1, 1), 0))}
    numbers = tuple(range(seeds))
    return Plan(asked, numbers, dict.fromkeys(numbers, ""), "", {}, dict.fromkeys(labels, share))


def one(plan: Plan, scores: np.ndarray[Any, Any]) -> dict[str, bool]:
    """What one table says; ``scores`` are [methods, seeds]."""
    measured = {"seconds": 1.0, "peak_memory": None, "resumed_at": 0}
    runs = [
        {"method": label, "seed": s, "test_accuracy": float(v), **measured}
        for label, values in zip(plan.labels, scores)
        for s, v in enumerate(values)
    ]
    cells = [row["to_best"] for row in make_table(plan, runs) if row["to_best"]]
    half = float(stdtrit(cells[0]["n"] - 1, 0.975)) * cells[0]["sd"] / math.sqrt(cells[0]["n"])
    old = [2 * float(stdtr(c["n"] - 1, -abs(c["mean"]) * math.sqrt(c["n"]) / c["sd"])) for c in cells]
    return {
        "t: mpl below": cells[0]["mean"] + half < 0,
        "t: mpl above": cells[0]["mean"] - half > 0,
        "t: any Holm p < .05": min(holm(old)) < 0.05,
        "best: mpl below": cells[0]["high"] < 0,
        "best: mpl above": cells[0]["low"] > 0,
        "best: any Holm p < .05": min(c["p_holm"] for c in cells) < 0.05,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[5, 10])
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    for seeds in given.seeds:
        print(f"\n{seeds} seeds, {given.tables} tables; share of tables, %")
        for name, means in CASES.items():
            plan, found = a_plan(len(means), seeds), []
            for _ in range(given.tables):
                noise = rng.normal(0, 1, (len(means), seeds)) + rng.normal(0, 1, seeds)
                found.append(one(plan, 80 + np.array(means)[:, None] + noise))
            shares = {k: 100 * float(np.mean([f[k] for f in found])) for k in found[0]}
            print(f"{name}: {', '.join(f'{k} {v:.1f}' for k, v in shares.items())}", flush=True)


if __name__ == "__main__":
    main()

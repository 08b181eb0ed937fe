"""Is the exact feedback worth having? mpl/exact against mpl/none on digits with 20 labels, paired by seed.

    python benchmarks/feedback_digits.py --seeds 32 --out feedback_digits.json

Prints JSON: every row, and the figures of ``compare``. Settings are the demo's.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from metapl.api.demo import MILD, STRONG, run_rows
from metapl.utils.progress import Plain

DRAWS = 10_000  # of the bootstrap


def compare(none: list[float], exact: list[float]) -> dict[str, Any]:
    """Paired figures in points of test accuracy; ``none[k]`` and ``exact[k]`` share a seed.

    ``mean_gain`` with its 95 % t interval; the mean over the worst quarter of each (its own worst seeds) and a 95 %
    bootstrap interval over seeds of their difference; the seeds needed to see one point (power 0.8, two-sided 5 %).
    """
    n = len(none)
    gains = [e - o for o, e in zip(none, exact)]
    sd = statistics.stdev(gains)
    half = float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n)
    picks = np.random.default_rng(0).integers(0, n, (DRAWS, n))
    tails = _worst_quarter(np.asarray(exact)[picks]) - _worst_quarter(np.asarray(none)[picks])
    low, high = np.quantile(tails, [0.025, 0.975])
    return {
        "seeds": n,
        "none": _summary(none),
        "exact": _summary(exact),
        "mean_gain": statistics.mean(gains),
        "mean_gain_95": [statistics.mean(gains) - half, statistics.mean(gains) + half],
        "sd_of_gain": sd,
        "worst_quarter_gain": float((_worst_quarter(np.asarray([exact])) - _worst_quarter(np.asarray([none])))[0]),
        "worst_quarter_gain_95": [float(low), float(high)],
        "seeds_for_one_point": math.ceil((1.96 + 0.84) ** 2 * sd**2),
    }


def _worst_quarter(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.sort(rows, axis=1)[:, : max(1, rows.shape[1] // 4)].mean(1)


def _summary(values: list[float]) -> dict[str, float]:
    return {"mean": statistics.mean(values), "sd": statistics.stdev(values), "worst": min(values)}


def run(seeds: int, first: int = 0, views: str = "strong") -> dict[str, Any]:
    """Both rows on ``seeds`` seeds from ``first``, under the demo's ``strong`` (mpl's) or ``mild`` views."""
    options = {"strong": STRONG, "mild": MILD}[views]
    methods = (("mpl", "none"), ("mpl", "exact"))
    with tempfile.TemporaryDirectory() as folder:
        rows = run_rows(methods, range(first, first + seeds), Path(folder), Plain(), options)
    rows = [{k: v for k, v in r.items() if k != "curve"} for r in rows]
    by = {(r["feedback"], r["seed"]): r["test_accuracy"] for r in rows}
    columns = [[by[f, s] for s in range(first, first + seeds)] for f in ("none", "exact")]
    return {"views": views, "compare": compare(*columns), "rows": rows}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--views", choices=("strong", "mild"), default="strong")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    text = json.dumps(run(arguments.seeds, arguments.first, arguments.views), indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)

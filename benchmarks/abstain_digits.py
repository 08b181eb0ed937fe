"""Whether ``predict --precision`` keeps its word: target, share of right answers and share of answered test rows.

    python benchmarks/abstain_digits.py 10 > abstain.json      # seeds 0 to 9

Digits with 15 labels per class, 5 of them validation rows (50 in all); supervised training of 100 steps.
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

import metapl
from metapl.inference.abstain import threshold_for
from metapl.inference.evaluate import answers

TARGETS = (0.9, 0.95, 0.98)


def main(seeds: int) -> None:
    found: dict[float, list[dict[str, Any]]] = {target: [] for target in TARGETS}
    for seed in range(seeds):
        result = metapl.fit("digits", method="supervised", labels=15, validation=5, steps=100, seed=seed, guard="off")
        judged = answers(result.predictor, result.source, result.split.test)
        confidence, named = judged.p.max(-1)
        for target in TARGETS:
            try:
                threshold = threshold_for(result.predictor, target).value
            except metapl.UserError:
                found[target].append({"seed": seed, "refused": True})
                continue
            answered = confidence >= threshold
            right = float((named == judged.y)[answered].float().mean())
            found[target].append({"seed": seed, "right": right, "answered": float(answered.float().mean())})
    for target, runs in found.items():
        kept = [run for run in runs if "right" in run]
        for key in ("right", "answered"):
            values = [run[key] for run in kept]
            if len(values) > 1:
                mean, spread = statistics.mean(values), statistics.stdev(values)
                print(f"target {target}: {key} {mean:.3f} (sd {spread:.3f}, {len(values)} seeds)", file=sys.stderr)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)

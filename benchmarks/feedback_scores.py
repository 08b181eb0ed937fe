"""Does the feedback score of a row tell a wrong pseudo label from a right one? Area under the ROC curve on digits.

    python benchmarks/feedback_scores.py --seeds 1000:1004

0.5 is chance. Beside it stands the model's confidence, which needs no feedback.
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

import metapl


def main() -> None:
    """Print a line per seed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", default="1000:1004")
    for seed in range(*map(int, parser.parse_args().seeds.split(":"))):
        made = metapl.fit(
            "digits", method="mpl", model="mlp", labels=4, steps=400, seed=seed, validation="none", guard="off"
        )
        scores = next(shot["feedback"] for shot in reversed(made.kept.snapshots()) if "feedback" in shot)
        by_row = dict(zip(made.split.unlabeled.tolist(), scores))
        pool = made.pseudo_labels()
        known = np.array([by_row[row] is not None for row in pool.index.tolist()])
        score = np.array([by_row[row] for row in pool.index[known].tolist()], dtype=float)
        p = pool.probabilities[known]
        wrong = p.argmax(1) != made.source.labels[pool.index[known]]
        low, size, doubt = (roc_auc_score(wrong, v) for v in (-score, abs(score), -p.max(1)))
        print(f"seed {seed}: low score {low:.2f}, size of the score {size:.2f}, low confidence {doubt:.2f}", flush=True)


if __name__ == "__main__":
    main()

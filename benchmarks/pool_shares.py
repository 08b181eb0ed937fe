"""Does it pay to correct a linear model by the pool's class shares, as estimated from its own answers?

    python benchmarks/pool_shares.py FOLDER --seeds 1000:1004

FOLDER as for ``benchmarks/tables_texts.py``; labels are even, pools have the file's own shares. Prints JSON by kind of
rows, over all files, seeds and 5 and 10 labels per class: accuracy and balanced accuracy, in percent, of a logistic
regression as it is, and with its probabilities multiplied by shares: the true ones, and estimates of
``metapl.training.pool`` that are drawn towards the labels' shares with the weight in the name. And how far each
estimate is from the true shares (total variation).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

WEIGHTS = (0.0, 0.25, 1.0)
Array = np.ndarray[Any, Any]


def run_one(source: Any, labels: int, seed: int) -> dict[str, Any]:
    """Figures of one draw of labels."""
    from metapl.comparison.peers import Features
    from metapl.data.batches.split import SplitConfig, make_split
    from metapl.inference.evaluate import judge
    from metapl.training.pool import estimate_shares, shift

    split = make_split(source, SplitConfig(labels=labels, validation="none"), seed)
    pool, classes = np.setdiff1d(split.unlabeled, split.labeled)[:1500], len(source.class_names)
    features, y = Features(source, split), source.labels
    model = LogisticRegression(max_iter=1000).fit(features(split.labeled), y[split.labeled])
    on_pool, on_test = (torch.from_numpy(model.predict_proba(features(rows))) for rows in (pool, split.test))
    even = torch.full((classes,), 1 / classes, dtype=torch.float64)
    true = torch.from_numpy(np.bincount(y[pool], minlength=classes) / len(pool))
    shares = {f"estimated, {weight:g}": estimate_shares(on_pool, even, weight) for weight in WEIGHTS}
    shares |= {"as it is": even, "true shares": true}
    truth = torch.from_numpy(y[split.test].astype(np.int64))
    judged = {name: judge((on_test * q / even).float(), truth, source.class_names) for name, q in shares.items()}
    return {
        name: (100 * judged[name]["accuracy"], 100 * judged[name]["balanced_accuracy"], shift(q, true))
        for name, q in shares.items()
    }


def main() -> None:
    from metapl.config.settings import make_config
    from metapl.data.sources import open_source

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="1000:1004", metavar="FIRST:STOP")
    a = parser.parse_args()
    torch.set_num_threads(1)
    first, _, stop = a.seeds.partition(":")
    runs: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(a.folder.glob("*.csv")):
        config = make_config(str(path))
        source = open_source(config.ref, config.source)
        for seed in range(int(first), int(stop)):
            runs.setdefault(source.kind, []).extend(run_one(source, labels, seed) for labels in (5, 10))
    table = {
        kind: {
            name: dict(
                zip(("accuracy", "balanced", "off_by"), (statistics.fmean(c) for c in zip(*(r[name] for r in rows))))
            )
            for name in rows[0]
        }
        for kind, rows in runs.items()
    }
    print(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()

"""Try settings on digits with 20 labels without looking at any test row.

    python benchmarks/digits_dev.py --seeds 1010 1022 1023 --method mpl --feedback exact views.cutout=0.5

Starts from the demo's settings, changes the given ones, prints JSON: per seed the accuracy (percent) on the unlabelled
rows, whose true labels digits happens to know and training never sees. Use seeds that no result table uses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from metapl.api.demo import demo_config
from metapl.config.settings import make_config, to_dict
from metapl.data.batches.split import make_split
from metapl.data.memory.digits import open_digits
from metapl.inference.evaluate import evaluate
from metapl.training.loop import train


def pool_accuracy(method: str, feedback: str | None, seed: int, overrides: list[str]) -> float:
    """Train once and judge the result on the unlabelled rows, percent."""
    base = demo_config(method, feedback, seed)
    tree = {k: v for k, v in to_dict(base).items() if not isinstance(v, dict)}
    groups = {f"{g}.{k}": v for g, d in to_dict(base).items() if isinstance(d, dict) for k, v in d.items()}
    config = make_config("digits", options={**tree, **groups}, overrides=overrides)
    source = open_digits()
    split = make_split(source, config.split, seed)
    hidden = np.setdiff1d(split.unlabeled, split.labeled)
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run", source=source)
    return 100 * evaluate(result.predictor, source, hidden)["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--method", default="mpl")
    parser.add_argument("--feedback")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    a = parser.parse_intermixed_args()
    found = {seed: pool_accuracy(a.method, a.feedback, seed, a.overrides) for seed in a.seeds}
    values = list(found.values())
    sd = statistics.stdev(values) if len(values) > 1 else None
    figures = {"mean": statistics.mean(values), "sd": sd, "worst": min(values), "seeds": found}
    print(json.dumps({"method": a.method, "feedback": a.feedback, "changed": a.overrides, **figures}, indent=2))

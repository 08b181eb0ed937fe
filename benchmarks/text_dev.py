"""Try settings on a file of short texts with few labels without looking at any test row.

    python benchmarks/text_dev.py questions.csv --seeds 1000 1001 1002 --method mpl source.encoder.name=hf:FOLDER

Starts from configs/text.yaml, changes the given settings, prints JSON: per seed the accuracy (percent) on the
unlabelled rows, whose labels the file knows and training never sees. Use seeds that no result table uses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path

import numpy as np

from metapl import open_source
from metapl.config.settings import make_config
from metapl.data.batches.split import make_split
from metapl.inference.evaluate import evaluate
from metapl.training.loop import train
from metapl.types import Source

RECIPE = Path(__file__).parents[1] / "configs" / "text.yaml"


def pool_accuracy(source: Source, options: dict[str, object], overrides: list[str]) -> float:
    """Train once and judge the result on the unlabelled rows, percent."""
    config = make_config(source.name, file=RECIPE, options=options, overrides=overrides)
    split = make_split(source, config.split, config.seed)
    with tempfile.TemporaryDirectory() as folder:
        result = train(config, Path(folder) / "run", source=source)
    return 100 * evaluate(result.predictor, source, np.setdiff1d(split.unlabeled, split.labeled))["accuracy"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--method", default="mpl")
    parser.add_argument("--labels", type=int, default=10, help="per class")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    a = parser.parse_intermixed_args()
    given = {"method": a.method, "split.labels": a.labels, "guard.mode": "off"}
    data = open_source(a.file, make_config(a.file, file=RECIPE, options=given, overrides=a.overrides).source)
    found = {seed: round(pool_accuracy(data, {**given, "seed": seed}, a.overrides), 2) for seed in a.seeds}
    values = list(found.values())
    sd = round(statistics.stdev(values), 2) if len(values) > 1 else None
    figures = {"mean": round(statistics.mean(values), 2), "sd": sd, "worst": min(values), "seeds": found}
    print(json.dumps({"method": a.method, "changed": a.overrides, **figures}))

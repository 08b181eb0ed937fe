"""Which side is right more often: a method, supervised training, the linear model, a forest, or a mean of them?

    python benchmarks/guard_sides.py FOLDER --seeds 1000:1003 --labels 5 10 --out guard_sides.jsonl

FOLDER as for ``benchmarks/tables_texts.py``. ``--set mpl.uda_threshold=0.95 views.swap=0.1`` changes the side ``mpl``
alone; give it an ``--out`` of its own. All labelled rows teach, the test rows judge. Each run is one line of
JSON; what is there already is not run again. At the end a table is printed as JSON: accuracy and balanced accuracy, in
percent, of each side and of the means of their probabilities (``+``: arithmetic, ``*``: geometric; ``sharp linear``:
the linear model as sure of the pool as mpl is), and the regret: the accuracy of the best side minus that of the column,
on average and in the worst run.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

SIDES = ("mpl", "supervised", "linear")
FOREST = {"method": "linear", "model": "forest"}  # on tables


def run_one(path: Path, labels: int, seed: int, steps: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Accuracy and balanced accuracy of each side and mean on the test rows, percent."""
    import metapl
    from metapl.config.settings import make_config
    from metapl.data.sources import open_source
    from metapl.inference.evaluate import judge, probabilities
    from metapl.training.pool import matched_sharpness

    p, pool, y, names = dict[str, Tensor](), dict[str, Tensor](), torch.zeros(0), ()
    common: dict[str, Any] = {
        "labels": labels,
        "seed": seed,
        "steps": steps,
        "validation": "none",
        "guard": "off",
        "device": "cpu",
    }
    methods: dict[str, dict[str, Any]] = {name: {"method": name} for name in SIDES}
    methods["mpl"]["options"] = settings
    config = make_config(str(path))
    source = open_source(config.ref, config.source)
    if source.kind == "table":
        methods["forest"] = FOREST
    for name, method in methods.items():
        result = metapl.fit(source, **common, **method)
        p[name] = probabilities(result.predictor, source, result.split.test)
        pool[name] = probabilities(result.predictor, source, result.split.unlabeled[:1000]).clamp_min(1e-12).log()
        y, names = torch.from_numpy(source.labels[result.split.test]).long(), source.class_names
    m, s, n = (p[name] for name in SIDES)
    p |= {"mpl+linear": (m + n) / 2, "mpl*linear": _geometric(m, n), "mpl+supervised": (m + s) / 2}
    p |= {"mpl*supervised": _geometric(m, s), "2mpl+supervised+linear": (2 * m + s + n) / 4}
    sharp = torch.softmax(n.clamp_min(1e-12).log() * matched_sharpness(pool["mpl"], pool["linear"]), -1)
    p["mpl*sharp linear"] = _geometric(m, sharp)
    if "forest" in p:
        f = p["forest"]
        p |= {"mpl*forest": _geometric(m, f), "linear*forest": _geometric(n, f)}
        p["(mpl*linear)*forest"] = _geometric(p["mpl*linear"], f)
    judged = {name: judge(value, y, names) for name, value in p.items()}
    figures = {name: (100 * j["accuracy"], 100 * j["balanced_accuracy"]) for name, j in judged.items()}
    return {"set": path.stem, "labels": labels, "seed": seed, "figures": figures}


def _geometric(one: Tensor, other: Tensor) -> Tensor:
    mean = (one.clamp_min(1e-12) * other.clamp_min(1e-12)).sqrt()
    return mean / mean.sum(1, keepdim=True)


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over sets of the means over their runs; regrets over runs."""
    found: dict[str, Any] = {"runs": len(rows), "sets": len({(r["set"], r["labels"]) for r in rows})}
    for name in {name: None for row in rows for name in row["figures"]}:
        per_set: dict[tuple[str, int], list[Any]] = {}
        with_it = [row for row in rows if name in row["figures"]]  # texts have no forest
        for row in with_it:
            per_set.setdefault((row["set"], row["labels"]), []).append(row["figures"][name])
        means = [[statistics.fmean(part) for part in zip(*values)] for values in per_set.values()]
        regrets = [max(r["figures"][side][0] for side in SIDES) - r["figures"][name][0] for r in with_it]
        accuracy, balanced = (statistics.fmean(column) for column in zip(*means))
        regret = {"mean": statistics.fmean(regrets), "worst": max(regrets)}
        found[name] = {"accuracy": accuracy, "balanced": balanced, "regret": regret}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="1000:1003", metavar="FIRST:STOP")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10], help="per class")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of mpl")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    a = parser.parse_args()
    torch.set_num_threads(1)
    first, _, stop = a.seeds.partition(":")
    settings = {key: yaml.safe_load(value) for key, _, value in (pair.partition("=") for pair in a.set)}
    rows = [json.loads(line) for line in a.out.read_text(encoding="utf-8").splitlines()] if a.out.exists() else []
    done = {(row["set"], row["labels"], row["seed"]) for row in rows}
    for seed in range(int(first), int(stop)):
        for path in sorted(a.folder.glob("*.csv")):
            for labels in a.labels:
                if (path.stem, labels, seed) not in done:
                    rows.append(run_one(path, labels, seed, a.steps, settings))
                    with open(a.out, "a", encoding="utf-8") as file:
                        file.write(json.dumps(rows[-1]) + "\n")
    print(json.dumps(table(rows), indent=2))


if __name__ == "__main__":
    main()

"""Is the default ever the worse choice? Default runs on files of rows and texts, beside scikit-learn's classifiers.

    python benchmarks/tables_texts.py FOLDER --seeds 0:10 --labels 5 10 --out tables_texts.jsonl
    python benchmarks/tables_texts.py FOLDER --seeds none --out tables_texts.jsonl    # only the table of what is there

FOLDER holds CSV files with a column ``label``, every row labelled; ``benchmarks/table_sets.py`` writes such files from
packages. A run keeps 5 or 10 labels of each class and hides the others, in the file's own shares; a fifth of the rows
judges. Each run is one line of JSON: accuracy and balanced accuracy, in percent, of what ``metapl train`` returns with
its default settings, of its sides (the method's network, supervised training, the linear model) and of the peers, and
the seconds of each. What is there already is not run again. At the end the table is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t

PEERS = ("LogisticRegression", "RandomForest", "LabelSpreading", "SelfTraining")
SIDES = ("mpl", "supervised", "linear")


def run_one(path: Path, labels: int, seed: int) -> dict[str, Any]:
    """One default run with its sides, and the peers on the same rows."""
    import metapl
    from metapl.comparison.peers import Peer, run_peer
    from metapl.config.settings import make_config
    from metapl.inference.evaluate import evaluate
    from metapl.runs.model_folder import load_model

    began, figures = time.monotonic(), dict[str, Any]()
    with tempfile.TemporaryDirectory() as folder:
        result = metapl.fit(str(path), labels=labels, seed=seed, device="cpu", out=Path(folder) / "run")
        seconds = time.monotonic() - began
        figures["default"] = _short(result.evaluate(), seconds)
        guard, models = result.summary["guard"], dict[str, Any]()
        for place in ("model", "model-not-chosen"):
            if (Path(folder) / "run" / place).exists():
                card = json.loads((Path(folder) / "run" / place / "model.json").read_text(encoding="utf-8"))
                if "combine" not in card:
                    models[card["method"]] = load_model(Path(folder) / "run" / place)
    source, split = result.source, result.split
    for name in SIDES:
        if name not in models:
            side = metapl.fit(source, labels=labels, seed=seed, method=name, guard="off", device="cpu")
            assert side.split.sha == split.sha
            models[name] = side.predictor
        figures[name] = _short(evaluate(models[name], source, split.test))
    config = make_config(str(path), options={"method": "linear", "seed": seed})
    for name in PEERS:
        judged = run_peer(Peer(f"sklearn:{name}"), config, source, split)
        figures[name] = _short(judged, judged["seconds"])
    head = {"set": path.stem, "kind": source.kind, "labels": labels, "seed": seed, "shift": guard.get("pool_shift")}
    return {**head, "returned": guard.get("returned"), "refusal": guard.get("refusal"), "figures": figures}


def _short(judged: dict[str, Any], seconds: float | None = None) -> dict[str, float]:
    figures = {"accuracy": 100 * judged["accuracy"], "balanced": 100 * judged["balanced_accuracy"]}
    return figures if seconds is None else {**figures, "seconds": seconds}


def table(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Means per set, and over all sets: differences of the default to each peer, and the guard's regret."""
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["labels"]), []).append(row)
    lines = [_line(name, labels, members) for (name, labels), members in sorted(groups.items())]
    runs = [row for members in groups.values() for row in members]
    regrets = [regret(row) for row in runs]
    overall: dict[str, Any] = {"runs": len(runs), "sets": len(groups)}
    for name in ("default", *SIDES, *PEERS):
        overall[name] = {key: _mean(line[name][key] for line in lines) for key in ("accuracy", "balanced")}
    overall["default_minus"] = {name: _apart(lines, lambda line, name=name: line[name]) for name in (*PEERS, *SIDES)}
    best = max(PEERS, key=lambda name: float(overall[name]["accuracy"]))
    overall["default_minus"] |= {
        f"best single peer ({best})": overall["default_minus"][best],
        "best peer of each set, chosen afterwards": _apart(
            lines, lambda line: max((line[name] for name in PEERS), key=lambda figures: float(figures["accuracy"]))
        ),
    }
    overall["regret"] = {"mean": _mean(regrets), "worst": max(regrets), "above_0": _mean(r > 0 for r in regrets)}
    overall["seconds"] = {"mean": _mean(line["seconds"] for line in lines), "worst": max(x["seconds"] for x in lines)}
    return {"sets": lines, "all": overall}


def _apart(lines: list[dict[str, Any]], other: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    """Default minus another in points: mean over the sets, its 95 % interval by their spread, and the worst set."""
    found: dict[str, Any] = {}
    for key in ("accuracy", "balanced"):
        apart = [line["default"][key] - other(line)[key] for line in lines]
        half = t.ppf(0.975, len(apart) - 1) * statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else None
        found[key] = {"mean": _mean(apart), "plus_minus": half, "worst_set": min(apart)}
    return found


def regret(row: dict[str, Any]) -> float:
    """Accuracy of the best side minus that of what was returned, in points; below 0 where the mean beats both."""
    figures = row["figures"]
    return max(figures[name]["accuracy"] for name in SIDES) - figures["default"]["accuracy"]


def _line(name: str, labels: int, members: list[dict[str, Any]]) -> dict[str, Any]:
    line: dict[str, Any] = {"set": name, "labels": labels, "seeds": len(members)}
    for side in ("default", *SIDES, *PEERS):
        values = [m["figures"][side]["accuracy"] for m in members]
        balanced = _mean(m["figures"][side]["balanced"] for m in members)
        sd = statistics.stdev(values) if len(values) > 1 else None
        line[side] = {"accuracy": _mean(values), "sd": sd, "balanced": balanced}
    line["seconds"] = _mean(m["figures"]["default"]["seconds"] for m in members)
    line["regret"] = _mean(regret(m) for m in members)
    line["refused"] = sum(bool(m["refusal"]) for m in members)
    return line


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _seeds(text: str) -> range:
    first, _, stop = text.partition(":")
    return range(0) if text == "none" else range(int(first), int(stop) if stop else int(first) + 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=_seeds, default="0:10", metavar="FIRST:STOP")
    parser.add_argument("--labels", type=int, nargs="+", default=[5, 10], help="per class")
    parser.add_argument("--sets", nargs="*", help="names of files, without .csv; by default all")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    a = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["set"], row["labels"], row["seed"]) for row in _read(a.out)}
    files = [path for path in sorted(a.folder.glob("*.csv")) if not a.sets or path.stem in a.sets]
    for seed in a.seeds:
        for path in files:
            for labels in a.labels:
                if (path.stem, labels, seed) not in done:
                    with open(a.out, "a", encoding="utf-8") as file:
                        file.write(json.dumps(run_one(path, labels, seed)) + "\n")
    rows = [row for row in _read(a.out) if not a.sets or row["set"] in a.sets]
    print(json.dumps(table(rows), indent=2))


if __name__ == "__main__":
    main()

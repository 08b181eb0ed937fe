"""Does Meta Pseudo Labels hold on pools of uneven class shares? Digits and two tables, shares of 1:1, 1:3 and 1:10.

    python benchmarks/uneven_pools.py FOLDER --seeds 400:403 --out uneven_pools.jsonl
    python benchmarks/uneven_pools.py FOLDER --seeds none --out uneven_pools.jsonl    # only the table of what is there

FOLDER holds satimage.csv and wisconsin.csv, as ``benchmarks/table_sets.py`` writes them. The classes of the pool, in an
order drawn by seed, get shares that fall evenly on a logarithmic scale from 1 to 1/RATIO; the rarest keeps what makes
that possible. Labels: ``even``, 5 of each class, or ``shares``, as many in all, drawn in the pool's own shares and at
least one of each class. A fifth of each class judges, so the test rows have the file's own shares and balanced accuracy
is the figure to read. Each run is one line of JSON with the accuracy and balanced accuracy, in percent, of what a
default run returns, of the method's network in it, and of supervised training. At the end the table is printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

SETS = ("digits", "satimage", "wisconsin")
RATIOS = (1, 3, 10)
LABELS = 5  # of each class; as many in all where they are drawn in the pool's shares
STEPS = 300
Array = np.ndarray[Any, Any]


def rows_of(name: str, folder: Path) -> tuple[Any, Array]:
    """Rows and class numbers of a set."""
    if name == "digits":
        from sklearn.datasets import load_digits

        bunch = load_digits()
        return np.rint(bunch.images * (255 / 16)).astype(np.uint8), bunch.target
    table = np.genfromtxt(folder / f"{name}.csv", delimiter=",", skip_header=1, dtype=str)
    return table[:, :-1].astype(np.float64), np.unique(table[:, -1], return_inverse=True)[1]


def draw(y: Array, ratio: int, even: bool, seed: int) -> tuple[Array, Array, Array]:
    """Return the numbers of the labelled, unlabelled and test rows; unlabelled rows include the labelled ones."""
    rng, classes = np.random.default_rng([seed, 77]), int(y.max()) + 1
    rows = [rng.permutation(np.flatnonzero(y == k)) for k in range(classes)]
    test = np.concatenate([r[: len(r) // 5] for r in rows])
    rest = [r[len(r) // 5 :] for r in rows]
    share = float(ratio) ** -(rng.permutation(classes) / (classes - 1))
    most = min(len(r) / s for r, s in zip(rest, share))  # rows of a class with share 1
    rest = [r[: max(LABELS, round(most * s))] for r, s in zip(rest, share)]
    wanted = LABELS * classes * share / share.sum()
    labeled = [r[: LABELS if even else max(1, round(w))] for r, w in zip(rest, wanted)]
    return np.concatenate(labeled), np.concatenate(rest), test


def run_one(name: str, folder: Path, ratio: int, even: bool, seed: int) -> dict[str, Any]:
    """A default run and supervised training on the same rows."""
    import metapl
    from metapl.data.memory.arrays import from_arrays
    from metapl.inference.evaluate import evaluate
    from metapl.runs.model_folder import load_model

    x, y = rows_of(name, folder)
    labeled, pool, test = draw(y, ratio, even, seed)
    hidden = np.setdiff1d(pool, labeled)
    source = from_arrays(x[labeled], y[labeled], X_unlabeled=x[hidden], X_test=x[test], y_test=y[test])
    common: dict[str, Any] = {"seed": seed, "steps": STEPS, "validation": "none", "device": "cpu"}
    figures, counts = dict[str, Any](), np.bincount(y[pool])
    with tempfile.TemporaryDirectory() as out:
        made = metapl.fit(source, out=Path(out) / "run", **common)
        guard = {"returned": "mpl", "refusal": "", **made.summary["guard"]}  # without a guard mpl is kept
        kept = "model" if guard["returned"] == "mpl" else "model-not-chosen"
        figures["returned"] = _short(made.evaluate())
        figures["mpl"] = _short(evaluate(load_model(made.folder / kept), source, made.split.test))  # type: ignore
    alone = metapl.fit(source, method="supervised", guard="off", **common)
    figures["supervised"] = _short(alone.evaluate())
    head = {"set": name, "ratio": ratio, "labels": "even" if even else "shares", "seed": seed}
    return {**head, "pool": counts.tolist(), "rule": guard["returned"], "refusal": guard["refusal"], "figures": figures}


def _short(judged: dict[str, Any]) -> tuple[float, float]:
    return 100 * judged["accuracy"], 100 * judged["balanced_accuracy"]


def table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per set, ratio and kind of labels: means over seeds, and mpl and the returned model minus supervised."""
    groups: dict[tuple[str, int, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["set"], row["ratio"], row["labels"]), []).append(row)
    made = []
    for (name, ratio, labels), members in sorted(groups.items()):
        line: dict[str, Any] = {"set": name, "ratio": ratio, "labels": labels, "seeds": len(members)}
        for side in ("returned", "mpl", "supervised"):
            line[side] = [statistics.fmean(m["figures"][side][k] for m in members) for k in (0, 1)]
        for side in ("returned", "mpl"):
            gains = [m["figures"][side][1] - m["figures"]["supervised"][1] for m in members]
            line[f"{side}_minus_supervised_balanced"] = {"mean": statistics.fmean(gains), "worst": min(gains)}
        line["refused"] = sum(bool(m["refusal"]) for m in members)
        made.append(line)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", default="400:403", metavar="FIRST:STOP")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--out", type=Path, required=True, help="JSON lines, added to")
    a = parser.parse_args()
    torch.set_num_threads(1)
    rows = [json.loads(line) for line in a.out.read_text(encoding="utf-8").splitlines()] if a.out.exists() else []
    done = {(row["set"], row["ratio"], row["labels"], row["seed"]) for row in rows}
    first, _, stop = a.seeds.partition(":")
    for seed in range(0 if first == "none" else int(first), 0 if first == "none" else int(stop)):
        for name in a.sets:
            for ratio in RATIOS:
                for even in (True, False) if ratio > 1 else (True,):
                    if (name, ratio, "even" if even else "shares", seed) not in done:
                        rows.append(run_one(name, a.folder, ratio, even, seed))
                        with open(a.out, "a", encoding="utf-8") as file:
                            file.write(json.dumps(rows[-1]) + "\n")
    print(json.dumps(table(rows), indent=2))


if __name__ == "__main__":
    main()

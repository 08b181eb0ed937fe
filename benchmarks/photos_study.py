"""Methods beside a linear probe on photographs whose features a frozen encoder has made.

    python benchmarks/photos_study.py encode FOLDER/train FOLDER/test photos.npz    # once: images by class, or Parquet
    python benchmarks/photos_study.py run photos.npz --labels 3 10 30 --seeds 0:5 --out runs.jsonl
    python benchmarks/photos_study.py run photos.npz --labels 10 --seeds 1000:1004 --out dev.jsonl
    python benchmarks/photos_study.py table runs.jsonl
    python benchmarks/photos_study.py plot runs.jsonl photos.png

    python benchmarks/photos_study.py encode FOLDER/train FOLDER/test images.npz --encoder none --size 128
    metapl models fetch lite0 --out lite0.safetensors
    python benchmarks/photos_study.py run images.npz --labels 10 --seeds 0:3 --methods supervised --out tuned.jsonl \
        --set 'model="timm:tf_efficientnet_lite0"' 'weights="lite0.safetensors"' 'optim.name="adamw"' optim.lr=0.0007

``run`` appends one JSON line per training. Seeds below 1000 judge by the rows of ``test``; from 1000 on (development)
by a fifth of the rows of ``train``, which the training does not see. All rows teach, none validate: the method's own
result is judged. ``probe`` is scikit-learn's LogisticRegression(C=10) on features of unit length.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading, SelfTrainingClassifier

import metapl
from metapl.config.settings import make_config
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.memory.source import MemorySource
from metapl.data.sources import open_source, read_ref

PEERS = ("probe", "self-training", "label-spreading")
METHODS = ("supervised", "mpl", "mpl:feedback=none", "fixmatch", "uda", "co_training")


def encode(train: Path, test: Path, out: Path, encoder: str, size: int) -> None:
    """Features of the photographs in two folders with one folder per class, or in two Parquet files.

    ``none`` as the encoder stores the images themselves, for networks that train end to end.
    """
    parts: dict[str, Any] = {}
    torch.set_num_threads(1)
    given: dict[str, Any] = {"source.encoder.name": encoder, **({"source.encoder.size": size} if size else {})}
    if encoder == "none":
        given = {"source.image.size": size or 224}
    for part, data in (("train", train), ("test", test)):
        config = make_config(str(data), options=given)
        source = open_source(read_ref(config.data), config.source, progress=print)
        source.is_test[:] = False
        parts[f"x_{part}"] = source.rows(np.arange(len(source.ids))).numpy()
        parts[f"y_{part}"], parts["names"] = source.labels, np.array(source.class_names)
    np.savez(out, **parts)


def prepare(file: Path, seed: int) -> MemorySource:
    """The rows of a run: train and, as its test rows, test or, for development, a fifth of train."""
    with np.load(file) as stored:
        x, y, names = stored["x_train"], stored["y_train"], tuple(map(str, stored["names"]))
        x_test, y_test = stored["x_test"], stored["y_test"]
    is_test = np.zeros(len(y), dtype=bool)
    if seed >= 1000:
        draw = np.random.default_rng(seed)
        for k in range(len(names)):
            rows = draw.permutation(np.flatnonzero(y == k))
            is_test[rows[: len(rows) // 5]] = True
    else:
        x, y = np.concatenate([x, x_test]), np.concatenate([y, y_test])
        is_test = np.arange(len(y)) >= len(is_test)
    kind = "features" if x.ndim == 2 else "image"
    return MemorySource(file.stem, kind, torch.from_numpy(x), y, names, is_test=is_test)


def peer(name: str, source: MemorySource, labels: int, seed: int) -> float:
    """Accuracy of a classifier of scikit-learn on the rows, labels and test rows of the run."""
    split = make_split(source, SplitConfig(labels=labels, validation="none"), seed)
    x = source.data.numpy()
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    y = np.full(len(x), -1)
    y[split.labeled] = source.labels[split.labeled]
    rows = np.union1d(split.labeled, split.unlabeled)
    probe = LogisticRegression(C=10, max_iter=2000)
    model = {"probe": probe, "self-training": SelfTrainingClassifier(probe), "label-spreading": _spreading()}[name]
    rows = split.labeled if name == "probe" else rows
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(x[rows], y[rows])
    return float((model.predict(x[split.test]) == source.labels[split.test]).mean())


def _spreading() -> LabelSpreading:
    return LabelSpreading(kernel="knn", n_neighbors=10, max_iter=100)


def train(spec: str, source: MemorySource, labels: int, seed: int, options: dict[str, Any]) -> float:
    """Accuracy of a method of metapl: ``mpl`` or ``mpl:feedback=none``."""
    method, _, pairs = spec.partition(":")
    own = {f"{method}.{k}" if "." not in k else k: v for k, v in (p.split("=") for p in pairs.split("+") if p)}
    given = {"split.labels": labels, "split.validation": "none", "guard.mode": "off", "device": "cpu", "seed": seed}
    result = metapl.fit(source, method=method, options={**given, **options, **own})
    return float(result.evaluate()["accuracy"])


def run(file: Path, a: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    options = dict(pair.split("=") for pair in a.set)
    options = {k: json.loads(v) for k, v in options.items()}
    first, _, last = a.seeds.partition(":")
    done = set()
    if a.out.exists():
        done = {(r["labels"], r["seed"], r["method"]) for r in map(json.loads, a.out.read_text().splitlines())}
    for labels in a.labels:
        for seed in range(int(first), int(last or int(first) + 1)):
            source = prepare(file, seed)
            for spec in a.methods:
                if (labels, seed, spec) in done:
                    continue
                began = time.process_time()
                one = peer(spec, source, labels, seed) if spec in PEERS else train(spec, source, labels, seed, options)
                seconds = round(time.process_time() - began, 1)
                row = {"data": file.stem, "labels": labels, "seed": seed, "method": spec, "options": options}
                with a.out.open("a") as out:
                    out.write(json.dumps({**row, "accuracy": round(100 * one, 2), "cpu_seconds": seconds}) + "\n")


Runs = dict[int, dict[str, dict[int, dict[str, Any]]]]


def read(file: Path) -> Runs:
    """The runs by labels, method and seed."""
    found: Runs = defaultdict(lambda: defaultdict(dict))
    for line in file.read_text().splitlines():
        r = json.loads(line)
        found[r["labels"]][r["method"]][r["seed"]] = r
    return found


def plot(file: Path, out: Path) -> None:
    """One panel per number of labels: a line per method, a dot per seed, the mean as a bar."""
    found = read(file)
    figure, axes = plt.subplots(1, len(found), figsize=(3.6 * len(found), 3.4), squeeze=False)
    for axis, (labels, methods) in zip(axes[0], sorted(found.items())):
        values = {m: [r["accuracy"] for r in rows.values()] for m, rows in methods.items()}
        order = sorted(values, key=lambda m: np.mean(values[m]))
        for place, m in enumerate(order):
            colour = "tab:red" if m == "mpl" else "black" if m in PEERS else "tab:blue"
            axis.plot(values[m], [place] * len(values[m]), "o", color=colour, alpha=0.4, markersize=4)
            axis.plot([np.mean(values[m])], [place], "|", color=colour, markersize=16, markeredgewidth=2)
        axis.set_yticks(range(len(order)), order, fontsize=8)
        axis.set_title(f"{labels} labels per class", fontsize=10)
        axis.set_xlabel("test accuracy, %", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def table(file: Path) -> None:
    """Markdown: means, spread, worst seed, and differences to the probe and to no feedback, seed by seed."""
    found = read(file)
    for labels, methods in sorted(found.items()):
        print(f"\n{labels} labels per class\n")
        print("| method | seeds | mean | sd | worst | to the probe, 95 % | to mpl:feedback=none, 95 % | CPU time |")
        print("|---|---|---|---|---|---|---|---|")
        means = {m: np.mean([r["accuracy"] for r in rows.values()]) for m, rows in methods.items()}
        for m in sorted(methods, key=lambda m: -means[m]):
            values = [r["accuracy"] for r in methods[m].values()]
            spread = f"{np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
            cells = [m, len(values), f"{means[m]:.1f}", spread, f"{min(values):.1f}"]
            cells += [_difference(methods[m], methods.get(o, {}), m == o) for o in ("probe", "mpl:feedback=none")]
            cells.append(f"{np.mean([r['cpu_seconds'] for r in methods[m].values()]):.1f} s")
            print("|", " | ".join(map(str, cells)), "|")


def _difference(one: dict[int, Any], other: dict[int, Any], same: bool) -> str:
    seeds = sorted(one.keys() & other.keys())
    if same or len(seeds) < 2:
        return ""
    d = np.array([one[s]["accuracy"] - other[s]["accuracy"] for s in seeds])
    half = stats.t.ppf(0.975, len(d) - 1) * d.std(ddof=1) / len(d) ** 0.5
    return f"{d.mean():+.1f} [{d.mean() - half:+.1f}, {d.mean() + half:+.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("encode")
    make.add_argument("train", type=Path)
    make.add_argument("test", type=Path)
    make.add_argument("out", type=Path)
    make.add_argument("--encoder", default="lite0", help="none: the images themselves")
    make.add_argument("--size", type=int, default=0, help="side of the images in pixels; 0: the encoder's own")
    study = commands.add_parser("run")
    study.add_argument("file", type=Path)
    study.add_argument("--labels", type=int, nargs="+", default=[3, 10, 30])
    study.add_argument("--seeds", default="0:5", metavar="FIRST:END")
    study.add_argument("--methods", nargs="+", default=[*PEERS, *METHODS])
    study.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, such as steps=300")
    study.add_argument("--out", type=Path, required=True)
    commands.add_parser("table").add_argument("file", type=Path)
    picture = commands.add_parser("plot")
    picture.add_argument("file", type=Path)
    picture.add_argument("out", type=Path)
    a = parser.parse_args()
    if a.command == "encode":
        encode(a.train, a.test, a.out, a.encoder, a.size)
    elif a.command == "run":
        run(a.file, a)
    elif a.command == "table":
        table(a.file)
    else:
        plot(a.file, a.out)


if __name__ == "__main__":
    main()

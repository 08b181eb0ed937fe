"""Simulate a review: accuracy on test rows against labels asked, by ways of choosing the rows.

    python benchmarks/review_loop.py digits digits.json --seeds 0:5
    python benchmarks/photos_study.py encode clothing photos.npz --encoder lite0
    python benchmarks/review_loop.py photos.npz photos.json --seeds 0:5 --labels 3 --ask 30 --method mpl
    python benchmarks/review_loop.py photos.npz dev.json --seeds 1000:1004 --ways all ...

A round trains with the answers so far, chooses ``--ask`` rows and answers them with their true labels, as a person
would. All ways begin with one run. Labelled rows of which the queue of ``metapl review`` asks count as asked, although
their label is right. Photographs: seeds from 1000 on judge by a fifth of the training rows, others by the test rows.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import defaultdict
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import torch
from photos_study import prepare
from sklearn.cluster import KMeans

import metapl
from metapl.data.corrections import CorrectedSource
from metapl.data.sources import open_source, read_ref
from metapl.review.queue import review_of
from metapl.training.result import Result
from metapl.types import Source

Array = np.ndarray[Any, Any]
Answers = dict[str, str]
Way = Callable[[Result, int, Answers, int], list[str]]


def by_queue(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """The first open questions of ``metapl review``."""
    return [q.id for q in review_of(result).questions if q.id not in given][:count]


def pool_of(result: Result, given: Answers) -> tuple[Array, Array, Array]:
    """Ids, probabilities and rows of the pool that are still open."""
    pool = result.pseudo_labels()
    open_rows = np.array([k for k, row in enumerate(pool.ids) if row not in given])
    rows = result.source.rows(pool.index[open_rows]).flatten(1).numpy()
    return np.array(pool.ids)[open_rows], pool.probabilities[open_rows], rows


def by_confidence(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """The likeliest class has the lowest probability."""
    ids, p, _ = pool_of(result, given)
    return list(ids[p.max(1).argsort(kind="stable")[:count]])


def margins(p: Array) -> Array:
    top = np.sort(p, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def by_margin(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """The two likeliest classes are closest."""
    ids, p, _ = pool_of(result, given)
    return list(ids[margins(p).argsort(kind="stable")[:count]])


def by_chance(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """Drawn at random."""
    ids, _, _ = pool_of(result, given)
    return list(np.random.default_rng([seed, len(given)]).permutation(ids)[:count])


def in_turn(ids: Array, keys: list[Any], order: Array, count: int) -> list[str]:
    """Groups take turns; within a group ``order`` decides, and groups come in the order of their first row."""
    groups: dict[Any, list[str]] = defaultdict(list)
    for k in order.tolist():
        groups[keys[k]].append(str(ids[k]))
    return [row for turn in zip_longest(*groups.values()) for row in turn if row is not None][:count]


def by_class(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """Smallest margin, the classes that the model names in turn."""
    ids, p, _ = pool_of(result, given)
    return in_turn(ids, p.argmax(1).tolist(), margins(p).argsort(kind="stable"), count)


def by_pair(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """Smallest margin, the pairs of likeliest classes in turn."""
    ids, p, _ = pool_of(result, given)
    pairs = [tuple(sorted(row.argsort()[-2:].tolist())) for row in p]
    return in_turn(ids, pairs, margins(p).argsort(kind="stable"), count)


def by_spread(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """Of the ten times as many rows of smallest margin: the one nearest the middle of each of ``count`` clusters."""
    ids, p, rows = pool_of(result, given)
    close = margins(p).argsort(kind="stable")[: 10 * count]
    x = rows[close] / np.maximum(1e-9, np.linalg.norm(rows[close], axis=1, keepdims=True))
    distance = KMeans(count, n_init=1, random_state=seed).fit(x).transform(x)
    return [str(ids[close[k]]) for k in dict.fromkeys(distance.argmin(0).tolist())]


def by_typical(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """The row nearest the middle of each of ``count`` clusters of the pool, whatever the model says."""
    ids, _, rows = pool_of(result, given)
    x = rows / np.maximum(1e-9, np.linalg.norm(rows, axis=1, keepdims=True))
    distance = KMeans(count, n_init=1, random_state=seed).fit(x).transform(x)
    return [str(ids[k]) for k in dict.fromkeys(distance.argmin(0).tolist())]


WAYS: dict[str, Way] = {
    "review": by_queue,
    "least confidence": by_confidence,
    "random": by_chance,
    "margin": by_margin,
    "classes in turn": by_class,
    "pairs in turn": by_pair,
    "spread": by_spread,
    "typical": by_typical,
}


def trained(place: Path, source: Source, seed: int, a: argparse.Namespace, given: Answers) -> Result:
    """A run on ``--labels`` labels per class and the answers."""
    torch.set_num_threads(1)
    options = {"split.labels": a.labels, "split.validation": "none", "guard.mode": "off", "device": "cpu"}
    rows = CorrectedSource(source, given) if given else source
    return metapl.fit(rows, method=a.method, model=a.model, steps=a.steps, seed=seed, options=options, out=place)


def loop(way: str, first: Result, place: Path, a: argparse.Namespace, seed: int) -> list[float]:
    """Accuracy after 0, 1, ... rounds."""
    result, given, figures, source = first, Answers(), [float(first.evaluate()["accuracy"])], first.source
    truth = dict(zip(source.ids, source.labels.tolist()))
    for number in range(1, a.rounds + 1):
        for row in WAYS[way](result, a.ask, given, seed):
            given[str(row)] = source.class_names[truth[row]]
        result = trained(place / f"{way.replace(' ', '-')}-{number}", source, seed, a, given)
        figures.append(float(result.evaluate()["accuracy"]))
    return figures


def rows_of(data: str, seed: int) -> Source:
    """Digits, or the photographs of ``photos_study.py encode``."""
    return prepare(Path(data), seed) if data.endswith(".npz") else open_source(read_ref(data))


def main() -> None:
    """Run all seeds and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", default="0:5")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ask", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--method", default="pseudo_label")
    parser.add_argument("--model", default="auto")
    parser.add_argument("--ways", nargs="+", default=["review", "least confidence", "random"])
    a = parser.parse_args()
    ways = list(WAYS) if a.ways == ["all"] else a.ways
    figures: dict[str, list[list[float]]] = {way: [] for way in ways}
    for seed in range(*map(int, a.seeds.split(":"))):
        with tempfile.TemporaryDirectory() as folder:
            source = rows_of(a.data, seed)
            first = trained(Path(folder) / "first", source, seed, a, {})
            for way in ways:
                figures[way].append(loop(way, first, Path(folder), a, seed))
                print(seed, way, [round(value, 4) for value in figures[way][-1]], flush=True)
        asked = [a.ask * number for number in range(a.rounds + 1)]
        table = {way: _spread(runs) for way, runs in figures.items() if runs}
        settings = {**vars(a), "out": None, "data": Path(a.data).name, "ways": ways}
        made = {"settings": settings, "asked": asked, "accuracy": figures, "summary": table}
        a.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    for way, cells in table.items():
        print(f"{way:>16}", *(f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}" for cell in cells))


def _spread(runs: list[list[float]]) -> list[dict[str, float]]:
    """Mean, standard deviation and worst seed after each round."""
    return [{"mean": mean(v), "sd": stdev(v) if len(v) > 1 else 0.0, "worst": min(v)} for v in map(list, zip(*runs))]


if __name__ == "__main__":
    main()

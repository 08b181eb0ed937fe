"""Simulate a review on digits: accuracy on test rows against labels asked, by three ways of choosing the rows.

    python benchmarks/review_loop.py out.json --seeds 3

A round trains with the answers so far, chooses ``--ask`` rows of the pool and answers them with their true labels, as
a person would. The ways: the queue of ``metapl review``, the lowest confidence, and chance. All begin with one run.
Labelled rows of which the queue asks count as asked, although their label is right.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from metapl.config.settings import GuardConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.options import SourceOptions
from metapl.methods import METHODS
from metapl.report.pseudo_labels import pseudo_labels_of
from metapl.review.answers import Answer, write_answers
from metapl.review.queue import open_review
from metapl.training.loop import train
from metapl.training.result import Result

Answers = dict[str, Answer]


def by_queue(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """The first open questions of ``metapl review``."""
    assert result.folder is not None
    pseudo_labels_of(result)
    return [q.id for q in open_review(result.folder).questions if q.id not in given][:count]


def by_confidence(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """The pool rows whose likeliest class has the lowest probability."""
    pool = result.pseudo_labels()
    order = pool.probabilities.max(-1).argsort(kind="stable")
    return [pool.ids[k] for k in order.tolist() if pool.ids[k] not in given][:count]


def by_chance(result: Result, count: int, given: Answers, seed: int) -> list[str]:
    """Pool rows drawn at random."""
    ids = [row for row in result.pseudo_labels().ids if row not in given]
    drawn = np.random.default_rng([seed, len(given)]).permutation(len(ids))[:count]
    return [ids[k] for k in drawn.tolist()]


WAYS: dict[str, Callable[[Result, int, Answers, int], list[str]]] = {
    "review": by_queue,
    "least confidence": by_confidence,
    "random": by_chance,
}


def trained(place: Path, seed: int, steps: int, given: Answers) -> Result:
    """A run on 2 labels per class and the answers."""
    config = RunConfig(
        "digits",
        method="pseudo_label",
        model="mlp",
        steps=steps,
        seed=seed,
        split=SplitConfig(labels=2, validation="none"),
        guard=GuardConfig("off"),
        settings=METHODS["pseudo_label"].Config(),
    )
    if given:
        file = place.with_suffix(".csv")
        write_answers(file, given)
        config = replace(config, source=SourceOptions(corrections=str(file)))
    return train(config, place)


def loop(way: str, first: Result, place: Path, options: argparse.Namespace, seed: int) -> list[float]:
    """Accuracy after 0, 1, ... rounds."""
    result, given, figures = first, dict[str, Answer](), [float(first.evaluate()["accuracy"])]
    truth = dict(zip(first.source.ids, first.source.labels.tolist()))
    for number in range(1, options.rounds + 1):
        for row in WAYS[way](result, options.ask, given, seed):
            given[row] = Answer(first.source.class_names[truth[row]])
        result = trained(place / f"{way.replace(' ', '-')}-{number}", seed, options.steps, given)
        figures.append(float(result.evaluate()["accuracy"]))
    return figures


def main() -> None:
    """Run all seeds and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ask", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    figures: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            place = Path(folder) / str(seed)
            place.mkdir()
            first = trained(place / "first", seed, options.steps, {})
            for way in WAYS:
                figures[way].append(loop(way, first, place, options, seed))
                print(seed, way, [round(value, 4) for value in figures[way][-1]], flush=True)
    asked = [options.ask * number for number in range(options.rounds + 1)]
    table: dict[str, Any] = {way: _spread(runs) for way, runs in figures.items()}
    made = {"settings": {**vars(options), "out": None}, "asked": asked, "accuracy": figures, "summary": table}
    options.out.write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    for way, cells in table.items():
        print(f"{way:>16}", *(f"{100 * cell['mean']:.1f} ± {100 * cell['sd']:.1f}" for cell in cells))


def _spread(runs: list[list[float]]) -> list[dict[str, float]]:
    """Mean, standard deviation and worst seed after each round."""
    return [{"mean": mean(v), "sd": stdev(v) if len(v) > 1 else 0.0, "worst": min(v)} for v in map(list, zip(*runs))]


if __name__ == "__main__":
    main()

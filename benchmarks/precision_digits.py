"""Does `threshold: precision=P` keep what it promises? True precision of accepted pseudo labels, digits, 20 labels.

    python benchmarks/precision_digits.py --rules precision=0.9 0.9 0.95 --validation 2 --seeds 600 601 602

Trains fixmatch on digits with 2 labels per class to learn from and `--validation` more per class that judge, once per
rule and seed. The true labels of the unlabelled rows, which digits happens to know and training never sees, say how
many of the accepted labels were right, step by step; labelled rows in the pool are left out. Prints JSON. Test rows are
not opened.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.api.demo import MILD
from metapl.config.settings import make_config
from metapl.data.batches.split import make_split
from metapl.data.memory.digits import open_digits
from metapl.inference.evaluate import evaluate
from metapl.training.job import Job, build_job
from metapl.training.prepared import prepare


def build(rule: str, seed: int, validation: int, steps: int, overrides: list[str]) -> Job:
    """The run in memory."""
    options: dict[str, Any] = {**MILD, "method": "fixmatch", "model": "small_cnn", "device": "cpu", "steps": steps}
    options |= {"seed": seed, "split.labels": 2 + validation, "split.validation": validation}
    options |= {"batch.labeled": 20, "batch.unlabeled": 64}
    config = make_config("digits", options=options, overrides=[f"fixmatch.threshold={rule}", *overrides])
    source = open_digits()
    split = make_split(source, config.split, seed)
    return build_job(config, prepare(source, split, torch.device("cpu")))


def run(rule: str, seed: int, validation: int, steps: int, overrides: list[str]) -> dict[str, float]:
    """Train once, listening to what the threshold object is asked and answers."""
    job = build(rule, seed, validation, steps, overrides)
    pool, selection = job.split.unlabeled, job.method.selection  # type: ignore[attr-defined]
    hidden = torch.from_numpy(~np.isin(pool, job.split.labeled))
    truth, ask = torch.from_numpy(job.source.labels[pool].astype(np.int64)), selection.weights
    heard: list[tuple[int, int, int]] = []  # rows that were asked about, accepted, and accepted rightly

    def listen(p: Tensor, index: Tensor, t: int) -> Tensor:
        w = ask(p, index, t)
        accepted = (w > 0) & hidden[index]
        right = accepted & (p.argmax(-1) == truth[index])
        heard.append((int(hidden[index].sum()), int(accepted.sum()), int(right.sum())))
        return w

    selection.weights = listen
    for t in range(job.total):
        job.step(t)
    judged = evaluate(job.predictor(job.method.eval_model()), job.source, np.setdiff1d(pool, job.split.labeled))
    figures = {"pool_accuracy": judged["accuracy"]}
    for name, part in (("first_half", heard[: steps // 2]), ("second_half", heard[steps // 2 :])):
        asked, accepted, right = (sum(column) for column in zip(*part))
        figures |= {f"{name}_precision": right / max(1, accepted), f"{name}_accepted": accepted / asked}
    return {k: round(100 * v, 2) for k, v in figures.items()}


def table(runs: list[dict[str, float]]) -> dict[str, Any]:
    """Mean, and the smallest and largest over the seeds, percent."""
    columns = {k: [r[k] for r in runs] for k in runs[0]}
    return {k: {"mean": round(statistics.mean(v), 1), "min": min(v), "max": max(v)} for k, v in columns.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", nargs="+", default=["precision=0.9", "0.9", "0.95"])
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--validation", type=int, default=2, help="validation rows per class")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", dest="overrides")
    a = parser.parse_args()
    torch.set_num_threads(1)
    found = {rule: [run(rule, s, a.validation, a.steps, a.overrides) for s in a.seeds] for rule in a.rules}
    facts = {"seeds": a.seeds, "validation_per_class": a.validation, "steps": a.steps, "changed": a.overrides}
    print(json.dumps({**facts, "unit": "percent", **{r: table(v) for r, v in found.items()}, "runs": found}, indent=1))

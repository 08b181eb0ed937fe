"""How far mpl's student is behind its teacher along a run, and what fine-tuning then makes good.

    python benchmarks/student_lag.py --task fashion --seeds 1000 1001 --set steps=500
    python benchmarks/student_lag.py --task fashion --seeds 1000 1001 --set steps=500 'mpl.feedback="none"'
    python benchmarks/student_lag.py --task digits20 --seeds 0 1 2 3 4 5 6 7 8 9 --last
    python benchmarks/student_lag.py --task fashion --seeds 100 101 102 --last --beside uda fixmatch --set steps=500

Tasks are those of ``feedback_study.py``. One JSON line per look (ten per run): accuracy in percent, on at most 3000
unlabelled rows, of both averages and of the mean of their probabilities; after the last step also of the student
fine-tuned for 100 steps at several rates. ``--beside`` trains other methods on the same draws and judges them on the
same rows, as ``result``.
"""

from __future__ import annotations

import argparse
import copy
import json
from functools import partial
from typing import Any

import numpy as np
import torch
from feedback_study import TASKS, task_data
from torch import nn

from metapl.inference.evaluate import evaluate
from metapl.methods.mpl import MPL
from metapl.models.combined import Average
from metapl.optim import descend
from metapl.training.job import build_job
from metapl.training.prepared import prepare
from metapl.types import Array, Source, Split

ROWS, FINETUNE, RATES = 3000, 100, (0.001, 0.01, 0.05)


def follow(task: str, seed: int, options: dict[str, Any], last: bool) -> None:
    """One run, printed as it goes; ``last``: only its end, without fine-tuning."""
    config, shown, truth, split = task_data(TASKS[task], seed, {"method": "mpl", **options})
    job = build_job(config, prepare(shown, split, torch.device("cpu")))
    method, judged = job.method, partial(judge, job, truth=truth, pool=judged_rows(truth, split))
    assert isinstance(method, MPL)
    for t in range(config.steps):
        job.step(t)
        at_end = t + 1 == config.steps
        if at_end or (not last and (t + 1) % max(1, config.steps // 10) == 0):
            found: dict[str, Any] = {"task": task, "method": "mpl", "options": options, "seed": seed, "step": t + 1}
            found |= {"student": judged(method.student.ema.model), "teacher": judged(method.teacher.ema.model)}
            found["mean"] = judged(Average([method.student.ema.model, method.teacher.ema.model]))
            if at_end and not last:
                found["finetuned"] = {rate: judged(_finetuned(job, rate)) for rate in RATES}
            print(json.dumps(found), flush=True)


def judge(job: Any, model: nn.Module, truth: Source, pool: Array) -> float:
    """Accuracy in percent on the rows at ``pool``."""
    was_training = model.training
    accuracy = 100 * evaluate(job.predictor(model.eval()), truth, pool)["accuracy"]
    model.train(was_training)
    return round(accuracy, 1)


def beside(task: str, method: str, seed: int, options: dict[str, Any]) -> None:
    """One run of another method on the same draw, judged on the same rows at its end."""
    options = {k: v for k, v in options.items() if not k.startswith("mpl.")}
    config, shown, truth, split = task_data(TASKS[task], seed, {"method": method, **options})
    job = build_job(config, prepare(shown, split, torch.device("cpu")))
    for t in range(config.steps):
        job.step(t)
    result = judge(job, job.method.eval_model(), truth, judged_rows(truth, split))
    row = {"task": task, "method": method, "options": options, "seed": seed, "step": config.steps}
    print(json.dumps({**row, "result": result}), flush=True)


def judged_rows(truth: Source, split: Split) -> Array:
    pool = np.setdiff1d(split.unlabeled, split.labeled)
    return pool[truth.labels[pool] >= 0][:ROWS]


def _finetuned(job: Any, rate: float) -> nn.Module:
    model = copy.deepcopy(job.method.student.ema.model).requires_grad_(True)
    for k in range(FINETUNE):
        descend(model, job.stream(job.config.steps + k, frozenset()), rate)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings, such as steps=500")
    parser.add_argument("--last", action="store_true", help="only the end of each run, without fine-tuning")
    parser.add_argument("--beside", nargs="*", default=[], metavar="METHOD", help="other methods on the same draws")
    a = parser.parse_args()
    torch.set_num_threads(1)
    options = {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in a.set)}
    for seed in a.seeds:
        for method in a.beside:
            beside(a.task, method, seed, options)
        follow(a.task, seed, options, a.last)


if __name__ == "__main__":
    main()

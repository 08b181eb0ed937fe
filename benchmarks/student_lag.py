"""How far mpl's student is behind its teacher along a run, and what fine-tuning then makes good.

    python benchmarks/student_lag.py --task fashion --seeds 1000 1001 --set steps=500
    python benchmarks/student_lag.py --task fashion --seeds 1000 1001 --set steps=500 'mpl.feedback="none"'
    python benchmarks/student_lag.py --task digits20 --seeds 0 1 2 3 4 5 6 7 8 9 --last

Tasks are those of ``feedback_study.py``. One JSON line per look (ten per run): accuracy in percent, on at most 3000
unlabelled rows, of both averages and of the mean of their probabilities; after the last step also of the student
fine-tuned for 100 steps at several rates.
"""

from __future__ import annotations

import argparse
import copy
import json
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

ROWS, FINETUNE, RATES = 3000, 100, (0.001, 0.01, 0.05)


def follow(task: str, seed: int, options: dict[str, Any], last: bool) -> None:
    """One run, printed as it goes; ``last``: only its end, without fine-tuning."""
    torch.set_num_threads(1)
    config, shown, truth, split = task_data(TASKS[task], seed, {"method": "mpl", **options})
    job = build_job(config, prepare(shown, split, torch.device("cpu")))
    method, pool = job.method, np.setdiff1d(split.unlabeled, split.labeled)
    assert isinstance(method, MPL)
    pool = pool[truth.labels[pool] >= 0][:ROWS]

    def judged(model: nn.Module) -> float:
        was_training = model.training
        accuracy = 100 * evaluate(job.predictor(model.eval()), truth, pool)["accuracy"]
        model.train(was_training)
        return round(accuracy, 1)

    for t in range(config.steps):
        job.step(t)
        at_end = t + 1 == config.steps
        if at_end or (not last and (t + 1) % max(1, config.steps // 10) == 0):
            found: dict[str, Any] = {"task": task, "options": options, "seed": seed, "step": t + 1}
            found |= {"student": judged(method.student.ema.model), "teacher": judged(method.teacher.ema.model)}
            found["mean"] = judged(Average([method.student.ema.model, method.teacher.ema.model]))
            if at_end and not last:
                found["finetuned"] = {rate: judged(_finetuned(job, rate)) for rate in RATES}
            print(json.dumps(found), flush=True)


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
    a = parser.parse_args()
    for seed in a.seeds:
        follow(a.task, seed, {k: json.loads(v) for k, v in (pair.split("=", 1) for pair in a.set)}, a.last)


if __name__ == "__main__":
    main()

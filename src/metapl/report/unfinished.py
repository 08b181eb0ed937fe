"""The report of a run without a model: it diverged, was stopped, or still trains. It opens neither data nor model."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metapl.report.charts import TERMS, Chart
from metapl.report.display import cut
from metapl.report.page import render, reproduction, train_again
from metapl.report.record import Json, Record
from metapl.report.verdict import Reply, Step
from metapl.runs.checkpoint import steps
from metapl.utils.names import last_part

NAMED = 3  # of the numbers that are not finite
SMALLER = 10  # a rate is proposed that is so many times smaller than the last one tried


def unfinished_page(record: Record, charts: list[Chart]) -> str:
    """Return the page: what happened, what is left, what to do."""
    config = record.config
    values = {
        "title": f"{record.method} on {cut(Path(last_part(str(config['data']))).name, 80)}",
        "facts": cut(f"network {config['model']} · {config['steps']} steps · seed {config['seed']}", 300),
        "verdict": _verdict(record),
        "charts": charts,
        **reproduction(record),
    }
    return render("unfinished.html", values)


def _verdict(record: Record) -> dict[str, Any]:
    """Answer what happened and what is left, and list the next steps; as ``verdict.verdict`` does for a whole run."""
    saved, total = max(steps(record.folder / "checkpoints"), default=None), record.config["steps"]
    left = "No state is saved." if saved is None else f"The state of step {saved} is saved."
    if fault := record.diverged:
        headline = f"The training diverged in step {fault['step']} of {total}. It made no model."
        answers, next_steps = [_what_diverged(fault), _tried_again(fault)], _against_divergence(record, fault)
        left += f" To go on from there would lead to step {fault['step']} again, for the settings stay the same."
    else:
        headline = "The training has not finished. Its model is still to come."
        answers, next_steps = [_how_far(record, saved or 0)], [_resume(record)]
    answers.append(Reply("What is left of it?", "nothing" if saved is None else f"step {saved}", left))
    return {
        "headline": headline,
        "answers": [asdict(answer) for answer in answers],
        "steps": [asdict(step) for step in next_steps],
    }


def _what_diverged(fault: Json) -> Reply:
    text = (
        f"Step {fault['step']} gave NaN or infinity for: {_named(str(fault['cause']))}. "
        f"All numbers of step {int(fault['step']) - 1} were finite."
    )
    return Reply("What happened?", f"diverged in step {fault['step']}", text, "bad")


def _named(cause: str) -> str:
    """Return the bad numbers in the words of the charts."""
    names = cause.split(", ")
    words = [f"{TERMS[name][:1].lower()}{TERMS[name][1:]} ({name})" if name in TERMS else name for name in names]
    more = f" and {len(words) - NAMED} more" if len(words) > NAMED else ""
    return cut(", ".join(words[:NAMED]), 300) + more


def _tried_again(fault: Json) -> Reply:
    question, backs = "Did a lower learning rate help?", fault.get("rollbacks", [])
    if not backs:
        return Reply(question, "not tried", "The run did not go back to try one.", "open")
    rates = ", ".join(f"{back['learning_rate']:.3g}" for back in backs)
    text = (
        f"Each time the run went back to a saved state and halved the learning rate: {rates}. It diverged again, in "
        f"step {', '.join(str(step) for step in [*(back['step'] for back in backs[1:]), fault['step']])}."
    )
    return Reply(question, f"no, {len(backs)} times", text, "bad")


def _against_divergence(record: Record, fault: Json) -> list[Step]:
    again, optim = train_again(record), record.config.get("optim", {})
    tried = [back["learning_rate"] for back in fault.get("rollbacks", [])] or [optim.get("lr") or 0]
    rate = f" optim.lr={tried[-1] / SMALLER:.2g}" if tried[-1] else ""
    steps = [Step("Train again with a much lower learning rate.", f"{again}{rate}")] if rate else []
    if not optim.get("clip"):
        steps.append(Step("Or limit the size of the gradients.", f"{again} optim.clip=1"))
    check = f"metapl check {shlex.quote(str(record.config['data']))}"
    steps.append(Step("Look at the data: a few huge values are enough to spoil a training.", check))
    if str(record.config.get("precision", "fp32")) != "fp32":
        steps.append(Step("Calculate in full precision.", f"{again} precision=fp32"))
    return steps


def _how_far(record: Record, saved: int) -> Reply:
    made = max((int(row["step"]) for row in record.metrics), default=saved)
    text = f"It made {max(made, saved)} of {record.config['steps']} steps or more. It was stopped, or still runs."
    return Reply("What happened?", "not finished", text, "open")


def _resume(record: Record) -> Step:
    folder = shlex.quote(str(record.folder))
    return Step("Go on where it stopped. On a CPU the result is that of an unbroken run.", f"metapl resume {folder}")

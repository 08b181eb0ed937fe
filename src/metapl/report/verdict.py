"""The verdict of a run in plain words: its quality, the comparison with supervised training, the next steps."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Any

from metapl.inference.evaluate import wilson
from metapl.report.baseline import compared, mean_partners, returned_mean
from metapl.report.record import Record
from metapl.utils.printing import rollback_text

FEW = 50  # judged rows below which an interval is too wide to decide much
FEEDBACK = ("mpl", "self_mpl", "mpl_reduced")  # methods whose teacher can hear the labelled rows
OVERCONFIDENT = 0.1  # calibration error from which it is worth a word

PageData = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """One question and its answer. ``mood``: good, bad, open (not settled) or plain."""

    question: str
    short: str
    text: str
    mood: str = "plain"


@dataclass(frozen=True)
class Step:
    """One thing to do next, with the command that does it, if there is one."""

    text: str
    command: str = ""


def verdict(record: Record, material: PageData) -> dict[str, Any]:
    """Answer a reader's four questions, and list the next steps."""
    answers = [accuracy(record, material), against_supervised(record), feedback(record), model(record)]
    return {
        "headline": _headline(record, answers, *judged(record, material)),
        "answers": [asdict(answer) for answer in answers],
        "steps": [asdict(step) for step in next_steps(record, material)],
        "alarms": record.results.get("alarms", []),
    }


def judged(record: Record, material: PageData) -> tuple[dict[str, Any] | None, str]:
    """Return the figures to go by, and the name of the rows that they are of: test rows where these were judged."""
    if record.evaluation:
        return record.evaluation, "test rows"
    return material.get("validation"), "validation rows"


def percent(share: float) -> str:
    """Return ``93.4 %``."""
    return f"{100 * share:.1f} %"


def accuracy(record: Record, material: PageData) -> Reply:
    """Return how often the model is right, on which rows."""
    question = "How good is the model?"
    figures, rows = judged(record, material)
    if waiting := not figures and record.results["rows"]["test"]:
        text = f"{waiting} test rows wait to be judged: see what to do next."
        return Reply(question, "not judged yet", text, "open")
    if not figures:
        text = "This run has neither test rows nor validation rows, so nothing says how good the model is. "
        return Reply(question, "unknown", text + "Judge it on labelled rows that it has not seen.", "open")
    low, high, count = figures["accuracy_low"], figures["accuracy_high"], figures["rows"]
    text = f"{percent(figures['accuracy'])} of the {count} {rows} are right. "
    text += f"The 95 % interval goes from {percent(low)} to {percent(high)}."
    if rows == "validation rows" and record.results.get("chosen_by") != "guard":
        text += " Validation rows also chose the network, so test rows may show a little less."
    if count < FEW:
        text += f" {count} rows are few: the interval is wide."
    return Reply(question, percent(figures["accuracy"]), text)


def against_supervised(record: Record) -> Reply:
    """Return whether the unlabelled rows helped: the method beside a model that learnt from the same labels alone."""
    question, guard = "Did the unlabelled rows help?", record.results.get("guard", {})
    if record.results["method"] == "supervised":
        return Reply(question, "not used", "This is supervised training: it learns from the labelled rows alone.")
    found = compared(record)
    if found is None:
        return Reply(question, "not measured", _why_not_measured(record, guard), "open")
    points = f"{100 * found.difference:+.1f} points"
    text = (
        f"Of {found.rows} {found.kind} {record.method} has {percent(found.method)} right, the {found.baseline} with "
        f"the same labels alone {percent(found.other)}. The difference is {points}, 95 % interval "
        f"{100 * found.low:+.1f} to {100 * found.high:+.1f}."
    )
    if found.difference > 0 and not guard.get("better") and guard.get("doubt"):  # runs of 0.1.0
        text += f" Three standard errors are asked for here: {guard['doubt']}."
        return Reply(question, f"in doubt, {points}", text, "open")
    if found.low > 0:
        return Reply(question, f"yes, {points}", text, "good")
    if found.high < 0:
        return Reply(question, f"no, {points}", text, "bad")
    if found.difference > 0 and guard.get("better"):
        text += " The interval includes 0, so chance alone may give this difference."
        return Reply(question, f"probably, {points}", text, "open")
    text += f" {record.method} is not clearly ahead, so nothing speaks for it."
    return Reply(question, f"not shown, {points}", text, "open")


def _why_not_measured(record: Record, guard: dict[str, Any]) -> str:
    if not guard.get("pairs"):
        why = str(guard.get("text", "")).removeprefix("no guard: ").removeprefix("guard: ").rstrip(".")
        return f"The run was not compared with supervised training: {why or 'the guard was off'}."
    text = (
        f"The {guard['rows']} labelled rows that could be judged are too few to tell, so this run did not measure it."
    )
    if guard.get("better") and returned_mean(record):
        others = "either of the two" if len(mean_partners(record)) == 1 else "each of its models"
        text += f" In earlier studies such a mean was right more often than {others}."
    elif guard.get("better"):
        text += f" In earlier studies {record.method} was right more often on rows of this kind."
    if record.results["rows"]["test"] and not record.evaluation and not returned_mean(record):
        text += " Judging the test rows measures it."
    return text


def feedback(record: Record) -> Reply:
    """Return whether the labelled rows' feedback helped the teacher: one run cannot say."""
    question, method = "Did the feedback help?", str(record.results["method"])
    if method not in FEEDBACK:
        return Reply(
            question, "no feedback", "This method has no feedback from the labelled rows to the pseudo labels."
        )
    if record.settings.get("feedback") == "none" or not record.settings.get("feedback_weight", 1):
        return Reply(question, "off", "The feedback was switched off in this run.")
    _, spread = record.series("feedback_spread")
    text = "One run cannot tell: it takes runs with and without feedback on the same labels."
    if spread:
        late = spread[3 * len(spread) // 4 :]
        strength = sum(late) / len(late)
        text += f" It was at work: in the last quarter of the steps its mean strength was {strength:.2g}."
    return Reply(question, "not measured", text, "open")


def model(record: Record) -> Reply:
    """Return which network the folder ``model`` holds, and why."""
    results, question, guard = record.results, "Which model came out?", record.results.get("guard", {})
    if returned_mean(record):
        text = f"It is the {guard['returned']}. {record.method} alone stands in the folder model-not-chosen."
        return Reply(question, "mean of both" if len(mean_partners(record)) == 1 else "mean of several", text)
    if results.get("chosen_by") == "guard":
        why = f": {guard['refusal']}" if guard.get("refusal") else ""
        worse = "was worse" if against_supervised(record).mood == "bad" else "was not surely better"
        text = f"{record.method} {worse}{why}. So the run returned the model trained on the labels alone. "
        name = str(guard.get("baseline", "supervised"))
        return Reply(question, name, text + f"{record.method} stands in the folder model-not-chosen.", "open")
    reason = "by accuracy on the validation rows" if results.get("validation") else "by the method's order"
    others = len(results.get("validation", {}))
    name = str(results["chosen"]).replace("_", " ")
    text = f"The network “{name}”"
    return Reply(question, record.method, f"{text}, chosen among {others} {reason}." if others > 1 else f"{text}.")


def next_steps(record: Record, material: PageData) -> list[Step]:
    """Return the next steps, most useful first."""
    steps, run = list[Step](), shlex.quote(str(record.folder))
    rows, data = record.results["rows"], shlex.quote(str(record.config["data"]))
    figures, _ = judged(record, material)
    steps += [Step(f"Alarm at step {a['step']}: {a['text']}.") for a in record.results.get("alarms", [])]
    for back in record.results.get("rollbacks", []):
        steps.append(Step(f"{rollback_text(back)[:1].upper()}{rollback_text(back)[1:]}. Try a lower optim.lr."))
    if record.results.get("chosen_by") == "guard" and not returned_mean(record):
        steps.append(
            Step(
                "Check that the unlabelled rows are of the same classes and the same kind as the labelled ones, or "
                "label more rows."
            )
        )
    if rows["test"] and not record.evaluation:
        steps.append(Step("Judge the model once on the test rows.", f"metapl evaluate {run}"))
    if not rows["test"] and not figures:
        steps.append(Step("Judge the model on labelled rows.", f"metapl evaluate {run} LABELLED_DATA"))
    steps += _about_labels(material, run)
    if figures and (weak := weakest(figures)):
        name, share, count, other = weak
        taken = f"Most of its errors go to {other}." if other else ""
        steps.append(Step(f"The weakest class is {name}: {percent(share)} of {count} rows. {taken} Label more of it."))
    if record.results["method"] in FEEDBACK and feedback(record).mood == "open":
        method = record.results["method"]
        command = (
            f"metapl compare {data}{_labels(record)} --methods {method},{method}:feedback=none,supervised --seeds 5"
        )
        steps.append(Step("Measure what the feedback and the unlabelled rows bring on your data.", command))
    steps.append(Step("Label new rows with the model.", f"metapl predict {run} NEW_DATA --out predictions.csv"))
    return steps


def _labels(record: Record) -> str:
    """Return the options that keep as many labels as the run had; "" where it took all."""
    split = record.config.get("split", {})
    options = {"labels": split.get("labels"), "labels-total": split.get("labels_total")}
    return "".join(f" --{name} {count}" for name, count in options.items() if count)


def _about_labels(material: PageData, run: str) -> list[Step]:
    """Return the next steps that the rows ask for."""
    steps, grids = list[Step](), {grid["name"]: len(grid["rows"]) for grid in material.get("grids", [])}
    if material.get("check", {}).get("verdict") in ("WILL HURT", "CANNOT BE USED"):
        steps.append(Step("Mend the data first: the data check below found something that will hurt."))
    if count := grids.get("suspects"):
        what = "label that the model firmly contradicts" if count == 1 else "labels that the model firmly contradicts"
        steps.append(Step(f"Look at {count} {what}, under “Labels to look at again”."))
    if grids.get("near"):
        steps.append(Step("Label the rows whose answer helps most, in the browser.", f"metapl review {run}"))
    calibrated = material.get("calibration")
    if calibrated and calibrated["before"]["error"] > OVERCONFIDENT:
        error = 100 * calibrated["before"]["error"]
        steps.append(Step(f"Do not take the model's confidence literally: it is off by {error:.0f} points on average."))
    return steps


def weakest(figures: dict[str, Any]) -> tuple[str, float, int, str] | None:
    """Return the class that is surely below the overall accuracy and right least often: name, share, rows, its usual
    mistake.

    None where no class is: its interval must end below the accuracy of all rows.
    """
    classes = []
    for k, (name, share) in enumerate(figures["per_class_accuracy"].items()):
        counts = figures["confusion"][k]
        if share is None or sum(counts) < 5 or wilson(counts[k], sum(counts))[1] >= figures["accuracy"]:
            continue
        wrong = [count if j != k else -1 for j, count in enumerate(counts)]
        classes.append((share, name, sum(counts), list(figures["per_class_accuracy"])[wrong.index(max(wrong))]))
    if not classes:
        return None
    share, name, count, other = min(classes)
    return name, share, count, other


def _headline(record: Record, answers: list[Reply], figures: dict[str, Any] | None, judged_on: str) -> str:
    """Return the sentence at the top of the page."""
    results, helped = record.results, answers[1]
    rows = results["rows"]
    about = f"From {rows['labeled']} labelled and {rows['unlabeled']} unlabelled rows"
    if results["method"] == "supervised":
        about = f"From {rows['labeled']} labelled rows"
    right = " a model"
    if figures:
        right = f" a model that is right on {percent(figures['accuracy'])} of {figures['rows']} {judged_on}"
    if returned_mean(record):
        good = right.removeprefix(" a model that") if figures else " was returned"
        partners = len(mean_partners(record))
        others = "a model" if partners == 1 else f"{partners} models"
        return f"{about}, the mean of {record.method} and {others} of the labels alone{good}."
    if results.get("chosen_by") == "guard":
        worse = "was worse" if helped.mood == "bad" else "was not surely better"
        return f"{about}, {record.method} {worse} than the labels alone. The run returned{right}."
    ends = {"good": ", clearly ahead of the labels alone", "bad": ", behind the labels alone"}
    return f"{about}, {record.method} trained{right}{ends.get(helped.mood, '')}."

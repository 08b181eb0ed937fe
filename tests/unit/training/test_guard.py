"""The guard: its plan, its rule and interval, and that it gives back supervised training's own model when it should."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from metapl.config.settings import GuardConfig, LoopConfig, RunConfig, from_dict, load_config, make_config, to_dict
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.batches.stream import BatchConfig, Stream
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.methods import METHODS, FixMatch
from metapl.runs import checkpoint
from metapl.runs.model_folder import load_model
from metapl.training import evidence, guard
from metapl.training.job import Job, build_job
from metapl.training.loop import Stopped, resume, train
from metapl.training.pairs import paired_interval
from metapl.training.prepared import prepare
from metapl.training.timing import Pace
from metapl.utils.progress import Silent

SPLIT = SplitConfig(labels=4, validation=1)


def table(rows: int = 700) -> MemorySource:
    """Digits, for a small network: quick to train on."""
    digits = open_digits()
    return MemorySource("digits", "image", digits.data[:rows], digits.labels[:rows], digits.class_names)


def features(rows: int = 700) -> MemorySource:
    """The same as rows of 64 numbers."""
    data = open_digits().data[:rows].flatten(1).float() / 255
    return MemorySource("table", "table", data, open_digits().labels[:rows], open_digits().class_names)


def config_of(method: str = "fixmatch", steps: int = 12, **changes: Any) -> RunConfig:
    settings = {"settings": METHODS[method].Config(finetune_steps=3, offer_teacher=False)} if method == "mpl" else {}
    made = RunConfig(
        "table",
        method,
        "mlp",
        steps=steps,
        split=SPLIT,
        batch=BatchConfig(8, 12),
        loop=LoopConfig(log_every=4),
        guard=GuardConfig(share=0.5),
        **settings,
    )
    return dataclasses.replace(made, **changes)


class Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def __contains__(self, part: str) -> bool:
        return any(part in n for n in self.notes)


def weights(folder: Path, which: str = "model") -> bytes:
    return (folder / which / "weights.safetensors").read_bytes()


def results(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {k: v for k, v in found.items() if k not in ("seconds", "peak_memory", "resumed_at")}


# ---- the plan --------------------------------------------------------------------------------------------------


def plan_of(config: RunConfig, source: MemorySource | None = None) -> tuple[evidence.GuardPlan, Job]:
    source = source or table()
    split = make_split(source, config.split, config.seed)
    job = build_job(config, prepare(source, split, torch.device("cpu")))
    return evidence.plan_guard(job), job


def held(plan: evidence.GuardPlan) -> list[int]:
    return sorted(np.concatenate([fold.held for fold in plan.folds]).tolist())


def test_few_validation_rows_mean_cross_fitting_and_enough_do_not() -> None:
    plan, job = plan_of(config_of())
    split = job.split
    assert (len(plan.folds), plan.rows, plan.validation.tolist(), plan.none) == (2, 40, split.validation.tolist(), "")
    assert held(plan) == split.labeled.tolist(), "each labelled row is judged once"
    for fold in plan.folds:
        assert not set(fold.held) & set(fold.split.labeled)
        assert set(split.validation) < set(fold.split.labeled), "in the folds the validation rows teach"
        assert set(fold.held) < set(fold.split.unlabeled)
        assert not len(fold.split.test)
    enough, job = plan_of(config_of(guard=GuardConfig(min_validation=10)))
    assert (enough.folds, enough.validation.tolist()) == ((), job.split.validation.tolist())


def test_a_class_with_one_labelled_row_lends_its_validation_row() -> None:
    """Two labels per class, of which one judges: each of the twenty is judged by models that learnt from ten others."""
    plan, job = plan_of(config_of(split=SplitConfig(labels=2)))
    assert (len(job.split.labeled), len(job.split.validation), len(plan.validation)) == (10, 10, 0)
    assert held(plan) == sorted([*job.split.labeled, *job.split.validation])
    for fold in plan.folds:
        assert not set(fold.held) & set(fold.split.labeled)
        assert len(fold.split.labeled) == 10


def test_rows_that_a_method_is_fitted_on_do_not_teach_as_well() -> None:
    """A target precision is kept by means of the validation rows, never by the held-out ones."""
    settings = METHODS["fixmatch"].Config(threshold="precision=0.9")
    plan, job = plan_of(config_of(settings=settings))
    assert plan.rows == 40
    for fold in plan.folds:
        assert not set(job.split.validation) & set(fold.split.labeled)
        assert fold.split.validation.tolist() == job.split.validation.tolist()
        assert not set(fold.held) & set(fold.split.validation)
    plan, job = plan_of(config_of(settings=settings, split=SplitConfig(labels=2)))
    assert (plan.folds, plan.validation.tolist()) == ((), job.split.validation.tolist()), "ten rows, and no folds"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"guard": GuardConfig("off")}, "guard.mode=off"),
        ({"method": "supervised", "settings": None}, "a baseline itself"),
        ({"split": SplitConfig(labels=1)}, "no class has two labelled rows"),
        ({"split": SplitConfig(labels=4, validation=0), "guard": GuardConfig(folds=60)}, "too few for 60 folds"),
    ],
)
def test_no_plan_says_why(changes: dict[str, Any], why: str) -> None:
    config = config_of(**changes)
    plan, _ = plan_of(config)
    assert why in plan.none
    assert plan.steps(config) == (0, 0)


def test_too_few_rows_to_judge() -> None:
    labels = np.full(60, -1)
    labels[:8] = np.arange(8) % 2
    source = MemorySource("few", "image", table(60).data, labels, ("a", "b"))
    assert "only 8 rows" in plan_of(config_of(split=SplitConfig()), source)[0].none


@pytest.mark.parametrize(("value", "stored"), [(False, "off"), ("off", "off"), ("warn", "warn"), ("return", "return")])
def test_off_survives_yaml(value: Any, stored: str, tmp_path: Path) -> None:
    """YAML reads a bare off as false."""
    assert from_dict({"data": "digits", "guard": {"mode": value}}).guard.mode == stored
    made = make_config("digits", overrides=[f"guard.mode={stored}"])
    assert made.guard.mode == to_dict(made)["guard"]["mode"] == stored


@pytest.mark.parametrize(("steps", "each"), [(1, 1), (300, 99), (1000, 330), (3000, 990)])
def test_two_folds_take_two_thirds_of_the_runs_steps(steps: int, each: int) -> None:
    assert evidence.fold_steps(config_of("mpl", steps=steps, guard=GuardConfig())) == each


@pytest.mark.parametrize(
    "bad", [{"mode": "on"}, {"mode": True}, {"share": 0}, {"share": 1.5}, {"folds": 1}, {"least_steps": 0}]
)
def test_bad_settings(bad: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="guard"):
        from_dict({"data": "digits", "guard": bad})


# ---- rule and interval -----------------------------------------------------------------------------------------


def sides(**right: list[int]) -> dict[str, evidence.Answers]:
    """Answers by side, from 1 where it is right and 0 where it is not."""
    return {name: evidence.Answers(np.full(len(r), 0.5), np.array(r, dtype=bool)) for name, r in right.items()}


def against(wins: int, losses: int, both: int = 20, neither: int = 3) -> dict[str, evidence.Answers]:
    counts = [wins, losses, both, neither]
    method, baseline = (np.repeat(r, counts).tolist() for r in ([1, 0, 1, 0], [0, 1, 1, 0]))
    return sides(mpl=method, supervised=baseline)


CASE = guard.Case("mpl", ("supervised",), judged=True, averaged=False, apart={"supervised": 0.2}, shift=0.1)
MEAN = guard.Case("mpl", ("supervised", "linear"), False, True, {"supervised": 0.2, "linear": 0.25}, 0.1)
PLAN = evidence.GuardPlan(np.arange(0), (evidence.Fold(None, np.arange(20)),) * 2)  # type: ignore[arg-type]


def decided(case: guard.Case, answers: dict[str, evidence.Answers], mode: Any = "return") -> dict[str, Any]:
    return guard.decide(case, answers, config_of("mpl", guard=GuardConfig(mode)), PLAN)


@pytest.mark.parametrize(
    ("wins", "losses", "shift", "kept"),
    [
        (0, 2, 0.1, True),  # 0 - 2 + 3 > 0
        (0, 3, 0.1, False),
        (5, 9, 0.1, False),
        (6, 0, 0.4, False),  # 6 - 0 - 6 = 0
        (7, 0, 0.4, True),  # right on nearly all, where the baseline is not: kept though the pool has other shares
        (9, 4, 0.4, False),
    ],
)
def test_images_are_decided_by_rows_and_what_studies_say(wins: int, losses: int, shift: float, kept: bool) -> None:
    found = decided(dataclasses.replace(CASE, shift=shift), against(wins, losses))
    assert (found["better"], found["returned"]) == (kept, "mpl" if kept else "supervised baseline")
    assert f"{wins} - {losses} {'+ 3' if shift < 0.3 else '- 6'} = " in found["text"], "the figures that decided"
    assert ("Earlier studies on pools of other class shares (40 %" in found["text"]) is (shift > 0.3)


def test_warn_says_what_would_be_better() -> None:
    found = decided(CASE, against(0, 9), "warn")
    assert (found["better"], found["returned"], found["partners"]) == (False, "mpl", [])
    assert "the supervised baseline would be the better choice, but guard.mode=warn keeps mpl" in found["text"]


def test_other_rows_end_in_the_mean_of_both_sides() -> None:
    mpl, supervised, linear = [1] * 8 + [0] * 2, [1] * 7 + [0] * 3, [1] * 6 + [0] * 4
    found = decided(MEAN, sides(mpl=mpl, supervised=supervised, linear=linear))
    assert (found["returned"], found["partners"]) == ("mean of mpl and the linear baseline", ["linear"])
    assert found["baseline"] == "linear", "supervised training is one row ahead, which says little"
    assert "their mean was right more often than either" in found["text"]
    ahead = decided(MEAN, sides(mpl=mpl, supervised=[1] * 10, linear=[1] * 5 + [0] * 5))
    assert ahead["baseline"] == "supervised", "five rows ahead"
    assert ahead["returned"] == "supervised baseline", "mpl is behind it on rows that mpl learnt from"
    assert "mpl is right on 8 of 10 labelled rows and the supervised baseline on 10" in ahead["text"]


def test_mpl_on_features_is_returned_alone_unless_it_is_refused() -> None:
    case, linear = dataclasses.replace(MEAN, averaged=False), [1] * 6 + [0] * 4
    found = decided(case, sides(mpl=[1] * 8 + [0] * 2, supervised=[1] * 7 + [0] * 3, linear=linear))
    assert (found["returned"], found["better"], found["baseline"]) == ("mpl", True, "linear")
    assert "guard: mpl is kept" in found["text"]
    assert "in earlier studies mpl alone was right more often than the mean of both. " in found["text"]
    behind = decided(case, sides(mpl=[1] * 5 + [0] * 5, supervised=linear, linear=linear))
    assert behind["returned"] == "linear baseline", "mpl is behind on rows that mpl learnt from"


def test_what_is_refused_is_not_returned_whatever_the_rows_say() -> None:
    for case, answers in ((CASE, {}), (MEAN, sides(mpl=[1] * 9, supervised=[0] * 9, linear=[0] * 9))):
        found = decided(dataclasses.replace(case, refusal="mpl names class 'a' on 0.0 % of them"), answers)
        assert found["returned"] == f"{case.baselines[-1]} baseline"
        assert "mpl names class 'a' on 0.0 % of them" in found["text"]


def test_without_a_difference_on_the_pool_no_row_is_judged() -> None:
    alike = dataclasses.replace(CASE, apart={"supervised": 0.02})
    assert alike.settled
    assert not CASE.settled
    found = decided(alike, {})
    assert (found["returned"], found["way"], found["rows"]) == ("mpl", "pool", 0)
    assert "all but 2.0 % of the unlabelled rows" in found["text"]
    assert not dataclasses.replace(MEAN, refusal="x").settled, "which baseline is returned must still be found"


def test_the_interval_is_newcombes() -> None:
    """Newcombe (1998), Statistics in Medicine 17, 2635: table III, method 10, 36 both, 12 and 2, 0 neither."""
    low, high = paired_interval(12, 2, 36, 50)
    assert (low, high) == (pytest.approx(0.0569, abs=2e-4), pytest.approx(0.3404, abs=2e-4))
    assert paired_interval(2, 12, 36, 50) == (pytest.approx(-high), pytest.approx(-low))
    for wins, losses, both, count in [(0, 0, 20, 20), (0, 0, 0, 20), (20, 0, 0, 20), (0, 3, 17, 20)]:
        low, high = paired_interval(wins, losses, both, count)
        assert -1 <= low <= (wins - losses) / count <= high <= 1
        assert high - low > 0.05, "no certainty from twenty rows"


@pytest.mark.parametrize("count", [20, 100])
def test_the_interval_covers(count: int) -> None:
    draws = np.random.default_rng(0).multinomial(count, [0.2, 0.1, 0.6, 0.1], 4000)
    inside = [low <= 0.1 <= high for low, high in (paired_interval(*map(int, d[:3]), count) for d in draws)]
    assert np.mean(inside) > 0.93


# ---- in a run --------------------------------------------------------------------------------------------------


@pytest.fixture
def rows_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a few steps every student is refused for a lost class; here labelled rows are judged all the same."""
    let_rows_decide(monkeypatch)


def let_rows_decide(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(guard, "_refusal", lambda *rest: "")
    patch.setattr(guard, "ALIKE", -1.0)
    patch.setattr(guard, "CREDIT", 0.0)
    patch.setattr(guard, "CREDIT_OTHER_SHARES", 0.0)


def test_a_student_that_names_few_classes_is_refused_without_judging_a_row(tmp_path: Path) -> None:
    """In twelve steps mpl's student has learnt next to nothing; the labelled rows alone teach faster."""
    made = train(config_of("mpl"), tmp_path / "run", source=table())
    found = made.summary["guard"]
    assert (found["way"], found["rows"], found["returned"]) == ("pool", 0, "supervised baseline")
    assert " of the unlabelled rows, where about " in found["refusal"]


@pytest.mark.usefixtures("rows_decide")
@pytest.mark.parametrize("validation", [False, True])
def test_a_worse_result_is_replaced_by_supervised_training_itself(validation: bool, tmp_path: Path) -> None:
    notes, settings = Notes(), GuardConfig(share=0.5, min_validation=10 if validation else 50)
    config = config_of("mpl", 60, guard=settings)
    made = train(config, tmp_path / "run", source=table(), progress=notes)
    alone = train(
        dataclasses.replace(config, method="supervised", settings=None), tmp_path / "alone", source=table()
    ).folder
    found = made.summary["guard"]
    assert found["accuracy"]["supervised"] > found["accuracy"]["mpl"]
    assert (found["better"], found["returned"]) == (False, "supervised baseline")
    assert (made.summary["chosen"], made.summary["chosen_by"]) == ("supervised baseline", "guard")
    assert found["way"] == ("validation rows" if validation else "cross-fitting")
    assert found["rows"] == (10 if validation else 40)
    (pair,) = found["pairs"]
    assert pair["difference_95"][0] < pair["difference"] < pair["difference_95"][1]
    assert weights(made.folder) == weights(alone)
    raw = table().data[:5]
    assert torch.equal(made.predictor.probabilities(raw), load_model(made.folder).probabilities(raw))
    cards = [json.loads((made.folder / f / "model.json").read_text()) for f in ("model", "model-not-chosen")]
    assert [c["method"] for c in cards] == ["supervised", "mpl"]
    assert "the supervised baseline is returned and stands in model, mpl alone in model-not-chosen" in notes
    assert any(n.startswith("guard: ") and "at most 0:" in n for n in notes.notes), "its cost is told before"
    assert json.loads((made.folder / "results.json").read_text())["guard"] == found
    off = train(dataclasses.replace(config, guard=GuardConfig("off")), tmp_path / "off", source=table()).folder
    assert weights(made.folder, "model-not-chosen") == weights(off), "nothing is lost, and the guard changed nothing"
    assert not (off / "model-not-chosen").exists()


def test_a_table_ends_in_the_mean_of_method_linear_model_and_forest(tmp_path: Path) -> None:
    config, notes = config_of("fixmatch", 60), Notes()
    made = train(config, tmp_path / "run", source=features(), progress=notes)
    found = made.summary["guard"]
    assert found["returned"] == "mean of fixmatch, the linear baseline and the forest baseline"
    assert found["partners"] == ["linear", "forest"]
    assert (made.summary["chosen"], made.summary["chosen_by"]) == (found["returned"], "guard")
    assert found["accuracy"].keys() == {"fixmatch", "linear", "forest"}, "no network is trained beside the run's"
    raw, stored = features().data[:50], load_model(made.folder)
    assert torch.equal(made.predictor.probabilities(raw), stored.probabilities(raw))
    alone = load_model(made.folder / "model-not-chosen").probabilities(raw)
    linear, forest = (
        train(dataclasses.replace(config, method="linear", model=model, settings=None), source=features(),
              out=tmp_path / model).predictor.probabilities(raw)
        for model in ("auto", "forest")
    )  # fmt: skip
    mean = alone**0.25 * linear**0.25 * forest**0.5
    assert torch.allclose(stored.probabilities(raw), mean / mean.sum(1, keepdim=True), atol=1e-5)


@pytest.mark.parametrize(("settings", "folds"), [(GuardConfig(), 2), (GuardConfig(min_validation=10), 0)])
def test_a_table_needs_no_steps_for_its_guard(settings: GuardConfig, folds: int) -> None:
    plan, job = plan_of(config_of(guard=settings), features())
    assert (len(plan.folds), plan.steps(job.config, 3)) == (folds, (0, 0))
    counted, made = list[int](), {name: job.predictor(model) for name, model in job.method.candidates().items()}
    guard.run_guard(job, made, Notes(), lambda: counted.append(1), pace=0.1)
    assert len(counted) <= 2 + 2 * folds, "each fit is one step"


def test_a_mean_is_refused_where_it_loses_a_class_itself() -> None:
    """A method that names one class alone may join a mean that names them all."""
    _, job = plan_of(config_of(), features())
    models = {
        name: evidence.train_candidate(job, evidence.baseline_config(job, name), job.split, None)
        for name in ("linear", "forest")
    }
    one = nn.Linear(64, 10)
    nn.init.zeros_(one.weight)
    for strength, refused in ((0.01, False), (400.0, True)):
        with torch.no_grad():
            one.bias.copy_(torch.eye(10)[0] * strength)
        found = guard._look(job, job.predictor(one), models)
        assert ("the mean names class" in found.refusal) == refused


@pytest.mark.parametrize(
    ("method", "ends_in"), [("mpl", "mpl"), ("fixmatch", "mean of fixmatch and the linear baseline")]
)
def test_features_of_an_encoder_end_in_mpl_alone_and_in_the_mean_of_other_methods(
    method: str, ends_in: str, tmp_path: Path
) -> None:
    source = MemorySource("features", "features", *_parts(features()))
    found = train(config_of(method, 150, model="head"), tmp_path / "run", source=source).summary["guard"]
    assert (found["returned"], found["refusal"]) == (ends_in, "")
    assert found["accuracy"].keys() == {method, "supervised", "linear"}, "the linear model is compared all the same"


def _parts(source: MemorySource) -> tuple[Any, ...]:
    return source.data, source.labels, source.class_names


@pytest.mark.parametrize("other_shares", [False, True])
def test_texts_end_in_the_mean_too(other_shares: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the pool has other class shares the linear model counts as much as the method."""
    import metapl

    monkeypatch.setattr(guard, "OTHER_SHARES", -1.0 if other_shares else 1.0)

    texts = [f"{noun} {verb} number {k}" for k in range(20) for noun, verb in (("cats", "purr"), ("dogs", "bark"))]
    y = ["cat" if "cats" in text else "dog" for text in texts]
    labels = [c if k < 16 else None for k, c in enumerate(y)]
    made = metapl.fit(texts, labels, steps=30, validation="none", out=tmp_path / "run")
    if made.summary["guard"]["refusal"]:
        pytest.skip("mpl has lost a class")
    assert made.summary["chosen"] == "mean of mpl and the linear baseline"
    assert torch.equal(
        torch.from_numpy(load_model(tmp_path / "run").predict_proba(texts)),
        torch.from_numpy(made.predict_proba(texts)),
    )
    blend = load_model(tmp_path / "run").model
    pool = made.source.rows(made.split.unlabeled)
    own, linear = (torch.log_softmax(member(pool), -1) for member in blend.members)
    sure = [logits.softmax(-1).max(-1).values.mean().item() for logits in (own, blend.sharpness * linear)]
    assert (sure[0] == pytest.approx(sure[1], abs=0.01)) == other_shares
    assert (blend.sharpness == 1) == (not other_shares)
    said = "so the linear baseline is made as sure as mpl" in made.summary["guard"]["text"]
    assert said == other_shares


class ManyEnds(FixMatch):
    """Ends with twenty networks that never learnt anything."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self.untrained = {f"n{k}": context.build_model() for k in range(20)}

    def candidates(self) -> dict[str, nn.Module]:
        return dict(self.untrained)


class TwoEnds(FixMatch):
    """Ends with its first weights, which it prefers, and with the trained ones."""

    def __init__(self, config: Any, context: Any) -> None:
        super().__init__(config, context)
        self.first = copy.deepcopy(self.net.model)

    def candidates(self) -> dict[str, nn.Module]:
        return {"first": self.first, **super().candidates()}


@pytest.mark.parametrize("min_validation", [10, 50])
@pytest.mark.usefixtures("rows_decide")
def test_the_guard_judges_the_kind_of_candidate_that_is_returned(min_validation: int, tmp_path: Path) -> None:
    """The validation rows choose the trained weights, not the preferred ones; so do their halves, and in the folds."""
    config = config_of(steps=100, guard=GuardConfig(min_validation=min_validation))
    config = dataclasses.replace(config, method=f"{__name__}:TwoEnds", settings=None)
    made = train(config, tmp_path / "run", source=table())
    assert made.summary["candidate"] == "ema"
    assert made.summary["validation"]["first"]["accuracy"] < 0.3
    assert made.summary["guard"]["way"] == ("validation rows" if min_validation == 10 else "cross-fitting")
    assert made.summary["guard"]["accuracy"][f"{__name__}:TwoEnds"] > 0.2


def test_each_half_is_judged_by_the_candidate_that_is_best_on_the_other() -> None:
    y = np.array([1, 0, 0, 1, 0, 1, 1, 0])  # halves by class in turn: rows 1, 4, 0, 5 and rows 2, 7, 3, 6
    one, two = ([1, 4, 0, 5], [2, 7, 3, 6])
    a, b = np.zeros(8, dtype=bool), np.zeros(8, dtype=bool)
    a[one], b[two] = True, True  # each is right on one half alone
    p = np.arange(8) / 10
    found = evidence.crossed({"a": evidence.Answers(p, a), "b": evidence.Answers(p + 0.01, b)}, y)
    assert not found.right.any(), "what is best on one half is wrong on all of the other"
    assert found.p[one].tolist() == (p + 0.01)[one].tolist()
    assert found.p[two].tolist() == p[two].tolist()
    alone = evidence.crossed({"a": evidence.Answers(p[:1], a[:1]), "b": evidence.Answers(p[:1], ~a[:1])}, y[:1])
    assert alone.right.tolist() == a[:1].tolist(), "one row: nothing chooses, so the preferred one answers"


def test_a_fold_is_judged_by_the_candidate_that_validation_rows_outside_it_choose(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Labelled and validation rows are dealt out together; each candidate is right in one fold alone."""
    plan, job = plan_of(config_of(split=SplitConfig(labels=2)))
    inside, wanted = plan.folds[0].held, list[str]()
    assert 0 < np.isin(job.split.validation, inside).sum() < len(job.split.validation)

    def answers(source: Any, rows: Any, model: str) -> evidence.Answers:
        right = np.isin(rows, inside) == (model == "inside")
        return evidence.Answers(np.full(len(rows), 0.5), right)

    monkeypatch.setattr(evidence, "answers", answers)
    monkeypatch.setattr(evidence, "train_candidate", lambda *rest: wanted.append(rest[-1]) or "trained")
    made: Any = {"inside": "inside", "outside": "outside"}
    evidence.gather_evidence(job, plan, made, {"supervised": "baseline"}, lambda number: None)  # type: ignore[dict-item]
    assert wanted == ["outside", "outside", "inside", "inside"], "each side's training, fold by fold"


@pytest.mark.usefixtures("rows_decide")
def test_the_guard_judges_no_candidate_on_the_rows_that_chose_it(tmp_path: Path) -> None:
    """Of twenty untrained networks the validation rows choose one that looks good there by chance."""
    config = config_of(steps=4, seed=1, guard=GuardConfig(min_validation=10), split=SplitConfig(labels=8, validation=4))
    config = dataclasses.replace(config, method=f"{__name__}:ManyEnds", settings=None)
    made = train(config, tmp_path / "run", source=table())
    validation, found = made.summary["validation"], made.summary["guard"]
    looks = validation[made.summary["candidate"]]["accuracy"]
    middle = float(np.median([v["accuracy"] for v in validation.values()]))
    assert found["accuracy"][f"{__name__}:ManyEnds"] < (looks + middle) / 2 < looks


def test_a_better_result_is_kept(tmp_path: Path) -> None:
    """Digits with 30 labels, long enough for the unlabelled rows to help, and 300 validation rows to see it."""
    notes = Notes()
    config = config_of("uda", 200, batch=BatchConfig(20, 40), split=SplitConfig(labels=33, validation=30))
    made = train(config, tmp_path / "run", source=table(1400), progress=notes)
    found = made.summary["guard"]
    assert found["accuracy"]["uda"] > found["accuracy"]["supervised"]
    assert (found["better"], found["returned"], made.summary["chosen"]) == (True, "uda", "ema")
    off = train(dataclasses.replace(config, guard=GuardConfig("off")), tmp_path / "off", source=table(1400)).folder
    assert weights(made.folder) == weights(off)
    assert (made.folder / "model-not-chosen" / "weights.safetensors").exists()
    assert "uda is kept" in notes


def test_warn_keeps_the_result_and_says_so(tmp_path: Path) -> None:
    notes = Notes()
    made = train(config_of("mpl", guard=GuardConfig("warn")), tmp_path / "run", source=table(), progress=notes)
    found = made.summary["guard"]
    assert (found["better"], found["returned"]) == (False, "mpl")
    assert made.summary["chosen"] in ("mean", "student_ema", "student_finetuned", "teacher_ema")
    assert json.loads((made.folder / "model" / "model.json").read_text())["method"] == "mpl"
    assert "would be the better choice, but guard.mode=warn keeps mpl" in notes


def test_the_result_is_kept_where_no_verdict_can_be_given(tmp_path: Path) -> None:
    notes = Notes()
    made = train(config_of(split=SplitConfig(labels=1)), tmp_path / "run", source=table(), progress=notes)
    assert made.summary["guard"]["way"] == "none"
    assert made.summary["chosen"] == "ema"
    assert "no guard: no class has two labelled rows" in notes
    assert not (made.folder / "model-not-chosen").exists()


BUILT: list[int] = []


class Sick(nn.Module):
    """A linear network; the one that is built as number ``bad`` gives NaN."""

    def __init__(self, shape: tuple[int, ...], num_classes: int, bad: bool) -> None:
        super().__init__()
        self.head, self.bad = nn.Linear(math.prod(shape), num_classes), bad

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.flatten(1))
        return logits * float("nan") if self.bad else logits


def sick(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    BUILT.append(1)
    return Sick(shape, num_classes, len(BUILT) == BAD[0])


BAD = [0]


@pytest.mark.parametrize("bad", [3, 4, 5])
@pytest.mark.usefixtures("rows_decide")
def test_a_training_of_the_guards_that_diverges_costs_nothing(bad: int, tmp_path: Path) -> None:
    """Number 1 is the run, 2 the timing, 3 the baseline, 4 and 5 the first fold."""
    BUILT.clear()
    BAD[0], notes = bad, Notes()
    made = train(config_of(model=f"{__name__}:sick"), tmp_path / "run", source=table(), progress=notes)
    assert made.summary["guard"]["way"] == "none"
    assert "diverged" in made.summary["guard"]["text"]
    assert made.summary["chosen"] == "ema"
    assert load_model(made.folder, trust_code=True).probabilities(table().data[:3]).isfinite().all()
    assert "no guard: training diverged" in notes


# ---- stop and resume -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        let_rows_decide(patch)
        return train(config_of("mpl"), tmp_path_factory.mktemp("unbroken") / "run", source=table()).folder


class Crash(Exception):
    pass


def at_call(monkeypatch: pytest.MonkeyPatch, number: int, what: Callable[[], None]) -> None:
    """``what`` is done when the stream makes its batch ``number`` (from 1), counted over all trainings."""
    original, calls = Stream.__call__, list[int]()

    def wrapped(self: Stream, t: int, needs: Any) -> Any:
        calls.append(t)
        if len(calls) == number:
            what()
        return original(self, t, needs)

    monkeypatch.setattr(Stream, "__call__", wrapped)


def raise_crash() -> None:
    raise Crash


def same_run(a: Path, b: Path) -> None:
    assert results(a) == results(b)
    for which in ("model", "model-not-chosen"):
        assert weights(a, which) == weights(b, which)
    assert (a / "metrics.jsonl").read_text() == (b / "metrics.jsonl").read_text()


@pytest.fixture
def no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every batch is then one of a training: 15 of the run, 12 of the baseline, 9 and 6 of each fold."""
    monkeypatch.setattr(guard, "seconds_per_step", lambda job, limit: 0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("batch", [15, 16, 20, 27, 33, 45, 50])
@pytest.mark.usefixtures("no_timing", "rows_decide")
def test_a_stop_in_the_guard_loses_nothing(
    batch: int, number: int, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        at_call(patch, batch, lambda: os.kill(os.getpid(), number))
        with pytest.raises(Stopped) as stopped:
            train(config_of("mpl"), tmp_path / "run", source=table())
    assert (stopped.value.step, stopped.value.signal_number) == (15, number)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 15
    assert not (tmp_path / "run" / "results.json").exists()
    notes = Notes()
    assert resume(tmp_path / "run", source=table(), progress=notes).summary["resumed_at"] == 15
    assert "resuming at step 15" in notes
    same_run(unbroken, tmp_path / "run")


@pytest.mark.usefixtures("no_timing")
@pytest.mark.usefixtures("rows_decide")
def test_a_crash_in_the_guard_and_one_before_it(
    unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, batch in (("early", 7), ("late", 40)):
        with monkeypatch.context() as patch:
            at_call(patch, batch, raise_crash)
            with pytest.raises(Crash):
                train(config_of("mpl"), tmp_path / name, source=table())
        resume(tmp_path / name, source=table())
        same_run(unbroken, tmp_path / name)


# ---- test rows, time -------------------------------------------------------------------------------------------


class Closed(MemorySource):
    """Rows of which some must not be opened."""

    forbidden: frozenset[int] = frozenset()
    held = None  # type: ignore[assignment]

    def rows(self, index: Any) -> torch.Tensor:
        assert not set(np.asarray(index).tolist()) & self.forbidden, "a forbidden row was opened"
        return super().rows(index)


@pytest.mark.parametrize("min_validation", [10, 50])
@pytest.mark.usefixtures("rows_decide")
def test_the_guard_opens_no_test_row(min_validation: int, tmp_path: Path) -> None:
    t = table()
    source = Closed(t.name, t.kind, t.data, t.labels, t.class_names)
    config = config_of(guard=GuardConfig(min_validation=min_validation))
    source.forbidden = frozenset(make_split(source, config.split, 0).test.tolist())
    made = train(config, tmp_path / "run", source=source)
    assert made.summary["guard"]["rows"] > 0
    with pytest.raises(AssertionError, match="forbidden"):
        source.rows(made.split.test)


@pytest.mark.usefixtures("rows_decide")
def test_the_folds_stop_at_the_end_of_the_main_phase() -> None:
    """Where the candidate that is judged needs no fine-tuning, none is made."""
    plan, job = plan_of(config_of("mpl"))
    assert job.extra_steps == 3
    counted = list[int]()
    made = {name: job.predictor(model) for name, model in job.method.candidates().items()}  # all alike: the first
    guard.run_guard(job, made, Notes(), lambda: counted.append(1), pace=0.1)
    assert len(counted) == sum(plan.steps(job.config)) == job.config.steps + 4 * evidence.fold_steps(job.config)


@pytest.mark.parametrize(
    ("changes", "per_step", "extra"),
    [
        ({"mode": "off"}, 0.5, 3),
        ({"least_steps": 1, "share": 0.5, "folds": 2}, 0.5 * 2 + 0.125 * 2, 9),
        ({"least_steps": 1, "share": 0.25, "folds": 4}, 0.5 * 2 + 0.125 * 2, 15),
        ({"least_steps": 600}, 0.5 * 3 + 0.125 * 3, 9),  # a run of fewer steps: its folds have them all
        ({"min_validation": 10}, 0.5 + 0.125, 3),
    ],
)
def test_minutes_leave_room_for_the_guard(
    changes: dict[str, Any], per_step: float, extra: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A step of mpl shall take half a second and one of the baseline an eighth."""
    module = importlib.import_module("metapl.training.loop")

    def pace(job: Any, limit: float) -> float:
        return 0.125 if job.config.method == "supervised" else 0.5

    def paces(job: Any, limit: float) -> Pace:
        return Pace(pace(job, limit), pace(job, limit))

    class Sized(Exception):
        pass

    def stop(*_: Any) -> None:
        raise Sized

    monkeypatch.setattr(module, "measure_pace", paces)
    monkeypatch.setattr(guard, "seconds_per_step", pace)
    monkeypatch.setattr(module, "_loop", stop)
    with pytest.raises(Sized):
        train(config_of("mpl", minutes=10.0, guard=GuardConfig(**changes)), tmp_path / "run", source=table())
    steps = load_config(tmp_path / "run" / "config.yaml").steps
    assert steps == pytest.approx((0.9 * 600 - 0.5 * extra) / per_step, rel=0.02)

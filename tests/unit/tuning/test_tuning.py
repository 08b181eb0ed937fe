"""A whole tuning in this process: what is trained on what, what is stored, and how it goes on."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import metapl
from metapl.config.settings import load_config, make_config
from metapl.data.batches.folds import fold_splits
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.memory.digits import open_digits
from metapl.data.memory.source import MemorySource
from metapl.errors import UserError
from metapl.training.finite import Diverged
from metapl.training.workers import Outcome
from metapl.tuning import material as materials
from metapl.tuning.material import gather, judge_fold
from metapl.tuning.store import Trials
from metapl.utils.locks import locked

SPACE = ["fixmatch.threshold=0.2,0.6", "optim.lr=x0.5"]
STEPS = 3


class Guarded(MemorySource):
    """The digits; whoever reads a test row is caught."""

    forbidden: frozenset[int] = frozenset()
    read: set[int]

    def rows(self, index: np.ndarray) -> Tensor:
        asked = set(np.asarray(index).tolist())
        assert not asked & self.forbidden, "a test row was read"
        self.read = {*getattr(self, "read", set()), *asked}
        return super().rows(index)

    def held(self) -> Tensor:
        raise AssertionError("the whole tensor was asked for")


def guarded(forbidden: bool = True) -> Guarded:
    digits = open_digits()
    source = Guarded("digits", "image", digits.data, digits.labels, digits.class_names)
    if forbidden:
        source.forbidden = frozenset(make_split(source, SplitConfig(labels=3), 0).test.tolist())
    return source


def config_of(**options: Any) -> Any:
    base = {
        "method": "fixmatch", "model": "mlp", "steps": STEPS, "device": "cpu", "split.labels": 3,
        "batch.labeled": 8, "batch.unlabeled": 8,
    }  # fmt: skip
    return make_config("digits", options={**base, **{k.replace("__", "."): v for k, v in options.items()}})


def scores_of(folder: Path) -> Any:
    stored = json.loads((folder / "results.json").read_text())
    return {k: v for k, v in stored.items() if k != "seconds"}


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tuning of two settings on a source that lets nobody see its test rows."""
    source = guarded()
    folder = tmp_path_factory.mktemp("tuned") / "digits"
    return metapl.tune(config_of(), folder, space=SPACE, source=source), source


def test_two_tunings_do_not_work_in_one_folder(tuned: Any) -> None:
    folder = tuned[0].folder
    before = (folder / "trials.jsonl").read_text()
    with locked(folder / ".lock"), pytest.raises(UserError, match="another program is at work"):
        metapl.tune(config_of(), folder, space=SPACE, source=guarded())
    assert (folder / "trials.jsonl").read_text() == before


def test_everything_is_stored(tuned: Any) -> None:
    result, _ = tuned
    folder = result.folder
    names = {p.name for p in folder.iterdir()}
    assert names == {".lock", "plan.json", "trials.jsonl", "results.json", "trials.csv", "best.yaml", "tune.png"}
    assert (folder / "tune.png").stat().st_size > 10_000
    assert json.loads((folder / "results.json").read_text()) == result.summary
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    settings = [entry["setting"] for entry in result.summary["settings"]]
    assert {} in settings
    assert len(settings) in (4, 5), "the default, three values, and perhaps the best of both together"
    assert len(lines) == 3 * len(settings), "three folds each"
    assert result.summary["rows"] == 30
    with open(folder / "trials.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert len(table) == 4 * len(settings)
    assert {row["fixmatch.threshold"] for row in table} == {"0.2", "0.6", "0.95"}
    assert [row["default"] for row in table].count("1") == 4
    for row in (r for r in table if r["fold"] == "all"):
        folds = [r for r in table if r is not row and all(r[k] == row[k] for k in ("fixmatch.threshold", "optim.lr"))]
        assert float(row["accuracy"]) == pytest.approx(np.mean([float(r["accuracy"]) for r in folds]))


def test_test_rows_are_never_read_and_all_others_are(tuned: Any) -> None:
    _, source = tuned
    assert len(source.forbidden) == 359
    assert source.read == set(range(1797)) - source.forbidden
    with pytest.raises(AssertionError, match="a test row was read"):
        source.rows(np.array(sorted(source.forbidden)[:1]))


def test_rows_in_memory_need_no_config(tmp_path: Path) -> None:
    draw, y = np.random.default_rng(0), np.repeat([0, 1], 20)
    source = metapl.from_arrays(draw.normal(size=(40, 3)).astype("float32") + 3 * y[:, None], y)
    with pytest.raises(UserError, match="no unlabelled"):
        metapl.tune(out=tmp_path / "t", source=source, space=["views.noise=0.1"], folds=2)
    with pytest.raises(UserError, match=r"no data is named.*a folder of images"):
        metapl.tune(out=tmp_path / "t", space=["views.noise=0.1"])
    with pytest.raises(UserError, match="nowhere"):
        metapl.tune("nowhere.csv", tmp_path / "t")


def test_the_best_settings_are_a_settings_file(tuned: Any) -> None:
    result, _ = tuned
    assert load_config(result.folder / "best.yaml") == result.config
    assert result.config.split.labels == 3
    assert result.config.steps == STEPS
    text = (result.folder / "best.yaml").read_text()
    assert text.startswith("# Settings chosen by metapl tune: ")
    assert result.summary["verdict"] in text


def test_a_score_is_what_a_training_on_the_other_folds_gives(tuned: Any) -> None:
    """From the parts alone: the folds, run_trial, and a count of the right answers."""
    from metapl.data.batches.seeds import derive_seed
    from metapl.training.in_memory import run_trial
    from metapl.training.prepared import prepare

    result, _ = tuned
    source, config = open_digits(), config_of(fixmatch__threshold=0.2)
    split = make_split(source, config.split, 0)
    folds = fold_splits(source, split, 3, 0)
    right = []
    for k, fold in enumerate(folds):
        seeded = replace(config, seed=derive_seed(0, "fold", k) % 2**31)
        (predictor,) = run_trial(seeded, prepare(source, fold, torch.device("cpu"))).values()
        p = predictor.probabilities(source.rows(fold.validation)).numpy()
        right.append(float((p.argmax(1) == source.labels[fold.validation]).mean()))
    (entry,) = [e for e in result.summary["settings"] if e["setting"] == {"fixmatch.threshold": 0.2}]
    assert entry["fold_accuracy"] == right


def test_hidden_labels_are_not_even_there() -> None:
    source = guarded(forbidden=False)
    split = make_split(source, SplitConfig(labels=3), 0)
    made = gather(source, split, None, 0)
    labeled = np.union1d(split.labeled, split.validation)
    assert sorted(made.labels[made.labels >= 0].tolist()) == sorted(source.labels[labeled].tolist())
    assert len(made.labels) == 1797 - len(split.test)
    for fold in made.folds:
        assert (made.labels[fold.labeled] >= 0).all()
        assert (made.labels[fold.validation] >= 0).all()


# ---- going on --------------------------------------------------------------------------------------------------


def test_it_goes_on_where_it_was(tuned: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result, source = tuned
    trained: list[Any] = []
    real = judge_fold

    def counted(*arguments: Any) -> Any:
        trained.append(arguments[2])
        return real(*arguments)

    monkeypatch.setattr(materials, "judge_fold", counted)
    whole = (result.folder / "trials.jsonl").read_text().splitlines(keepends=True)
    for kept, more in ((len(whole), ""), (5, ""), (5, whole[5][:40]), (4, '{"setting": 3}\n')):
        folder = tmp_path / f"{kept}-{len(more)}"
        shutil.copytree(result.folder, folder)
        (folder / "trials.jsonl").write_text("".join(whole[:kept]) + more)
        trained.clear()
        again = metapl.tune(config_of(), folder, space=SPACE, source=source)
        assert len(trained) == len(whole) - kept, "nothing is trained twice"
        assert scores_of(folder) == scores_of(result.folder)
        assert again.config == result.config
        assert (folder / "best.yaml").read_text() == (result.folder / "best.yaml").read_text()
        assert (folder / "trials.csv").read_text() == (result.folder / "trials.csv").read_text()
        stored = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
        assert len(stored) == len(whole), "a half-written line is gone"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"config": {"optim__momentum": 0.5}}, "settings.optim.momentum is 0.9 there and 0.5 now"),
        ({"config": {"steps": 4}}, "settings.steps is 3 there and 4 now"),
        ({"config": {"seed": 1}}, "settings.seed is 0 there and 1 now"),
        ({"space": SPACE[:1]}, "search is"),
        ({"folds": 2}, "folds is 3 there and 2 now"),
        ({"sampler": "random"}, "sampler is 'single' there"),
        ({"trials": 9}, "trials is None there and 9 now"),
    ],
)
def test_another_plan_is_refused(tuned: Any, change: dict[str, Any], part: str) -> None:
    result, _ = tuned
    before = {p.name: p.read_bytes() for p in result.folder.iterdir()}
    arguments = {"space": SPACE, **change}
    config = config_of(**arguments.pop("config", {}))
    with pytest.raises(UserError, match="another tuning") as error:
        metapl.tune(config, result.folder, source=guarded(forbidden=False), **arguments)
    assert part in str(error.value)
    assert {p.name: p.read_bytes() for p in result.folder.iterdir()} == before


def test_other_data_are_refused(tuned: Any) -> None:
    result, _ = tuned
    source = guarded(forbidden=False)
    source.data = source.data.clone()
    source.data[0, 0, 0, 0] += 1
    with pytest.raises(UserError, match="data_and_split"):
        metapl.tune(config_of(), result.folder, space=SPACE, source=source)


def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    store = Trials(tmp_path)
    answer = {"right": {"ema": "01"}, "log_loss": {"ema": 1.5}, "seconds": 0.5}
    store.add({"optim.lr": 0.1}, 10, 0, answer, 3.0)
    store.add({"optim.lr": 0.1}, 10, 1, {"error": "diverged", "seconds": 0.5}, 4.0)
    good = store.path.read_text()
    bad = ("[]", "{", "null", "1", "{}", good.splitlines()[0][:50], '{"setting": {}, "steps": 1, "fold": 0}', "\ufffd")
    store.path.write_text("\n".join([*bad, good, *bad]))
    again = Trials(tmp_path)
    assert again.path.read_text() == good
    assert again.spent == 4.0
    assert again.get({"optim.lr": 0.1}, 10, 0) == {
        "setting": {"optim.lr": 0.1}, "steps": 10, "fold": 0, **answer, "elapsed": 3.0
    }  # fmt: skip
    assert again.get({"optim.lr": 0.1}, 20, 0) is None
    assert again.get({}, 10, 0) is None


def test_processes_side_by_side_give_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = metapl.tune(config_of(), tmp_path / "1", space=SPACE[:1], folds=2)
    finally:
        torch.set_num_threads(threads)
    two = metapl.tune(config_of(), tmp_path / "2", space=SPACE[:1], folds=2, workers=2)
    assert scores_of(one.folder) == scores_of(two.folder)

    def killed(work: Any, jobs: Any, workers: int, done: Any, **_: Any) -> None:
        next(iter(jobs))
        done(0, Outcome("killed", error="the process was ended by signal 9 (SIGKILL)"))

    monkeypatch.setattr("metapl.tuning.run.run_jobs", killed)
    with pytest.raises(UserError, match=r"signal 9.*fewer workers"):
        metapl.tune(config_of(), tmp_path / "3", space=SPACE[:1], folds=2, workers=2)


# ---- searches, failures, time ----------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", ["random", "optuna", "grid"])
def test_the_other_samplers(sampler: str, tmp_path: Path) -> None:
    if sampler == "optuna":
        pytest.importorskip("optuna")
    arguments: dict[str, Any] = {"sampler": sampler, "trials": 4, "folds": 2}
    space = ["fixmatch.threshold=0.2..0.9", "optim.nesterov=true,false"]
    space = space if sampler != "grid" else ["fixmatch.threshold=0.3,0.6", "optim.nesterov=true,false"]
    result = metapl.tune(config_of(steps=4), tmp_path / "whole", space=space, **arguments)
    assert result.summary["complete"]
    settings = [e["setting"] for e in result.summary["settings"]]
    assert {} in settings
    if sampler == "random":
        assert len(settings) == 3, "two of four were dropped half-way"
        assert [e["steps"] for e in result.summary["fewer_steps"]] == [2] * 4
    else:
        assert 2 <= len(settings) <= 5
    lines = (tmp_path / "whole" / "trials.jsonl").read_text().splitlines(keepends=True)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    (tmp_path / "cut" / "trials.jsonl").write_text("".join(lines[: len(lines) // 2]))
    metapl.tune(config_of(steps=4), tmp_path / "cut", space=space, **arguments)
    assert scores_of(tmp_path / "cut") == scores_of(tmp_path / "whole")


def test_a_setting_that_diverges_is_no_end(tmp_path: Path) -> None:
    result = metapl.tune(config_of(steps=50), tmp_path / "t", space=["optim.lr=1e30"], folds=2)
    default, failed = result.summary["settings"]
    assert default["default"]
    assert "not finite" in failed["error"]
    assert result.config.optim.lr == 0.05
    with pytest.raises(UserError, match="every training failed"):
        metapl.tune(config_of(steps=50, optim__lr=1e30), tmp_path / "u", space=["optim.lr=1e31"], folds=2)


def test_where_only_the_default_diverges_the_best_of_the_others_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = materials.train_job

    def broken(job: Any) -> Any:
        if job.config.optim.lr == 0.05:
            raise Diverged("training diverged by step 1: loss is not finite", "", "loss")
        return real(job)

    monkeypatch.setattr(materials, "train_job", broken)
    result = metapl.tune(config_of(), tmp_path / "t", space=["optim.lr=0.1"], folds=2)
    assert result.config.optim.lr == 0.1
    assert "the default failed" in result.summary["verdict"]
    assert [e.get("difference") for e in result.summary["settings"]] == [None, None]


def test_values_that_do_not_go_together_are_no_end(tmp_path: Path) -> None:
    space = ["fixmatch.selection=curriculum", "fixmatch.threshold=1.5"]
    result = metapl.tune(config_of(), tmp_path / "t", space=space, sampler="grid", folds=2)
    failed = [e for e in result.summary["settings"] if "error" in e]
    assert [set(e["setting"]) for e in failed] == [{"fixmatch.selection", "fixmatch.threshold"}]
    assert "above 1" in failed[0]["error"]


def test_random_search_out_of_time_keeps_the_default(tmp_path: Path) -> None:
    arguments: dict[str, Any] = {"space": SPACE, "folds": 2, "sampler": "random", "trials": 4}
    result = metapl.tune(config_of(), tmp_path / "t", minutes=1e-9, **arguments)
    assert [score.setting for score in result.scores] == [{}]
    assert result.config == replace(config_of(), optim=config_of().optim.resolved(), precision="fp32", norms="data")


def test_the_time_limit_leaves_the_default_and_what_was_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments: dict[str, Any] = {"space": SPACE, "folds": 2}
    none = metapl.tune(config_of(), tmp_path / "t", minutes=1e-9, **arguments)
    assert [e["setting"] for e in none.summary["settings"]] == [{}]
    assert not none.summary["complete"]
    assert "only the default" in none.summary["verdict"]
    assert (tmp_path / "t" / "tune.png").exists()
    more = metapl.tune(config_of(), tmp_path / "t", **arguments)  # the limit is no part of the plan
    assert more.summary["complete"]
    whole = metapl.tune(config_of(), tmp_path / "u", **arguments)
    assert scores_of(tmp_path / "t") == scores_of(tmp_path / "u")
    assert whole.config == more.config


def test_the_network_is_the_one_that_train_would_choose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With validation rows the best of mean, student, fine-tuned student and teacher, without them the mean."""
    all_of_them = ["mean", "student_ema", "student_finetuned", "teacher_ema"]
    for validation, allowed in (("auto", set(all_of_them)), ("none", {"mean"})):
        options = {"mpl__finetune_steps": 3, "mpl__finetune_lr": 0.1, "split__validation": validation}
        config = config_of(method="mpl", **options)
        result = metapl.tune(config, tmp_path / validation, space=["mpl.uda_threshold=0.1"], folds=2)
        assert {score.network for score in result.scores} <= allowed
        line = json.loads((tmp_path / validation / "trials.jsonl").read_text().splitlines()[0])
        assert list(line["right"]) == all_of_them, "all are stored"


def test_tables_and_a_threshold_that_is_no_number(tmp_path: Path) -> None:
    """Rows of features; and the picture of a setting with words for values."""
    draw = np.random.default_rng(0)
    y = np.repeat([0, 1], 30)
    X = draw.normal(size=(60, 4)).astype("float32") + y[:, None] * 2
    y[draw.permutation(60)[:30]] = -1
    source = metapl.from_arrays(X, y)
    config = make_config("arrays", options={"method": "mpl", "steps": 3, "split.test": 0.0, "mpl.finetune_steps": 0})
    space = {"mpl.feedback": ["none", "sampled"], "views.noise": "0.05,0.2"}
    result = metapl.tune(config, tmp_path / "t", space=space, source=source, folds=2)
    assert {"mpl.feedback": "none"} in [s.setting for s in result.scores]
    assert (tmp_path / "t" / "tune.png").exists()


def test_a_target_precision_is_not_fitted_on_the_rows_that_judge_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the rows teach that it is fitted on: the run's own validation rows that a fold does not hold out."""
    source, given = guarded(), []
    config = config_of(fixmatch__threshold="precision=0.8", split__labels=4)
    split = make_split(source, config.split, 0)
    source.forbidden = frozenset(split.test.tolist())
    made = gather(source, split, None, 0)
    rows = np.union1d(np.union1d(split.labeled, split.validation), split.unlabeled)
    trial = materials.train_job
    monkeypatch.setattr(materials, "train_job", lambda job: given.append(job.split) or trial(job))
    for k, fold in enumerate(made.folds):
        answer = judge_fold(made, config, k)
        assert len(answer["right"]["ema"]) == len(fold.validation)
        used = given[-1]
        assert len(used.validation) > 0
        assert set(rows[used.validation]) == set(split.validation) - set(rows[fold.validation])
        assert set(used.labeled) == set(fold.labeled) - set(used.validation)
        assert set(made.labels[used.labeled]) == set(range(10))
        assert not set(used.validation) & set(used.unlabeled)
        assert set(fold.validation) < set(used.unlabeled), "held out: without their labels in the pool"
        judge_fold(made, config_of(split__labels=4), k)
        assert given[-1] is fold, "a plain number: as ever"


def test_target_precisions_and_numbers_are_compared_on_the_same_rows(tmp_path: Path) -> None:
    space = ["fixmatch.threshold=0.5,precision=0.8"]
    result = metapl.tune(config_of(split__labels=4), tmp_path / "t", space=space)
    assert [score.rows for score in result.scores] == [40] * 3
    assert {"fixmatch.threshold": "precision=0.8"} in [score.setting for score in result.scores]


# ---- mistakes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "part"),
    [
        ({}, {"split__labels": 1}, "no class has two labelled rows, too few for 2 folds"),
        ({"folds": 1}, {}, "folds is 1"),
        ({"folds": 0}, {}, "folds is 0"),
        ({"folds": 31}, {}, "30 labelled rows can be held out, too few for 31 folds"),
        ({"space": ["fixmatch.threshold=0.95"]}, {}, "nothing to try"),
        ({"space": ["fixmatch.treshold=0.9"]}, {}, "Did you mean 'fixmatch.threshold'"),
        ({"space": ["batch.labeled=0"]}, {}, "batch.labeled: labeled is 0"),
        ({"sampler": "bayes"}, {}, "unknown sampler"),
        ({"trials": 0}, {}, "trials is 0"),
        ({"workers": 0}, {}, "workers is 0"),
        ({"minutes": -1.0}, {}, "minutes is -1"),
        ({"minutes": float("nan")}, {}, "minutes is nan"),
        ({}, {"minutes": 2.0}, "same number of steps"),
        ({}, {"model": "mpl"}, "model"),
        ({}, {"split__labels": 400}, "fewer than the 400"),
        (
            {},
            {"fixmatch__threshold": "precision=0.8", "split__validation": "none"},
            "validation rows, and there are none",
        ),
        (
            {},
            {"fixmatch__threshold": "precision=0.8", "split__labels": 2},
            "the folds leave none beside those that teach",
        ),
        (
            {"space": ["fixmatch.threshold=0.9,precision=0.8"]},
            {"split__validation": "none"},
            "validation rows, and there are none",
        ),
    ],
)
def test_mistakes_are_told_before_anything_is_written(
    arguments: dict[str, Any], options: dict[str, Any], part: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=part):
        metapl.tune(config_of(**options), tmp_path / "t", **arguments)
    assert not (tmp_path / "t").exists()


def test_a_folder_that_holds_anything_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        metapl.tune(config_of(), tmp_path, space=SPACE)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "notes.txt").unlink()
    (tmp_path / "plan.json").write_text("{")
    with pytest.raises(UserError, match=r"plan cannot be read|another tuning"):
        metapl.tune(config_of(), tmp_path, space=SPACE)

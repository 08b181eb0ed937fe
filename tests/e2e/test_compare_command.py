"""``metapl compare`` from the question to the files, stopped, gone on with, and with what goes wrong on the way."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Call, refused, save
from PIL import Image
from sklearn.datasets import load_digits

import metapl
from metapl.config.settings import load_config
from metapl.methods import METHODS, fits_once

# Fine-tuning is cut short where a method has it.
TUNED = tuple(f"{n}.finetune_steps=2" for n, cls in METHODS.items() if hasattr(cls.Config(), "finetune_steps"))
SHORT = ("--steps", "5", "batch.unlabeled=16", "--quiet")
FEW = (*SHORT, "--labels", "4", "--workers", "2")


def results(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "results.json").read_text()))


def accuracies(folder: Path) -> dict[tuple[str, int], float]:
    return {(r["method"], r["seed"]): r["test_accuracy"] for r in results(folder)["runs"]}


def test_every_method_on_digits(call: Call) -> None:
    """The command below with fewer steps."""
    done = call("compare", "digits", "--labels", "20", "--methods", "all", "--seeds", "2", *SHORT, *TUNED)
    assert done.code == 0, done.err
    assert done.err == ""
    folder = Path("comparisons/digits")
    assert "20 labels per class, 200 in all (40 of them validate)" in done.out
    assert all(name in done.out for name in METHODS)
    assert max(map(len, done.out.splitlines())) <= 120
    found = results(folder)
    assert [row["method"] for row in found["table"]] == list(METHODS)
    assert not [run for run in found["runs"] if run.get("error")]
    _check_runs(folder, found)
    _check_files(folder, found, done.out)


def _check_runs(folder: Path, found: dict[str, Any]) -> None:
    """Every run is a run folder, judged on its test rows; all methods of a seed have the same split."""
    splits: dict[int, set[str]] = {}
    for run in found["runs"]:
        place = folder / "runs" / f"{run['method']}-{run['seed']}"
        config = load_config(place / "config.yaml")
        steps = 1 if fits_once(run["method"]) else 5
        assert (config.method, config.seed, config.steps) == (run["method"], run["seed"], steps)
        judged = json.loads((place / "evaluation.json").read_text())
        assert run["test_accuracy"] == 100 * judged["accuracy"]
        assert judged["rows"] == 359
        assert 50 << 20 < run["peak_memory"] < 4 << 30
        splits.setdefault(run["seed"], set()).add(json.loads((place / "split.json").read_text())["sha"])
    assert all(len(shas) == 1 for shas in splits.values())
    assert len(set.union(*splits.values())) == 2


def _check_files(folder: Path, found: dict[str, Any], shown: str) -> None:
    with open(folder / "results.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(r["test_accuracy"]) for r in rows] == [r["test_accuracy"] for r in found["runs"]]
    for row in found["table"]:
        own = [r["test_accuracy"] for r in found["runs"] if r["method"] == row["method"]]
        assert row["mean"] == pytest.approx(np.mean(own))
        assert row["sd"] == pytest.approx(np.std(own, ddof=1))
    table = (folder / "table.md").read_text(encoding="utf-8")
    assert found["verdict"] in table
    assert " ".join(found["verdict"].split()[:4]) in shown
    with Image.open(folder / "comparison.png") as picture:
        assert picture.size[1] > 400


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_all_methods_with_the_command_of_the_pages(call: Call) -> None:
    """Half a minute on two free cores; how long it takes is no matter of a test."""
    done = call("compare", "digits", "--labels", "20", "--methods", "all", "--seeds", "2", "--steps", "50")
    assert done.code == 0, done.err
    runs = results(Path("comparisons/digits"))["runs"]
    assert len(runs) == 2 * len(METHODS)
    assert not [run for run in runs if run.get("error")]


def test_more_seeds_later_and_the_same_again(call: Call) -> None:
    words = ("compare", "digits", "--methods", "supervised,fixmatch:threshold=0.5", *FEW, "--out", "a b")
    assert call(*words, "--seeds", "1").code == 0
    first = accuracies(Path("a b"))
    kept = Path("a b/runs/supervised-0/model/weights.safetensors").stat().st_mtime_ns
    done = call(*words, "--seeds", "3")
    assert done.code == 0, done.err
    both = accuracies(Path("a b"))
    assert len(both) == 6
    assert both | first == both
    assert Path("a b/runs/supervised-0/model/weights.safetensors").stat().st_mtime_ns == kept, "not trained again"
    again = call("resume", "a b", "--quiet")
    assert (again.code, again.out) == (0, done.out), "a finished comparison is read again"
    assert call(*words, "--seeds", "3", "--json", "-").out.startswith("{")
    plan = json.loads(Path("a b/comparison.json").read_text())
    Path("a b/comparison.json").write_text(json.dumps({**plan, "budget": {}}))
    assert call("resume", "a b", "--quiet").code == 0, "stopped while the costs were measured"
    assert accuracies(Path("a b")) == both
    refused(call(*words, "--seeds", "3", "optim.lr=0.2"), "another comparison", "optim lr is 0.0 there")
    refused(call(*words, "--seeds", "3", "--methods", "mpl"), "another comparison")
    stored = Path("a b/runs/supervised-0/compared.json")
    row = json.loads(stored.read_text())
    assert row["versions"] == {"metapl": metapl.__version__, "torch": torch.__version__, "device": "cpu"}
    stored.write_text(json.dumps({**row, "versions": {**row["versions"], "torch": "1.0"}}))
    shutil.rmtree("a b/runs/supervised-1")
    done = call("resume", "a b")
    assert "made with torch 1.0 (now" in done.err
    assert f"torch 1.0 and {torch.__version__}" in Path("a b/table.md").read_text()
    assert accuracies(Path("a b")) == both
    stored.write_text(json.dumps({**row, "versions": {**row["versions"], "metapl": "0.0.9"}}))
    refused(call("resume", "a b"), "supervised-0", "made with metapl 0.0.9")
    stored.write_text(json.dumps(row))
    Path("a b/comparison.json").write_text(json.dumps({**plan, "facts": {**plan["facts"], "metapl": "0.0.9"}}))
    for words_again in (("resume", "a b"), (*words, "--seeds", "3")):
        refused(call(*words_again), "the comparison was made with metapl 0.0.9", "name another folder")
    Path("a b/comparison.json").write_text(json.dumps(plan))
    config = Path("a b/runs/supervised-0/config.yaml")
    config.write_text(config.read_text().replace("lr: 0.05", "lr: 0.06"))
    refused(call(*words, "--seeds", "3"), "supervised-0", "other settings")


def test_a_run_that_fails_is_a_row_and_ends_nothing(call: Call) -> None:
    done = call("compare", "digits", "--methods", "supervised,supervised:optim.lr=1e30", "--seeds", "2", *FEW)
    assert done.code == 0, done.err
    found = results(Path("comparisons/digits"))
    good, bad = found["table"]
    assert (good["seeds"], bad["seeds"], bad["mean"]) == (2, 0, None)
    assert set(bad["errors"]) == {"0", "1"}
    assert "diverged" in done.out
    assert "failed: supervised:optim.lr=1e30, seed 0" in Path("comparisons/digits/table.md").read_text()
    refused(call("compare", "digits", "--methods", "supervised:optim.lr=1e30", "--seeds", "1", *FEW), "no run finished")


def test_budgets(call: Call) -> None:
    words = ("compare", "digits", "--methods", "supervised,fixmatch,mpl", "--seeds", "1", "--labels", "4", "--quiet")
    words = (*words, "batch.labeled=8", "batch.unlabeled=8", "mpl.finetune_steps=4")
    done = call(*words, "--steps", "40", "--budget", "passes", "--out", "passes")
    assert done.code == 0, done.err
    table = {row["method"]: row for row in results(Path("passes"))["table"]}
    assert (table["supervised"]["steps"], table["fixmatch"]["steps"]) == (40, 13)  # 16 rows a step against 48
    totals = [row["rows_forward"] + row["rows_backward"] for row in table.values()]
    assert max(totals) - min(totals) <= 112, "within a step of each other"
    assert "one seed gives no interval" in Path("passes/table.md").read_text().lower()
    done = call(*words, "--minutes", "0.02", "--out", "minutes")
    assert done.code == 0, done.err
    table = {row["method"]: row for row in results(Path("minutes"))["table"]}
    assert table["supervised"]["steps"] > table["mpl"]["steps"] >= 1
    assert results(Path("minutes"))["plan"]["asked"]["budget"] == {"by": "minutes", "steps": None, "minutes": 0.02}


def tree(root: Path, per_class: int) -> Path:
    """Digits 0 to 2: ``per_class`` labelled images each, the others without label, no test folder."""
    images, target = load_digits(return_X_y=True)
    seen = dict.fromkeys(range(3), 0)
    for k in [k for k in range(400) if target[k] < 3]:
        label = int(target[k])
        seen[label] += 1
        part = f"labelled/{label}" if seen[label] <= per_class else "unlabelled"
        save(images[k].reshape(8, 8) * 15.9, root / part / f"{k}.png")
    return root


def test_without_test_rows_labelled_rows_are_held_out(call: Call, tmp_path: Path) -> None:
    data = tree(tmp_path / "many", 30)
    done = call("compare", data, "--methods", "supervised,fixmatch", "--seeds", "2", *SHORT, "--out", "out")
    assert done.code == 0, done.err
    found = results(Path("out"))
    assert {run["test_rows"] for run in found["runs"]} == {27}
    assert "30 % of the labelled rows of each class (27 rows) judge instead" in Path("out/table.md").read_text()
    splits = [json.loads(Path(f"out/runs/supervised-{s}/split.json").read_text()) for s in range(2)]
    assert set(splits[0]["test"]) != set(splits[1]["test"])
    for split in splits:
        assert not set(split["test"]) & {*split["labeled"], *split["unlabeled"], *split["validation"]}
    few = tree(tmp_path / "few", 10)
    refused(call("compare", few, "--methods", "supervised", *SHORT), "no test rows", "test/CLASS/*")
    shutil.rmtree(few)
    lines = [f"{k}.5,{'ab'[k % 2]}" for k in range(40)]
    Path("rows.csv").write_text("\n".join(["n,label", *lines]))
    Path("judge.csv").write_text("\n".join(["n,label", *lines[:30]]))
    words = ("compare", "rows.csv", "--methods", "supervised", *SHORT, "split.test=0", "--labels", "5")
    refused(call(*words), "no labelled test rows", "split.test", "source.test=FILE")
    assert call(*words, "source.test=judge.csv", "--out", "judged").code == 0


def test_a_mistake_leaves_nothing(call: Call) -> None:
    for words, parts in (
        (("--methods", "fixmach"), ("Did you mean 'fixmatch'?",)),
        (("--methods", "mpl:feedbck=none"), ("Did you mean 'feedback'?",)),
        (("--methods", "mpl", "fixmatch.threshold=1"), ("fixmatch is not compared",)),
        (("--steps", "5", "--minutes", "1"), ("Give one of the two",)),
        (("--labels", "9999"), ("fewer than the 9999",)),
        (("--seeds", "0"), ("seeds is 0",)),
        (("--model", "cnn", "--labels", "4"), ("unknown model 'cnn'",)),
    ):
        done = call("compare", "digits", *words, "--quiet")
        refused(done, *parts)
    refused(call("compare", "digits", "--methods", "fixmatch", "--quiet"), "no unlabelled rows are left")
    assert not list(Path().iterdir())
    refused(call("compare", "digit"), "Did you mean 'digits'?")
    refused(call("resume", "."), "not a run folder")


def test_from_python_with_arrays(tmp_path: Path) -> None:
    images, y = load_digits(return_X_y=True)
    images, hidden = (images.reshape(-1, 8, 8) * 15.9).astype("uint8"), y.copy()
    hidden[60:400] = -1
    source = metapl.from_arrays(images[:400], hidden[:400], X_test=images[400:600], y_test=y[400:600])
    config = metapl.make_config("arrays", options={"steps": 4, "batch.unlabeled": 16, "model": "convnet", "seed": 5})

    def ask(out: Path) -> metapl.Comparison:
        methods = ["supervised", "mpl:finetune_steps=0"]
        return metapl.compare(config, methods, 2, out=out, source=source, reference="mpl:finetune_steps=0")

    found = ask(tmp_path / "c")
    assert isinstance(found, metapl.Comparison)
    assert [run["seed"] for run in found.runs] == [5, 6, 5, 6]
    assert {run["test_rows"] for run in found.runs} == {200}
    assert [row["method"] for row in found.table] == ["supervised", "mpl:finetune_steps=0"]
    assert found.table[1]["to_reference"] is None
    assert found.to_markdown() == (tmp_path / "c" / "table.md").read_text(encoding="utf-8")
    assert found.verdict in str(found).replace("\n", " ")
    shutil.rmtree(tmp_path / "c" / "runs" / "supervised-5")
    again = ask(tmp_path / "c")
    assert [r["test_accuracy"] for r in again.runs] == [r["test_accuracy"] for r in found.runs]
    with pytest.raises(metapl.UserError, match="the data changed"):
        metapl.compare(config, "supervised", 2, out=tmp_path / "c", source=metapl.from_arrays(images[:400], y[:400]))

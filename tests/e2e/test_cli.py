"""The command line on real data, from training to prediction.

Commands run in this process (``main``), where a signal or a pipe matters in one of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import CLASSES, QUICK, Call, refused, sums, table
from sklearn.datasets import load_digits

import metapl

# -- the whole way


def test_digits_train_evaluate_predict(call: Call, digits_run: Path) -> None:
    done = call("evaluate", digits_run)
    assert (done.code, done.err) == (0, "")
    stored = json.loads((digits_run / "evaluation.json").read_text())
    assert stored["rows"] == 359
    assert stored["accuracy"] > 0.5
    assert f"{100 * stored['accuracy']:.2f} % of 359 rows (95 % interval" in done.out
    assert len(done.out.splitlines()) == 3 + 10

    done = call("predict", digits_run, "digits", "--out", "answers.csv")
    assert (done.code, done.out) == (0, "")
    rows = table(Path("answers.csv").read_text())
    assert [r["id"] for r in rows] == [str(k) for k in range(1797)]
    right = np.mean([int(r["label"]) == t for r, t in zip(rows, load_digits().target)])
    assert right > 0.5, "each answer stands beside its own row"
    assert all(0.1 <= float(r["probability"]) <= 1 for r in rows)
    assert os.listdir() == ["answers.csv"], "no problems, so no list of them"


def test_two_nets_are_one_model(call: Call, data: Path) -> None:
    """What co-training ends with is an average of two networks: stored, judged and asked like any other."""
    words = ("--method", "co_training", *QUICK[:3], *QUICK[-2:], "--validation", "none")
    assert call("train", data / "tree", *words, "--out", "run").code == 0
    card = json.loads(Path("run/model/model.json").read_text())
    assert (card["network"], card["combine"]) == ("average", {"average": ["model", "model"]})
    answers = table(call("predict", "run", data / "tree" / "test").out)
    right = np.mean([r["id"].split("/")[0] == r["label"] for r in answers])
    assert call("evaluate", "run").code == 0
    assert right == pytest.approx(json.loads(Path("run/evaluation.json").read_text())["accuracy"])
    assert all(1 / 3 < float(r["probability"]) <= 1 for r in answers)


def test_the_run_folder_and_the_printed_end(call: Call, data: Path) -> None:
    done = call("train", data / "photos", "--labels", "4", *QUICK, "--seed", "3")
    assert done.code == 0
    folder = Path("runs/photos-mpl-3")
    names = {p.name for p in folder.iterdir()}
    assert {"config.yaml", "env.json", "split.json", "metrics.jsonl", "metrics.csv", "results.json", "model"} <= names
    assert "<- chosen" in done.out
    assert "student_finetuned" in done.out
    assert "validation rows" in done.out
    assert f"metapl evaluate {folder}" in done.out
    assert f"run folder: {folder}" in done.err
    assert call("evaluate", folder).code == 0


def test_tree_keeps_its_class_names(call: Call, data: Path, tree_run: Path) -> None:
    before = sums(data)
    done = call("evaluate", tree_run)
    assert done.code == 0
    assert all(name in done.out for name in CLASSES), "names with brackets, spaces and accents survive"
    assert json.loads((tree_run / "evaluation.json").read_text())["rows"] == 40
    done = call("predict", tree_run, data / "new")
    assert {r["label"] for r in table(done.out)} <= set(CLASSES)
    assert len(table(done.out)) == 20
    assert {r["id"].split("/")[0] for r in table(done.out)} == {"box [0]", "box [1]", "box [2]"}
    assert sums(data) == before
    assert json.loads((tree_run / "model" / "model.json").read_text())["class_names"] == sorted(CLASSES)


def test_training_and_predicting_agree_row_by_row(call: Call, data: Path, tree_run: Path) -> None:
    """The accuracy that evaluate reports is that of predict's answers on the same files."""
    done = call("predict", tree_run, data / "tree" / "test")
    answers = table(done.out)
    right = np.mean([r["id"].split("/")[0] == r["label"] for r in answers])
    call("evaluate", tree_run)
    stored = json.loads((tree_run / "evaluation.json").read_text())
    assert right == pytest.approx(stored["accuracy"])
    other = call("evaluate", tree_run, data / "tree" / "test", "--json", "-")
    assert json.loads(other.out)["confusion"] == stored["confusion"]


def test_evaluate_other_data_by_class_name(call: Call, data: Path, tree_run: Path, tmp_path: Path) -> None:
    some = tmp_path / "some"  # one class less, so that a match by position would go wrong
    (some / "the [one]").mkdir(parents=True)
    (some / "a zero").mkdir()
    for name in ("the [one]", "a zero"):
        for path in sorted((data / "plain" / name).iterdir())[:7]:
            (some / name / path.name).write_bytes(path.read_bytes())
    done = call("evaluate", tree_run, some, "--json", "-")
    result = json.loads(done.out)
    assert [sum(row) for row in result["confusion"]] == [0, 7, 7]  # Zwei ü, a zero, the [one]
    answers = table(call("predict", tree_run, some).out)
    assert result["accuracy"] == pytest.approx(np.mean([r["id"].split("/")[0] == r["label"] for r in answers]))
    (some / "a zero").rename(some / "a zerro")
    refused(call("evaluate", tree_run, some), "a zerro", "Did you mean 'a zero'?")
    own = call("evaluate", tree_run, data / "tree")
    assert "the run's test rows" in own.out, "the data of the run itself mean its test rows"


def test_damaged_images_are_skipped_listed_and_left_alone(
    call: Call, data: Path, tree_run: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    for k, path in enumerate(sorted((data / "new").rglob("*.png"))[:4]):
        (folder / "deep").mkdir(parents=True, exist_ok=True)
        (folder / "deep" / f"{k}.png").write_bytes(path.read_bytes())
    whole = (folder / "deep" / "0.png").read_bytes()
    (folder / "half.png").write_bytes(whole[: len(whole) // 2])
    (folder / "no image.jpg").write_text("hello")
    (folder / "film.mov").write_bytes(b"\0" * 9)
    (folder / ".hidden.png").write_text("passed over")
    before = sums(tmp_path / "in")
    done = call("predict", tree_run, folder, "--out", "p.csv")
    assert done.code == 0
    assert [r["id"] for r in table(Path("p.csv").read_text())] == [f"deep/{k}.png" for k in range(4)]
    listed = {r["id"]: r["reason"] for r in table(Path("problems.csv").read_text())}
    assert set(listed) == {"half.png", "no image.jpg", "film.mov"}
    assert all(name in done.err for name in listed)
    assert sums(tmp_path / "in") == before

    refused(call("predict", tree_run, folder, "--out", "p.csv"), "exists", "--overwrite")
    assert call("predict", tree_run, folder, "--out", "q.csv").code == 0
    assert not Path("problems-2.csv").exists(), "the same list is not written twice"
    Path("problems-3.csv").write_text("my own list")
    for _ in range(2):  # the second time is the same list
        assert call("predict", tree_run, folder, "--out", "p.csv", "--overwrite").code == 0
    assert not Path("problems-4.csv").exists()
    Path("mine.csv").write_text("id,label\n1,a\n")
    refused(call("predict", tree_run, folder, "--out", "mine.csv"), "mine.csv: ", "exists already")
    assert Path("mine.csv").read_text() == "id,label\n1,a\n"
    Path("problems.csv").write_text("my own list, too")
    (folder / "one more.txt").touch()
    done = call("predict", tree_run, folder, "--out", "p.csv", "--overwrite")
    assert done.code == 0
    assert "problems-2.csv" in done.err
    assert (Path("problems.csv").read_text(), Path("problems-3.csv").read_text()) == ("my own list, too", "my own list")
    assert "one more.txt" in Path("problems-2.csv").read_text()
    assert not [n for n in os.listdir() if n.startswith(".")], "nothing half-written is left"


def test_predict_one_image_and_images_of_another_size(call: Call, data: Path, tree_run: Path) -> None:
    done = call("predict", tree_run, next((data / "new").rglob("*.png")))
    assert len(table(done.out)) == 1
    done = call("predict", tree_run, data / "photos")  # RGB, 100 x 100, on a grey 8 x 8 model
    assert len(table(done.out)) == 24


def test_predict_streams(call: Call, data: Path, tree_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = call("predict", tree_run, data / "new").out
    seen: list[int] = []
    from metapl.inference import predict

    names = predict._names
    monkeypatch.setattr(predict, "ROWS", 3)
    monkeypatch.setattr(predict, "_names", lambda predictor, p: (seen.append(len(p)), names(predictor, p))[1])
    pieces = table(call("predict", tree_run, data / "new").out)
    assert seen == [3] * 6 + [2]
    for a, b in zip(table(whole), pieces, strict=True):
        assert (a["id"], a["label"]) == (b["id"], b["label"])
        assert float(a["probability"]) == pytest.approx(float(b["probability"]), abs=2e-6)


def test_training_on_a_folder_with_a_damaged_image(call: Call, data: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for path in (data / "tree").rglob("*.png"):
        (tree / path.relative_to(data / "tree")).parent.mkdir(parents=True, exist_ok=True)
        (tree / path.relative_to(data / "tree")).write_bytes(path.read_bytes())
    (tree / "unlabelled" / "broken.png").write_text("no")
    (tree / "test" / "a zero" / "broken too.png").write_text("no")
    before = sums(tree)
    done = call("train", tree, "--out", "run", *QUICK)
    assert done.code == 0
    assert [r["id"] for r in table(Path("run/problems.csv").read_text())] == ["unlabelled/broken.png"]
    done = call("evaluate", "run")
    assert done.code == 0
    assert "broken too.png" in done.err
    assert len(table(Path("run/problems.csv").read_text())) == 2
    assert sums(tree) == before


# -- stop and resume


def test_resume_after_sigterm_ends_with_the_same_bytes(call: Call, tmp_path: Path) -> None:
    words = ["train", "digits", "--labels", "4", "--steps", "24", "loop.log_every=1", "loop.eval_every=12"]
    words += ["batch.unlabeled=16", "mpl.finetune_steps=4", "--quiet"]
    broken = subprocess.Popen(
        [sys.executable, "-m", "metapl", *words, "--out", "broken"], stderr=subprocess.PIPE, text=True
    )
    logged = Path("broken/metrics.jsonl")
    deadline = time.monotonic() + 200
    while not (logged.exists() and logged.read_text().count("\n") >= 5) and time.monotonic() < deadline:
        time.sleep(0.02)
    broken.send_signal(signal.SIGTERM)
    _, err = broken.communicate(timeout=200)
    assert broken.returncode == 143, err
    assert "metapl resume broken" in err
    refused(call("evaluate", "broken"), "metapl resume")
    assert call("resume", "broken", "--quiet").code == 0
    assert call(*words, "--out", "whole").code == 0
    for name in ("model.json", "weights.safetensors"):
        assert Path("broken/model", name).read_bytes() == Path("whole/model", name).read_bytes()
    assert Path("broken/metrics.csv").read_bytes() == Path("whole/metrics.csv").read_bytes()
    refused(call("resume", "whole"), "finished", "metapl evaluate")


def test_ctrl_c_saves_and_gives_130(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from metapl.methods import MPL

    step = MPL.step

    def interrupted(self: Any, batch: Any, t: int) -> Any:
        if t == 3:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, batch, t)

    monkeypatch.setattr(MPL, "step", interrupted)
    done = call("train", "digits", "--labels", "4", *QUICK, "--out", "a run")
    assert done.code == 130
    assert "stopped at step 4" in done.err
    assert "metapl resume 'a run'" in done.err


# -- settings and output


def test_settings_from_file_options_and_pairs(call: Call, data: Path) -> None:
    Path("my.yaml").write_text(
        f"data: {data / 'plain'}\nmethod: fixmatch\nsteps: 3\nbatch: {{labeled: 4, unlabeled: 8}}\n"
    )
    words = ("train", "--config", "my.yaml", "--labels", "5", "fixmatch.threshold=0.5", "--steps", "4", "--out", "run")
    assert call(*words).code == 0
    from metapl.config.settings import load_config

    made = load_config(Path("run/config.yaml"))
    assert (made.method, made.steps, made.split.labels, made.settings.threshold) == ("fixmatch", 4, 5, 0.5)
    assert call("train", "optim.lr=0.01", "--config", "my.yaml", "--labels", "5", "--out", "run2").code == 0
    assert load_config(Path("run2/config.yaml")).optim.lr == 0.01


def test_a_run_is_found_from_another_folder(call: Call, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    out = data.parent / "anchored"
    assert call("train", "plain", "--labels", "5", *QUICK, "--out", out).code == 0
    monkeypatch.chdir("/")
    assert call("evaluate", out).code == 0


def test_own_model_from_a_file_in_the_working_folder(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("my_own_net.py").write_text(
        "from torch import nn\n\n\ndef build(shape, num_classes):\n"
        "    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], num_classes))\n"
    )
    assert call("train", "digits", "--labels", "4", *QUICK, "--model", "my_own_net:build", "--out", "run").code == 0
    refused(call("evaluate", "run"), "my_own_net:build", "--trust-code")
    assert call("evaluate", "run", "--trust-code").code == 0
    refused(call("train", "digits", "--labels", "4", "--model", "my_own_net:bild"), "my_own_net:bild")


OWN_METHOD = """from metapl.methods.supervised import Supervised


class Raises(Supervised):
    def step(self, batch, t):
        raise ZeroDivisionError("boom")


class GivesADict(Supervised):
    def step(self, batch, t):
        return dict(super().step(batch, t).values)


class Mistyped(Supervised):
    needs = frozenset({"waek"})
"""
OWN_MISTAKES = {
    "Raises": (r"my_method.py, line 6: ZeroDivisionError: boom. The traceback is in",),
    "GivesADict": ("step gave back a dict", "Return metapl.types.StepReport"),
    "Mistyped": ("needs the views 'waek'", "Views are 'weak' and 'strong'"),
}


@pytest.mark.parametrize(("name", "parts"), OWN_MISTAKES.items())
def test_mistakes_in_a_method_of_ones_own_are_told_as_such(
    call: Call, monkeypatch: pytest.MonkeyPatch, name: str, parts: tuple[str, ...]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setitem(sys.modules, "my_method", None)  # type: ignore[arg-type]
    del sys.modules["my_method"]
    Path("my_method.py").write_text(OWN_METHOD)
    done = call("train", "digits", "--labels", "4", *QUICK[:2], "--method", f"my_method:{name}", "--out", "run")
    refused(done, *parts)
    assert "This is a bug" not in done.err


def test_folders_are_known_in_any_case(call: Call, data: Path, tmp_path: Path) -> None:
    """``Labelled`` beside ``Unlabelled`` are no two classes."""
    for name in ("labelled", "unlabelled", "test"):
        shutil.copytree(data / "tree" / name, tmp_path / "pictures" / name.capitalize())
    places = ((data / "tree", "a"), (tmp_path / "pictures", "b"))
    lower, upper = (call("train", place, *QUICK, "--out", out) for place, out in places)
    assert (lower.code, upper.code) == (0, 0)
    rows = [json.loads(Path(out, "results.json").read_text())["rows"] for out in "ab"]
    assert rows[0] == rows[1]


def test_a_setting_named_without_its_group_is_recognised(call: Call) -> None:
    refused(call("train", "digits", "label=Status"), "unknown setting 'label'", "Did you mean 'source.table.label'?")


@pytest.mark.parametrize("command", ["train", "evaluate", "methods", "one method", "models"])
def test_json_is_all_there_is_on_stdout(call: Call, digits_run: Path, command: str) -> None:
    words = {
        "train": ("train", "digits", "--labels", "4", *QUICK),
        "evaluate": ("evaluate", digits_run),
        "methods": ("methods",),
        "one method": ("methods", "mpl"),
        "models": ("models",),
    }[command]
    printed = json.loads(call(*words, "--json", "-").out)
    assert isinstance(printed, dict)
    if command != "train":
        done = call(*words, "--json", "result.json")
        assert json.loads(Path("result.json").read_text()) == {"metapl": metapl.__version__, **printed}
        assert call(*words, "--json", "result.json").code == 0, "its own file may be replaced"
        assert done.out


@pytest.mark.parametrize("content", ["text,label\na,b\n", '{"rows": 3}\n', '{"metap'])
def test_json_replaces_no_file_that_metapl_did_not_write(call: Call, content: str) -> None:
    Path("mine.csv").write_text(content)
    for words in (("check", "mine.csv"), ("methods",), ("models",)):
        refused(call(*words, "--json", "mine.csv"), "exists already", "mine.csv")
    assert Path("mine.csv").read_text() == content


SIGNALLED = {
    "the command line is imported": """
import metapl.__main__
class Finder:
    def find_spec(name, *rest):
        if name == "metapl.cli.running":
            send()
sys.meta_path.insert(0, Finder)
""",
    "a class is made": """
import metapl.__main__
class Finder:
    def find_spec(name, *rest):
        if name == "metapl.cli.running":
            exec("send()", globals())
sys.meta_path.insert(0, Finder)
""",
    "the command line is parsed": """
from metapl.cli.app import TyperGroup
TyperGroup.make_context = lambda *given, **more: send()
""",
    "the command has begun": """
from metapl.utils import printing
printing.check_json = lambda *given: send()
""",
}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("when", SIGNALLED)
def test_a_signal_before_the_training_ends_with_a_word(when: str, number: int) -> None:
    code = f"""
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
send = lambda: os.kill(os.getpid(), {int(number)})
sys.argv = ["metapl", "train", "digits"]
{SIGNALLED[when]}
from metapl.__main__ import main
sys.exit(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode in {
        128 + number,
        *([-number] if number == signal.SIGINT else []),
    }  # a shell says 130 to both
    assert done.stderr == f"stopped by {signal.Signals(number).name}\n"


def test_tables(call: Call) -> None:
    from metapl.methods import METHODS
    from metapl.models import MODELS

    methods, models = call("methods").out, call("models").out
    assert all(name in methods for name in METHODS)
    assert all(entry.about in models for entry in MODELS.values())
    shown = call("methods", "mpl").out
    assert "mpl.feedback_weight" in shown
    assert "exact, sampled, none, official" in shown


def test_demo_hands_over_what_was_asked_for(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from metapl.api import demo

    def run(out: Path | None, seeds: int, progress: Any) -> dict[str, Any]:
        rows = [
            {"method": m, "feedback": None, "seed": s, "test_accuracy": 90.0 + s, "seconds": 1.0}
            for m in ("supervised", "mpl")
            for s in range(seeds)
        ]
        return {"rows": rows, "seconds_total": 2.0, "folder": str(out), "table": demo.table(rows)}

    monkeypatch.setattr(demo, "run_demo", run)
    done = call("demo", "--seeds", "2", "--out", "d")
    assert done.code == 0
    assert "supervised  90.5 %" in done.out
    assert "results.json" in done.out
    assert len(json.loads(call("demo", "--seeds", "2", "--json", "-").out)["rows"]) == 4


@pytest.fixture
def pipe(call: Call, tree_run: Path, data: Path) -> Iterator[subprocess.Popen[str]]:
    words = [sys.executable, "-m", "metapl", "predict", str(tree_run), "digits"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        yield process
        process.kill()


def test_a_reader_that_goes_away_is_no_bug(pipe: subprocess.Popen[str]) -> None:
    assert pipe.stdout is not None
    pipe.stdout.close()  # like `| head`
    assert pipe.stderr is not None
    assert "bug" not in pipe.stderr.read()
    assert pipe.wait(200) != 0


def test_version_and_help(call: Call) -> None:
    from metapl import __version__

    assert call("--version").out.split() == ["metapl", __version__]
    for words in ((), ("--help",), *((c, "--help") for c in ("train", "resume", "evaluate", "predict", "demo"))):
        done = call(*words)
        assert done.code == 0
        assert "metapl train" in done.out or "Example" in done.out


def test_the_guard_says_what_it_compared(call: Call) -> None:
    done = call("train", "digits", "--labels", "4", *QUICK, "--guard", "return", "--out", "run")
    assert done.code == 0
    found = json.loads(Path("run/results.json").read_text())["guard"]
    assert found["returned"] in ("mpl", "supervised baseline")
    assert found["text"] in done.out
    assert "guard: supervised baseline and 2-fold cross-fitting" in done.err
    assert {"model", "model-not-chosen"} <= {p.name for p in Path("run").iterdir()}
    assert call("evaluate", "run").code == 0
    off = call("train", "digits", "--labels", "4", *QUICK, "--guard", "off", "--out", "off")
    assert "guard" not in off.out + off.err
    refused(call("train", "digits", "--guard", "sometimes"), "sometimes", "'off'", "'return'")

"""``metapl.fit``: from data in memory to a classifier, with nothing on disk unless a folder is named."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import threading
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import metapl
from metapl.config.settings import load_config
from metapl.data.embedded import for_encoder
from metapl.data.sources import SourceOptions
from metapl.errors import UserError
from metapl.inference.run_evaluation import judge_own
from metapl.runs.recorder import Recorder, RunFolder
from metapl.utils.progress import Silent

SHORT: dict[str, Any] = {
    "steps": 12,
    "validation": 0.2,
    "options": {"loop.log_every": 4, "batch.labeled": 8, "batch.unlabeled": 12},
}


def table(rows: int = 60, labeled: int = 20) -> tuple[np.ndarray, np.ndarray]:
    """Three columns; the first tells the classes a and b apart; the rows after ``labeled`` have no label."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 3))
    y = np.array(["b" if value > 0 else "a" for value in X[:, 0]], dtype=object)
    y[labeled:] = None
    return X, y


class Net(nn.Module):
    """One layer that counts how often the class is built."""

    built = 0

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        type(self).built += 1
        self.layer = nn.Linear(shape[0], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layer(x)
        return logits


def weights(result: metapl.Result) -> dict[str, Tensor]:
    return result.predictor.model.state_dict()


def same(a: metapl.Result, b: metapl.Result) -> bool:
    return all(torch.equal(one, other) for one, other in zip(weights(a).values(), weights(b).values(), strict=True))


def files(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def test_in_memory_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    monkeypatch.setattr("metapl.utils.files.write_text", lambda path, text: opened.append(str(path)))
    X, y = table()
    result = metapl.fit(X, y, **SHORT)
    assert result.folder is None
    assert list(tmp_path.iterdir()) == []
    assert opened == []


@pytest.mark.parametrize("method", ["mpl", "supervised"])
def test_in_memory_equals_the_run_folder(method: str, tmp_path: Path) -> None:
    """The same network, the same figures, and ``save`` writes what the folder holds, checkpoints left out."""
    X, y = table()
    held, stored = (metapl.fit(X, y, method=method, seed=3, out=out, **SHORT) for out in (None, tmp_path / "run"))
    assert stored.folder == tmp_path / "run"
    assert same(held, stored)
    assert held.history == stored.history
    timed = {"seconds", "peak_memory"}
    assert {k: v for k, v in held.summary.items() if k not in timed} == {
        k: v for k, v in stored.summary.items() if k not in timed
    }
    for name, result in (("a", held), ("b", stored)):
        assert result.save(tmp_path / name) == tmp_path / name
        kept = {f for f in files(tmp_path / "run") if not f.startswith("checkpoints/")}
        tables = {f for f in kept if f.startswith("pseudo_labels.")}  # are made beside the training of a run folder
        assert files(tmp_path / name) == (kept if result is stored else kept - tables)
        with pytest.raises(UserError, match="not empty"):
            result.save(tmp_path / name)
    for name in files(tmp_path / "a") - {"results.json", "env.json"}:  # the latter holds the run's id
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    loaded = metapl.load_model(tmp_path / "a")
    np.testing.assert_array_equal(loaded.probabilities(torch.tensor(X, dtype=torch.float32)), held.predict_proba(X))


def test_history_is_what_was_logged() -> None:
    X, y = table()
    result = metapl.fit(X, y, **SHORT, guard="off")
    steps = [row["step"] for row in result.history]
    assert steps == sorted(set(steps))
    assert {4, 8, 12} <= set(steps)
    assert all(np.isfinite(row["loss"]) for row in result.history)
    assert "validation_accuracy" in result.history[-1]
    result.history.clear()
    assert [row["step"] for row in result.history] == steps, "a copy was given"


def test_answers_for_new_rows() -> None:
    X, y = table()
    new = np.array([[3.0, 0, 0], [-3.0, 0, 0]])
    result = metapl.fit(X, y, method="supervised", X_test=new, y_test=["b", "a"], steps=200)
    assert result.class_names == ("a", "b")
    assert result.predict(new).tolist() == ["b", "a"]
    assert result.predict(torch.tensor(new)).tolist() == ["b", "a"]
    p = result.predict_proba(new)
    assert p.shape == (2, 2)
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-6)
    judged = result.evaluate()
    assert (judged["rows"], judged["accuracy"]) == (2, 1.0)
    with pytest.raises(UserError, match="shape"):
        result.predict(new[:, :2])


@pytest.mark.parametrize("guard", ["return", "off"])
def test_what_is_shown_of_a_result_is_short(guard: str, tmp_path: Path) -> None:
    X, y = table()
    result = metapl.fit(X, y, guard=guard, out=tmp_path / "run", **SHORT)
    lines = repr(result).splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("Result(mpl, 12 steps on arrays, ")
    assert str(tmp_path / "run") in lines[0]
    assert result.summary["chosen"] in lines[0]
    judged = result.summary["validation"][result.summary["candidate"]]["accuracy"]
    assert f"accuracy {judged:.3f} on {len(result.split.validation)} validation rows" in lines[1]
    assert lines[2].strip().startswith("guard: off" if guard == "off" else "guard: ")
    assert (guard == "off") == ("off" in lines[2])
    assert repr(result.split) == (
        f"Split({len(result.split.labeled)} labeled, {len(result.split.unlabeled)} unlabeled, "
        f"{len(result.split.validation)} validation, 0 test, seed 0)"
    )
    assert repr(result.source) == "MemorySource('arrays', 60 table rows of 3, 2 classes)"


def test_what_is_shown_without_validation_rows_says_so() -> None:
    X, y = table()
    result = metapl.fit(X, y, guard="off", steps=2, options={**SHORT["options"], "split.validation": "none"})
    assert repr(result).splitlines()[1].strip() == "no validation rows"


def test_a_loaded_model_answers_as_the_result_does(tmp_path: Path) -> None:
    X, y = table()
    frame = {"a": X[:, 0], "b": np.where(X[:, 1] > 0, "up", "down").astype(object)}
    result = metapl.fit(frame, y, **SHORT)
    loaded = metapl.load_model(result.save(tmp_path / "run"))
    assert np.array_equal(loaded.predict_proba(frame), result.predict_proba(frame))
    assert loaded.predict(frame).tolist() == result.predict(frame).tolist()
    assert set(loaded.predict(frame).tolist()) <= {"a", "b"}
    assert loaded.predict({name: values[:3] for name, values in frame.items()}).shape == (3,)
    with pytest.raises(UserError, match="no column 'a'"):
        loaded.predict({"b": frame["b"]})


@pytest.mark.parametrize("loaded", [False, True])
def test_the_warning_about_new_rows_names_the_line_that_asked(loaded: bool, tmp_path: Path) -> None:
    X, y = table()
    result = metapl.fit({"a": X[:, 0], "b": np.where(X[:, 1] > 0, "up", "down").astype(object)}, y, **SHORT)
    asked = metapl.load_model(result.save(tmp_path / "run")) if loaded else result
    with pytest.warns(UserWarning, match="hold categories that training did not hold") as told:
        asked.predict({"a": X[:3, 0], "b": ["left"] * 3})
    assert told[0].filename == __file__


def test_pseudo_labels_are_those_of_the_rows_without_a_label() -> None:
    X, y = table(60, 20)
    more = np.array([[2.0, 0, 0], [-2.0, 0, 0]])
    result = metapl.fit(X, y, X_unlabeled=more, method="mpl", guard="off", **SHORT)
    found = result.pseudo_labels()
    assert found.ids == (*(str(k) for k in range(20, 60)), "unlabeled/0", "unlabeled/1")
    assert found.index.tolist() == list(range(20, 62))
    np.testing.assert_array_equal(found.labels, result.predict(np.concatenate([X[20:], more])))
    np.testing.assert_array_equal(found.probabilities, result.predict_proba(np.concatenate([X[20:], more])))


def test_without_test_rows_evaluate_says_so() -> None:
    X, y = table()
    with pytest.raises(UserError, match="no test rows"):
        metapl.fit(X, y, method="supervised", steps=1).evaluate()


def test_global_random_numbers_are_left_alone(tmp_path: Path) -> None:
    X, y = table()
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 (the global state is what is watched)
    random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    for out in (None, tmp_path / "run"):
        metapl.fit(X, y, out=out, **SHORT)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]  # noqa: NPY002


def test_the_same_seed_gives_the_same_network_whatever_was_drawn_before() -> None:
    X, y = table()
    torch.manual_seed(1)
    one = metapl.fit(X, y, guard="off", seed=5, **SHORT)
    torch.rand(7)
    again, other = (metapl.fit(X, y, guard="off", seed=seed, **SHORT) for seed in (5, 6))
    assert same(one, again)
    assert not same(one, other)


def test_a_source_or_a_spec(tmp_path: Path) -> None:
    X, y = table()
    source = metapl.from_arrays(X, y)
    one, other = metapl.fit(source, guard="off", **SHORT), metapl.fit(X, y, guard="off", **SHORT)
    assert same(one, other)
    digits = metapl.fit("digits", labels=3, method="supervised", steps=2)
    assert digits.summary["rows"]["labeled"] == 10 * 3 - 10
    assert digits.evaluate()["rows"] > 300
    for given in (source, "digits"):
        with pytest.raises(UserError, match="bring their own labels"):
            metapl.fit(given, y)
    with pytest.raises(UserError, match="y is missing"):
        metapl.fit(X)


def test_map_style_datasets() -> None:
    """The same rows as arrays and as torch data sets give the same network."""
    X, y = table()
    codes = torch.tensor([0 if label == "a" else 1 for label in y[:20]])
    rows, more = torch.tensor(X[:20], dtype=torch.float32), torch.tensor(X[20:], dtype=torch.float32)
    as_sets = metapl.fit(TensorDataset(rows, codes), X_unlabeled=TensorDataset(more), guard="off", **SHORT)
    assert same(as_sets, metapl.fit(rows, codes, X_unlabeled=more, guard="off", **SHORT))
    with pytest.raises(UserError, match="brings its own labels"):
        metapl.fit(TensorDataset(rows, codes), codes)


class Encoder(nn.Module):
    """Four means of an image; notes the sizes that it was shown."""

    shown: ClassVar[set[tuple[int, ...]]] = set()

    def __init__(self, shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        assert (shape[0], num_classes) == (1, 0)
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        self.shown.add(tuple(x.shape[2:]))
        return self.factor * nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def test_settings_of_images_hold_for_datasets() -> None:
    """Size and way as asked for; and for an encoder its own size, not first the 64 pixels of a small network."""
    large = TensorDataset(torch.randint(0, 256, (12, 1, 90, 120), dtype=torch.uint8), torch.tensor([0, 1] * 6))
    small = TensorDataset(torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8), torch.tensor([0, 1] * 6))
    given: dict[str, Any] = {"method": "supervised", "steps": 1, "guard": "off"}
    plain = metapl.fit(large, **given).predictor.takes
    assert (plain.shape, plain.resize) == ((1, 64, 64), "cover")
    asked = metapl.fit(
        large, **given, options={"source.image.size": "20x24", "source.image.resize": "pad"}
    ).predictor.takes
    assert (asked.shape, asked.resize) == ((1, 20, 24), "pad")
    options: dict[str, Any] = {"source.encoder.name": f"{__name__}:Encoder", "source.encoder.size": 72}
    for data, shape in ((large, (1, 72, 72)), (small, (1, 8, 8))):
        Encoder.shown.clear()
        assert metapl.fit(data, **given, options=options).predictor.takes.shape == shape
        assert Encoder.shown == {(72, 72)}
    fixed = metapl.fit(large, **given, options={**options, "source.image.size": 40}).predictor.takes
    assert fixed.shape == (1, 40, 40)


def test_images_are_read_as_the_encoder_wants_them() -> None:
    pytest.importorskip("timm")
    assert for_encoder(SourceOptions()) == SourceOptions()
    assert for_encoder(SourceOptions(encoder="timm:resnet18")).image.size == "auto:224x224"
    assert for_encoder(SourceOptions(encoder="timm:resnet18", encoder_size=96)).image.size == "auto:96x96"
    assert for_encoder(SourceOptions(encoder="timm:resnet18", image_size=48)).image.size == 48


@pytest.mark.parametrize("name", ["plain", "arrays"])
def test_a_run_on_a_folder_can_be_judged_from_anywhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for part, level in itertools.product(("labelled", "unlabelled", "test"), (0, 200)):
        folder = tmp_path / name / part / f"level{level}"
        folder.mkdir(parents=True)
        for k in range(4):
            Image.fromarray(np.full((8, 8), level + k, dtype=np.uint8)).save(folder / f"{k}.png")
    given: dict[str, Any] = {"method": "supervised", "steps": 2, "guard": "off"}
    metapl.fit(name, out="of-folder", **given)
    X, y = table()
    metapl.fit(X, y, out="of-arrays", X_test=X, y_test=["a", "b"] * 30, **given)
    assert load_config(tmp_path / "of-folder" / "config.yaml").data == str(tmp_path / name)
    assert load_config(tmp_path / "of-arrays" / "config.yaml").data == "arrays"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert judge_own(tmp_path / "of-folder", "cpu")[0]["rows"] == 8
    monkeypatch.chdir(tmp_path)  # beside a folder that may be named arrays
    with pytest.raises(UserError, match="trained on arrays from Python"):
        judge_own(tmp_path / "of-arrays", "cpu")


def test_settings_reach_the_run(tmp_path: Path) -> None:
    X, y = table()
    options = {"optim.lr": 0.5, "mpl.feedback": "none", "loop.log_every": 1}
    result = metapl.fit(X, y, steps=3, validation=2, labels=6, guard="off", options=options, out=tmp_path / "r")
    config = metapl.config.settings.load_config(tmp_path / "r" / "config.yaml")
    assert (config.optim.lr, config.settings.feedback, config.steps) == (0.5, "none", 3)
    assert result.summary["rows"]["validation"] == 4
    assert result.summary["rows"]["labeled"] == 8
    with pytest.raises(UserError, match=r"unknown setting 'optim\.lrr'"):
        metapl.fit(X, y, options={"optim.lrr": 1})


def test_minutes_size_a_run_in_memory() -> None:
    X, y = table()
    result = metapl.fit(X, y, method="supervised", minutes=0.02)
    assert result.summary["steps"] > 1
    assert result.history[-1]["step"] == result.summary["steps"]


def test_progress_is_told() -> None:
    class Told(Silent):
        def __init__(self) -> None:
            self.notes: list[str] = []
            self.steps: list[int] = []

        def note(self, text: str) -> None:
            self.notes.append(text)

        def update(self, step: int, total: int, values: Any) -> None:
            self.steps.append(step)

    X, y = table()
    told = Told()
    metapl.fit(X, y, progress=told, **SHORT)
    assert told.steps[-1] == 12 + 100
    assert any("labelled" in note for note in told.notes)
    assert not any("run folder" in note for note in told.notes)


def test_a_network_given_as_an_object(tmp_path: Path) -> None:
    """Every network of the run begins as a copy of it, the guard's included; it is not touched itself."""
    X, y = table()
    net = Net((3,), 2)
    before, built = {k: v.clone() for k, v in net.state_dict().items()}, Net.built
    result = metapl.fit(X, y, model=net, guard="warn", **SHORT)
    assert Net.built == built, "copied, not built"
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert isinstance(result.predictor.model, Net)
    assert result.summary["model"] == "given:Net"
    result.save(tmp_path / "run")
    with pytest.raises(UserError, match="given as a Python object"):
        metapl.load_model(tmp_path / "run")
    loaded = metapl.load_model(tmp_path / "run", network=Net((3,), 2))
    np.testing.assert_array_equal(loaded.probabilities(torch.tensor(X, dtype=torch.float32)), result.predict_proba(X))
    fixed = metapl.fit(X, y, model=net, method="supervised", steps=1, options={"optim.lr": 1e-9})
    assert all(torch.allclose(before[k], v, atol=1e-6) for k, v in weights(fixed).items()), "its weights are the start"


def test_a_factory(tmp_path: Path) -> None:
    """An importable one is stored by name; another one has to be given again."""
    X, y = table()
    built = Net.built
    result = metapl.fit(X, y, model=Net, guard="off", **SHORT)
    assert Net.built >= built + 2, "teacher and student"
    assert result.summary["model"] == f"{__name__}:Net"
    result.save(tmp_path / "named")
    assert isinstance(metapl.load_model(tmp_path / "named", trust_code=True).model, Net)
    local = metapl.fit(X, y, model=lambda shape, num_classes: Net(shape, num_classes), guard="off", **SHORT)
    assert local.summary["model"].startswith("given:")
    with pytest.raises(UserError, match="must give logits"):
        metapl.fit(X, y, model=lambda shape, num_classes: Net(shape, 5))
    with pytest.raises(UserError, match="model is a int"):
        metapl.fit(X, y, model=5)  # type: ignore[arg-type]


def test_a_given_network_resumes_when_given_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    X, y = table()
    source, net = metapl.from_arrays(X, y), Net((3,), 2)
    whole = metapl.fit(source, model=net, guard="off", **SHORT)

    class Halt(Exception):
        pass

    def observe(step: int, predictor: metapl.Predictor) -> dict[str, float]:
        if step >= 100:
            raise Halt
        return {}

    with pytest.raises(Halt):
        metapl.fit(source, model=net, guard="off", out=tmp_path / "run", observe=observe, **SHORT)
    with pytest.raises(UserError, match="given as a Python object"):
        metapl.resume(tmp_path / "run", source=source)
    factory = metapl.models.as_factory(net)
    assert same(whole, metapl.resume(tmp_path / "run", source=source, network=factory))


def test_ctrl_c_in_memory_is_a_keyboard_interrupt() -> None:
    X, y = table()

    def observe(step: int, predictor: metapl.Predictor) -> dict[str, float]:
        os.kill(os.getpid(), 2)
        return {}

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell runs it behind its back
    try:
        with pytest.raises(KeyboardInterrupt):
            metapl.fit(X, y, observe=observe, **SHORT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_in_a_thread() -> None:
    X, y = table()
    made: list[metapl.Result] = []
    thread = threading.Thread(target=lambda: made.append(metapl.fit(X, y, method="supervised", steps=2)))
    thread.start()
    thread.join()
    assert made[0].predict(X).shape == (60,)


def test_a_diverging_run_is_told() -> None:
    X, y = table()
    with pytest.raises(UserError, match="diverged"):
        metapl.fit(X, y, steps=60, guard="off", options={"optim.lr": 1e12})


def test_both_stores_read_back_what_was_logged(tmp_path: Path) -> None:
    for store in (Recorder(), RunFolder(tmp_path)):
        for step in (1, 2, 3):
            store.log(step, {"loss": 1.0 / step})
        store.truncate(2)
        store.log(5, {"loss": 0.0})
        assert store.rows() == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}, {"step": 5, "loss": 0.0}]
    lines = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 5]

"""What is tried: texts and values read into axes, and what is refused before anything is trained."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import pytest

from metapl.config.settings import make_config
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.methods.supervised import Supervised
from metapl.tuning.space import Axis, Times, get, make_space, resolve, tunable, with_setting


def run_of(method: str = "mpl", **options: Any) -> Any:
    return make_config("digits", options={"method": method, **{k.replace("__", "."): v for k, v in options.items()}})


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_a_default_space_that_it_takes(method: str) -> None:
    config = run_of(method)
    axes = make_space(config)
    assert "optim.lr" in [axis.key for axis in axes]
    for axis in axes:
        settings = [resolve(config, {axis.key: value}) for value in axis.points()]
        assert any(settings), axis
        for setting in settings:
            with_setting(config, setting)


def test_the_default_spaces_hold_what_matters() -> None:
    assert [axis.key for axis in make_space(run_of("fixmatch"))] == ["fixmatch.threshold", "optim.lr"]
    assert {axis.key for axis in make_space(run_of("uda"))} == {"uda.threshold", "uda.temperature", "optim.lr"}
    assert {axis.key for axis in make_space(run_of("mpl"))} >= {
        "mpl.uda_threshold", "mpl.uda_temperature", "mpl.feedback_weight", "mpl.teacher_lr", "optim.lr",
    }  # fmt: skip


def test_settings_that_say_nothing_are_not_tried() -> None:
    def keys(*options: str, method: str) -> set[str]:
        return {axis.key for axis in make_space(make_config("digits", options={"method": method}, overrides=options))}

    assert keys("fixmatch.selection=soft", method="fixmatch") == {"optim.lr"}
    assert "fixmatch.threshold" in keys("fixmatch.selection=curriculum", method="fixmatch")
    assert not {"mpl.uda_threshold", "mpl.uda_temperature"} & keys("mpl.uda_weight=0", method="mpl")
    assert "mpl.feedback_weight" not in keys("mpl.feedback=none", method="mpl")
    assert make_space(run_of("fixmatch", fixmatch__selection="soft"), ["fixmatch.threshold=0.5"]), "unless asked for"


@pytest.mark.parametrize(
    ("text", "axis"),
    [
        ("mpl.uda_threshold=0.5, 0.7,0.9", Axis("mpl.uda_threshold", (0.5, 0.7, 0.9))),
        ("mpl.uda_threshold=0.5..0.9", Axis("mpl.uda_threshold", (), 0.5, 0.9)),
        ("optim.lr=1e-3..1e-1:log", Axis("optim.lr", (), 0.001, 0.1, log=True)),
        ("optim.lr=x0.5,1e-3,1", Axis("optim.lr", (Times(0.5), 0.001, 1.0))),
        ("views.ops=1..3", Axis("views.ops", (), 1, 3, whole=True)),
        ("batch.unlabeled=32,64", Axis("batch.unlabeled", (32, 64))),
        ("mpl.feedback=none,exact", Axis("mpl.feedback", ("none", "exact"))),
        ("optim.nesterov=true,false", Axis("optim.nesterov", (True, False))),
        ("views.flip=auto,true", Axis("views.flip", ("auto", True))),
    ],
)
def test_texts(text: str, axis: Axis) -> None:
    assert make_space(run_of(), [text]) == [axis]
    assert make_space(run_of(), text) == [axis]
    assert make_space(run_of(), [f"{axis.key}={axis.text()}"]) == [axis], "what is stored reads back"
    key, _, values = text.partition("=")
    assert make_space(run_of(), {key: values}) == [axis]


def test_values_from_python_and_a_key_alone() -> None:
    assert make_space(run_of(), {"optim.lr": [0.1, 1]}) == [Axis("optim.lr", (0.1, 1.0))]
    assert make_space(run_of(), {"optim.lr": 0.1}) == [Axis("optim.lr", (0.1,))]
    (axis,) = make_space(run_of(), ["mpl.uda_threshold"])
    assert axis in make_space(run_of())


def test_a_setting_that_takes_text_gets_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Config:
        word: str = "a"

    module = ModuleType("toy_words")
    module.Words = type("Words", (Supervised,), {"Config": Config})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "toy_words", module)
    (axis,) = make_space(run_of("toy_words:Words"), ["own.word=off,1e-3,007,'b '"])
    assert axis.values == ("off", "1e-3", "007", "b ")


def test_thresholds_come_first_and_the_rest_as_given() -> None:
    keys = [a.key for a in make_space(run_of(), ["optim.lr=1,2", "views.ops=1,2", "mpl.uda_threshold=0.5"])]
    assert keys == ["mpl.uda_threshold", "optim.lr", "views.ops"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("optim.lrr=1", ("unknown setting 'optim.lrr'", "Did you mean 'optim.lr'?")),
        ("uda_threshold=0.5", ("unknown setting", "Did you mean 'mpl.uda_threshold'?")),
        ("fixmatch.threshold=0.5", ("unknown setting 'fixmatch.threshold'",)),
        ("seed=1,2", ("'seed' is not a setting to search", "batch, views, optim and mpl")),
        ("split.labels=1,2", ("not a setting to search",)),
        ("optim.lr=fast,slow", ("'fast' is not a valid value of optim.lr", "a number")),
        ("optim.lr=", ("empty place",)),
        ("optim.lr=0.1,,0.2", ("empty place",)),
        ("optim.lr=-1,0.1", ("lr is -1.0", "optim.lr")),
        ("optim.lr=-1", ("lr is -1.0", "at least 0")),
        ("mpl.uda_temperature=0..1", ("above 0", "temperature")),
        ("mpl.feedback=exact,both", ("'both' is not a valid value",)),
        ("mpl.feedback=0..1", ("'mpl.feedback' is not a number",)),
        ("optim.lr=a..b", ("'a' in the range of 'optim.lr' is not a number",)),
        ("optim.lr=0.1..inf", ("'inf'", "not a number")),
        ("optim.lr=0.2..0.1", ("not a range", "lower one")),
        ("optim.lr=0..0.1:log", ("not a range", "above 0")),
        ("optim.lr=0.01..0.1:lg", ("':lg'", "low..high:log")),
        ("views.ops=1.5..3", ("not whole",)),
        ("views.ops=5..50", ("at most 10", "views.ops")),
        ("batch.labeled=0,8", ("batch.labeled", "at least 1")),
        ("optim.lr=xx", ("not a valid value",)),
        ("mpl.feedback=x2", ("not a valid value",)),
        ("mpl.label_smoothing", ("no built-in values",)),
        ("optim.nesterov=[", ("cannot be read",)),
        ("optim.name=[", ("'[' is not a valid value",)),
    ],
)
def test_mistakes(text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        make_space(run_of(), [text])
    for part in parts:
        assert part in str(error.value)


def test_twice_and_nothing() -> None:
    with pytest.raises(UserError, match="searched twice"):
        make_space(run_of(), ["optim.lr=1", "optim.lr=2"])
    with pytest.raises(UserError, match="empty"):
        make_space(run_of(), [])


def test_multiples_are_of_the_runs_own_value() -> None:
    config = run_of(optim__lr=0.02, mpl__teacher_lr=0.0)
    assert resolve(config, {"optim.lr": Times(3)}) == {"optim.lr": 0.06}
    assert resolve(config, {"mpl.teacher_lr": Times(0.5)}) == {"mpl.teacher_lr": 0.01}, "0 stands for optim.lr"
    both = resolve(config, {"mpl.teacher_lr": Times(0.5), "optim.lr": 0.1})
    assert both == {"mpl.teacher_lr": 0.05, "optim.lr": 0.1}
    assert list(both) == ["mpl.teacher_lr", "optim.lr"], "in the order given"
    own = run_of(mpl__teacher_lr=0.3)
    assert resolve(own, {"mpl.teacher_lr": Times(0.5), "optim.lr": 0.1})["mpl.teacher_lr"] == 0.15
    assert resolve(config, {"optim.lr": Times(1), "mpl.feedback": "exact"}) == {}, "the run's own values"


def test_a_setting_changes_its_key_and_nothing_else() -> None:
    config = run_of()
    setting = {"optim.lr": 0.3, "views.flip": True, "mpl.feedback": "none", "batch.labeled": 3}
    made = with_setting(config, setting)
    for key in tunable(config):
        assert get(made, key) == setting.get(key, get(config, key)), key
    assert with_setting(made, {k: get(config, k) for k in setting}) == config


def test_ranges() -> None:
    config = run_of()
    (log,) = make_space(config, ["optim.lr=0.001..0.1:log"])
    assert log.points() == (0.001, 0.003162, 0.01, 0.03162, 0.1)
    (linear,) = make_space(config, ["mpl.uda_threshold=0.5..0.9"])
    assert linear.points() == (0.5, 0.6, 0.7, 0.8, 0.9)
    (whole,) = make_space(config, ["views.ops=1..3"])
    assert whole.points() == (1, 2, 3)
    for axis in (log, linear, whole):
        drawn = [axis.at(k / 999) for k in range(1000)]
        assert axis.low == min(drawn)
        assert axis.high == max(drawn)
    assert all(isinstance(whole.at(k / 10), int) for k in range(10))
    listed = Axis("optim.lr", (1, 2, 3))
    assert [listed.at(share) for share in (0.0, 0.3, 0.34, 0.99, 1.0)] == [1, 1, 2, 3, 3]

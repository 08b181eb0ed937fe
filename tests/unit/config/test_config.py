"""The tree of settings: precedence, types, names, and the way to YAML and back."""

from __future__ import annotations

import dataclasses
import json
import math
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml

from metapl.config import help
from metapl.config.settings import RunConfig, from_dict, known_keys, load_config, make_config, save_config, to_dict
from metapl.data.images.options import ImageOptions
from metapl.data.options import FLAT, EncoderOptions, SourceOptions, TextOptions
from metapl.data.tables.options import TableOptions
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.optim import OptimConfig
from metapl.utils.fields import BELOW_ONE, Range, helps_of, notes_of

CONFIGS = sorted((Path(__file__).parents[3] / "configs").rglob("*.y*ml"))


@pytest.mark.parametrize("method", METHODS)
def test_defaults_round_trip_through_yaml(method: str, tmp_path: Path) -> None:
    config = RunConfig("digits", method=method)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert from_dict(to_dict(config)) == config
    text = (tmp_path / "config.yaml").read_text(encoding="utf-8")
    assert "!!" not in text, "plain values only"
    assert set(yaml.safe_load(text)) == {k.partition(".")[0] for k in known_keys(method)} | {method}


def test_odd_values_round_trip(tmp_path: Path) -> None:
    config = make_config(
        "idx:/a b/ü: x",
        overrides=["split.validation=0.25", "split.labels=3", "optim.lr=1e-3", "views.flip=true", "mpl.feedback=none"],
    )
    save_config(config, tmp_path / "c.yaml")
    again = load_config(tmp_path / "c.yaml")
    assert again == config
    assert (again.data, again.split.validation, again.optim.lr) == ("idx:/a b/ü: x", 0.25, 0.001)
    assert again.views.flip is True


def test_every_known_key_can_be_set() -> None:
    """Each key takes its own default back, under its dotted name."""
    for method in METHODS:
        tree = to_dict(RunConfig("digits", method=method))
        for key in known_keys(method):
            value: Any = tree
            for part in key.split("."):
                value = value[part]
            text = value if isinstance(value, str) else json.dumps(value)
            overrides = [f"method={method}", f"{key}={text}"]
            assert to_dict(make_config("digits", overrides=overrides)) == tree, key


def test_later_beats_earlier(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("data: digits\nmethod: fixmatch\nsteps: 10\noptim: {lr: 0.1, momentum: 0.5}\nseed: 1\n")
    config = make_config(file=file, options={"steps": 20, "optim.lr": 0.2, "seed": None}, overrides=["optim.lr=0.3"])
    assert (config.steps, config.optim.lr, config.optim.momentum, config.seed) == (20, 0.3, 0.5, 1)
    assert config.optim.weight_decay == OptimConfig().weight_decay
    assert make_config(file=file, options={"optim.lr": 0.2}).optim.lr == 0.2
    assert make_config(file=file).optim.lr == 0.1
    assert make_config("other", file=file).data == "other"
    assert make_config(file=file, overrides=["seed=4", "seed=5"]).seed == 5
    file.write_text("data: digits\noptim:  # nothing yet\n")
    assert make_config(file=file, overrides=["optim.lr=0.3"]).optim.lr == 0.3


def test_method_settings() -> None:
    config = make_config("digits", overrides=["method=fixmatch", "fixmatch.threshold=0.5"])
    assert config.settings == METHODS["fixmatch"].Config(threshold=0.5)
    assert make_config("digits").settings == METHODS["mpl"].Config()
    assert from_dict({"data": "digits", "mpl": {}, "optim": {}}) == RunConfig("digits")
    assert from_dict({"data": "digits", "mpl": None}) == RunConfig("digits")
    assert from_dict({"data": "digits", "optim": None}) == RunConfig("digits")
    with pytest.raises(UserError, match=r"but the method is fixmatch"):
        make_config("digits", overrides=["method=fixmatch", "mpl.feedback=none"])
    with pytest.raises(UserError, match=r"^mpl\.uda_temperature: uda_temperature is 0\.0\. Give above 0\.$"):
        make_config("digits", overrides=["mpl.uda_temperature=0"])


UNKNOWN = [
    ("stepps=5", "steps"),
    ("optim.lrr=5", "optim.lr"),
    ("optm.lr=5", "optim.lr"),
    ("mpl.feedbak=none", "mpl.feedback"),
    ("batch.labelled=3", "batch.labeled"),
    ("optim.lr.x=5", "optim.lr"),
]


@pytest.mark.parametrize(("override", "known"), UNKNOWN)
def test_unknown_keys_are_refused_with_the_nearest(override: str, known: str) -> None:
    with pytest.raises(UserError) as error:
        make_config("digits", overrides=[override])
    assert f"Did you mean '{known}'?" in str(error.value)
    assert override.partition("=")[0] in str(error.value)


def test_unknown_keys_in_a_file_name_the_file(tmp_path: Path) -> None:
    for text in ("data: digits\nsteppes: 4\n", "data: digits\noptimm: {}\n", "data: digits\n1: 2\n"):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(UserError, match=r"bad\.yaml: unknown setting"):
            make_config(file=tmp_path / "bad.yaml")
    with pytest.raises(UserError, match="Did you mean 'mpl'"):
        make_config("digits", overrides=["method=mlp"])


WRONG = [
    ("steps=ten", "a whole number"),
    ("steps=2.5", "a whole number"),
    ("steps=true", "a whole number"),
    ("steps=-1", "at least 0"),
    ("steps=", "a whole number"),
    ("minutes=-1", "Give at least 0 (minutes)"),
    ("optim.lr=fast", "a number"),
    ("optim.lr=false", "a number"),
    ("optim.lr=.nan", "a number"),
    ("optim.lr=nan", "a number"),
    ("mpl.feedback_weight=.nan", "a number"),
    ("optim.nesterov=1", "true or false"),
    ("optim.name=adam", "'sgd', 'adamw'"),
    ("optim.schedule=1", "'cosine', 'constant'"),
    ("mpl.feedback=exakt", "'exact', 'sampled', 'none', 'official'"),
    ("split.labels=[1, 2]", "a whole number, null"),
    ("optim=3", "optim: {key: value}"),
    ("source=3", "source: {key: value}"),
    ("source.image=3", "source.image: {key: value}"),
    ("source.image.size.x=3", "source.image.size"),
    ("mpl=[1]", ""),
    ("method=3", "unknown method '3'"),
    ("loop.keep=0", "at least 1"),
    ("views.ops=50", "at least 0 and at most 10"),
]


@pytest.mark.parametrize(("override", "remedy"), WRONG)
def test_wrong_values_are_refused(override: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        make_config("digits", overrides=[override])
    assert remedy in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "value"),
    [("1e-3", 0.001), ("1", 1.0), ("2.5", 2.5), ("'0.25'", 0.25), ("1_000", 1000.0)],
)
def test_numbers_as_people_write_them(override: str, value: float) -> None:
    found = make_config("digits", overrides=[f"optim.lr={override}"]).optim.lr
    assert found == value
    assert type(found) is float


def test_override_without_a_value_or_a_key() -> None:
    for text in ("steps", "=5"):
        with pytest.raises(UserError, match="key=value"):
            make_config("digits", overrides=[text])
    with pytest.raises(UserError, match="Quote"):
        make_config("digits", overrides=["steps='x"])
    with pytest.raises(UserError, match="single value"):
        make_config("digits", overrides=["steps=5", "steps.x=5"])


def test_unusable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.yaml: cannot read"):
        make_config(file=tmp_path / "none.yaml")
    for name, content, word in (
        ("tag.yaml", b"data: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("broken.yaml", b"data: [digits\n", "not valid YAML"),
        ("binary.yaml", b"\xff\xfe\x00", "not valid YAML"),
        ("list.yaml", b"- 1\n", "holds no settings"),
        ("empty.yaml", b"", "holds no settings"),
        ("nodata.yaml", b"steps: 3\n", "no data"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as error:
            make_config(file=tmp_path / name)
        assert word in str(error.value)
        assert name in str(error.value)


def test_the_config_cannot_be_changed_by_accident() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig("digits").steps = 3  # type: ignore[misc]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.name)
def test_every_shipped_config_parses(path: Path) -> None:
    tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    config = from_dict({"data": "digits", **tree})
    assert from_dict(to_dict(config)) == config


def test_a_file_may_hold_the_settings_of_several_methods(tmp_path: Path) -> None:
    file = tmp_path / "several.yaml"
    file.write_text("data: digits\nmpl: {feedback: none}\nfixmatch: {threshold: 0.5}\n", encoding="utf-8")
    assert make_config(file=file).settings.feedback == "none"
    assert make_config(file=file, options={"method": "fixmatch"}).settings.threshold == 0.5
    assert make_config(file=file, options={"method": "supervised"}).method == "supervised"
    file.write_text("data: digits\nfixmatch: {thresold: 0.5}\n", encoding="utf-8")
    with pytest.raises(UserError, match="threshold"):
        make_config(file=file)
    with pytest.raises(UserError, match="--method mpl"):  # but on the command line it is a slip
        make_config("digits", options={"method": "supervised"}, overrides=["mpl.feedback=none"])


TEXTS = [
    ("source.table.label=3", "3"),
    ("source.table.label=0", "0"),
    ("source.table.label=yes", "yes"),
    ("source.table.label=#b", "#b"),
    ("source.table.label=Class: x", "Class: x"),
    ("source.table.label=null", "null"),
    ("source.table.label=1e3", "1e3"),
    ("source.table.label=a=b", "a=b"),
    ("source.table.label=[a]", "[a]"),
    ("source.table.label='3'", "3"),
    ('source.table.label=" a"', " a"),
    ("source.table.label='", "'"),
    ("source.table.label=", ""),
]


@pytest.mark.parametrize(("override", "value"), TEXTS)
def test_a_setting_of_text_takes_the_text_as_it_stands(override: str, value: str, tmp_path: Path) -> None:
    config = make_config("digits", overrides=[override])
    assert config.source.table.label == value
    save_config(config, tmp_path / "c.yaml")
    assert load_config(tmp_path / "c.yaml") == config


def test_texts_of_methods_and_choices() -> None:
    assert make_config("digits", overrides=["guard.mode=off", "model=3"]).guard.mode == "off"
    assert make_config("digits", overrides=["method=uda", "uda.threshold=0.5"]).settings.threshold == 0.5
    with pytest.raises(UserError, match="put it in quotes, as '3'"):
        from_dict({"data": "digits", "model": 3})


FLAT_VALUES = {
    "image_size": 32, "resize": "pad", "memory": 1.5, "prefetch": 1, "allow_bad": True, "cache": False,
    "tokenizer": "words", "max_tokens": 7, "label": "c", "path": "p", "text": "none", "features": "a,b", "ignore": "d",
    "categorical": "a", "id": "i", "split": "s", "delimiter": "tab", "encoding": "cp1252", "decimal": "comma",
    "skip_bad_rows": True, "encoder": "timm:x", "encoder_weights": "w", "encoder_size": 9, "encoder_pooling": "cls",
    "unlabeled": "u.csv", "test": "t.csv", "labels": "l.npy", "root": "r", "download": True,
}  # fmt: skip
"""Every key below ``source`` of 0.1.0."""


def test_the_flat_keys_of_0_1_0_mean_the_nested_ones(tmp_path: Path) -> None:
    assert set(FLAT) - {"header", "quotes", "suffix"} == FLAT_VALUES.keys() - {
        "unlabeled",
        "test",
        "labels",
        "root",
        "download",
    }
    wanted = SourceOptions(
        image=ImageOptions(32, "pad", 1.5, 1, True, False),
        table=TableOptions("c", "p", "none", "a,b", "d", "a", "i", "s", "tab", "cp1252", "comma", True),
        text=TextOptions("words", 7),
        encoder=EncoderOptions("timm:x", "w", 9, "cls"),
        unlabeled="u.csv", test="t.csv", labels="l.npy", root="r", download=True,
    )  # fmt: skip
    assert SourceOptions(**FLAT_VALUES) == wanted  # type: ignore[arg-type]
    assert from_dict({"data": "digits", "source": FLAT_VALUES}).source == wanted  # stored by 0.1.0: no note
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"data": "digits", "source": FLAT_VALUES}, sort_keys=False))
    assert load_config(tmp_path / "c.yaml").source == wanted
    with pytest.warns(
        FutureWarning, match="source.image_size is now source.image.size, source.resize is now .* and 20 more"
    ) as told:
        assert make_config(file=tmp_path / "c.yaml").source == wanted
    assert len(told) == 1
    with pytest.warns(FutureWarning, match="source.image_size is now source.image.size"):
        made = make_config("digits", options={f"source.{key}": value for key, value in FLAT_VALUES.items()})
    assert made.source == wanted
    overrides = [f"source.{key}={str(value).lower()}" for key, value in FLAT_VALUES.items()]
    with pytest.warns(FutureWarning, match="source.image_size is now source.image.size"):
        assert make_config("digits", overrides=overrides).source == wanted
    with pytest.warns(FutureWarning, match="source.encoder is now source.encoder.name; the old name still works"):
        make_config("digits", overrides=["source.encoder=timm:x"])


def test_old_and_new_keys_together(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: digits\nsource: {image_size: 32, text: {tokenizer: words}}\n")
    with pytest.warns(FutureWarning, match="source.image_size"):
        source = make_config(file=tmp_path / "c.yaml", overrides=["source.image.size=48"]).source
    assert (source.image.size, source.text.tokenizer) == (48, "words")  # the command line beats the file
    with pytest.warns(FutureWarning, match="source.text is now source.table.text"):
        source = make_config("digits", overrides=["source.text=q", "source.text.max_tokens=3"]).source
    assert (source.table.text, source.text.max_tokens) == ("q", 3)
    with pytest.raises(UserError, match=r"source\.image_size and source\.image\.size are both set"):
        from_dict({"data": "digits", "source": {"image_size": 32, "image": {"size": 32}}})
    with pytest.raises(TypeError, match="Did you mean 'image_size'"):
        SourceOptions(imagesize=32)
    changed = dataclasses.replace(SourceOptions(image_size=32, encoder="timm:x"), resize="pad")
    assert changed == SourceOptions(image=ImageOptions(32, "pad"), encoder=EncoderOptions("timm:x"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("source.image.memory=-1", "source.image.memory: memory is -1.0. Give at least 0 (GiB)."),
        ("source.image.prefetch=-1", "source.image.prefetch: prefetch is -1. Give at least 0."),
        ("steps=-1", "steps: steps is -1. Give at least 0 (steps)."),
        ("guard.share=0", "guard.share: share is 0.0. Give above 0 and at most 1."),
        ("optim.ema=1", "optim.ema: ema is 1.0. Give at least 0 and below 1."),
        ("views.cutout=2", "views.cutout: cutout is 2.0. Give at least 0 and at most 1."),
        ("mpl.label_smoothing=1", "mpl.label_smoothing: label_smoothing is 1.0. Give at least 0 and below 1."),
    ],
)
def test_range_errors_say_value_range_and_key(override: str, words: str) -> None:
    with pytest.raises(UserError) as error:
        make_config("digits", overrides=[override])
    assert str(error.value) == words


@pytest.mark.parametrize("method", METHODS)
def test_every_setting_says_what_it_means_and_numbers_their_range(method: str) -> None:
    own = [(key, cls) for key, cls in groups_of(METHODS[method].Config, method)]
    for name, cls in [*own, *groups_of(RunConfig, "")]:
        helps, ranges = helps_of(cls), notes_of(cls, Range)
        for f in dataclasses.fields(cls):
            hint = typing.get_type_hints(cls)[f.name]
            if dataclasses.is_dataclass(hint) or f.name == "settings":
                continue
            assert helps[f.name].text, (name, f.name)
            if hint in (int, float) and f.name != "seed":
                assert f.name in ranges, (name, f.name)
            if f.name in ranges and isinstance(f.default, int | float):
                assert ranges[f.name].holds(f.default), (name, f.name)


def groups_of(cls: Any, name: str) -> list[tuple[str, Any]]:
    """The dataclass and all groups inside it."""
    inner = [(f.name, typing.get_type_hints(cls)[f.name]) for f in dataclasses.fields(cls)]
    return [
        (name, cls),
        *(pair for key, hint in inner if dataclasses.is_dataclass(hint) for pair in groups_of(hint, key)),
    ]


@pytest.mark.parametrize("method", METHODS)
def test_the_group_of_a_method_is_its_name(method: str) -> None:
    assert METHODS[method].Config.group == method


def test_a_plain_config_without_annotations_is_enough_for_a_method_of_ones_own() -> None:
    @dataclasses.dataclass(frozen=True)
    class Plain:
        weight: float = 0.3  # of the entropy
        name: str = "a"

    assert not helps_of(Plain)
    assert not notes_of(Plain, Range)
    assert [s.key for s in help.settings(Plain, "own.")] == ["own.weight", "own.name"]


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan, math.inf])
def test_what_a_range_holds(value: float) -> None:
    assert not BELOW_ONE.holds(value)
    assert BELOW_ONE.holds(0) and not Range(0, above=True).holds(0)  # noqa: PT018
    assert (str(BELOW_ONE), str(Range(2)), str(Range(0, 1, above=True))) == (
        "at least 0 and below 1", "at least 2", "above 0 and at most 1",
    )  # fmt: skip

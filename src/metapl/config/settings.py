"""One tree of settings: dataclasses here, YAML on disk, ``key=value`` on the command line.

Later beats earlier: defaults, the YAML file, command-line options, ``key=value``. Every key must be known.
"""

from __future__ import annotations

import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml

from metapl.config.values import convert, read_text
from metapl.data.batches.split import SplitConfig
from metapl.data.batches.stream import BatchConfig
from metapl.data.batches.views import ViewConfig
from metapl.data.options import FLAT, SourceOptions
from metapl.data.ref import DataRef
from metapl.data.sources import read_ref
from metapl.errors import UserError, nearest
from metapl.hardware.precision import Precision
from metapl.methods import METHODS, OWN, fits_once, method_class, settings_group
from metapl.models.own import code_in
from metapl.optim import OptimConfig
from metapl.utils.fields import AT_LEAST_ONE, NOT_NEGATIVE, Help, Range, Settings
from metapl.utils.files import write_text
from metapl.utils.limits import check_regular, check_tree
from metapl.utils.names import split_name


@dataclass(frozen=True)
class LoopConfig(Settings, group="loop"):
    """When the loop logs, judges and saves; in steps."""

    log_every: Annotated[int, Help("one row of metrics", "steps"), AT_LEAST_ONE] = 20
    eval_every: Annotated[int, Help("judge the validation rows; 0 = a tenth of the run", "steps"), NOT_NEGATIVE] = 0
    save_every: Annotated[int, Help("write a checkpoint; 0 = a tenth of the run", "steps"), NOT_NEGATIVE] = 0
    keep: Annotated[int, "checkpoints kept", AT_LEAST_ONE] = 2
    tensorboard: Annotated[bool, "also write the logged numbers for TensorBoard into the run folder"] = False


@dataclass(frozen=True)
class GuardConfig(Settings, group="guard"):
    """The comparison of the result with models learnt from the labels alone: docs/guard.md."""

    mode: Annotated[Literal["off", "warn", "return"], "no comparison; only say so; give the best choice back"] = (
        "return"
    )
    share: Annotated[
        float, "share of the run's steps, for each training of the cross-fitting", Range(0, 1, above=True)
    ] = 0.33
    least_steps: Annotated[
        int, Help("of such a training at least, as far as the run itself has them", "steps"), AT_LEAST_ONE
    ] = 1
    folds: Annotated[
        int, "parts of the labelled rows in the cross-fitting; its cost grows with their number", Range(2)
    ] = 2
    min_validation: Annotated[
        int, "validation rows from which these alone decide, without cross-fitting", AT_LEAST_ONE
    ] = 50


@dataclass(frozen=True)
class RunConfig(Settings):
    """Everything that decides a run. ``settings`` are the method's own, under the method's name in YAML."""

    data: Annotated[str, "a folder of images, a file of rows (.csv, .jsonl, .parquet, ...), idx:FOLDER, or digits"]
    method: Annotated[str, "a name in `metapl methods`, or package.module:Class"] = "mpl"
    model: Annotated[str, "a name in `metapl models`, or package.module:function"] = "auto"
    weights: Annotated[str, "a file of first weights for the model, all but its head: .safetensors or .pth"] = ""
    download: Annotated[bool, "let timm and torchvision fetch first weights"] = False
    norms: Annotated[
        Literal["auto", "weights", "data"],
        "scale of pixels and BatchNorm's statistics: weights = those of the first weights, kept; data = those "
        "of the training rows; auto: weights for a network of timm or torchvision that has first weights",
    ] = "auto"
    teacher_model: Annotated[str, "mpl and mpl_reduced: another network for the teacher; empty = as model"] = ""
    teacher_weights: Annotated[str, "first weights of teacher_model"] = ""
    seed: Annotated[int, "random seed for split, weights, batches and views"] = 0
    steps: Annotated[
        int, Help("updates in the main phase; 0 = 1000, and 300 for tables and texts", "steps"), NOT_NEGATIVE
    ] = 0
    minutes: Annotated[
        float, Help("as many steps as fit into this time on this machine; 0 = as steps says", "minutes"), NOT_NEGATIVE
    ] = 0.0
    device: Annotated[str, "auto, cpu, cuda, cuda:N, mps"] = "auto"
    precision: Annotated[
        Precision, "of the passes in training; auto: bf16 for large convolutional networks on a GPU that is fast at it"
    ] = "auto"
    source: SourceOptions = field(default_factory=SourceOptions)
    split: SplitConfig = field(default_factory=SplitConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    views: ViewConfig = field(default_factory=ViewConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loop: LoopConfig = field(default_factory=LoopConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    settings: Any = None  # the method's Config; None = its defaults

    def __post_init__(self) -> None:
        if self.settings is None:
            object.__setattr__(self, "settings", method_class(self.method).Config())
        reads = self.source.encoder.name or self.model
        if self.source.text.tokenizer == "auto" and reads.startswith("hf:"):  # a network's own, in its folder
            object.__setattr__(self, "source", replace(self.source, text=replace(self.source.text, tokenizer=reads)))
        if fits_once(self.method):  # its one step takes no budget
            object.__setattr__(self, "steps", 1)
            object.__setattr__(self, "minutes", 0.0)
        super().__post_init__()
        if self.teacher_weights and not self.teacher_model:
            remedy = "Name the network with teacher_model; without one, weights serves both."
            raise UserError("teacher_weights is set, and teacher_model is not", remedy, "teacher_weights")

    @property
    def finetunes(self) -> bool:
        """Whether a network goes on from first weights that bring their own norms."""
        if self.norms != "auto":
            return self.norms == "weights"
        return split_name(self.model).prefix in ("timm", "torchvision") and bool(self.weights or self.download)

    @property
    def ref(self) -> DataRef:
        """Return what ``data`` refers to."""
        return read_ref(self.data)


DATA_FORMS = (
    "Give a folder of images, a file of rows (.csv, .tsv, .jsonl, .parquet) or of arrays (.npz, .npy), "
    "torchvision:NAME, hf:NAME, idx:FOLDER or digits."
)


def make_config(
    data: str | None = None,
    *,
    file: Path | None = None,
    options: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> RunConfig:
    """Return a config from a YAML file, options by dotted key (None = not given) and ``key=value`` strings.

    Raises:
        UserError: unknown key (with the nearest known one), value of the wrong type, unreadable file, no data.
    """
    tree, old = with_new_keys(_read_yaml(file.expanduser()), str(file)) if file else ({}, [])
    given: list[tuple[str, Any]] = [("data", data)] if data else []
    given += [(key, value) for key, value in (options or {}).items() if value is not None]
    pairs = [_split(text) for text in overrides]
    chosen = [value for key, value in [*tree.items(), *given, *pairs] if key == "method"]
    types = _types(chosen[-1]) if chosen and isinstance(chosen[-1], str) else {}
    for key, value in given:
        _set(tree, _new_key(key, value, old), value)
    for key, text in pairs:
        new = _new_key(key, text, old)
        _set(tree, new, read_text(text, types.get(new, TYPES.get(new)), key))
    config = from_dict(tree, where=str(file) if file else "")
    for key, _ in [*given, *pairs]:
        if (group := key.partition(".")[0]) in METHODS and group != settings_group(config.method):
            raise UserError(f"'{key}' is set, but the method is {config.method}", f"Add --method {group}.")
    if old:
        warnings.warn(_renamed(list(dict.fromkeys(old))), FutureWarning, stacklevel=2)
    return config


def _renamed(old: Sequence[str], most: int = 4) -> str:
    """Return the note about keys of 0.1.0."""
    names = [f"{key} is now source.{FLAT[key.removeprefix('source.')]}" for key in old[:most]]
    more = f" and {len(old) - most} more (docs/settings.md)" if len(old) > most else ""
    return f"{', '.join(names)}{more}; the old name{'s' * (len(old) > 1)} still work{'s' * (len(old) == 1)}"


def from_dict(tree: Mapping[str, Any], where: str = "") -> RunConfig:
    """Return the config that ``to_dict`` (or a YAML file) describes; missing keys take their defaults.

    The flat keys of 0.1.0, such as ``source.image_size``, are read as those that took their place.

    Raises:
        UserError: no data, an unknown key, or a value that its setting does not take.
    """
    tree, _ = with_new_keys(tree, where)
    if not isinstance(tree.get("data"), str):
        raise UserError("no data is named", DATA_FORMS, where)
    method = tree.get("method", "mpl")
    if not isinstance(method, str):
        raise UserError(f"method is {method!r}", "Give a method's name.", where)
    group = settings_group(method)
    # One file may hold the settings of several methods: all are checked, and those of the others put aside.
    classes = {name: METHODS[name].Config for name in sorted(METHODS.keys() & tree.keys())}
    classes[group] = method_class(method).Config
    known = {*known_keys(method), *(f"{name}.{key}" for name, cls in classes.items() for key in _types_of(cls))}
    groups = {key[:k] for key in known for k, sign in enumerate(key) if sign == "."} | classes.keys()
    for key in flatten(tree):
        if key not in known | groups:
            raise UserError(f"unknown setting '{key}'", nearest(key, known), where)
    built = {name: _build(cls, tree.pop(name, {}), name, where) for name, cls in classes.items()}
    return typing.cast(RunConfig, _build(RunConfig, {**tree, "settings": built[group]}, "", where))


def to_dict(config: RunConfig) -> dict[str, Any]:
    """Return the config as plain values; the method's settings stand under the method's name."""
    tree = _plain(config)
    tree[settings_group(config.method)] = tree.pop("settings")
    return typing.cast(dict[str, Any], tree)


def save_config(config: RunConfig, path: Path) -> None:
    """Write the resolved config as YAML."""
    write_text(path, yaml.safe_dump(to_dict(config), sort_keys=False))


def load_config(path: Path, training: bool = True) -> RunConfig:
    """Read a config that ``save_config`` wrote.

    Without ``training``, a method of one's own is not imported, since a trained model does not need it; its name and
    settings are left out.
    """
    tree = _read_yaml(path)
    if not training and ":" in str(tree.get("method")):
        tree = {key: value for key, value in tree.items() if key not in ("method", OWN)}
    return from_dict(tree, where=str(path))


def stored_code(path: Path) -> list[str]:
    """Return the names of the user's own Python code in a stored config; nothing is imported.

    Raises:
        UserError: the file cannot be read.
    """
    return code_in(_read_yaml(path))


def known_keys(method: str) -> list[str]:
    """Return every dotted key that a run of ``method`` takes."""
    return list(_types(method))


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of a tree by dotted key; a group without any stays as ``{}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def with_new_keys(tree: Mapping[str, Any], where: str = "") -> tuple[dict[str, Any], list[str]]:
    """Return the tree with every flat key of 0.1.0 replaced by the one that took its place, and the keys replaced.

    Raises:
        UserError: a setting stands under both keys.
    """
    source = tree.get("source")
    if not isinstance(source, Mapping):
        return dict(tree), []
    old = [key for key, value in source.items() if _is_flat(key, value)]
    new: dict[str, Any] = {"source": {}}
    for key, value in flatten({k: v for k, v in source.items() if k not in old}).items():
        _set(new, f"source.{key}", value)
    for key in old:
        if f"source.{FLAT[key]}" in flatten(new):
            raise UserError(f"source.{key} and source.{FLAT[key]} are both set", "Keep the second.", where)
        _set(new, f"source.{FLAT[key]}", source[key])
    return {**tree, **new}, [f"source.{key}" for key in old]


def _is_flat(key: Any, value: Any) -> bool:
    """Return whether ``key`` below ``source`` is a flat one; text and encoder name groups, too."""
    return key in FLAT and not (key in _GROUPS and (value is None or isinstance(value, Mapping)))


def _new_key(key: str, value: Any, old: list[str]) -> str:
    """Return the key of today; ``old`` gets the one of 0.1.0."""
    group, dot, name = key.partition(".")
    if group != "source" or not dot or not _is_flat(name, value):
        return key
    old.append(key)
    return f"source.{FLAT[name]}"


def _types(method: str) -> dict[str, Any]:
    """Return the type of every key that a run of ``method`` takes."""
    own = {f"{settings_group(method)}.{k}": v for k, v in _types_of(method_class(method).Config).items()}
    found: dict[str, Any] = {}
    for key, hint in TYPES.items():
        found |= own if key == "settings" else {key: hint}
    return found


def _types_of(cls: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    hints = typing.get_type_hints(cls)
    for f in fields(cls):
        hint = hints[f.name]
        inner = _types_of(hint) if is_dataclass(hint) else {}
        found |= {f"{f.name}.{k}": v for k, v in inner.items()} if inner else {f.name: hint}
    return found


TYPES = _types_of(RunConfig)  # ``settings`` stands for the method's own
_GROUPS = {f.name for f in fields(SourceOptions)}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        check_regular(path)
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the file ({error.strerror})", "Check the path.", str(path)) from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise UserError(f"not valid YAML ({' '.join(str(error).split())})", "Mend the file.", str(path)) from error
    except RecursionError as error:
        raise UserError("the settings are nested too deeply", "Write plain groups.", str(path)) from error
    check_tree(tree, str(path))
    if not isinstance(tree, dict):
        raise UserError("the file holds no settings", "Write lines such as 'method: mpl'.", str(path))
    return tree


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"'{text}' is not a setting", "Write key=value, such as optim.lr=0.1.")
    return key.strip(), value


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *path, last = key.split(".")
    for part in path:
        inner = tree[part] = {} if tree.get(part) is None else tree[part]
        if not isinstance(inner, dict):
            raise UserError(f"'{part}' is a single value, not a group", f"Set {part}=... instead.", key)
        tree = inner
    tree[last] = value


def _build(cls: Any, values: Any, prefix: str, where: str) -> Any:
    values = {} if values is None else values
    if not isinstance(values, Mapping):
        raise UserError(f"{prefix} is {values!r}, not a group of settings", f"Write {prefix}: {{key: value}}.", where)
    hints, made = typing.get_type_hints(cls), {}
    for f in fields(cls):
        if f.name in values:
            key = f"{prefix}.{f.name}" if prefix else f.name
            hint, value = hints[f.name], values[f.name]
            if is_dataclass(hint):
                made[f.name] = value if isinstance(value, typing.cast(type, hint)) else _build(hint, value, key, where)
            else:
                made[f.name] = convert(value, hint, key, where)
    return cls(**made)


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    return list(value) if isinstance(value, tuple) else value

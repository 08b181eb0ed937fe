"""Every setting: its key, default, accepted values and meaning, read from annotated fields."""

from __future__ import annotations

import inspect
import sys
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any

from metapl.config.settings import RunConfig
from metapl.config.values import describe
from metapl.methods import METHODS, method_class
from metapl.utils.fields import Help, Range, helps_of, notes_of


@dataclass(frozen=True)
class Setting:
    """One setting: its dotted key, its default as YAML, its accepted values and its meaning."""

    key: str
    default: str
    takes: str
    meaning: str


def groups() -> list[tuple[str, str, list[Setting]]]:
    """Return (title, what the group is about, settings): the run itself, its groups, then one group per method."""
    top = [s for s in settings(RunConfig) if s.key != "settings"]
    rest = [
        (name, about(cls), settings(cls, f"{name}."))
        for f in fields(RunConfig)
        if is_dataclass(group := typing.get_type_hints(RunConfig)[f.name])
        for name, cls in [(f.name, group), *_inner(group, f.name)]
    ]
    methods = [(name, summary(name), settings(cls.Config, f"{name}.")) for name, cls in METHODS.items()]
    return [("run", "What is trained, on what, and for how long.", top), *rest, *methods]


def settings(cls: Any, prefix: str = "") -> list[Setting]:
    """Return the settings of one dataclass, without those of the groups in it."""
    hints, helps, ranges = typing.get_type_hints(cls), helps_of(cls), notes_of(cls, Range)
    return [
        Setting(
            f"{prefix}{f.name}",
            _default(f),
            _takes(hints[f.name], helps.get(f.name, Help("")), ranges.get(f.name)),
            helps.get(f.name, Help("")).text,
        )
        for f in fields(cls)
        if not is_dataclass(hints[f.name])
    ]


def _inner(cls: Any, prefix: str) -> list[tuple[str, Any]]:
    """Return (name, class) of every group inside a dataclass."""
    hints = typing.get_type_hints(cls)
    return [(f"{prefix}.{f.name}", hints[f.name]) for f in fields(cls) if is_dataclass(hints[f.name])]


def summary(method: str) -> str:
    """Return the first line of the method's file."""
    return _first_line(sys.modules[method_class(method).__module__].__doc__)


def about(cls: Any) -> str:
    """Return the first paragraph of the class's text."""
    return " ".join((inspect.getdoc(cls) or "").replace("``", "`").split("\n\n")[0].split())


def _first_line(text: str | None) -> str:
    return (text or "").strip().split("\n")[0]


def _default(f: Any) -> str:
    if f.default is MISSING:
        return "required" if f.default_factory is MISSING else ""
    if f.default == "":
        return "''"  # as YAML writes it
    words = {None: "null", True: "true", False: "false"}
    return words[f.default] if f.default is None or isinstance(f.default, bool) else str(f.default)


def _takes(hint: Any, help: Help, limits: Range | None) -> str:
    unit = f" ({help.unit})" if help.unit else ""
    ends = f", {limits}" if limits is not None else ""
    words = describe(hint)
    numbers = [k for k, word in enumerate(words) if word in ("number", "whole number")]
    if numbers:
        words[numbers[-1]] += f"{unit}{ends}"
    return "; or ".join(words) if numbers and ends and len(words) > 1 else ", ".join(words)

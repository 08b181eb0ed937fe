"""The search space: one axis per setting, with listed values or a range, read from text and checked."""

from __future__ import annotations

import math
import re
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from metapl.config.settings import RunConfig, from_dict, known_keys, to_dict
from metapl.config.values import read_text
from metapl.errors import UserError, nearest
from metapl.methods import settings_group
from metapl.utils.fields import Tries, notes_of

GROUPS = ("batch", "views", "optim")  # beside the method's own group
POINTS = 5  # of a range, where points are needed
DIGITS = 4  # significant digits of a drawn value, so that the printed value is the exact one

Changes = dict[str, Any]  # dotted key -> value, only where it differs from the run's own
Space = Mapping[str, Any] | Iterable[str]


@dataclass(frozen=True)
class Times:
    """A multiple of the run's own value."""

    factor: float


@dataclass(frozen=True)
class Axis:
    """One setting and its range: the listed ``values``, or anything from ``low`` to ``high`` if nothing is listed."""

    key: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    def at(self, share: float) -> Any:
        """Return the value at ``share`` (0 to 1) of the way along the axis; uniform shares give uniform draws."""
        if self.values:
            return self.values[min(int(share * len(self.values)), len(self.values) - 1)]
        if self.log:
            value = math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + share * (self.high - self.low)
        return self.rounded(value)

    def rounded(self, value: float) -> float:
        """Return a value of a range as it is run: few digits, and still inside."""
        number = round(value) if self.whole else float(f"{value:.{DIGITS}g}")
        return min(max(number, self.low), self.high)

    def points(self) -> tuple[Any, ...]:
        """Return the values, or evenly spaced ones of the range."""
        if self.values:
            return self.values
        return tuple(dict.fromkeys(self.at(k / (POINTS - 1)) for k in range(POINTS)))

    def text(self) -> str:
        """Return the axis as it is typed."""
        if self.values:
            return ",".join(f"x{v.factor:g}" if isinstance(v, Times) else word(v) for v in self.values)
        return f"{self.low:g}..{self.high:g}{':log' if self.log else ''}"


def word(value: Any) -> str:
    """Return a value as it is typed."""
    return f"{value:g}" if isinstance(value, float) else yaml.safe_dump(value).removesuffix("\n...\n").strip()


def make_space(config: RunConfig, space: Space | None = None) -> list[Axis]:
    """Return the axes that ``space`` asks for, or the built-in ones of the method; thresholds first.

    Args:
        config: the run whose settings are varied.
        space: texts ``key=v1,v2``, ``key=low..high`` or ``key=low..high:log`` (``key`` alone takes its built-in
            values; ``x3`` means three times the run's own value), or a mapping of keys to such texts or to values.

    Raises:
        UserError: an unknown key, nothing to try, or a value that the setting does not take.
    """
    if space is None:
        space = [k for k in tunable(config) if _tries(config, k) and not _idle(config, k)]
    texts = [space] if isinstance(space, str) else space
    pairs = list(texts.items()) if isinstance(texts, Mapping) else [_pair(text) for text in texts]
    if not pairs:
        raise UserError("the search space is empty", "Name a setting, such as optim.lr=0.01..0.1:log.", "--search")
    for k, (key, _) in enumerate(pairs):
        if key in [other for other, _ in pairs[:k]]:
            raise UserError(f"'{key}' is searched twice", "List all its values once.", "--search")
    axes = [_axis(config, key, wanted) for key, wanted in pairs]
    return sorted(axes, key=lambda a: "threshold" not in a.key)  # a stable sort


def tunable(config: RunConfig) -> list[str]:
    """Return every key that may be searched."""
    groups = (*GROUPS, settings_group(config.method))
    return [k for k in known_keys(config.method) if k.partition(".")[0] in groups and "." in k]


def get(config: RunConfig, key: str) -> Any:
    """Return the run's own value of a dotted key."""
    group, _, name = key.partition(".")
    return getattr(_group(config, group), name)


def effective(config: RunConfig, key: str, setting: Mapping[str, Any] | None = None) -> Any:
    """Return the run's value in effect: a rate of 0 means the optimiser's own, for a teacher the shared one."""
    own = get(config, key)
    if own != 0 or not (key == "optim.lr" or key.endswith("teacher_lr")):
        return own
    return (setting or {}).get("optim.lr") or config.optim.resolved(config.model, config.finetunes).lr


def resolve(config: RunConfig, picks: Mapping[str, Any]) -> Changes:
    """Return one value per axis as a setting; multiples are computed, values equal to the run's own left out."""
    made: Changes = {}
    for key, value in sorted(picks.items(), key=lambda pair: pair[0].endswith("teacher_lr")):
        own = get(config, key)
        if isinstance(value, Times):
            if value.factor == 1:
                continue
            base = effective(config, key, made)
            value = type(base)(float(f"{base * value.factor:.6g}"))
        if value != own or isinstance(value, bool) != isinstance(own, bool):
            made[key] = value
    return {key: made[key] for key in picks if key in made}


def with_setting(config: RunConfig, setting: Changes) -> RunConfig:
    """Return the run with other settings.

    Raises:
        UserError: a value that its setting does not take.
    """
    tree = to_dict(config)
    for key, value in setting.items():
        group, _, name = key.partition(".")
        tree[group][name] = value
    return from_dict(tree)


def _pair(text: str) -> tuple[str, str | None]:
    key, equals, wanted = text.partition("=")
    return key.strip(), wanted if equals else None


def _tries(config: RunConfig, key: str) -> Tries | None:
    """Return the ``Tries`` of a setting; settings without it are not tuned by default."""
    group, _, name = key.partition(".")
    cls: Any = type(_group(config, group))
    return notes_of(cls, Tries).get(name)


def _idle(config: RunConfig, key: str) -> bool:
    """Return whether the present value of another setting of the group makes this one without effect."""
    tries = _tries(config, key)
    if tries is None or not tries.idle:
        return False
    other, *values = tries.idle
    return getattr(_group(config, key.partition(".")[0]), other, None) in values


def _axis(config: RunConfig, key: str, wanted: Any) -> Axis:
    if key not in tunable(config):
        known = key in known_keys(config.method)
        what, remedy = f"'{key}' is not a setting to search", f"Those of {', '.join(GROUPS)} and {config.method} are."
        raise UserError(
            what if known else f"unknown setting '{key}'", remedy if known else nearest(key, tunable(config))
        )
    if wanted is None:
        if (tries := _tries(config, key)) is None:
            raise UserError(f"'{key}' has no built-in values", f"Write {key}=v1,v2 or {key}=low..high.", "--search")
        wanted = tries.values
    axis = _range(config, key, wanted) if isinstance(wanted, str) and ".." in wanted else _list(config, key, wanted)
    for value in axis.values or (axis.low, axis.high):
        _check(config, key, value)
    return axis


def _range(config: RunConfig, key: str, text: str) -> Axis:
    ends, colon, scale = text.partition(":")
    low, high = (_number(key, end) for end in ends.split("..", 1))
    if not {int, float} & set(_kinds(config, key)):
        raise UserError(f"'{key}' is not a number, so '{text}' cannot be its range", f"Write {key}=v1,v2.", "--search")
    if colon and scale.strip() != "log":
        raise UserError(f"'{key}={text}' ends in ':{scale}'", "Write low..high or low..high:log.", "--search")
    if not low < high or (colon and low <= 0):
        remedy = "A range on a log scale must start above 0." if low < high else "The first end must be the lower one."
        raise UserError(f"'{key}={text}' is not a range", remedy, "--search")
    whole = float not in _kinds(config, key)
    if whole and not (low.is_integer() and high.is_integer()):
        raise UserError(f"'{key}={text}' has ends that are not whole", f"{key} takes whole numbers.", "--search")
    return Axis(key, (), int(low) if whole else low, int(high) if whole else high, bool(colon), whole)


def _list(config: RunConfig, key: str, wanted: Any) -> Axis:
    if isinstance(wanted, str):
        parts: list[Any] = [part.strip() for part in wanted.split(",")]
    else:
        parts = list(wanted) if isinstance(wanted, Iterable) else [wanted]
    if not parts or "" in parts:
        raise UserError(f"'{key}={wanted}' has an empty place", f"Write {key}=v1,v2 or {key}=low..high.", "--search")
    return Axis(key, tuple(dict.fromkeys(_value(config, key, part) for part in parts)))


def _value(config: RunConfig, key: str, part: Any) -> Any:
    """Return one listed value as the config holds it."""
    if isinstance(part, Times):
        return part
    if isinstance(part, str):
        multiple = re.fullmatch(r"x(\d*\.?\d+(?:e-?\d+)?)", part)
        if multiple and {int, float} & set(_kinds(config, key)):
            if not isinstance(get(config, key), int | float):
                raise UserError(f"'{part}' of {get(config, key)!r} is not a number", "Write the value itself.", key)
            return Times(float(multiple[1]))
        part = read_text(part, _hint(config, key), key)
    return get(with_setting(config, {key: part}), key)


def _check(config: RunConfig, key: str, value: Any) -> None:
    """Refuse a value that the setting does not take."""
    with_setting(config, resolve(config, {key: value}))


def _number(key: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UserError(f"'{text}' in the range of '{key}' is not a number", f"Write {key}=low..high.", "--search")
    return number


def _group(config: RunConfig, group: str) -> Any:
    return config.settings if group == settings_group(config.method) else getattr(config, group)


def _hint(config: RunConfig, key: str) -> Any:
    """Return the annotation of a setting."""
    group, _, name = key.partition(".")
    return typing.get_type_hints(type(_group(config, group)))[name]


def _kinds(config: RunConfig, key: str) -> tuple[Any, ...]:
    """Return the types that a setting takes."""
    hint = _hint(config, key)
    return typing.get_args(hint) or (hint,)

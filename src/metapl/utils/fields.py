"""Settings as annotated fields: help, unit, range and the values that tuning tries stand beside type and default.

    memory: Annotated[float, Help("size of the images that are held", "GiB"), Range(0)] = 4.0
    weight: Annotated[float, "weight of the unlabelled loss", NOT_NEGATIVE] = 1.0    # a text is a Help without unit

Help texts, docs/settings.md, range errors and the search space of ``tune`` are all made from these.
"""

from __future__ import annotations

import functools
import math
import numbers
import typing
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from metapl.errors import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Help:
    """What a setting means, and the unit it is given in ("" where it has none)."""

    text: str
    unit: str = ""


@dataclass(frozen=True)
class Range:
    """The numbers that a setting takes. Values that are not numbers, such as "auto", are left to the type.

    Attributes:
        low, high: the ends.
        above, below: the lower or the upper end itself is refused.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        """Return whether ``value`` lies inside."""
        return (
            math.isfinite(value)
            and (value > self.low if self.above else value >= self.low)
            and (value < self.high if self.below else value <= self.high)
        )

    def __str__(self) -> str:
        low = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
        high = f"below {self.high:g}" if self.below else f"at most {self.high:g}"
        ends = [low] * (self.low > -math.inf) + [high] * (self.high < math.inf)
        return " and ".join(ends)


@dataclass(frozen=True)
class Tries:
    """The values that ``tune`` tries by default, as they are typed: ``0.5,0.7``; ``x3`` is three times the run's own.

    Attributes:
        idle: the name of another setting of the group, and its values under which this one has no effect: it is then
            not tuned by default.
    """

    values: str
    idle: tuple[Any, ...] = ()


class Settings:
    """Base of a dataclass of settings: checks every value against its ``Range``, when one is made.

    class Config(Settings, group="mpl"): ``group`` begins the settings' keys.
    """

    group: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "", **more: Any) -> None:
        super().__init_subclass__(**more)
        cls.group = group or cls.group

    def __post_init__(self) -> None:
        """Refuse numbers out of range, and other values where only numbers are taken.

        Raises:
            UserError: it says the value, the range and the key.
        """
        cls: Any = type(self)
        helps = helps_of(cls)
        for name, limits in notes_of(cls, Range).items():
            value, hint = getattr(self, name), _types(cls)[name]
            number = isinstance(value, numbers.Integral if hint is int else numbers.Real) and not isinstance(
                value, bool
            )
            if limits.holds(value) if number else hint not in (int, float):
                continue
            kind = {int: "a whole number, ", float: "a number, "}.get(hint, "") if not number else ""
            unit = f" ({helps[name].unit})" if name in helps and helps[name].unit else ""
            key = f"{self.group}.{name}" if self.group else name
            raise UserError(f"{name} is {value if number else repr(value)}", f"Give {kind}{limits}{unit}.", key)


@functools.cache
def notes_of(cls: Any, kind: type[T]) -> Mapping[str, T]:
    """Return the last ``kind`` (str, Help, Range or Tries) beside the type of every field that has one."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {
        f.name: note
        for f in fields(cls)
        for note in getattr(hints[f.name], "__metadata__", ())
        if isinstance(note, kind)
    }


@functools.cache
def _types(cls: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(cls)


def helps_of(cls: Any) -> dict[str, Help]:
    """Return the meaning of each field of the dataclass ``cls`` that has one."""
    return {name: Help(text) for name, text in notes_of(cls, str).items()} | dict(notes_of(cls, Help))


NOT_NEGATIVE = Range(0)
POSITIVE = Range(0, above=True)
AT_LEAST_ONE = Range(1)
SHARE = Range(0, 1)
BELOW_ONE = Range(0, 1, below=True)

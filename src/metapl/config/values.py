"""Values of settings: from YAML, and from the text behind ``key=``, to the type that the setting declares."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable
from typing import Any, Literal

import yaml

from metapl.errors import UserError


def convert(value: Any, hint: Any, key: str, where: str) -> Any:
    """Return ``value`` as ``hint`` wants it: YAML reads 1e-3 as text, 1 as a whole number, and off as false.

    Raises:
        UserError: a value of another type, or a number that is not finite.
    """
    if hint is Any:
        return value
    if value is False and "off" in typing.get_args(hint):
        return "off"
    choices = _choices(hint)
    for choice in choices:
        fits = value in typing.get_args(choice) if _is_literal(choice) else type(value) is choice
        if fits and not (isinstance(value, float) and not math.isfinite(value)) and not _too_large(value):
            return value
    if float in choices and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            number = float(value)
            if math.isfinite(number):
                return number
        except (ValueError, OverflowError):
            pass
    remedy, shown = _wanted(choices), _shown(value)
    if choices == (str,) and not isinstance(value, dict | list) and value is not None:
        remedy = f"It takes text: put it in quotes, as '{shown}'."
    raise UserError(f"{shown} is not a valid value of {key}", remedy, where)


def _shown(value: Any) -> str:
    """Return the value for a message: not longer than a line, which a number of many digits would be."""
    if _too_large(value):
        return "so large a number"
    text = repr(value)
    return text if len(text) <= LONG else f"{text[:LONG]}..."


def read_text(text: str, hint: Any, key: str) -> Any:
    """Return the value of ``text``: the text itself if the setting takes only text, else the value that YAML reads.

    Quotes around a text are taken off, so that one may begin or end with a space.

    Raises:
        UserError: YAML cannot read it.
    """
    if hint is not None and all(choice is str or _is_literal(choice) for choice in _choices(hint)):
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        return text[1:-1] if quoted else text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise UserError(f"the value of '{key}' cannot be read", "Quote it.") from error


def describe(hint: Any) -> list[str]:
    """Return what a setting takes, in words: the choices, or ``whole number``, ``number``, ``text``, ..."""
    words: list[str] = []
    for choice in _choices(hint):
        words += [str(v) for v in typing.get_args(choice)] if _is_literal(choice) else [WORDS.get(choice, str(choice))]
    return words


def _too_large(value: Any) -> bool:
    return isinstance(value, int) and abs(value) > WHOLE


WHOLE = 2**53  # the largest whole number that a setting takes
LONG = 200  # characters of a value in a message
WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}


def _choices(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_literal(choice: Any) -> bool:
    return typing.get_origin(choice) is Literal


def _wanted(choices: Iterable[Any]) -> str:
    words: list[str] = []
    for c in choices:
        words += [repr(v) for v in typing.get_args(c)] if _is_literal(c) else [getattr(c, "__name__", str(c))]
    names = {"NoneType": "null", "int": "a whole number", "float": "a number", "str": "text", "bool": "true or false"}
    return f"It takes {', '.join(names.get(w, w) for w in words)}."

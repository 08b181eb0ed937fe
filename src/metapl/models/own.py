"""Networks that come from Python: a module, a factory, or the name under which a factory can be imported."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable

from torch import nn

from metapl.errors import UserError
from metapl.utils.names import split_name

Factory = Callable[..., nn.Module]
"""Makes a fresh network: called as ``factory(shape=..., num_classes=...)``, or with nothing where it takes nothing."""
Shape = tuple[int, ...]
LIBRARIES = ("timm", "torchvision", "hf")  # what stands before a colon in names that are not code
GIVEN = "given:"  # begins the name of a network that was given as an object, which no name can bring back


def as_factory(model: nn.Module | Factory) -> Factory:
    """What makes a run's networks out of one network (each is a copy of it, weights included) or a factory.

    Raises:
        UserError: it is neither.
    """
    if isinstance(model, nn.Module):
        return lambda shape, num_classes: copy.deepcopy(model)
    if not callable(model):
        raise UserError(f"model is a {type(model).__name__}", "Give a name, an nn.Module, or a factory.", "model")
    return model


def given_name(model: nn.Module | Factory) -> str:
    """A name for a network that was given as an object; ``package.module:function`` where that brings it back."""
    if isinstance(model, nn.Module):
        return f"{GIVEN}{type(model).__name__}"
    module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", type(model).__name__)
    try:
        found = getattr(importlib.import_module(str(module)), name, None) if module != "__main__" else None
    except (ImportError, ValueError):
        found = None
    return f"{module}:{name}" if found is model else f"{GIVEN}{name}"


def is_code(name: str) -> bool:
    """Whether making the network or encoder of that name runs Python code that the name tells where to find."""
    kind = split_name(name).prefix
    return kind is not None and kind not in LIBRARIES and not name.startswith(GIVEN)


def check_trusted(name: str, trusted: bool, where: str) -> None:
    """Refuse to import what a stored name asks for, unless the user said that the code may run.

    A name in a model's folder is not the user's word: any function of any package that lies on this machine could stand
    there, and importing and calling it is all the harm that it can do.

    Raises:
        UserError: it is code, and not trusted.
    """
    if not trusted and is_code(name):
        what = f"the model's folder asks to run the Python code '{name}'"
        remedy = "If you trust it, add --trust-code; from Python trust_code=True, or give it as network= or encoder=."
        raise UserError(what, remedy, where)


def imported(name: str) -> Factory:
    """The factory ``package.module:function``.

    Raises:
        UserError: it cannot be imported or called.
    """
    module, function = split_name(name)
    try:
        factory: Factory = getattr(importlib.import_module(module or ""), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: "" and ".relative"
        remedy = "Give package.module:function, importable from here (is PYTHONPATH set?)."
        raise UserError(f"cannot import '{name}' ({error})", remedy, "model") from error
    if not callable(factory):
        raise UserError(f"'{name}' is a {type(factory).__name__}, not a function", "Give a factory.", "model")
    return factory


def call(factory: Factory, name: str, shape: Shape, num_classes: int) -> object:
    """What the factory gives; ``name`` is for messages.

    Raises:
        UserError: it cannot be called like that.
    """
    try:
        return factory() if _takes_nothing(factory) else factory(shape=shape, num_classes=num_classes)
    except TypeError as error:
        remedy = "It is called as function(shape=..., num_classes=...)."
        raise UserError(f"'{name}' cannot be called ({error})", remedy, "model") from error


def _takes_nothing(factory: Factory) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # built in: it can only be tried
        return False
    needed = [p for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return not needed and not {"shape", "num_classes"} & parameters.keys()

"""Networks given in Python: a module, a factory, or the name under which a factory can be imported."""

from __future__ import annotations

import copy
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from metapl.errors import UserError
from metapl.types import Shape
from metapl.utils.names import split_name

Factory = Callable[..., nn.Module]
"""Makes a fresh network: called as ``factory(shape=..., num_classes=...)``, or ``factory()`` without parameters."""
LIBRARIES = ("timm", "torchvision", "hf")  # prefixes of names that are not code
GIVEN = "given:"  # prefix of the name of a network given as an object, which cannot be built from its name


def as_factory(model: nn.Module | Factory) -> Factory:
    """Return a factory of a run's networks. From one network it makes copies, weights included.

    Raises:
        UserError: ``model`` is neither a network nor a factory.
    """
    if isinstance(model, nn.Module):
        return lambda shape, num_classes: copy.deepcopy(model)
    if not callable(model):
        raise UserError(f"model is a {type(model).__name__}", "Give a name, an nn.Module, or a factory.", "model")
    return model


def given_name(model: nn.Module | Factory) -> str:
    """Return a name for a network given as an object: ``package.module:function`` if it can be imported by that."""
    if isinstance(model, nn.Module):
        return f"{GIVEN}{type(model).__name__}"
    module, name = getattr(model, "__module__", None), getattr(model, "__qualname__", type(model).__name__)
    try:
        imported_object = getattr(importlib.import_module(str(module)), name, None) if module != "__main__" else None
    except (ImportError, ValueError):
        imported_object = None
    return f"{module}:{name}" if imported_object is model else f"{GIVEN}{name}"


def is_code(name: str) -> bool:
    """Return whether the name refers to Python code (``package.module:function``) that building the network runs."""
    kind = split_name(name).prefix
    return kind is not None and kind not in LIBRARIES and not name.startswith(GIVEN)


def code_in(tree: Mapping[str, Any]) -> list[str]:
    """Names of Python code in a run's tree of settings: its method, its networks and its encoder."""
    source = tree.get("source")
    encoder = source.get("encoder") if isinstance(source, Mapping) else ""
    encoder = encoder.get("name") if isinstance(encoder, Mapping) else encoder
    names = [tree.get(key) for key in ("method", "model", "teacher_model")]
    return [name for name in map(str, [*names, encoder]) if is_code(name)]


def check_trusted(name: str, trusted: bool, where: str) -> None:
    """Refuse to import the code that a stored name refers to, unless the user allowed it.

    Whoever wrote a model's folder can name any function of any installed package there. To import and call it is all
    the harm that such a name can do.

    Raises:
        UserError: the name refers to code, and ``trusted`` is False.
    """
    if not trusted and is_code(name):
        problem = f"the folder asks to run the Python code '{name}'"
        remedy = "If you trust it, add --trust-code; from Python trust_code=True, or give it as network= or encoder=."
        raise UserError(problem, remedy, where)


def imported(name: str) -> Factory:
    """Import the factory ``package.module:function``.

    Raises:
        UserError: it cannot be imported or called.
    """
    module, function = split_name(name)
    try:
        factory: Factory = getattr(importlib.import_module(module or ""), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for "" and ".relative"
        remedy = "Give package.module:function, importable from here (is PYTHONPATH set?)."
        raise UserError(f"cannot import '{name}' ({error})", remedy, "model") from error
    if not callable(factory):
        raise UserError(f"'{name}' is a {type(factory).__name__}, not a function", "Give a factory.", "model")
    return factory


def call(factory: Factory, name: str, shape: Shape, num_classes: int) -> object:
    """Call the factory and return its result; ``name`` is for messages.

    Raises:
        UserError: it cannot be called with these arguments.
    """
    try:
        return factory() if _has_no_parameters(factory) else factory(shape=shape, num_classes=num_classes)
    except TypeError as error:
        remedy = "It is called as function(shape=..., num_classes=...)."
        raise UserError(f"'{name}' cannot be called ({error})", remedy, "model") from error


def _has_no_parameters(factory: Factory) -> bool:
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # a built-in function has no signature
        return False
    required = [p for p in parameters.values() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    return not required and not {"shape", "num_classes"} & parameters.keys()

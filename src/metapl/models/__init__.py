"""Networks by name, or any factory: everything that turns a row's shape and a class count into logits."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from metapl.errors import UserError, nearest
from metapl.models.convnet import ConvNet as ConvNet
from metapl.models.mlp import MLP as MLP
from metapl.models.small_cnn import SmallCNN as SmallCNN
from metapl.models.wide_resnet import WideResNet as WideResNet
from metapl.types import Tokens

Shape = tuple[int, ...]
Factory = Callable[..., nn.Module]
"""Makes a fresh network when called as ``factory(shape=..., num_classes=...)``."""
GIVEN = "given:"  # begins the name of a network that was given as an object, which no name can bring back


@dataclass(frozen=True)
class Entry:
    """A line of MODELS: how to build it and what it is for."""

    build: Callable[[Shape, int], nn.Module]
    about: str
    images_only: bool = True


MODELS: dict[str, Entry] = {
    "small_cnn": Entry(lambda s, c: SmallCNN(s[0], (s[1], s[2]), c), "BatchNorm CNN for tiny images; fast on a CPU"),
    "convnet": Entry(lambda s, c: ConvNet(s[0], (s[1], s[2]), c), "the tutorial's net: two convolutions, 128 units"),
    "wrn-28-2": Entry(lambda s, c: WideResNet(s[0], c), "WideResNet-28-2, the field's standard net; wants a GPU"),
    "mlp": Entry(lambda s, c: MLP(s, c), "two hidden layers of 128; feature rows", images_only=False),
}


def auto_name(shape: Shape, tokens: Tokens | None = None) -> str:
    """The net that ``auto`` stands for: mlp for feature rows, small_cnn up to 32 pixels or without a GPU, else wrn."""
    if len(shape) == 1:
        return "mlp"
    return "wrn-28-2" if max(shape[1:]) > 32 and torch.cuda.is_available() else "small_cnn"


def build_model(name: str, shape: Shape, num_classes: int, tokens: Tokens | None = None) -> nn.Module:
    """A fresh network for rows of ``shape`` and ``num_classes`` classes.

    Args:
        name: ``auto``, a name in MODELS, or ``package.module:function`` called as
            ``function(shape=..., num_classes=...)``.
        shape: one row as the network sees it: [channels, height, width], [features] or, for texts, [length].
        tokens: for texts, how ids were made.

    Raises:
        UserError: unknown name, a factory that cannot be imported or gives no ``nn.Module``, or one whose logits
            are not [B, num_classes].
    """
    if name.startswith(GIVEN):
        what = f"the network '{name.removeprefix(GIVEN)}' was given as a Python object, which is not stored"
        raise UserError(what, "Give it again as network=..., from Python.", "model")
    if ":" in name:
        return _checked(_call(_factory(name), name, shape, num_classes), name, shape, num_classes)
    name = auto_name(shape, tokens) if name == "auto" else name
    if name not in MODELS:
        raise UserError(f"unknown model '{name}'", f"{nearest(name, MODELS)} Or give package.module:function.", "model")
    if MODELS[name].images_only and len(shape) != 3:
        raise UserError(f"model '{name}' takes images, these rows have the shape {list(shape)}", "Use mlp.", "model")
    return MODELS[name].build(shape, num_classes)


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
    module, name = getattr(model, "__module__", ""), getattr(model, "__qualname__", type(model).__name__)
    found = getattr(sys.modules.get(module), name, None)
    return f"{module}:{name}" if found is model and module != "__main__" else f"{GIVEN}{name}"


def build_given(factory: Factory, name: str, shape: Shape, num_classes: int) -> nn.Module:
    """A fresh network from ``factory``, checked like one of ``build_model``'s; ``name`` is for messages.

    Raises:
        UserError: see ``build_model``.
    """
    return _checked(_call(factory, name, shape, num_classes), name.removeprefix(GIVEN), shape, num_classes)


def _factory(name: str) -> Callable[..., nn.Module]:
    module, _, function = name.partition(":")
    try:
        factory: Callable[..., nn.Module] = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two: "" and ".relative"
        remedy = "Give package.module:function, importable from here (is PYTHONPATH set?)."
        raise UserError(f"cannot import '{name}' ({error})", remedy, "model") from error
    if not callable(factory):
        raise UserError(f"'{name}' is a {type(factory).__name__}, not a function", "Give a factory.", "model")
    return factory


def _call(factory: Factory, name: str, shape: Shape, num_classes: int) -> object:
    try:
        return factory(shape=shape, num_classes=num_classes)
    except TypeError as error:
        remedy = "It is called as function(shape=..., num_classes=...)."
        raise UserError(f"'{name}' cannot be called ({error})", remedy, "model") from error


def _checked(model: object, name: str, shape: Shape, num_classes: int) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise UserError(f"'{name}' gave a {type(model).__name__}, not an nn.Module", "", "model")
    training = model.training
    try:
        with torch.no_grad():
            out = model.eval()(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, TypeError) as error:
        remedy = f"It is called with a float batch of shape [B, {', '.join(map(str, shape))}]."
        raise UserError(f"'{name}' cannot take these rows ({error})", remedy, "model") from error
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (2, num_classes):
        got = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise UserError(f"'{name}' gives {got} for 2 rows", f"It must give logits [2, {num_classes}].", "model")
    return model.train(training)

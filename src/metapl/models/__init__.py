"""Build networks by name or from a factory: from a row's shape and a class count to logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from metapl.errors import UserError, nearest
from metapl.models import huggingface, own, vision, weights
from metapl.models.convnet import ConvNet as ConvNet
from metapl.models.fitted.forest import Forest as Forest
from metapl.models.fitted.logistic import LinearNetwork
from metapl.models.fitted.tfidf import TfIdf as TfIdf
from metapl.models.head import Head as Head
from metapl.models.mlp import MLP as MLP
from metapl.models.ngram import NGram as NGram
from metapl.models.own import GIVEN as GIVEN
from metapl.models.own import Factory as Factory
from metapl.models.own import as_factory as as_factory
from metapl.models.own import given_name as given_name
from metapl.models.small_cnn import SmallCNN as SmallCNN
from metapl.models.wide_resnet import WideResNet as WideResNet
from metapl.types import Shape, Tokens
from metapl.utils.names import split_name


@dataclass(frozen=True)
class Entry:
    """A line of MODELS: builds the network from a row's shape (for texts: from ``Tokens``), and says what it is for."""

    build: Callable[[Any, int], nn.Module]
    about: str
    images_only: bool = True
    texts: bool = False


MODELS: dict[str, Entry] = {
    "small_cnn": Entry(lambda s, c: SmallCNN(s[0], (s[1], s[2]), c), "BatchNorm CNN for tiny images; fast on a CPU"),
    "convnet": Entry(lambda s, c: ConvNet(s[0], (s[1], s[2]), c), "the tutorial's net: two convolutions, 128 units"),
    "wrn-28-2": Entry(lambda s, c: WideResNet(s[0], c), "WideResNet-28-2, the field's standard net; wants a GPU"),
    "mlp": Entry(lambda s, c: MLP(s, c), "two hidden layers of 128; feature rows", images_only=False),
    "linear": Entry(lambda s, c: LinearNetwork(s, c), "one linear layer; feature rows", images_only=False),
    "head": Entry(lambda s, c: Head(s, c), "one linear layer from 0; features of an encoder", images_only=False),
    "forest": Entry(lambda s, c: Forest(s, c), "random forest, fitted; feature rows", images_only=False),
    "ngram": Entry(lambda t, c: NGram(t, c), "hashed words and runs of words; texts", images_only=False, texts=True),
    "tfidf": Entry(lambda t, c: TfIdf(t, c), "one linear layer over TF-IDF", images_only=False, texts=True),
}


def auto_name(shape: Shape, tokens: Tokens | None = None, fitted: bool = False) -> str:
    """Return the name of the net that ``auto`` means.

    It is ngram for texts, mlp for feature rows, small_cnn for images up to 32 pixels or without a GPU, else wrn-28-2.
    ``fitted``: the linear layer that is fitted instead of trained.
    """
    if fitted:
        return "linear" if tokens is None else "tfidf"
    if tokens is not None:
        return "ngram"
    if len(shape) == 1:
        return "mlp"
    return "wrn-28-2" if max(shape[1:]) > 32 and torch.cuda.is_available() else "small_cnn"


ADAPTERS = {
    "timm": "any of timm's networks by its name there, such as timm:resnet18 (extra: vision)",
    "torchvision": "any of torchvision's classifiers, such as torchvision:resnet18 (extra: vision)",
    "hf": "a network of transformers in a folder on this machine, with its weights: hf:FOLDER (extra: text)",
}


def names_like(name: str) -> list[str]:
    """Return every name that contains PART, with its prefix, for ``timm:PART`` or ``torchvision:PART``.

    Raises:
        UserError: the library is another one or not installed, or it has no such name.
    """
    kind, part = split_name(name)
    if kind not in ("timm", "torchvision"):
        raise UserError(f"no list of networks is called '{name}'", "Give timm:PART or torchvision:PART.", "models")
    known = vision.names(kind)
    matching = [f"{kind}:{other}" for other in known if part in other]
    if not matching:
        raise UserError(f"{kind} has no network with '{part}' in its name", vision.like(part, known), "models")
    return matching


def build_model(
    name: str,
    shape: Shape,
    num_classes: int,
    tokens: Tokens | None = None,
    *,
    start: str = "",
    download: bool = False,
    architecture: Mapping[str, Any] | None = None,
    notes: list[str] | None = None,
) -> nn.Module:
    """Build a fresh network for rows of ``shape`` and ``num_classes`` classes.

    Args:
        name: ``auto``, a name in MODELS, ``timm:NAME``, ``torchvision:NAME``, ``hf:FOLDER``, or
            ``package.module:function`` called as ``function(shape=..., num_classes=...)``.
        shape: one row as the network sees it: [channels, height, width], [features] or, for texts, [length].
        tokens: for texts, how ids were made.
        start: a file of first weights for all but the head.
        download: let timm or torchvision fetch weights.
        architecture: the stored structure of an ``hf:`` network whose weights will be loaded next: see ``rebuild``.
        notes: a list to which messages about first weights are added.

    Raises:
        UserError: unknown name, a factory that cannot be imported or returns no ``nn.Module``, weights that do not fit,
            or a network that does not take these rows or whose logits are not [B, num_classes].
    """
    model = _built(name, shape, num_classes, tokens, download, architecture, notes)
    return _started(model, num_classes, start, notes)


def build_given(
    factory: Factory,
    name: str,
    shape: Shape,
    num_classes: int,
    tokens: Tokens | None = None,
    *,
    start: str = "",
    notes: list[str] | None = None,
) -> nn.Module:
    """Build a fresh network by ``factory`` and check it as ``build_model`` does; ``name`` is for messages.

    Raises:
        UserError: see ``build_model``.
    """
    name = name.removeprefix(GIVEN)
    model = _checked(own.call(factory, name, shape, num_classes), name, shape, num_classes, tokens)
    return _started(model, num_classes, start, notes)


def _started(model: nn.Module, num_classes: int, start: str, notes: list[str] | None) -> nn.Module:
    """Load the weights of the file ``start`` into ``model``, if there is one."""
    if start:
        messages = weights.load_body(model, weights.read_weights(start), num_classes, start)
        if notes is not None:
            notes += messages
    return model


def rebuild(
    name: str, shape: Shape, num_classes: int, tokens: Tokens | None, architecture: Mapping[str, Any] | None
) -> nn.Module:
    """Build a network whose weights will be loaded next: its folder of first weights is not needed."""
    return build_model(name, shape, num_classes, tokens, architecture=architecture)


def architecture(model: nn.Module) -> dict[str, Any] | None:
    """Return the structure that ``rebuild`` needs for an ``hf:`` network; None for all others."""
    classifier = next((m for m in model.modules() if isinstance(m, huggingface.HFClassifier)), None)
    return None if classifier is None else classifier.architecture


def _built(
    name: str,
    shape: Shape,
    num_classes: int,
    tokens: Tokens | None,
    download: bool,
    stored: Mapping[str, Any] | None,
    notes: list[str] | None,
) -> nn.Module:
    kind, rest = split_name(name)
    if name.startswith(GIVEN):
        problem = f"the network '{rest}' was given as a Python object, which is not stored"
        raise UserError(problem, "Give it again as network=..., from Python.", "model")
    if kind in ("timm", "torchvision"):
        if len(shape) != 3:
            raise UserError(f"'{name}' takes images, these rows have the shape {list(shape)}", "Use mlp.", "model")
        build = vision.build_timm if kind == "timm" else vision.build_torchvision
        return _checked(build(rest, shape, num_classes, download), name, shape, num_classes)
    if kind == "hf":
        if download:
            raise UserError("download does not go with an hf: network", "Its weights come from the folder.", "download")
        if len(shape) != 3 and tokens is None:
            raise UserError("an hf: network takes images or texts, these rows are a table", "Use mlp.", "model")
        return _checked(
            huggingface.build_hf(rest, shape, num_classes, tokens, stored, notes), name, shape, num_classes, tokens
        )
    if download:
        raise UserError(f"nothing can be downloaded for '{name}'", "Use timm:NAME or torchvision:NAME.", "download")
    if kind is not None:
        return _checked(own.call(own.imported(name), name, shape, num_classes), name, shape, num_classes, tokens)
    return _by_name(auto_name(shape, tokens) if name == "auto" else name, shape, num_classes, tokens)


def _by_name(name: str, shape: Shape, num_classes: int, tokens: Tokens | None) -> nn.Module:
    if name not in MODELS:
        others = f"Or give {', '.join(f'{kind}:...' for kind in ADAPTERS)} or package.module:function."
        raise UserError(f"unknown model '{name}'", f"{nearest(name, MODELS)} {others}", "model")
    if MODELS[name].texts != (tokens is not None):
        reason = (
            "does not take texts" if tokens is not None else f"takes texts, these rows have the shape {list(shape)}"
        )
        raise UserError(f"model '{name}' {reason}", f"Use {auto_name(shape, tokens)}.", "model")
    if tokens is not None:
        return MODELS[name].build(tokens, num_classes)
    if MODELS[name].images_only and len(shape) != 3:
        raise UserError(f"model '{name}' takes images, these rows have the shape {list(shape)}", "Use mlp.", "model")
    return MODELS[name].build(shape, num_classes)


def _checked(model: object, name: str, shape: Shape, num_classes: int, tokens: Tokens | None = None) -> nn.Module:
    """Check the network by two rows of zeros (texts: hidden tokens) and return it in the mode it was in."""
    if not isinstance(model, nn.Module):
        raise UserError(f"'{name}' gave a {type(model).__name__}, not an nn.Module", "Let it return one.", "model")
    modes = [(m, m.training) for m in model.modules()]
    parameter = next(model.parameters(), torch.zeros(()))
    x = torch.zeros(2, *shape, device=parameter.device)
    x = x if tokens is None else torch.full_like(x, tokens.mask, dtype=torch.int64)
    try:
        with torch.no_grad():
            out = model.eval()(x)
    except (AssertionError, IndexError, RuntimeError, ValueError, TypeError) as error:
        kind = "float batch" if tokens is None else "batch of int64 ids"
        remedy = f"It is called with a {kind} of shape [B, {', '.join(map(str, shape))}]."
        remedy += " Set source.image.size for other images." if len(shape) == 3 else ""
        raise UserError(f"'{name}' cannot take these rows ({_line(error)})", remedy, "model") from error
    finally:
        for module, training in modes:
            module.training = training
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != (2, num_classes):
        got = list(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise UserError(f"'{name}' gives {got} for 2 rows", f"It must give logits [2, {num_classes}].", "model")
    return model


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__

"""Build networks of timm and torchvision by name. Nothing is downloaded unless the user asks for it."""

from __future__ import annotations

import difflib
import importlib
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from metapl.errors import UserError
from metapl.models.weights import MoreThanWeights, load_body
from metapl.types import Shape

REMEDY = "Set source.image.size to a size that it takes, or choose another network."
OFFLINE = "Is there a network? Else fetch the file elsewhere and give it as weights=FILE."
INSTALL = 'Install it: pip install "metapl[vision]".'
# In training two nets of torchvision return a pair unless this is switched off. Their weights need images on another
# scale than all others; ``transform_input`` rescales images of three channels.
_ONE_OUTPUT = {name: {"aux_logits": False, "init_weights": True} for name in ("inception_v3", "googlenet")}


@dataclass(frozen=True)
class InputSpec:
    """The form in which an encoder takes images.

    Attributes:
        size: (height, width) to resize images to; None = as they are.
        mean, std: per channel, on the 0..1 scale; () = 0 and 1.
        channels: number of channels; 0 = as they are.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    channels: int = 0


def library(name: str, install: str = INSTALL) -> ModuleType:
    """Import the optional package ``name``.

    Raises:
        UserError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the package {name} is not installed ({error})", install, "model") from error


def build_timm(name: str, shape: Shape, num_classes: int, download: bool) -> nn.Module:
    """Call ``timm.create_model`` for images of ``shape``; with ``num_classes`` 0 the network returns features.

    Raises:
        UserError: timm is not installed, the name is unknown, or the network refuses the images.
    """
    timm = library("timm")
    if ":" in name or "/" in name or not timm.is_model(name):
        raise UserError(f"timm has no network '{name}'", like(name, timm.list_models()), "model")
    given = {"pretrained": download, "num_classes": num_classes, "in_chans": shape[0]}
    try:
        try:  # nets whose weights depend on the image size take img_size, the others refuse it
            network: nn.Module = timm.create_model(name, **given, img_size=tuple(shape[1:]))
        except TypeError:
            network = timm.create_model(name, **given)
    except OSError as error:
        raise UserError(f"the weights of timm:{name} cannot be fetched ({error})", OFFLINE, "download") from error
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(f"timm:{name} cannot be made for images {_size(shape)} ({error})", REMEDY, "model") from error
    return network


def build_torchvision(name: str, shape: Shape, num_classes: int, download: bool) -> nn.Module:
    """Call ``torchvision.models.get_model`` for ``num_classes`` and ``shape[0]`` channels in the first convolution.

    Raises:
        UserError: torchvision is not installed, the name is unknown, or the network refuses the images.
    """
    models = library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classifier '{name}'", like(name, known), "model")
    given: dict[str, Any] = {"weights": None, "num_classes": num_classes, **_ONE_OUTPUT.get(name, {})}
    scales = name in _ONE_OUTPUT and shape[0] in (1, 3)
    given |= {**_own_size(name, shape), **({"transform_input": True} if scales else {})}
    try:
        network: nn.Module = models.get_model(name, **given)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        problem = f"torchvision:{name} cannot be made for images {_size(shape)} ({error})"
        raise UserError(problem, REMEDY, "model") from error
    if scales and shape[0] == 1:
        network.register_forward_pre_hook(_as_rgb)
    else:
        adapt_stem(network, shape[0])
    if download:
        load_body(network, downloaded(name), num_classes, f"torchvision:{name}")
    return network


def with_own_classes(kind: str, name: str, download: bool = False) -> nn.Module:
    """Build a network of ``timm`` or ``torchvision`` as its library's weights are for: with their classes and channels.

    Raises:
        UserError: as ``build_timm`` and ``build_torchvision``.
    """
    if kind == "torchvision":
        return build_torchvision(name, (3, 224, 224), 1000, False)
    spec = timm_input_spec(name)
    assert spec.size is not None  # timm notes one for each of its networks
    classes = library("timm").models.get_pretrained_cfg(name).num_classes
    return build_timm(name, (spec.channels, *spec.size), classes, download)


def _as_rgb(module: nn.Module, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """Repeat a grey image three times."""
    return (given[0].expand(-1, 3, -1, -1),)


def downloaded(name: str) -> dict[str, torch.Tensor]:
    """Fetch torchvision's own weights for ``name``, or read them from its cache, without running code in them.

    Raises:
        UserError: they cannot be fetched, or the file holds more than weights.
    """
    published = library("torchvision").models.get_model_weights(name).DEFAULT
    try:
        state: dict[str, torch.Tensor] = published.get_state_dict(
            check_hash=True, weights_only=True, map_location="cpu"
        )
    except MoreThanWeights as error:
        problem = f"the file of weights of torchvision:{name} holds more than weights, or is damaged"
        remedy = f"Remove {Path(published.url).name} from torch's cache of checkpoints, and fetch it again."
        raise UserError(problem, remedy, "download") from error
    except (OSError, RuntimeError, EOFError) as error:
        raise UserError(
            f"the weights of torchvision:{name} cannot be fetched ({error})", OFFLINE, "download"
        ) from error
    return state


def without_head(model: nn.Module) -> nn.Module:
    """Remove the last layer of the network, so that it returns features instead of logits."""
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    parent, _, last = layers[-1].rpartition(".")
    setattr(model.get_submodule(parent), last, nn.Identity())
    return model


def timm_input_spec(name: str) -> InputSpec:
    """Return the image size, mean and std that timm states for the network.

    Raises:
        UserError: timm is not installed, or the name is unknown.
    """
    timm = library("timm")
    if ":" in name or "/" in name or not timm.is_model(name):
        raise UserError(f"timm has no network '{name}'", like(name, timm.list_models()), "encoder")
    stated = timm.models.get_pretrained_cfg(name)
    channels, height, width = stated.input_size
    return InputSpec((height, width), tuple(stated.mean), tuple(stated.std), channels)


def torchvision_input_spec(name: str) -> InputSpec:
    """Return the image size, mean and std of torchvision's own weights for the network, without fetching them.

    Raises:
        UserError: torchvision is not installed, or the name is unknown.
    """
    models = library("torchvision").models
    known = models.list_models(module=models)
    if name not in known:
        raise UserError(f"torchvision has no classifier '{name}'", like(name, known), "encoder")
    stated = models.get_model_weights(name).DEFAULT.transforms()
    side = stated.crop_size[0]
    return InputSpec((side, side), tuple(stated.mean), tuple(stated.std), 3)


def _own_size(name: str, shape: Shape) -> dict[str, Any]:
    """Return the size arguments of nets that are built for one image size."""
    if name.startswith("vit_"):
        return {"image_size": shape[1]}
    return {"input_size": tuple(shape[1:])} if name.startswith("maxvit") else {}


def adapt_stem(model: nn.Module, channels: int) -> None:
    """Replace the first convolution if it does not take ``channels``."""
    stem = next(((n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), None)
    if stem is None or stem[1].in_channels == channels:
        return
    name, old = stem
    new = nn.Conv2d(
        channels,
        old.out_channels,
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        old.dilation,  # type: ignore[arg-type]
        bias=old.bias is not None,
        padding_mode=old.padding_mode,
    )
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, new)


def names(kind: str) -> list[str]:
    """Return the names of all classifiers of ``timm`` or ``torchvision``.

    Raises:
        UserError: the library is not installed.
    """
    if kind == "timm":
        return sorted(library("timm").list_models())
    models = library("torchvision").models
    return sorted(models.list_models(module=models))


def like(name: str, known: list[str]) -> str:
    """Return a hint with the known names closest to ``name``."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    return f"Did you mean {' or '.join(close)}?" if close else f"It knows {len(known)} names, such as {known[0]}."


def _size(shape: Shape) -> str:
    return f"of {shape[1]} x {shape[2]} pixels and {shape[0]} channel{'s' * (shape[0] != 1)}"

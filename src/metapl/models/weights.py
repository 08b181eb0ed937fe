"""First weights from a file: the body is taken, the head is skipped, and whatever else does not fit is an error."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from metapl.errors import UserError

MoreThanWeights = pickle.UnpicklingError  # what torch raises where a file asks for more than tensors
INSIDE = ("state_dict", "model_state_dict", "model", "model_ema")  # where training programs put the weights
WRAPPED = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before each name
SHOWN = 5


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a ``.safetensors`` file, or of a PyTorch file as far as it holds tensors and plain values alone.

    Raises:
        UserError: no such file, damaged, or not such a file.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError("there is no such file of weights", "Check the path.", str(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: an unpickler that knows tensors and plain containers and calls nothing else.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of an odd protocol: either it can be read or it is refused
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, MoreThanWeights, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        remedy = "Give a .safetensors file, or a .pth file that holds a state dict and nothing else."
        raise UserError(f"the weights cannot be read ({reason})", remedy, str(path)) from error
    for name in INSIDE:
        if isinstance(found, Mapping) and isinstance(found.get(name), Mapping):
            found = found[name]
            break
    tensors = {str(k): v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, Mapping) else {}
    if not tensors:
        raise UserError("there are no weights in this file", "Give a file that holds a state dict.", str(path))
    return {_bare(name): value for name, value in tensors.items()}


def load_body(model: nn.Module, tensors: Mapping[str, Tensor], num_classes: int, where: str) -> list[str]:
    """Put ``tensors`` into ``model`` by name, all but the head where that has other classes; what to tell the user.

    The input convolution may have other channels: to one channel its weights are summed, to others repeated and scaled,
    so that a grey image gives what it gave as RGB.

    Raises:
        UserError: a weight of the body is missing or has another shape.
    """
    own, heads, notes = model.state_dict(), _heads(model, num_classes), list[str]()
    stem = next((f"{n}.weight" for n, m in model.named_modules() if isinstance(m, nn.Conv2d)), "")
    taken, wrong, skipped = dict[str, Tensor](), list[str](), list[str]()
    for name, value in own.items():
        given, in_head = tensors.get(name), name.rpartition(".")[0] in heads
        if given is not None and given.shape == value.shape:
            taken[name] = given
        elif in_head:
            skipped.append(name)
        elif given is not None and name == stem and _is_stem(given, value):
            taken[name] = _channels(given, value.shape[1])
            notes.append(f"{given.shape[1]} input channels made {value.shape[1]}")
        elif not (given is None and name.endswith("num_batches_tracked")):
            has = "is missing" if given is None else f"has {list(given.shape)} for {list(value.shape)}"
            wrong.append(f"{name} {has}")
    if wrong or len(taken) == 0:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        what = f"the weights do not fit the network: {'; '.join(wrong[:SHOWN])}{more}"
        raise UserError(what, f"The file has {', '.join(list(tensors)[:3])}, ... Is it another network's?", where)
    model.load_state_dict({**own, **taken})
    extra = len([n for n in tensors if n not in own])
    notes += [f"new head ({', '.join(skipped)})"] if skipped else []
    notes += [f"{extra} unused tensors in the file"] if extra else []
    return [f"weights from {where}: {len(taken)} tensors{''.join(f'; {n}' for n in notes)}"]


def _heads(model: nn.Module, num_classes: int) -> set[str]:
    """Names of the layers that may give logits: the last ones, as long as they have ``num_classes`` outputs."""
    if not num_classes:  # an encoder has none
        return set()
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    found = set[str]()
    for name, layer in reversed(layers):
        if layer.weight.shape[0] != num_classes:
            break
        found.add(name)
    return found or {layers[-1][0]} if layers else found


def _is_stem(given: Tensor, own: Tensor) -> bool:
    """Whether the two are kernels that differ in the number of image channels alone."""
    return given.ndim == own.ndim == 4 and given.shape[:1] + given.shape[2:] == own.shape[:1] + own.shape[2:]


def _channels(kernel: Tensor, channels: int) -> Tensor:
    """A kernel [out, in, h, w] for ``channels`` inputs."""
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-channels // kernel.shape[1]), 1, 1)[:, :channels]
    return repeated * (kernel.shape[1] / channels)


def _bare(name: str) -> str:
    for prefix in WRAPPED:
        name = name.removeprefix(prefix)
    return name

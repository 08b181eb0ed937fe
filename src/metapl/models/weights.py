"""Load first weights from a file: take the body, skip the head, and refuse weights that do not fit otherwise."""

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

MoreThanWeights = pickle.UnpicklingError  # torch raises it for files with more than tensors
INSIDE = (
    "state_dict",
    "model_state_dict",
    "model",
    "model_ema",
)  # keys under which training programs store the weights
WRAPPED = ("module.", "_orig_mod.")  # prefixes that DataParallel and torch.compile add to each name
COUNTER = "num_batches_tracked"
ROLES = frozenset(("weight", "bias", "running_mean", "running_var", COUNTER))
SHOWN = 5


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read the tensors of a ``.safetensors`` file, or of a PyTorch file with tensors and plain values alone.

    Raises:
        UserError: the file is missing or damaged, or holds something else.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise UserError("there is no such file of weights", "Check the path.", str(path))
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        # weights_only: an unpickler that builds tensors and plain containers and calls nothing else.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about an odd protocol: the file is read or refused anyway
            content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, MoreThanWeights, RuntimeError, ValueError, EOFError, OSError, KeyError) as error:
        # The unpickler's own words are advice to load the file without weights_only, or a bare byte.
        unpickled = isinstance(error, MoreThanWeights | KeyError)
        reason = "it is damaged, or holds more than weights" if unpickled else " ".join(str(error).split())[:200]
        remedy = "Give a .safetensors file, or a .pth file that holds a state dict and nothing else."
        raise UserError(f"the weights cannot be read ({reason})", remedy, str(path)) from error
    for name in INSIDE:
        if isinstance(content, Mapping) and isinstance(content.get(name), Mapping):
            content = content[name]
            break
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)} if isinstance(content, Mapping) else {}
    if not tensors:
        raise UserError("there are no weights in this file", "Give a file that holds a state dict.", str(path))
    return {_bare(name): value for name, value in tensors.items()}


def load_body(model: nn.Module, tensors: Mapping[str, Tensor], num_classes: int, where: str) -> list[str]:
    """Load ``tensors`` into ``model`` by name, except a head with another number of classes; return notes for the user.

    The input convolution may have another number of channels. Its weights are then summed for one channel, or repeated
    and scaled for several, so that a grey image has the same features as its RGB copy.

    Raises:
        UserError: a weight of the body is missing, has another shape or is not finite.
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
        problem = f"the weights do not fit the network: {'; '.join(wrong[:SHOWN])}{more}"
        raise UserError(problem, _remedy(own, tensors), where)
    if broken := [name for name, value in taken.items() if not value.isfinite().all() and own[name].isfinite().all()]:
        share = f"{len(broken)} of {len(taken)} tensors, such as {broken[0]}"
        problem = f"the weights hold numbers that are not finite, in {share}"
        raise UserError(problem, "The file is damaged, or its training had diverged. Give another one.", where)
    model.load_state_dict({**own, **taken})
    extra = len([n for n in tensors if n not in own])
    notes += [f"new head ({', '.join(skipped)})"] if skipped else []
    notes += [f"{extra} unused tensors in the file"] if extra else []
    return [f"weights from {where}: {len(taken)} tensors{''.join(f'; {n}' for n in notes)}"]


def brings_head(model: nn.Module, path: str, num_classes: int) -> bool:
    """Return whether the file ``path``, from which ``model`` began, held a head for ``num_classes`` classes."""
    own, given = model.state_dict(), read_weights(path)
    names = [n for n in own if n.rpartition(".")[0] in _heads(model, num_classes)]
    return all(n in given and given[n].shape == own[n].shape for n in names)


def _remedy(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str:
    """Return the remedy for a file that does not fit: often only its names differ."""
    counted = [t for name, t in own.items() if not name.endswith(COUNTER)]
    given = [t for name, t in tensors.items() if not name.endswith(COUNTER)]
    if len(given) >= len(counted) and all(g.shape == o.shape for g, o in zip(given, counted)):
        return (
            "The shapes fit, the names do not: metapl models fetch NAME --from FILE --out NEW.safetensors renames them."
        )
    foreign = [name for name in tensors if name not in own and not name.endswith(COUNTER)]
    has = f"The file has {', '.join(foreign[:SHOWN])}, which this network has not. " if foreign else ""
    return f"{has}It is another network's, or not whole. Give the file of this network."


def in_order(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Return ``tensors`` by the names of ``own``: a network's state, in order. Other names are matched by position.

    At each position the shapes must be equal, and what the tensor is (weight, bias, running_mean, running_var) where
    both names say it. Counters of BatchNorm may be missing: a trained network does not use them.

    Raises:
        UserError: another number of tensors, a tensor of another shape or another meaning, or a file without an order.
    """
    if set(tensors) != set(own):
        tensors = _by_position(own, tensors, where)
    for name, value in tensors.items():
        if value.shape != own[name].shape:
            raise _other_network(f"'{name}' has the shape {list(value.shape)}", own[name], where)
    return {name: tensors.get(name, value).detach().clone().contiguous() for name, value in own.items()}


def _by_position(own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    if where.endswith(".safetensors"):  # they are stored by type and name
        what = "its names are not the network's, and a .safetensors file does not keep the order of tensors"
        raise UserError(what, "Give the file of this network, or the .pth file that this one was made from.", where)
    names, given = list(own), list(tensors)
    if len(given) != len(names):
        names, given = ([name for name in side if not name.endswith(COUNTER)] for side in (names, given))
    if len(given) != len(names):
        what = f"it holds {len(tensors)} tensors, the network has {len(own)}"
        raise UserError(what, "It is another network's, or not whole. Give the file of this network.", where)
    for position, (name, other) in enumerate(zip(names, given), 1):
        meant, found = (text.rpartition(".")[2] for text in (name, other))
        if tensors[other].shape != own[name].shape or (meant != found and {meant, found} <= ROLES):
            what = f"tensor {position} is '{other}' with the shape {list(tensors[other].shape)}"
            raise _other_network(f"{what}; '{name}' has its place", own[name], where)
    return {name: tensors[other] for name, other in zip(names, given)}


def _other_network(what: str, own: Tensor, where: str) -> UserError:
    remedy = "It is another network's. Give the file of this network."
    return UserError(f"{what}, in the network {list(own.shape)}", remedy, where)


def _heads(model: nn.Module, num_classes: int) -> set[str]:
    """Return the names of layers that may return logits: the last ones with ``num_classes`` outputs."""
    if not num_classes:  # an encoder has no head
        return set()
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    heads = set[str]()
    for name, layer in reversed(layers):
        if layer.weight.shape[0] != num_classes:
            break
        heads.add(name)
    return heads or {layers[-1][0]} if layers else heads


def _is_stem(given: Tensor, own: Tensor) -> bool:
    """Return whether the two are kernels that differ in the number of input channels alone."""
    return given.ndim == own.ndim == 4 and given.shape[:1] + given.shape[2:] == own.shape[:1] + own.shape[2:]


def _channels(kernel: Tensor, channels: int) -> Tensor:
    """Return the kernel [out, in, h, w] for ``channels`` inputs."""
    if channels == 1:
        return kernel.sum(1, keepdim=True)
    repeated = kernel.repeat(1, -(-channels // kernel.shape[1]), 1, 1)[:, :channels]
    return repeated * (kernel.shape[1] / channels)


def _bare(name: str) -> str:
    for prefix in WRAPPED:
        name = name.removeprefix(prefix)
    return name

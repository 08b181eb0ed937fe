"""The check that all numbers of a step are finite.

A NaN or an infinity in a gradient reaches the parameters in the same update, so losses, parameters and buffers are
looked at. One pass over each tensor and one wait for the device per step is all that it costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metapl.errors import UserError
from metapl.optim import Learner
from metapl.runs.model_folder import non_finite
from metapl.types import Method


class Diverged(UserError):
    """A number of the training is no longer finite: the settings are to blame, not the data.

    Attributes:
        bad: the names of the numbers that are not finite.
        folder: of the run that ends with this error, if it has one.
    """

    folder: Path | None = None

    def __init__(self, what: str, remedy: str, bad: str) -> None:
        super().__init__(what, remedy)
        self.bad = bad


def diverged(done: int, bad: str) -> Diverged:
    """Return the error that names the numbers that are not finite after ``done`` steps."""
    remedy = "Lower optim.lr or set optim.clip=1; nothing after the last checkpoint was saved."
    return Diverged(f"training diverged by step {done}: {bad} is not finite", remedy, bad)


def networks(method: Method) -> dict[str, nn.Module]:
    """Return the networks that a method holds as attributes, by the attribute's name; averages as ``NAME.ema``."""
    found: dict[str, nn.Module] = {}
    for name, value in vars(method).items():
        model = value if isinstance(value, nn.Module) else getattr(value, "model", None)
        if isinstance(model, nn.Module):
            found[name] = model
        if isinstance(value, Learner):
            found[f"{name}.ema"] = value.ema.model
    return found


def is_finite(method: Method, values: Mapping[str, Tensor]) -> bool:
    """Return whether the values of a step [0-d each], and the numbers in the method's networks, are finite.

    Of a moving average the buffers are enough: its parameters lie between those that the network has had.
    """
    tensors = [v for v in values.values() if v.is_floating_point()]
    for name, model in networks(method).items():
        own = [*model.buffers()] if name.endswith(".ema") else [*model.parameters(), *model.buffers()]
        tensors += [t for t in own if t.is_floating_point() and t.numel()]
    return bool(torch.isfinite(torch.stack(_sizes([t.detach() for t in tensors]))).all()) if tensors else True


def _sizes(tensors: list[Tensor]) -> list[Tensor]:
    """Return for each tensor a 0-d number that is finite if and only if all of it is.

    The largest absolute value is one, and one kernel on a GPU computes many. On a CPU the sum is ten times as fast.
    A sum that overflows float32 belongs to a network that is lost all the same.
    """
    if all(t.is_cuda for t in tensors):
        return [size.float() for size in torch._foreach_norm(tensors, math.inf)]
    return [t.sum(dtype=torch.float64 if t.dtype == torch.float64 else torch.float32).cpu() for t in tensors]


def bad_values(method: Method, values: Mapping[str, Tensor]) -> str:
    """Name the numbers that are not finite: reported values, else the first gradient, parameter or buffer."""
    if bad := [name for name, value in values.items() if not torch.isfinite(value).all()]:
        return ", ".join(bad)
    for name, model in networks(method).items():
        for part, parameter in model.named_parameters():
            if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
                return f"the gradient of {part} in {name}"
        if part := non_finite(model):
            return f"{part} in {name}"
    return "a number of the state"


def is_sound(method: Method, state: Any) -> bool:
    """Return whether ``state`` holds no NaN, and no network of the method an infinite parameter or buffer."""
    models = [*method.candidates().values(), *networks(method).values()]
    return not any(non_finite(model) for model in models) and not _has_nan(state)


def _has_nan(state: Any) -> bool:
    if isinstance(state, Tensor):
        return bool(torch.isnan(state).any())
    parts = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return any(_has_nan(part) for part in parts)

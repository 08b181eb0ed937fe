"""Networks made of networks, for methods that end with more than one: built, described in JSON, built again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = "model"  # in a description: what the factory builds


class Average(nn.Module):
    """Several networks as one: its softmax is the mean of their probabilities.

    Args:
        members: networks with the same classes.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Log-probabilities [B, C], which are logits too."""
        log_p = torch.stack([F.log_softmax(member(x), -1) for member in self.members])
        return torch.logsumexp(log_p, 0) - math.log(len(self.members))


class Masked(nn.Module):
    """A network that sees some of a row's features; the others are 0, their mean after standardisation.

    Args:
        model: takes whole rows.
        mask: [features] bool, True where the feature is seen; stored with the weights.
    """

    def __init__(self, model: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.model = model
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of x [B, features]."""
        logits: Tensor = self.model(x * self.mask)
        return logits


def describe(model: nn.Module) -> Any:
    """How ``model`` is put together, as JSON: ``PLAIN``, ``{"average": [...]}`` or ``{"masked": ...}``."""
    if isinstance(model, Average):
        return {"average": [describe(member) for member in model.members]}
    return {"masked": describe(model.model)} if isinstance(model, Masked) else PLAIN


def assemble(description: Any, build: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """What ``describe`` described, with networks from ``build`` and masks of a row's ``shape``, before its weights.

    Raises:
        ValueError: not such a description.
    """
    if description == PLAIN:
        return build()
    if isinstance(description, dict) and len(description) == 1:
        ((kind, inner),) = description.items()
        if kind == "average" and isinstance(inner, list) and inner:
            return Average([assemble(member, build, shape) for member in inner])
        if kind == "masked":
            return Masked(assemble(inner, build, shape), torch.ones(shape, dtype=torch.bool))
    raise ValueError(f"no such combination of networks: {description!r}")

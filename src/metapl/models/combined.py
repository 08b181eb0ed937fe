"""Networks that consist of networks, for methods with several: build, describe as JSON, build again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PLAIN = "model"  # in a description: the network that the factory builds
FITTED = frozenset({"linear", "tfidf", "forest"})  # networks that may stand beside another in a ``Blend``


class Average(nn.Module):
    """Averages several networks: its softmax is the mean of their probabilities.

    Args:
        members: networks with the same classes.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """Return log-probabilities [B, C], which are also logits."""
        log_p = torch.stack([F.log_softmax(member(x), -1) for member in self.members])
        return torch.logsumexp(log_p, 0) - math.log(len(self.members))


class Blend(nn.Module):
    """Two networks as one: its softmax is the normalised geometric mean of their probabilities.

    Args:
        network: a trained network.
        other: another one with the same classes.
        name: what ``build_model`` takes for ``other``; ``PLAIN`` where it is built as ``network`` is.
        sharpness: above 0; factor of the other one's log-probabilities.
    """

    def __init__(self, network: nn.Module, other: nn.Module, name: str, sharpness: float = 1.0) -> None:
        super().__init__()
        self.members, self.name, self.sharpness = nn.ModuleList([network, other]), name, sharpness

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C]: the mean of both log-probabilities."""
        one, other = (F.log_softmax(member(x), -1) for member in self.members)
        return (one + self.sharpness * other) / 2


class Masked(nn.Module):
    """Hides some of a row's features from a network: they are 0, their mean after standardisation.

    Args:
        model: takes whole rows.
        mask: [features] bool, True for the visible features; stored with the weights.
    """

    def __init__(self, model: nn.Module, mask: Tensor) -> None:
        super().__init__()
        self.model = model
        self.mask: Tensor
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, features]."""
        logits: Tensor = self.model(x * self.mask)
        return logits


def describe(model: nn.Module) -> Any:
    """Return the structure of ``model`` as JSON: ``PLAIN``, ``{"average": [...]}`` or ``{"masked": ...}``."""
    if isinstance(model, Average):
        return {"average": [describe(member) for member in model.members]}
    if isinstance(model, Blend):
        sharpness = [] if model.sharpness == 1 else [model.sharpness]
        return {"blend": [describe(model.members[0]), model.name, *sharpness]}
    return {"masked": describe(model.model)} if isinstance(model, Masked) else PLAIN


def assemble(
    description: Any,
    build: Callable[[], nn.Module],
    shape: tuple[int, ...],
    named: Callable[[str], nn.Module] | None = None,
) -> nn.Module:
    """Build the structure that ``describe`` returned, with networks from ``build`` and masks of a row's ``shape``.

    ``named`` builds the second network of a ``Blend`` by its name.

    Raises:
        ValueError: ``description`` is not one of its results.
    """
    if description == PLAIN:
        return build()
    if isinstance(description, dict) and len(description) == 1:
        ((kind, inner),) = description.items()
        if kind == "average" and isinstance(inner, list) and inner:
            return Average([assemble(member, build, shape) for member in inner])
        if kind == "blend" and isinstance(inner, list) and len(inner) in (2, 3) and isinstance(inner[1], str):
            first, name = assemble(inner[0], build, shape, named), inner[1]
            sharpness = inner[2] if len(inner) == 3 else 1.0
            if isinstance(sharpness, float) and math.isfinite(sharpness) and sharpness > 0:
                if name == PLAIN:
                    return Blend(first, build(), PLAIN, sharpness)
                if named is not None and name in FITTED:
                    return Blend(first, named(name), name, sharpness)
        if kind == "masked":
            return Masked(assemble(inner, build, shape), torch.ones(shape, dtype=torch.bool))
    raise ValueError(f"no such combination of networks: {description!r}")

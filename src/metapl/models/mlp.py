"""A multilayer perceptron for feature rows (and flattened small images)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU and dropout.

    Args:
        shape: one row's shape; rows that are not vectors are flattened.
        num_classes: C.
        hidden: units per hidden layer.
        dropout: rate after each hidden layer.
    """

    def __init__(
        self, shape: Sequence[int], num_classes: int, hidden: Sequence[int] = (128, 128), dropout: float = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        width = math.prod(shape)
        for units in hidden:
            layers += [nn.Linear(width, units), nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
            width = units
        self.layers = nn.Sequential(*layers, nn.Linear(width, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, *shape]."""
        logits: Tensor = self.layers(x)
        return logits

"""A linear head for the features of a frozen encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Head(nn.Module):
    """One linear layer that begins at zero.

    With few labels most directions of the features occur in no labelled row. Random first weights would stay there for
    good, as noise in every prediction. Rows have a length of about sqrt(features), so the bias is scaled by that number
    to learn as fast as the weights.

    Args:
        shape: one row's shape; anything but a vector is flattened.
        num_classes: C.
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        width = math.prod(shape)
        self.weight = nn.Parameter(torch.zeros(num_classes, width))
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self.length = math.sqrt(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, *shape]."""
        return F.linear(x.flatten(1), self.weight, self.length * self.bias)

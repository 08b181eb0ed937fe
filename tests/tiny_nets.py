"""Tiny networks and a frozen encoder of one's own, for stored runs that name them as ``tiny_nets:...``."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class TextNet(nn.Module):
    """Embeddings of token ids (modulo 64), their mean, and a linear layer."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(64, 4), nn.Linear(4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of token ids [B, length]."""
        logits: Tensor = self.head(self.table(x.to(torch.int64) % 64).mean(1))
        return logits


class ImageNet(nn.Module):
    """A convolution, BatchNorm, dropout, pooling, and a linear layer."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Dropout(0.1)
        )
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of images [B, channels, height, width]."""
        logits: Tensor = self.head(self.body(x).flatten(1))
        return logits


class Means(nn.Module):
    """Features of an image: the means of its rows and of its columns."""

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, channels * (height + width)]."""
        return torch.cat([x.mean(2).flatten(1), x.mean(3).flatten(1)], 1)


def text_net(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """A ``TextNet``."""
    return TextNet(num_classes)


def image_net(shape: tuple[int, ...], num_classes: int) -> nn.Module:
    """An ``ImageNet``."""
    return ImageNet(shape[0], num_classes)


def means() -> nn.Module:
    """A ``Means``."""
    return Means()

"""WideResNet (Zagoruyko and Komodakis 2016) in the form of papers on semi-supervised images."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

SLOPE = 0.1  # of the leaky ReLU, as in the released code of MixMatch, FixMatch and Meta Pseudo Labels


class _Block(nn.Module):
    """Pre-activation residual block. If the width changes, the shortcut starts from the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.leaky_relu(self.norm1(x), SLOPE)
        y = self.conv2(F.leaky_relu(self.norm2(self.conv1(active)), SLOPE))
        total: Tensor = y + (x if self.shortcut is None else self.shortcut(active))
        return total


class WideResNet(nn.Module):
    """WRN-depth-widen; the default WRN-28-2 has 1.47 million parameters.

    Args:
        in_channels: channels of the image.
        num_classes: C.
        depth: 6 n + 4 layers.
        widen: factor on the base widths 16, 32, 64.
        dropout: rate before the last layer.
    """

    def __init__(
        self, in_channels: int = 3, num_classes: int = 10, depth: int = 28, widen: int = 2, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"depth must be 6 n + 4, got {depth}")
        per_stage, widths = (depth - 4) // 6, [16, 16 * widen, 32 * widen, 64 * widen]
        blocks = [
            _Block(widths[s] if i == 0 else widths[s + 1], widths[s + 1], 2 if s > 0 and i == 0 else 1)
            for s in range(3)
            for i in range(per_stage)
        ]
        self.stem = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.blocks = nn.Sequential(*blocks)
        self.norm, self.dropout = nn.BatchNorm2d(widths[3]), nn.Dropout(dropout)
        self.head = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=SLOPE, mode="fan_out", nonlinearity="leaky_relu")
        nn.init.xavier_normal_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, in_channels, height, width]."""
        pooled = F.leaky_relu(self.norm(self.blocks(self.stem(x))), SLOPE).mean((2, 3))
        logits: Tensor = self.head(self.dropout(pooled))
        return logits

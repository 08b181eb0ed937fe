"""A small BatchNorm CNN for tiny images (8 to 32 pixels): seconds on a CPU."""

from __future__ import annotations

from torch import Tensor, nn


def _block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class SmallCNN(nn.Module):
    """Three 3x3 convolutions with BatchNorm, then mean pooling.

    Sides below 16 pixels are halved once, larger ones at every stage.

    Args:
        in_channels: channels of the image.
        image_size: (height, width) in pixels, any size.
        num_classes: C.
        width: channels of the first stage; the others have 2 and 4 times as many. 0 = 16 for sides below 16, else 32.
    """

    def __init__(
        self, in_channels: int = 1, image_size: tuple[int, int] = (8, 8), num_classes: int = 10, width: int = 0
    ) -> None:
        super().__init__()
        tiny = min(image_size) < 16
        width = width or (16 if tiny else 32)
        self.features = nn.Sequential(
            _block(in_channels, width, 1 if tiny else 2),
            _block(width, 2 * width, 2),
            _block(2 * width, 4 * width, 1 if tiny else 2),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, in_channels, height, width]."""
        logits: Tensor = self.head(self.features(x).mean((2, 3)))
        return logits

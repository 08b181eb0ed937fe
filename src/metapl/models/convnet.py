"""The small convolutional net of many tutorials."""

from __future__ import annotations

from torch import Tensor, nn

from metapl.errors import UserError


class ConvNet(nn.Module):
    """Two 3x3 convolutions (32, 64), each with ReLU and 2x2 max pooling, then 128 units with dropout.

    With the defaults (3 channels, 32 x 32, 10 classes) it is exactly the net of the widely read tutorial.

    Args:
        in_channels: channels of the image.
        image_size: side in pixels, or (height, width); at least 4.
        num_classes: C.
        dropout: rate before the last layer.
    """

    def __init__(
        self, in_channels: int = 3, image_size: int | tuple[int, int] = 32, num_classes: int = 10, dropout: float = 0.5
    ) -> None:
        super().__init__()
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if min(height, width) < 4:
            raise UserError(
                f"ConvNet got images of {height} x {width}", "Give at least 4 x 4 pixels (source.image.size).", "model"
            )
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(64 * (height // 4) * (width // 4), 128), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(128, num_classes),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, in_channels, height, width]."""
        logits: Tensor = self.classifier(self.features(x))
        return logits

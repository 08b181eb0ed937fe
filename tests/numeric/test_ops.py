"""The colour operations against Pillow, the geometric ones against a slow loop over pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from metapl.data.images.ops import OPS, Op, apply_drawn, ops_for

BY_NAME = {op.name: op for op in OPS}
STRENGTHS = (-1.0, -0.6, -1 / 3, 0.0, 0.2, 0.5, 1.0)
# Grey levels by which a rounding of Pillow's may differ: it cuts results to whole levels, rounds the degenerate
# image and then exaggerates it, and divides by a whole number of pixels per level (Equalize).
TOLERANCE = {"Identity": 0.01, "Posterize": 0.01, "Solarize": 0.01, "AutoContrast": 1.01, "Brightness": 1.01}
GEOMETRIC = [op.name for op in OPS if op.matrix is not None]
COLOUR = [name for name in BY_NAME if name not in GEOMETRIC]


def pictures(channels: int, height: int = 48, width: int = 40) -> list[np.ndarray]:
    """Smooth, dark, light, noisy, two-level and flat uint8 images [H, W, channels]."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[0:height, 0:width]
    smooth = np.stack([127 + 100 * np.sin(x / (5 + c)) * np.cos(y / (7 - c)) for c in range(channels)], -1)
    noise = rng.integers(0, 256, (height, width, channels))
    flat = np.full((height, width, channels), 90)
    two = np.where((x > width // 3)[..., None], 200, 60) + np.zeros((1, 1, channels))
    every = [smooth, noise, 20 + smooth / 3, 150 + noise / 4, two, flat]
    return [np.clip(a, 0, 255).astype(np.uint8) for a in every]


def to_tensor(images: list[np.ndarray]) -> Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).to(torch.float32) / 255


def to_pillow(image: np.ndarray) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)


def with_pillow(name: str, image: Image.Image, strength: float) -> Image.Image:
    if name == "Identity":
        return image
    if name == "AutoContrast":
        return ImageOps.autocontrast(image)
    if name == "Equalize":
        return ImageOps.equalize(image)
    if name == "Posterize":
        return ImageOps.posterize(image, 8 - round(4 * abs(strength)))
    if name == "Solarize":
        return ImageOps.solarize(image, round(256 * (1 - abs(strength))))
    return getattr(ImageEnhance, name)(image).enhance(1 + 0.9 * strength)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", COLOUR)
@pytest.mark.parametrize("channels", [1, 3])
def test_colour_op_is_pillows(name: str, channels: int, strength: float) -> None:
    # Pillow's equalize divides by a whole number of pixels per level; 255 * 16 of them make that exact enough.
    height, width = (255, 160) if name == "Equalize" else (48, 40)
    images = pictures(channels, height, width)
    ours = BY_NAME[name](to_tensor(images), torch.full((len(images),), strength)) * 255
    for image, result in zip(images, ours):
        expected = np.asarray(with_pillow(name, to_pillow(image), strength)).reshape(height, width, channels)
        worst = np.abs(result.permute(1, 2, 0).numpy() - expected).max()
        assert worst <= TOLERANCE.get(name, 2.0), f"{name} differs from Pillow by {worst} grey levels"


def test_equalize_at_a_size_where_pillow_divides_roughly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 28, 1)).astype(np.uint8)
    ours = BY_NAME["Equalize"](to_tensor([image]), torch.zeros(1))[0, 0].numpy()
    flat = image[..., 0]
    below = (flat[None, None] < flat[..., None, None]).sum((2, 3))
    np.testing.assert_allclose(ours, below / (flat.size - (flat == flat.max()).sum()), atol=1e-6)


def test_equalize_works_below_255_pixels() -> None:
    ramp = torch.arange(64, dtype=torch.float32).view(1, 1, 8, 8) / 255
    torch.testing.assert_close(BY_NAME["Equalize"](ramp, torch.zeros(1)), ramp * (255 / 63))


def source_of(name: str, strength: float, x: float, y: float, width: int, height: int) -> tuple[float, float]:
    """Where the output pixel at (x, y), counted from the image centre, comes from."""
    if name == "Rotate":
        angle = math.radians(30 * strength)
        return x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
    if name == "ShearX":
        return x + 0.3 * strength * y, y
    if name == "ShearY":
        return x, y + 0.3 * strength * x
    if name == "TranslateX":
        return x + 0.3 * strength * width, y
    return x, y + 0.3 * strength * height


def slow_warp(image: np.ndarray, name: str, strength: float, fill: float) -> np.ndarray:
    """Bilinear sampling of [C, H, W], one pixel after the other."""
    channels, height, width = image.shape
    result = np.zeros_like(image)
    for i in range(height):
        for j in range(width):
            centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
            x, y = source_of(name, strength, j - centre_x, i - centre_y, width, height)
            x, y = x + centre_x, y + centre_y
            for c in range(channels):
                total = 0.0
                for row in (math.floor(y), math.floor(y) + 1):
                    for column in (math.floor(x), math.floor(x) + 1):
                        inside = 0 <= row < height and 0 <= column < width
                        weight = (1 - abs(y - row)) * (1 - abs(x - column))
                        total += weight * (image[c, row, column] if inside else fill)
                result[c, i, j] = total
    return result


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 14), (2, 13, 6)])
@pytest.mark.parametrize("name", GEOMETRIC)
def test_geometric_op_is_the_slow_loop(name: str, shape: tuple[int, int, int]) -> None:
    strengths = torch.tensor([-1.0, -0.3, 0.0, 0.4, 1.0])
    images = torch.rand((5, *shape), generator=torch.Generator().manual_seed(1))
    ours = BY_NAME[name](images, strengths, fill=0.25)
    for image, strength, result in zip(images, strengths.tolist(), ours):
        expected = slow_warp(image.numpy().astype(np.float64), name, strength, 0.25)
        np.testing.assert_allclose(result.numpy(), expected, atol=2e-5)


def test_matrices_are_affine_grids() -> None:
    """The hand-written grid is torch's: the identity matrix gives the image back."""
    images = torch.rand((2, 3, 7, 5), generator=torch.Generator().manual_seed(1))
    for name in GEOMETRIC:
        matrix_of = BY_NAME[name].matrix
        assert matrix_of is not None
        expected = torch.tensor([[1.0, 0, 0], [0, 1, 0]]).expand(2, 2, 3)
        torch.testing.assert_close(matrix_of(torch.zeros(2), 7, 5), expected)
        torch.testing.assert_close(BY_NAME[name](images, torch.zeros(2)), images)


@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (4, 4), (3, 9), (17, 5)])
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_keeps_shape_range_and_input(op: Op, channels: int, size: tuple[int, int]) -> None:
    images = torch.rand((4, channels, *size), generator=torch.Generator().manual_seed(0))
    before = images.clone()
    result = op(images, torch.tensor([-1.0, -0.1, 0.5, 1.0]))
    assert result.shape == images.shape
    assert result.dtype == torch.float32
    assert torch.isfinite(result).all()
    assert result.min() >= 0
    assert result.max() <= 1
    assert torch.equal(images, before)


def test_strength_zero_changes_nothing() -> None:
    images = to_tensor(pictures(3))
    for op in OPS:
        if op.name not in ("AutoContrast", "Equalize"):
            torch.testing.assert_close(op(images, torch.zeros(len(images))), images, atol=2e-6, rtol=0)


def test_auto_contrast_leaves_rounding_noise_alone() -> None:
    images = 0.5 + 1e-6 * torch.rand((1, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(BY_NAME["AutoContrast"](images, torch.zeros(1)), images)


def test_color_is_left_out_for_grey_images_only() -> None:
    assert [op.name for op in ops_for(3)] == list(BY_NAME)
    assert len(OPS) == 14
    assert {op.name for op in OPS} - {op.name for op in ops_for(1)} == {"Color"}


@pytest.mark.parametrize("channels", [1, 3])
def test_a_drawn_batch_is_each_image_through_its_own_ops(channels: int) -> None:
    """Sorting by operation and back loses no image and mixes none up."""
    generator = torch.Generator().manual_seed(3)
    images = torch.rand((40, channels, 12, 10), generator=generator)
    kinds = torch.randint(len(ops_for(channels)), (3, 40), generator=generator)
    strength = torch.rand((3, 40), generator=generator) * 2 - 1
    together = apply_drawn(images, kinds, strength)
    for i in range(40):
        alone = images[i : i + 1]
        for layer in range(3):
            alone = ops_for(channels)[int(kinds[layer, i])](alone, strength[layer, i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=0)


def test_a_layer_that_drew_one_op_or_none() -> None:
    images = torch.rand((3, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    for kind in range(len(ops_for(1))):
        result = apply_drawn(images, torch.full((1, 3), kind), torch.full((1, 3), 0.5))
        torch.testing.assert_close(result, ops_for(1)[kind](images, torch.full((3,), 0.5)))
    assert apply_drawn(images[:0], torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0)).shape[0] == 0
    assert apply_drawn(images, torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3)) is images

"""The image operations of RandAugment, batched, with one strength per image.

The list is FixMatch's (Sohn et al. 2020, table 12), itself RandAugment's (Cubuk et al. 2020, section 3).
Every operation takes ``images`` float32 [n, C, H, W] on the 0..1 scale and ``strength`` float32 [n] in -1..1 and
returns the same shape and scale. Strength 0 leaves an image as it is (except AutoContrast and Equalize, which have no
strength); 1 is the far end of the range; the sign is the direction, if the operation has one.

Colour operations follow Pillow, the reference of both papers, on floats. Geometric ones are 2x3 matrices, so
that one ``grid_sample`` serves a whole layer. No operation draws random numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, as in Pillow's conversion of RGB to grey


def _column(values: Tensor) -> Tensor:
    """Return [n] -> [n, 1, 1, 1], to act on whole images."""
    return values.view(-1, 1, 1, 1)


def _levels(images: Tensor) -> Tensor:
    """Return the nearest of 256 grey levels, still as float: 0..255."""
    return images.mul(255).round_()


def _grey(images: Tensor) -> Tensor:
    """Return [n, C, H, W] -> [n, 1, H, W]: luma of RGB, the plain mean of any other number of channels."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2]).unsqueeze(1)


# -- colour operations without a blend -------------------------------------------------------------------


def identity(images: Tensor, strength: Tensor) -> Tensor:
    """Return the images as they are. No range."""
    return images


def auto_contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Return each channel stretched to 0..1 (``ImageOps.autocontrast``). No range.

    A channel that spans less than one grey level stays: stretching it would blow up rounding noise.
    """
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    flat = span < 0.999 / 255
    return torch.where(flat, images, (images - low) / span.masked_fill(flat, 1)).clamp_(0, 1)


def equalize(images: Tensor, strength: Tensor) -> Tensor:
    """Return each channel's histogram made uniform (``ImageOps.equalize``). No range.

    Pillow divides by a whole number of pixels per level, which is 0 below 255 pixels and coarse below some thousands;
    here the division is exact, so that the operation is the same at every size.
    """
    n, channels, height, width = images.shape
    levels = _levels(images).to(torch.int64).reshape(n * channels, height * width)
    ones = levels.new_ones((), dtype=torch.int32).expand_as(levels)
    counts = torch.zeros(n * channels, 256, dtype=torch.int32, device=images.device).scatter_add_(1, levels, ones)
    below = counts.cumsum(1, dtype=torch.int32) - counts  # pixels darker than each level
    brightest = counts.gather(1, levels.amax(1, keepdim=True))
    steps = height * width - brightest  # 0 where the channel has one level only
    table = below / steps.clamp(min=1)
    result = table.gather(1, levels).view(n, channels, height, width)
    return torch.where((steps == 0).view(n, channels, 1, 1), images, result)


def posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Return the last bits of each grey level dropped (``ImageOps.posterize``). 8 to 4 bits kept (both papers)."""
    step = torch.exp2(_column(strength.abs().mul(4).round_()))
    return _levels(images).div_(step).floor_().mul_(step).div_(255)


def solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Levels from a threshold up inverted (``ImageOps.solarize``). Threshold 256 to 0 (both papers)."""
    threshold = (256 * (1 - strength.abs())).round_()
    threshold = threshold.sub_(0.5).div_(255)  # between two levels: immune to rounding
    return torch.where(images >= _column(threshold), 1 - images, images)


# -- colour operations that blend an image with a degenerate one -----------------------------------------


def _black(images: Tensor) -> Tensor:
    return torch.zeros_like(images)


def _colourless(images: Tensor) -> Tensor:
    return _grey(images).expand_as(images)


def _mean_grey(images: Tensor) -> Tensor:
    return _grey(images).mean((2, 3), keepdim=True).expand_as(images)


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH filter: centre weight 5, its eight neighbours 1; the outermost pixels stay."""
    if min(images.shape[2:]) < 3:
        return images
    result = images.clone()
    inner = F.avg_pool2d(images, 3, stride=1).mul_(9 / 13).add_(images[:, :, 1:-1, 1:-1], alpha=4 / 13)
    result[:, :, 1:-1, 1:-1] = inner
    return result


def blend(degenerate: Tensor, images: Tensor, strength: Tensor) -> Tensor:
    """Pillow's ``ImageEnhance``: factor 0 is the degenerate image, 1 the original, 2 the exaggeration.

    Factor 1 +- 0.9 (RandAugment; FixMatch uses 0.05 to 0.95, the weakening half).
    """
    return torch.lerp(degenerate, images, _column(1 + 0.9 * strength)).clamp_(0, 1)


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    """Blend with black. Factor 1 +- 0.9."""
    return blend(_black(images), images, strength)


def color(images: Tensor, strength: Tensor) -> Tensor:
    """Blend with the image's own grey version. Factor 1 +- 0.9."""
    return blend(_colourless(images), images, strength)


def contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Blend with the image's mean grey. Factor 1 +- 0.9."""
    return blend(_mean_grey(images), images, strength)


def sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Blend with the smoothed image. Factor 1 +- 0.9."""
    return blend(_smooth(images), images, strength)


# -- geometric operations: matrices from output to input coordinates -------------------------------------


def _matrix(a: Tensor, b: Tensor, x: Tensor, c: Tensor, d: Tensor, y: Tensor) -> Tensor:
    """Six [n] entries -> [n, 2, 3]."""
    return torch.stack((a, b, x, c, d, y), 1).view(-1, 2, 3)


def rotate(strength: Tensor, height: int, width: int) -> Tensor:
    """Turn about the centre. -30 to 30 degrees (both papers)."""
    angle = strength * (torch.pi / 6)
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros_like(angle)
    return _matrix(cos, sin * (-height / width), zero, sin * (width / height), cos, zero)


def shear_x(strength: Tensor, height: int, width: int) -> Tensor:
    """Rows slide along x. -0.3 to 0.3 (both papers), here about the centre, to keep the object in view."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _matrix(one, strength * (0.3 * height / width), zero, zero, one, zero)


def shear_y(strength: Tensor, height: int, width: int) -> Tensor:
    """Columns slide along y. -0.3 to 0.3 (both papers), here about the centre."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _matrix(one, zero, zero, strength * (0.3 * width / height), one, zero)


def translate_x(strength: Tensor, height: int, width: int) -> Tensor:
    """Shift along x. -0.3 to 0.3 of the width (FixMatch)."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _matrix(one, zero, strength * 0.6, zero, one, zero)  # the width is 2 in grid_sample's units


def translate_y(strength: Tensor, height: int, width: int) -> Tensor:
    """Shift along y. -0.3 to 0.3 of the height (FixMatch)."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _matrix(one, zero, zero, zero, one, strength * 0.6)


def _centres(side: int, device: torch.device) -> Tensor:
    """Pixel centres in -1..1, where -1 and 1 are the outer edges (``align_corners=False``)."""
    return torch.arange(1 - side, side, 2, dtype=torch.float32, device=device) / side


def warp(images: Tensor, matrices: Tensor, fill: float = 0.5) -> Tensor:
    """Sample bilinearly through one matrix [2, 3] per image; pixels from outside are ``fill``.

    The grid is ``affine_grid``'s, written out without a matrix product, which a GPU may run in low precision.
    """
    height, width = images.shape[2:]
    x, y = _centres(width, images.device), _centres(height, images.device)[:, None]
    m = matrices.view(-1, 6, 1, 1).unbind(1)
    grid = torch.stack((m[0] * x + (m[1] * y + m[2]), m[3] * x + (m[4] * y + m[5])), -1)
    sampled = F.grid_sample(images - fill, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return sampled.add_(fill).clamp_(0, 1)


# -- the table -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Op:
    """One operation: exactly one of the three functions is set.

    Attributes:
        name: as in the papers.
        colour: images, strength -> images.
        degenerate: images -> the images that ``blend`` mixes in.
        matrix: strength, height, width -> [n, 2, 3].
    """

    name: str
    colour: Callable[[Tensor, Tensor], Tensor] | None = None
    degenerate: Callable[[Tensor], Tensor] | None = None
    matrix: Callable[[Tensor, int, int], Tensor] | None = None

    def __call__(self, images: Tensor, strength: Tensor, fill: float = 0.5) -> Tensor:
        """Apply this operation to every image."""
        return apply_ops(images, strength, (self,), (len(images),), fill)


# Those that share a computation stand together, so that one slice of the sorted batch holds them all.
OPS = (
    Op("Identity", colour=identity),
    Op("AutoContrast", colour=auto_contrast),
    Op("Equalize", colour=equalize),
    Op("Posterize", colour=posterize),
    Op("Solarize", colour=solarize),
    Op("Brightness", degenerate=_black),
    Op("Color", degenerate=_colourless),
    Op("Contrast", degenerate=_mean_grey),
    Op("Sharpness", degenerate=_smooth),
    Op("Rotate", matrix=rotate),
    Op("ShearX", matrix=shear_x),
    Op("ShearY", matrix=shear_y),
    Op("TranslateX", matrix=translate_x),
    Op("TranslateY", matrix=translate_y),
)
GREY_OPS = tuple(op for op in OPS if op.name != "Color")


def ops_for(channels: int) -> tuple[Op, ...]:
    """Return all operations; for one channel without Color, which would do nothing."""
    return OPS if channels > 1 else GREY_OPS


def apply_ops(images: Tensor, strength: Tensor, ops: Sequence[Op], counts: Sequence[int], fill: float = 0.5) -> Tensor:
    """Return ``ops[0]`` on the first ``counts[0]`` images, ``ops[1]`` on the next ``counts[1]``, and so on.

    Operations that were not drawn cost nothing; all blends are one call, and so are all geometric ones.
    """
    done: list[Tensor] = []
    blends: list[Tensor] = []
    matrices: list[Tensor] = []
    first = blend_from = warp_from = 0
    for op, count in zip(ops, counts):
        if count == 0:
            continue
        rows, strong = images[first : first + count], strength[first : first + count]
        if op.colour is not None:
            done.append(op.colour(rows, strong))
        elif op.degenerate is not None:
            blend_from = blend_from if blends else first
            blends.append(op.degenerate(rows))
        elif op.matrix is not None:
            warp_from = warp_from if matrices else first
            matrices.append(op.matrix(strong, *images.shape[2:]))
        first += count
    if blends:
        part = slice(blend_from, warp_from if matrices else first)
        done.append(blend(torch.cat(blends), images[part], strength[part]))
    if matrices:
        done.append(warp(images[warp_from:first], torch.cat(matrices), fill))
    return torch.cat(done) if done else images


def apply_drawn(images: Tensor, kinds: Tensor, strength: Tensor, fill: float = 0.5) -> Tensor:
    """Layer after layer of operations, each image its own.

    Args:
        images: [n, C, H, W].
        kinds: [layers, n] int64, positions in ``ops_for(C)``.
        strength: [layers, n].
        fill: the grey level outside of the image, 0..1.

    Each layer sorts the batch by operation, so that an operation works on a slice. The number of images per
    operation is the only thing read back from the device, once for all layers.
    """
    if kinds.numel() == 0:
        return images
    ops = ops_for(images.shape[1])
    order = kinds.argsort(dim=1, stable=True)
    numbers = torch.arange(len(ops), device=kinds.device)
    counts: list[list[int]] = (kinds[:, None, :] == numbers[None, :, None]).sum(2).tolist()
    strength = strength.gather(1, order)
    for layer, rows in enumerate(order):
        changed = apply_ops(images.index_select(0, rows), strength[layer], ops, counts[layer], fill)
        images = torch.empty_like(changed).index_copy_(0, rows, changed)
    return images

"""Draw views of some images. matplotlib is imported at the first figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from metapl.data.images.views import ImageViews

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CELL = 0.8  # inches per image
MARGIN = 0.75  # inches for the labels on the left
GAP = 0.06  # between images, as a fraction of one


def views_figure(images: Tensor, views: ImageViews, seed: int = 0, repeats: int = 2) -> Figure:
    """Draw originals, weak and strong views as rows of one figure.

    Args:
        images: uint8 [n, C, H, W]; one column each.
        views: makes the views.
        seed: of the draws.
        repeats: number of rows of weak views, and of strong views, each with draws of its own.

    Returns:
        A figure that belongs to no window: save it with ``figure.savefig``.
    """
    from matplotlib.figure import Figure

    titles, rows = _rows(images, views, seed, repeats)
    columns = max(1, len(images))
    size = (MARGIN + CELL * columns, CELL * len(rows))
    figure = Figure(figsize=size, dpi=150)
    axes = figure.subplots(
        len(rows),
        columns,
        squeeze=False,
        gridspec_kw={
            "left": MARGIN / size[0],
            "right": 1 - GAP / columns,
            "bottom": GAP / len(rows),
            "top": 1 - GAP / len(rows),
            "wspace": GAP,
            "hspace": GAP,
        },
    )
    for title, row, line in zip(titles, rows, axes):
        line[0].set_ylabel(title, fontsize=11, rotation=0, ha="right", va="center", labelpad=6)
        for axis in line:
            axis.set(xticks=[], yticks=[])
        for image, axis in zip(row, line):
            _draw(axis, image)
    return figure


def _rows(images: Tensor, views: ImageViews, seed: int, repeats: int) -> tuple[list[str], list[Tensor]]:
    generator = torch.Generator(images.device).manual_seed(seed)
    titles, rows = ["original"], [views.plain(images)]
    for name, make in (("weak", views.weak), ("strong", views.strong)):
        titles += [name] + [""] * (repeats - 1)
        rows += [make(images, generator) for _ in range(repeats)]
    return titles, [views.pixels(row).cpu() for row in rows]


def _draw(axis: Axes, image: Tensor) -> None:
    """Draw one image [C, H, W] on the 0..1 scale; other than 1 or 3 channels are drawn as their mean."""
    if image.shape[0] != 3:
        image = image.mean(0, keepdim=True)
    pixels = image.permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        axis.imshow(pixels[..., 0], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    else:
        axis.imshow(pixels, interpolation="nearest")

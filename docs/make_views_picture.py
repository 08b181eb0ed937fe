"""Remakes docs/img/views.png, the picture in docs/views.md.

    python docs/make_views_picture.py [FOLDER]

FOLDER, if given, holds Fashion-MNIST's idx files; without it the picture shows digits and photographs only.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.images.figure import views_figure
from metapl.data.images.views import ImageViews
from metapl.types import Preprocessing

COLUMNS = 8
OUT = Path(__file__).parent / "img" / "views.png"


def digits() -> Tensor:
    """scikit-learn's 8x8 digits, the first ones."""
    images = load_digits().images[:COLUMNS]
    return torch.from_numpy((images / 16 * 255).round().astype(np.uint8))[:, None]


def fashion(folder: Path) -> Tensor:
    """The first test images, 28x28."""
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        raw = np.frombuffer(file.read(16 + COLUMNS * 28 * 28), dtype=np.uint8, offset=16)
    return torch.from_numpy(raw.reshape(COLUMNS, 1, 28, 28).copy())


def photographs() -> Tensor:
    """Crops of scikit-learn's two photographs, 64x64."""
    crops = []
    for photo in load_sample_images().images:
        image = Image.fromarray(photo)
        for i in range(COLUMNS // 2):
            left, top = 20 + 200 * (i % 3), 213 * (i // 3)
            crop = image.crop((left, top, left + 200, top + 200)).resize((64, 64), Image.Resampling.BICUBIC)
            crops.append(np.asarray(crop))
    return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)


def panel(images: Tensor) -> Image.Image:
    """One figure of views at the default settings, as a picture."""
    shape = tuple(images.shape[1:])
    scaling = Preprocessing("image", shape, (0.5,) * shape[0], (0.5,) * shape[0])
    file = io.BytesIO()
    views_figure(images, ImageViews(ViewConfig(), scaling)).savefig(file, format="png")
    return Image.open(file).convert("RGB")


def main() -> None:
    sets = [digits(), photographs()]
    if len(sys.argv) > 1:
        sets.insert(1, fashion(Path(sys.argv[1])))
    panels = [panel(images) for images in sets]
    gap = 24
    height = sum(p.height for p in panels) + gap * (len(panels) - 1)
    sheet = Image.new("RGB", (panels[0].width, height), "white")
    top = 0
    for picture in panels:
        sheet.paste(picture, (0, top))
        top += picture.height + gap
    OUT.parent.mkdir(exist_ok=True)
    sheet.quantize(256, dither=Image.Dither.NONE).save(OUT, optimize=True)
    print(f"{OUT}: {sheet.width} x {sheet.height}")


if __name__ == "__main__":
    main()

"""Images as a kind of rows: uint8 [channels, height, width]."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.images.checks import ImageChecks
from metapl.data.images.levels import from_dict, to_dict
from metapl.data.images.options import SIDES
from metapl.data.images.resize import how, images_at
from metapl.data.images.views import ImageViews
from metapl.data.memory.tensors import new_pixels, pixels, planes, read_numbers
from metapl.data.modality import ArrayOptions, Modality, RawRows, check_one_shape
from metapl.data.traits import traits
from metapl.types import RESIZES, Array, Preprocessing, Source

STD_FLOOR = 1.0 / 255.0  # one grey level
PAGE_SIDE = 128  # pixels of the longer side, at most
ALONE = 320  # the same for a row that is shown alone, as in a review
SMALL = 48  # pixels of the longer side below which a page enlarges the image


class ImageModality(Modality):
    """Mean and spread are per channel, on the 0..1 scale; a spread is at least one grey level."""

    kind, row, rows = "image", "image", "images"
    dtype, dimensions = torch.uint8, 3
    encodable = sized = has_form = True
    checks = ImageChecks()

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> ImageViews:
        return ImageViews(config, preprocessing)

    def read(self, parts: Mapping[str, Any], options: ArrayOptions) -> RawRows:
        stacks = {k: planes(read_numbers(part, k), k, isinstance(part, Tensor)) for k, part in parts.items()}
        notes: list[str] = []
        tensors, white = pixels(stacks, notes, copy=options.copy)
        size, resize = options.images.sides, options.images.resize
        if size is not None and any(tuple(tensor.shape[2:]) != size for tensor in tensors.values()):
            notes.append(f"images are brought to {size[0]} x {size[1]}{how(resize)}")
            tensors = {name: images_at(tensor, size, resize) for name, tensor in tensors.items()}
        check_one_shape(tensors)
        return RawRows(tensors, notes, {"resize": resize, "white": white, "resized": size is not None})

    def read_new(self, X: Any, preprocessing: Preprocessing, name: str, tell: Callable[[str], None]) -> Tensor:
        p, images = preprocessing, planes(read_numbers(X, name), name, isinstance(X, Tensor))
        rows = new_pixels(images, p.white, name, tell)
        # A single image [H, W, C] is not a stack of images: it is refused by its shape, not brought to the size.
        if not p.resized or rows.shape[1] != p.shape[0] or min(rows.shape[2:]) < SIDES.start:
            return rows
        return images_at(rows, (p.shape[1], p.shape[2]), p.resize)

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        moments = self.moments(source, index, shape)
        mean, std = tuple(moments.mean.tolist()), tuple(moments.std.clamp_min(STD_FLOOR).tolist())
        return with_size(Preprocessing(self.kind, shape, mean, std), source)

    def values(self, rows: Tensor) -> Tensor:
        return super().values(rows) / 255.0

    def show(self, source: Source, index: Array) -> list[dict[str, Any]]:
        side = PAGE_SIDE if len(index) > 1 else ALONE
        return [inline_image(row, side) for row in source.rows(index)]

    def to_dict(self, preprocessing: Preprocessing) -> dict[str, Any]:
        p = preprocessing
        return super().to_dict(p) | {"resize": p.resize, "white": p.white, "resized": p.resized, **to_dict(p.levels)}

    def from_dict(self, stored: Mapping[str, Any]) -> Preprocessing:
        return replace(
            super().from_dict(stored),
            resize=stored.get("resize", "cover"),
            white=int(stored.get("white", 0)),
            resized=bool(stored.get("resized", False)),
            levels=from_dict(stored),
        )

    def is_sound(self, preprocessing: Preprocessing) -> bool:
        p = preprocessing
        return super().is_sound(p) and p.resize in RESIZES and p.white in (0, 1, 255)


def with_size(preprocessing: Preprocessing, source: Source) -> Preprocessing:
    """Return it with the source's way to resize its images, their white level and their levels."""
    own = traits(source)
    return replace(preprocessing, resize=own.resize, white=own.white, resized=own.resized, levels=own.levels)


def inline_image(row: Tensor, side: int) -> dict[str, Any]:
    """Return ``{"image": data URI, "small": bool}`` of a raw row, uint8 [channels, height, width].

    ``side``: longest side in pixels, to which a larger image is brought.
    """
    pixels = row.numpy()
    picture = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels[:3].transpose(1, 2, 0)))
    if max(picture.size) > side:
        picture.thumbnail((side, side))
    content = io.BytesIO()
    picture.save(content, "PNG", optimize=True)
    uri = f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
    return {"image": uri, "small": max(row.shape[1:]) < SMALL}

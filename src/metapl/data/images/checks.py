"""The checks of images: near copies, images unlike the others, images of one colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from metapl.data.likeness import apart_of, codes_of, pairs_of, usual_distance
from metapl.data.row_checks import LOOK, Contents, Finding, Kept, Likeness, Pairs, RowChecks, no_pairs, share
from metapl.types import Array, Source

SIDE = 32  # of the thumbnails that images are compared by
HUES = 2  # side of the thumbnails in colour
FIELDS = 8  # an image as FIELDS x FIELDS means
FAR_IMAGES = 20  # differing bits of 128
CLOSER = 0.25  # of the usual distance to a nearest neighbour
LEAST = 0.97  # correlation below which two images are never near copies
COARSE, FINE = 8, 16  # fields across an image: to find candidates, and to measure distances
SHIFT_FROM = 24  # images of at least this side may also be moved against each other by a pixel
HUE = 14.0  # most that the colours of two near copies differ by, mean over fields, 0..255 scale
PER_ROW = 8  # candidate pairs looked at closely, per row


class ImageChecks(RowChecks):
    """Remembers ``thumbs``, uint8 [n, h, w], ``flat``, bool [n], and of colours ``hues``, float32 [n, 2 * HUES**2]."""

    def keep(self, rows: Tensor) -> Kept:
        flat = (rows.flatten(2).amin(2) == rows.flatten(2).amax(2)).all(1).numpy()
        kept = {"thumbs": thumbnails(rows, SIDE), "flat": flat}
        return kept | ({"hues": _hues(rows)} if rows.shape[1] == 3 else {})

    def near_pairs(self, kept: Kept, first: Array, source: Source) -> Pairs:
        return _near_images(kept["thumbs"], kept.get("hues"), first)

    def likeness(self, kept: Kept, source: Source) -> list[Likeness]:
        thumbs = kept["thumbs"]
        return [Likeness(_fields(thumbs)), Likeness(_appearance(thumbs, kept.get("hues")), scaled=True)]

    def contents(self, kept: Kept, source: Source, parts: Sequence[Array]) -> Contents:
        flat = np.flatnonzero(kept["flat"]).tolist()
        if not flat:
            return Contents()
        text = f"{share(len(flat), len(kept['flat']))} images are of one colour"
        remedy = "Look at them: often a failed download or a cover."
        return Contents([Finding(LOOK, "flat_images", text, remedy, len(flat))], [("one colour", flat)])


def thumbnails(rows: torch.Tensor, side: int) -> Array:
    """Return uint8 images [n, channels, H, W] in grey, at most ``side`` high and wide: uint8 [n, h, w]."""
    x = rows.float()
    if x.shape[1] == 3:
        x = (x * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    else:
        x = x[:, :1]
    size = (min(side, x.shape[2]), min(side, x.shape[3]))
    if size != tuple(x.shape[2:]):
        x = torch.nn.functional.adaptive_avg_pool2d(x, size)
    return x.squeeze(1).round().to(torch.uint8).numpy()


def _hues(rows: torch.Tensor) -> Array:
    """Return red and blue minus green in each of HUES x HUES fields, on the 0..255 scale."""
    small = torch.nn.functional.adaptive_avg_pool2d(rows.float(), HUES)
    made: Array = torch.cat([small[:, 0] - small[:, 1], small[:, 2] - small[:, 1]], dim=1).flatten(1).numpy()
    return made


def _near_images(all_thumbs: Array, all_hues: Array | None, first: Array) -> Pairs:
    parts = (all_thumbs[first[k : k + 8192]] for k in range(0, len(first), 8192))
    spread = [part.reshape(len(part), -1).std(axis=1, dtype=np.float32) for part in parts]
    kept = np.flatnonzero(np.concatenate(spread) >= 2)  # an image of one colour is like every other
    if len(kept) < 2:
        return no_pairs()
    thumbs = all_thumbs[first[kept]]
    vectors = _unit(thumbs, FINE)
    usual = usual_distance(vectors)
    pairs = pairs_of(codes_of(_unit(thumbs, COARSE)), FAR_IMAGES)
    apart = apart_of(vectors, pairs)
    near = apart <= max(0.7 * usual, 0.1)
    pairs = pairs[near][np.argsort(apart[near], kind="stable")[: PER_ROW * len(kept)]]
    alike = _aligned(thumbs, pairs, 1 if min(thumbs.shape[1:]) >= SHIFT_FROM else 0)
    good = alike >= max(LEAST, 1 - (CLOSER * usual) ** 2 / 2)
    if all_hues is not None:
        hues = all_hues[first[kept]]
        good &= np.abs(hues[pairs[:, 0]] - hues[pairs[:, 1]]).mean(axis=1) <= HUE
    return kept[pairs[good]], alike[good]


def _unit(thumbs: Array, fields: int) -> Array:
    """Return float32 [n, <= fields**2]: thumbnails as fields x fields means, without brightness and contrast."""
    side = (min(fields, thumbs.shape[1]), min(fields, thumbs.shape[2]))
    parts = []
    for start in range(0, len(thumbs), 8192):
        x = torch.from_numpy(thumbs[start : start + 8192]).float().unsqueeze(1)
        x = torch.nn.functional.adaptive_avg_pool2d(x, side).flatten(1)
        x = x - x.mean(dim=1, keepdim=True)
        parts.append(x / x.norm(dim=1, keepdim=True).clamp_min(1e-3))
    made: Array = torch.cat(parts).numpy()
    return made


def _aligned(thumbs: Array, pairs: Array, shift: int) -> Array:
    """Return the best correlation of each pair when one image may be moved by up to ``shift`` pixels, float [m]."""
    parts = [np.zeros(0)]
    height, width = thumbs.shape[1:]
    pool = 2 if shift else 1  # what recompression and scaling change is the finest detail
    for start in range(0, len(pairs), 2048):
        one, other = (torch.from_numpy(thumbs[side]).float() for side in pairs[start : start + 2048].T)
        fixed = _standard(one[:, shift : height - shift, shift : width - shift], pool)
        best = torch.full((len(one),), -1.0)
        for down in range(2 * shift + 1):
            for right in range(2 * shift + 1):
                moved = other[:, down : height - 2 * shift + down, right : width - 2 * shift + right]
                best = torch.maximum(best, (fixed * _standard(moved, pool)).sum(dim=1))
        parts.append(best.numpy().astype(np.float64))
    return np.concatenate(parts)


def _standard(images: torch.Tensor, pool: int) -> torch.Tensor:
    flat = torch.nn.functional.avg_pool2d(images.unsqueeze(1), pool).flatten(1)
    flat = flat - flat.mean(dim=1, keepdim=True)
    made: torch.Tensor = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-3)
    return made


def _chunks(thumbs: Array) -> list[torch.Tensor]:
    return [torch.from_numpy(thumbs[k : k + 8192]).float() / 255 for k in range(0, len(thumbs), 8192)]


def _fields(thumbs: Array) -> Array:
    """Return images as FIELDS x FIELDS grey means, on the 0..1 scale."""
    side = (min(FIELDS, thumbs.shape[1]), min(FIELDS, thumbs.shape[2]))
    pool = torch.nn.functional.adaptive_avg_pool2d
    made: Array = torch.cat([pool(x.unsqueeze(1), side).flatten(1) for x in _chunks(thumbs)]).numpy()
    return made


def _appearance(thumbs: Array, hues: Array | None) -> Array:
    """Return brightness, contrast, shares of black and white, sharpness along both axes, and hue."""
    parts = []
    for x in _chunks(thumbs):
        across = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(dim=(1, 2))
        down = (x[:, 1:] - x[:, :-1]).abs().mean(dim=(1, 2))
        flat = x.flatten(1)
        ends = [(flat < 0.05).float().mean(1), (flat > 0.95).float().mean(1)]
        parts.append(torch.stack([flat.mean(1), flat.std(1), *ends, across, down], dim=1))
    made: Array = torch.cat(parts).numpy()
    if hues is None:
        return made
    red, blue = hues.reshape(len(made), 2, -1).mean(axis=2).T / 255
    return np.column_stack([made, red, blue]).astype(np.float32)

"""Image files, or their bytes, to tensors, with Pillow.

Files are only read; a damaged file gives a reason, not a crash.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import os
import stat
import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from metapl.data.images.levels import NO_SPAN, as_bytes, levels_of, span_of
from metapl.types import NO_LEVELS, Levels, Resize

_SUFFIXES = ".png .jpg .jpeg .jpe .jfif .jif .bmp .gif .webp .tif .tiff .ppm .pgm"
SUFFIXES = frozenset(_SUFFIXES.split())
MAX_PIXELS = 50_000_000
PIECE = 512  # images decoded at a time, so that results do not pile up before they are read
PIECE_BYTES = 64 * 2**20  # and no more than this, decoded
AUTO_SIDE = 64  # the side that images of different or larger sizes are brought to
# Only these decoders may run, whatever the suffix says: Pillow knows formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = frozenset({"1", "L", "LA", "La", "I", "F"})
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
Stored = str | Path | bytes  # a file, or what stands in one
PAD_LEVEL = 128  # grey level beside an image that was made to fit
_IN_MEMORY = 32 * 2**20  # files up to this size are read in one go, so that pixels and digest cost one opening


class Unreadable(Exception):
    """An image file that cannot be used; the text is the reason, in one line.

    ``lasting``: whether the reason lies in the file's contents, so that the same bytes can never be read.
    """

    lasting = True

    def for_now(self) -> Unreadable:
        """Return the same for a reason that may be gone at the next try."""
        self.lasting = False
        return self


class Decoded(NamedTuple):
    """One image: uint8 [channels, height, width], the SHA-256 of its file, and (height, width, grey?) as stored.

    The digest is empty if it was not asked for. Sizes are those of the upright image. ``span``: as in
    ``levels.NO_SPAN``.
    """

    pixels: Tensor
    digest: bytes
    head: tuple[int, int, bool]
    span: tuple[float, ...] = NO_SPAN


def decode(
    path: Stored,
    shape: tuple[int, int, int] | None = None,
    *,
    resize: Resize = "cover",
    max_pixels: int = MAX_PIXELS,
    levels: Levels = NO_LEVELS,
) -> Tensor:
    """One image file, or its bytes, as uint8 [channels, height, width].

    The header is checked before anything is decoded, EXIF orientation is applied, the first frame of an animation
    is taken, transparency is laid over white. With ``shape`` the image is made grey (1) or RGB (3) and brought to
    height x width; without, it keeps its size and is grey or RGB as stored.

    Args:
        resize: "cover" scales until the shape is covered and crops about the centre, "stretch" scales both sides on
            their own, "pad" scales until the image fits and fills the rest with middle grey.
        levels: the range that becomes 0..255 in an image with more than 8 bits; by default 16 bits are divided by 257.

    Raises:
        Unreadable: the file is not a whole image in a known format, or has more than ``max_pixels`` pixels.
    """
    with quiet():
        return _decode(path, shape, resize, max_pixels, levels=levels).pixels


def decode_many(
    paths: Sequence[Stored],
    shape: tuple[int, int, int],
    *,
    resize: Resize = "cover",
    with_digest: bool = False,
    levels: Levels = NO_LEVELS,
    fit: bool = False,
) -> Iterator[Decoded | Unreadable]:
    """``decode`` for many files (or bytes) by a pool of threads, in the order of ``paths``; threads end with it.

    ``fit``: use the range of the image itself while ``levels`` are not known yet.
    """

    def one(path: Stored) -> Decoded | Unreadable:
        try:
            return _decode(path, shape, resize, MAX_PIXELS, with_digest, levels, fit)
        except Unreadable as reason:
            return reason.with_traceback(None)  # a traceback would keep the file's bytes alive

    def group(first: int) -> list[Decoded | Unreadable]:
        return [one(path) for path in paths[first : min(first + size, start + piece)]]

    piece = max(16, min(PIECE, PIECE_BYTES // math.prod(shape)))
    size = piece // 16  # images of one task: small ones take less time than handing over a task of their own
    for start in range(0, len(paths), piece):
        # `quiet` lies around the threads, which share one list of warning filters, but never around the reader.
        with quiet(), ThreadPoolExecutor(workers()) as pool:
            groups = list(pool.map(group, range(start, min(start + piece, len(paths)), size)))
        yield from itertools.chain.from_iterable(groups)


def workers() -> int:
    """Return the number of decoding threads: one per core that this process may use, at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, cores)


def probe(path: Stored, side: int = AUTO_SIDE) -> tuple[int, int, bool] | None:
    """Return (height, width, grey?) of the upright image; above ``side`` by the header alone; None if it is damaged."""
    with quiet():
        try:
            with _opened(path, MAX_PIXELS) as (image, _):
                if max(image.size) > side:  # the exact size makes no difference
                    return image.height, image.width, _is_grey(image)
                grey = _is_grey(image)
                image.load()  # cheap at this size, and only then is the orientation sure (TIFF turns itself)
                width, height = image.size[::-1] if _orientation(image) >= 5 else image.size
                return height, width, grey
        except Unreadable:
            return None


@contextmanager
def header(path: Stored) -> Iterator[Image.Image]:
    """Open an image and read its header; nothing is decoded.

    Raises:
        Unreadable: as for ``decode``, if the header shows the fault.
    """
    with quiet(), _opened(path, MAX_PIXELS) as (image, _):
        yield image


class _Quiet:
    """The number of uses of ``quiet`` at work, in all threads."""

    lock = threading.Lock()
    depth = 0
    entry: Any = None


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Pillow's warnings (large image, odd EXIF, odd palette): a real fault becomes a reason.

    ``warnings.catch_warnings`` would put back a list of filters that another thread may have changed meanwhile; here
    one filter, for Pillow's warnings alone, is put in by the first to come and taken out by the last to leave.
    """
    with _Quiet.lock:
        _Quiet.depth += 1
        warnings.filterwarnings("ignore", module=r"PIL\b|metapl\.data\.images$")
        _Quiet.entry = warnings.filters[0]
    try:
        yield
    finally:
        with _Quiet.lock:
            _Quiet.depth -= 1
            if not _Quiet.depth and _Quiet.entry in warnings.filters:
                warnings.filters.remove(_Quiet.entry)  # type: ignore[attr-defined]


@contextmanager
def _opened(path: Stored, max_pixels: int) -> Iterator[tuple[Image.Image, Stored]]:
    """Return the image, its header checked, and its bytes (its path if large); every error is ``Unreadable``."""
    try:
        stored = _read(path)
        with Image.open(io.BytesIO(stored) if isinstance(stored, bytes) else stored, formats=_FORMATS) as image:
            pixels = image.size[0] * image.size[1]
            if pixels > max_pixels:
                raise Unreadable(f"{pixels / 1e6:.0f} megapixels, above the limit of {max_pixels / 1e6:.0f}")
            yield image, stored
    except Unreadable:
        raise
    except UnidentifiedImageError as error:
        raise Unreadable("not an image in a known format") from error
    except Image.DecompressionBombError as error:
        raise Unreadable(f"more pixels than the limit of {max_pixels / 1e6:.0f} megapixels") from error
    except PermissionError as error:
        raise Unreadable("no permission to read it").for_now() from error
    except Exception as error:  # decoders raise nearly anything on damaged input: OSError, SyntaxError, struct.error
        text = " ".join(str(error).split())
        reason = Unreadable(f"truncated or damaged ({text or type(error).__name__})")
        system = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        raise (reason.for_now() if system else reason) from error


def _read(path: Stored) -> Stored:
    """Return the file's bytes, or its path if it is large.

    Empty files are refused, and files that are not regular: opening a pipe would wait for ever.
    """
    if isinstance(path, bytes):
        if not path:
            raise Unreadable("no bytes")
        return path
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:  # also a link that leads nowhere, or a NUL byte in the name
        raise Unreadable(f"cannot be opened ({getattr(error, 'strerror', None) or error})").for_now() from error
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a regular file").for_now()
    if not status.st_size:
        raise Unreadable("empty file")
    if status.st_size > _IN_MEMORY:
        return path
    with open(path, "rb", buffering=0) as file:
        return file.read()


def _decode(
    path: Stored,
    shape: tuple[int, int, int] | None,
    resize: Resize,
    max_pixels: int,
    with_digest: bool = False,
    levels: Levels = NO_LEVELS,
    fit: bool = False,
) -> Decoded:
    """Do the work of ``decode``, without suppressing warnings, for threads."""
    with _opened(path, max_pixels) as (image, stored):
        grey, stored_size = _is_grey(image), image.size
        if shape is not None and max(image.size) > (twice := 2 * max(shape[1:])):
            # JPEG can decode at 1/2, 1/4, 1/8; twice the wanted side keeps the final scaling clean.
            image.draft(None, (twice, twice))
        drafted = image.size != stored_size
        image.load()
        orientation = _orientation(image)
        turn = _TURNS.get(orientation)
        span = _span(image)
        own = levels_of(np.array([span])) if fit else NO_LEVELS
        flat = _flat(image, Levels(levels.whole or own.whole, levels.floats or own.floats))
        upright = flat if turn is None else flat.transpose(turn)
        width, height = upright.size if not drafted else stored_size[:: -1 if orientation >= 5 else 1]
        if shape is not None:
            upright = _in_mode(upright, "L" if shape[0] == 1 else "RGB")
            if upright.size != (shape[2], shape[1]):
                upright = _resized(upright, (shape[2], shape[1]), resize)
        pixels = _planes(upright)
        digest = digest_of_file(stored) if with_digest else b""
    return Decoded(pixels, digest, (height, width, grey), span)


def _planes(image: Image.Image) -> Tensor:
    """Return the pixels of an image in mode L or RGB as uint8 [1 or 3, height, width]."""
    pixels = np.array(image)
    return torch.from_numpy(pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def pixels_of(
    image: Image.Image, size: tuple[int, int] | None = None, resize: Resize = "cover", levels: Levels = NO_LEVELS
) -> Tensor:
    """Return an image that is already open as uint8 [1 or 3, height, width], upright, at ``size`` (height, width).

    Raises:
        Unreadable: its file is damaged, or it holds floats that are not finite or, without levels, outside 0..255.
    """
    try:
        with quiet():
            image.load()
            turn = _TURNS.get(_orientation(image))
            _span(image)
            upright = _flat(image, levels) if turn is None else _flat(image, levels).transpose(turn)
            if size is not None and upright.size != size[::-1]:
                upright = _resized(upright, (size[1], size[0]), resize)
            return _planes(upright)
    except Unreadable:
        raise
    except Exception as error:  # as in ``_opened``
        raise Unreadable(f"truncated or damaged ({' '.join(str(error).split())})") from error


def _resized(image: Image.Image, size: tuple[int, int], resize: Resize) -> Image.Image:
    """Return the image at ``size`` (width, height)."""
    if resize == "stretch":
        return image.resize(size, Image.Resampling.BILINEAR)
    if resize == "cover":
        # `fit` crops and scales in one go: a 1 x 1000000 strip never becomes 64 x 64000000 on the way.
        return ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = (max(1, min(size[0], round(scale * image.width))), max(1, min(size[1], round(scale * image.height))))
    whole = Image.new(image.mode, size, (PAD_LEVEL,) * len(image.getbands()))
    whole.paste(image.resize(inner, Image.Resampling.BILINEAR), ((size[0] - inner[0]) // 2, (size[1] - inner[1]) // 2))
    return whole


def _is_grey(image: Image.Image) -> bool:
    return image.mode in _GREY or image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    """Return the EXIF orientation; 1 (upright) without one, or with a damaged EXIF block."""
    if image.format == "JPEG" and not {"exif", "xmp"} & image.info.keys():
        return 1  # most small images: asking takes a tenth of their decoding
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # the pixels are what counts: damaged EXIF does not make an image unreadable
        return 1


def _span(image: Image.Image) -> tuple[float, ...]:
    try:
        return span_of(image)
    except ValueError as error:
        raise Unreadable(str(error)) from error


def _flat(image: Image.Image, levels: Levels) -> Image.Image:
    """Return the loaded image in mode L or RGB, without transparency."""
    if (scaled := as_bytes(image, levels)) is not None:
        return scaled
    if image.mode.startswith("I"):
        return Image.fromarray((np.asarray(image).astype(np.int64).clip(0, 65535) // 257).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(_from_floats(np.asarray(image)))
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        grey = image.mode in _GREY
        whole = image.convert("RGBA")
        white = Image.new("RGBA", whole.size, "white")
        return Image.alpha_composite(white, whole).convert("L" if grey else "RGB")
    return _in_mode(image, "L" if image.mode in _GREY else "RGB")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    return image if image.mode == mode else image.convert(mode)


def _from_floats(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return float greys in 0..1 or 0..255 as uint8."""
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 255):  # NaN fails both
        raise Unreadable("its float values lie outside 0..255")
    scaled: np.ndarray[Any, Any] = np.rint(values * (255.0 if high <= 1 else 1.0)).astype(np.uint8)
    return scaled


def digest_of_file(path: Stored) -> bytes:
    """Return the SHA-256 of the file, or of the bytes.

    Raises:
        Unreadable: the file cannot be read.
    """
    if isinstance(path, bytes):
        return hashlib.sha256(path).digest()
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise Unreadable(f"cannot be read ({error.strerror})").for_now() from error

"""Damaged image files, made here."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image

PHOTO = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


def saved(form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PHOTO).save(buffer, form, **options)
    return buffer.getvalue()


def png_header(width: int, height: int, bits: int = 1) -> bytes:
    """A PNG of ``width`` x ``height`` whose pixels are all 0, packed tightly: a bomb where it is large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    packer, rows = zlib.compressobj(9), []
    for _ in range(height):
        rows.append(packer.compress(b"\0" * (1 + (width * bits + 7) // 8)))
    head = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    body = b"".join(rows) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


DAMAGED = {
    "truncated.jpg": saved("JPEG")[:-200],
    "truncated.png": saved("PNG")[:-200],
    "truncated.webp": saved("WEBP", lossless=True)[:-200],
    "truncated.bmp": saved("BMP")[:-200],
    "header only.png": saved("PNG")[:40],
    "flipped.png": saved("PNG")[:500] + b"\xff\x00\xff" + saved("PNG")[503:],
    "empty.png": b"",
    "text.jpg": b"this is no image",
    "script.png": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    "bomb.png": png_header(15000, 15000),
    "middling.png": png_header(10000, 6000),
    "huge header.png": png_header(8, 8).replace(struct.pack(">II", 8, 8), struct.pack(">II", 2**31 - 1, 2**31 - 1)),
}

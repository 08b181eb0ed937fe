"""Damaged and odd images: a reason for what cannot be read, the right pixels for what can."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged import DAMAGED, PHOTO, png_header, saved
from PIL import Image, ImageCms

from metapl.data.images.decode import MAX_PIXELS, Unreadable, decode, decode_many, probe

# -- images that cannot be read


@pytest.mark.parametrize("name", DAMAGED)
@pytest.mark.parametrize("shape", [None, (3, 16, 16)])
def test_damaged_images_have_a_reason(tmp_path: Path, name: str, shape: tuple[int, int, int] | None) -> None:
    path = tmp_path / name
    path.write_bytes(DAMAGED[name])
    with pytest.raises(Unreadable) as error:
        decode(path, shape)
    assert str(error.value)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == DAMAGED[name]


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_every_truncation_is_noticed(tmp_path: Path, form: str) -> None:
    whole, path = saved(form), tmp_path / "x.img"
    # The last bytes of a file hold an end mark that decoders do not need.
    for length in range(0, len(whole) - 40, max(1, len(whole) // 150)):
        path.write_bytes(whole[:length])
        with pytest.raises(Unreadable):
            decode(path, (3, 32, 32))


def test_reasons_name_the_cause(tmp_path: Path) -> None:
    wanted = {
        "truncated.jpg": "truncated",
        "empty.png": "empty file",
        "text.jpg": "not an image",
        "script.png": "not an image",
        "bomb.png": "limit",
        "middling.png": "60 megapixels",
    }
    for name, words in wanted.items():
        (tmp_path / name).write_bytes(DAMAGED[name])
        with pytest.raises(Unreadable, match=words):
            decode(tmp_path / name)
    os.mkfifo(tmp_path / "pipe.png")
    for name, words in {"pipe.png": "regular file", "absent.png": "No such file"}.items():
        with pytest.raises(Unreadable, match=words):
            decode(tmp_path / name)


def test_the_limit_lies_where_it_says(tmp_path: Path) -> None:
    assert MAX_PIXELS == 50_000_000
    (tmp_path / "x.png").write_bytes(png_header(200, 100))
    assert decode(tmp_path / "x.png", max_pixels=20_000).shape == (1, 100, 200)
    with pytest.raises(Unreadable, match="limit"):
        decode(tmp_path / "x.png", max_pixels=19_999)


def test_bombs_are_refused_without_decoding(tmp_path: Path) -> None:
    """Ten bombs in a fresh process: peak memory stays within 300 MB of what it was before."""
    for k in range(10):
        (tmp_path / f"{k}.png").write_bytes(DAMAGED["middling.png"])
    program = """
import resource, sys
from metapl.data.images.decode import Unreadable, decode_many
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
results = list(decode_many(sys.argv[1:], (1, 8, 8)))
assert len(results) == 10 and all(isinstance(r, Unreadable) for r in results), results
print(peak() - before)
"""
    files = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    run = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 300


# -- odd images that can be read


def test_content_counts_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(saved("PNG"))
    assert np.array_equal(decode(tmp_path / "x.jpg").permute(1, 2, 0).numpy(), PHOTO)


def test_sixteen_bit_grey(tmp_path: Path) -> None:
    levels = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    for name in ("x.png", "x.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert decode(tmp_path / name).flatten().tolist() == list(range(256))
        assert probe(tmp_path / name) == (16, 16, True)
    Image.fromarray(np.full((2, 2), 513, dtype=np.uint16)).save(tmp_path / "y.png")
    assert decode(tmp_path / "y.png").unique().tolist() == [1], "65535 / 255 = 257 levels make one"


def test_thirty_two_bit_greys(tmp_path: Path) -> None:
    Image.fromarray((np.arange(256, dtype=np.int32) * 257).reshape(16, 16)).save(tmp_path / "i.tif")
    Image.fromarray((np.arange(256) / 255).astype(np.float32).reshape(16, 16)).save(tmp_path / "f.tif")
    for name in ("i.tif", "f.tif"):
        assert decode(tmp_path / name).flatten().tolist() == list(range(256))
    Image.fromarray(np.full((4, 4), np.nan, dtype=np.float32)).save(tmp_path / "nan.tif")
    with pytest.raises(Unreadable, match="float values"):
        decode(tmp_path / "nan.tif")


def test_palette_cmyk_bilevel_and_lab(tmp_path: Path) -> None:
    flat = Image.new("RGB", (20, 10), (200, 30, 60))
    flat.quantize(4).save(tmp_path / "p.png")
    flat.convert("CMYK").save(tmp_path / "c.jpg", quality=100)
    for name in ("p.png", "c.jpg"):
        pixels = decode(tmp_path / name).float().mean((1, 2))
        assert (pixels - torch.tensor([200.0, 30.0, 60.0])).abs().max() < 6, name
        assert probe(tmp_path / name) == (10, 20, False)
    Image.new("1", (20, 10), 1).save(tmp_path / "1.png")
    assert decode(tmp_path / "1.png").unique().tolist() == [255]
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    ImageCms.applyTransform(flat, to_lab).save(tmp_path / "lab.tif")
    pixels = decode(tmp_path / "lab.tif").float().mean((1, 2))
    assert (pixels - torch.tensor([200.0, 30.0, 60.0])).abs().max() < 6


def test_transparency_is_laid_over_white(tmp_path: Path) -> None:
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (4, 4), (0, 128)).save(tmp_path / "half.png")
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 255])
    palette.save(tmp_path / "key.png", transparency=0)
    assert decode(tmp_path / "clear.png").unique().tolist() == [255]
    half = decode(tmp_path / "half.png")
    assert half.shape == (1, 4, 4)
    assert half.unique().tolist() == [127]
    assert decode(tmp_path / "key.png").unique().tolist() == [255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_exif_orientation(tmp_path: Path, orientation: int, suffix: str) -> None:
    """The upright picture is bright at its top left only, however it was stored."""
    upright = np.zeros((32, 48), dtype=np.uint8)
    upright[:16, :16] = 255
    back = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"x.{suffix}"
    stored = np.ascontiguousarray(back[orientation](upright))
    lossless = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(stored).convert("RGB").save(path, exif=exif, **lossless)  # type: ignore[arg-type]
    assert np.abs(decode(path, (1, 32, 48))[0].numpy().astype(int) - upright).max() < 40
    head = probe(path)
    assert head is not None
    assert head[:2] == (32, 48)


def test_damaged_exif_does_not_spoil_the_image(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"
    path.write_bytes(saved("JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12\x00\x03\xff\xff\xff\xff"))
    assert decode(path).shape == (3, 40, 60)
    assert len(list(decode_many([path] * 20, (3, 8, 8)))) == 20


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in ("red", "lime", "blue")]
    for name in ("x.gif", "x.webp", "x.png", "x.tif"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        red, green, blue = decode(tmp_path / name).float().mean((1, 2)).tolist()
        assert red > 240, name
        assert max(green, blue) < 15, name


def test_scaled_then_cropped_about_the_centre(tmp_path: Path) -> None:
    wide = np.zeros((40, 120), dtype=np.uint8)
    wide[:, 40:80] = 255
    Image.fromarray(wide).save(tmp_path / "x.png")
    middle = decode(tmp_path / "x.png", (1, 10, 10))[0]
    assert middle[:, 1:-1].unique().tolist() == [255]
    assert int(middle.min()) > 200  # the edge columns lie half on the dark part
    assert decode(tmp_path / "x.png", (3, 10, 10)).shape == (3, 10, 10)
    Image.new("L", (1, 20000), 9).save(tmp_path / "strip.png")
    assert decode(tmp_path / "strip.png", (1, 64, 64)).unique().tolist() == [9]


def test_large_jpeg_keeps_its_colours_when_scaled(tmp_path: Path) -> None:
    Image.new("RGB", (1200, 900), (10, 200, 90)).save(tmp_path / "x.jpg", quality=95)
    pixels = decode(tmp_path / "x.jpg", (3, 32, 32)).float().mean((1, 2))
    assert (pixels - torch.tensor([10.0, 200.0, 90.0])).abs().max() < 4


def test_no_warning_escapes_from_threads(tmp_path: Path) -> None:
    (tmp_path / "wide.png").write_bytes(png_header(10000, 9500))  # Pillow warns at 89 megapixels
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results = list(decode_many([tmp_path / "wide.png"] * 40, (1, 8, 8)))
        with pytest.raises(Unreadable):
            decode(tmp_path / "wide.png")
    assert all(isinstance(result, Unreadable) for result in results)
    assert caught == []


def test_bytes_are_read_like_files(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    whole = path.read_bytes()
    assert torch.equal(decode(whole), decode(path))
    assert probe(whole) == probe(path) == (9, 7, False)
    good, cut, none, huge = decode_many([whole, whole[:60], b"", path], (3, 4, 4), with_digest=True)
    assert not isinstance(good, Unreadable)
    assert not isinstance(huge, Unreadable)
    assert torch.equal(good[0], huge[0])
    assert good[1] == huge[1]
    assert "damaged" in str(cut)
    assert "no bytes" in str(none)
    with pytest.raises(Unreadable, match="megapixels"):
        decode(whole, max_pixels=10)

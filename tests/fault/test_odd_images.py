"""Many odd and damaged images: training, judging and predicting take each of them alike, or leave it out alike."""

from __future__ import annotations

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged import DAMAGED, PHOTO, png_header, saved
from PIL import Image
from torch import nn

from metapl.data.images.decode import Unreadable, decode
from metapl.data.images.folder import FolderSource
from metapl.inference.predict import Predictions, predict_folder
from metapl.runs.model_folder import Predictor
from metapl.types import Preprocessing

SHAPE = (3, 16, 16)
GREY, COLOUR = Image.fromarray(PHOTO[..., 0]), Image.fromarray(PHOTO)


def stored(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def animated(form: str) -> bytes:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ("red", "lime", "blue")]
    return stored(frames[0], form, save_all=True, append_images=frames[1:])


def turned(form: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return stored(COLOUR, form, exif=exif)


def tiff(width: int, height: int) -> bytes:
    """A TIFF header of that size, with 16 bytes of pixels."""
    tags = [(256, 4, width), (257, 4, height), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 4, height)]
    tags += [(277, 3, 1), (279, 4, 16)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in sorted(tags))
    return b"II*\0" + struct.pack("<I", 24) + bytes(16) + struct.pack("<H", len(tags)) + entries + bytes(4)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 100, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def gif(width: int, height: int) -> bytes:
    raw = bytearray(stored(GREY, "GIF"))
    raw[6:10] = struct.pack("<HH", width, height)
    return bytes(raw)


def jpeg(width: int, height: int) -> bytes:
    raw = bytearray(stored(GREY, "JPEG"))
    at = raw.index(b"\xff\xc0") + 5
    raw[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(raw)


def webp(width: int, height: int) -> bytes:
    """An extended WebP that announces a canvas of this size."""
    body = stored(COLOUR, "WEBP", lossless=True)[12:]
    head = b"VP8X" + struct.pack("<I", 10) + bytes(4) + (width - 1).to_bytes(3, "little")
    head += (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 4 + len(head) + len(body)) + b"WEBP" + head + body


def without_sum(raw: bytes) -> bytes:
    """A PNG whose header's checksum is wrong."""
    return raw[:29] + bytes(4) + raw[33:]


def palette(transparent: bool) -> bytes:
    image = COLOUR.quantize(16)
    return stored(image, "PNG", **({"transparency": bytes(range(0, 256, 16))} if transparent else {}))


FORMS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "BMP": "bmp", "WEBP": "webp", "TIFF": "tif", "PPM": "ppm"}

# -- what cannot be read, and a word of the reason

UNREADABLE: dict[str, tuple[bytes, str]] = {name: (raw, "") for name, raw in DAMAGED.items()}
for form, suffix in FORMS.items():
    whole = saved(form, **({"lossless": True} if form == "WEBP" else {}))
    for share in (0.02, 0.3, 0.9):
        UNREADABLE[f"cut at {share}.{suffix}"] = (whole[: int(share * len(whole))], "")
UNREADABLE |= {
    "zero bytes.jpg": (b"", "empty file"),
    "one byte.png": (b"\x89", "not an image"),
    "zeros.png": (bytes(5000), "not an image"),
    "newlines.gif": (b"\n" * 5000, "not an image"),
    "page.png": (b"<!DOCTYPE html><html>404</html>", "not an image"),
    "vector.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image"),
    "document.jpg": (b"%PDF-1.4\n%%EOF", "not an image"),
    "archive.png": (b"PK\x05\x06" + bytes(18), "not an image"),
    "program.png": (b"\x7fELF" + bytes(100), "not an image"),
    "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "not an image"),
    "icon.png": (stored(COLOUR, "ICO", sizes=[(16, 16)]), "not an image"),
    "wrong sum.png": (without_sum(saved("PNG")), ""),
    "no pixels.png": (png_header(1, 1).replace(struct.pack(">II", 1, 1), struct.pack(">II", 0, 0)), ""),
    "nan.tif": (stored(Image.fromarray(np.full((4, 4), np.nan, np.float32)), "TIFF"), "float values"),
    "endless.tif": (stored(Image.fromarray(np.full((4, 4), np.inf, np.float32)), "TIFF"), "float values"),
    "negative.tif": (stored(Image.fromarray(np.full((4, 4), -1, np.float32)), "TIFF"), "float values"),
    "bomb.gif": (gif(60000, 60000), "limit"),
    "bomb.jpg": (jpeg(60000, 60000), "limit"),
    "bomb.bmp": (bmp(30000, 30000), "limit"),
    "bomb.tif": (tiff(40000, 40000), "limit"),
    "bomb.webp": (webp(16383, 16383), "limit"),
    "bomb.ppm": (b"P6\n30000 30000\n255\n" + bytes(50), "limit"),
    "51 megapixels.ppm": (b"P5\n10000 5100\n255\n" + bytes(50), "51 megapixels, above the limit of 50"),
}

# -- what can be read, and the mean colour that it must have, if it has one

RED = torch.tensor([254.0, 0.0, 0.0])
READABLE: dict[str, tuple[bytes, torch.Tensor | None]] = {
    "cmyk.jpg": (stored(Image.new("RGB", (20, 20), "red").convert("CMYK"), "JPEG", quality=100), RED),
    "progressive.jpg": (stored(COLOUR, "JPEG", progressive=True), None),
    "grey.jpg": (stored(GREY, "JPEG"), None),
    "sixteen bit.png": (stored(Image.fromarray(np.full((9, 9), 257 * 99, np.uint16)), "PNG"), torch.full((3,), 99.0)),
    "sixteen bit.tif": (stored(Image.fromarray(np.full((9, 9), 257 * 99, np.uint16)), "TIFF"), torch.full((3,), 99.0)),
    "float.tif": (stored(Image.fromarray(np.full((9, 9), 0.6, np.float32)), "TIFF"), torch.full((3,), 153.0)),
    "palette.png": (palette(False), None),
    "palette and transparency.png": (palette(True), None),
    "palette.gif": (stored(COLOUR.quantize(8), "GIF"), None),
    "bilevel.png": (stored(Image.new("1", (9, 9), 1), "PNG"), torch.full((3,), 255.0)),
    "clear.png": (stored(Image.new("RGBA", (9, 9), (9, 9, 9, 0)), "PNG"), torch.full((3,), 255.0)),
    "clear.webp": (stored(Image.new("RGBA", (9, 9), (9, 9, 9, 0)), "WEBP", lossless=True), torch.full((3,), 255.0)),
    "half clear.png": (stored(Image.new("LA", (9, 9), (0, 128)), "PNG"), torch.full((3,), 127.0)),
    "animated.gif": (animated("GIF"), RED),
    "animated.webp": (animated("WEBP"), RED),
    "animated.png": (animated("PNG"), RED),
    "pages.tif": (animated("TIFF"), RED),
    "packed.tif": (stored(COLOUR, "TIFF", compression="tiff_lzw"), None),
    "jpeg inside.tif": (stored(COLOUR, "TIFF", compression="jpeg"), None),
    "interlaced line.png": (stored(Image.new("RGB", (1, 900), "red"), "PNG"), RED),
    "wide line.png": (stored(Image.new("RGB", (30000, 1), "red"), "PNG"), RED),
    "one pixel.bmp": (stored(Image.new("RGB", (1, 1), "red"), "BMP"), RED),
    "UPPER.PNG": (stored(Image.new("RGB", (9, 9), "red"), "PNG"), RED),
    "Mixed.JpEg": (saved("JPEG"), None),
    "a png.jpg": (stored(Image.new("RGB", (9, 9), "red"), "PNG"), RED),
    "a jpeg.png": (saved("JPEG"), None),
    "a tail behind it.png": (saved("PNG") + b"tail" * 100, None),
    "grey map.pgm": (b"P5\n4 4\n255\n" + bytes([99] * 16), torch.full((3,), 99.0)),
    "text.ppm": (b"P3\n1 1\n255\n255 0 0\n", RED),
    "large.png": (png_header(3000, 3000), torch.zeros(3)),
    **{f"orientation {k}.jpg": (turned("JPEG", k), None) for k in range(1, 9)},
    **{f"orientation {k}.png": (turned("PNG", k), None) for k in (0, 9, 65535)},
}
CASES = {**{name: raw for name, (raw, _) in UNREADABLE.items()}, **{name: raw for name, (raw, _) in READABLE.items()}}


def sums(root: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


class Seen:
    """What became of the whole collection: as training images, as test images, and in predictions."""

    def __init__(self, root: Path, memory: float) -> None:
        for part in ("labelled/a", "labelled/b", "unlabelled", "test/a"):
            (root / part).mkdir(parents=True)
            (root / part / "good.png").write_bytes(saved("PNG"))
        for name, raw in CASES.items():
            for part in ("labelled/b", "unlabelled", "test/a"):
                (root / part / name).write_bytes(raw)
        before = sums(root)
        self.source = FolderSource(root, image_size=16, allow_bad=True, memory=memory)
        self.source.held()
        self.trained = dict(self.source.problems)
        test = np.flatnonzero(self.source.is_test)
        self.judged = self.source.readable(test)
        self.problems = dict(self.source.problems)
        preprocessing = Preprocessing("image", SHAPE, (0.0,) * 3, (1.0,) * 3)
        flat = nn.Sequential(nn.Flatten(), nn.Linear(768, 2))
        predictor = Predictor(flat, preprocessing, ("a", "b"), torch.device("cpu"))
        chunks: list[Predictions] = list(predict_folder(predictor, root / "unlabelled"))
        self.predicted = {i for chunk in chunks for i in chunk.ids}
        self.refused = {i: why for chunk in chunks for i, why in chunk.problems}
        self.unchanged = sums(root) == before

    def row(self, name: str) -> torch.Tensor:
        return self.source.rows(np.array([self.source.ids.index(name)]))[0]


@pytest.fixture(scope="module", params=[4.0, 0.0], ids=["held", "lazy"])
def seen(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return Seen(tmp_path_factory.mktemp("odd"), request.param)


def test_there_are_many(seen: Seen) -> None:
    assert len(UNREADABLE) > 50
    assert len(READABLE) > 35
    assert seen.unchanged
    assert len(seen.source.ids) == 4 + 3 * len(CASES) - 2 * len(UNREADABLE)  # test images stay rows until opened
    assert seen.source.labels[seen.source.ids.index("labelled/b/cmyk.jpg")] == 1


@pytest.mark.parametrize("name", UNREADABLE)
def test_left_out_everywhere_with_the_same_reason(seen: Seen, name: str) -> None:
    word, reason = UNREADABLE[name][1], seen.trained[f"unlabelled/{name}"]
    assert word in reason
    assert reason == seen.trained[f"labelled/b/{name}"] == seen.problems[f"test/a/{name}"] == seen.refused[name]
    assert f"unlabelled/{name}" not in seen.source.ids
    assert name not in seen.predicted
    assert "\n" not in reason
    with pytest.raises(Unreadable) as error:
        decode(CASES[name], SHAPE)
    assert str(error.value) == reason or not CASES[name]


@pytest.mark.parametrize("name", READABLE)
def test_read_everywhere_alike(seen: Seen, name: str) -> None:
    rows = [seen.row(f"{part}/{name}") for part in ("labelled/b", "unlabelled", "test/a")]
    assert all(torch.equal(row, decode(CASES[name], SHAPE)) for row in rows)
    assert name in seen.predicted
    mean = READABLE[name][1]
    if mean is not None:
        assert (rows[0].float().mean((1, 2)) - mean).abs().max() < 5


def test_bombs_of_every_format_cost_no_memory(tmp_path: Path) -> None:
    """All at once in a fresh process, by file and by bytes: peak memory stays within 150 MB of what it was."""
    for name, raw in CASES.items():
        if "bomb" in name or "megapixels" in name:
            (tmp_path / name).write_bytes(raw)
    program = """
import resource, sys
from pathlib import Path
from metapl.data.images.decode import Unreadable, decode_many
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
files = sys.argv[1:]
results = [*decode_many(files, (1, 8, 8)), *decode_many([Path(f).read_bytes() for f in files], (1, 8, 8))]
assert len(results) == 2 * len(files) > 14 and all(isinstance(r, Unreadable) for r in results), results
print(peak() - before)
"""
    files = [str(path) for path in sorted(tmp_path.iterdir())]
    run = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 150


# -- what is no file at all


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for part in ("labelled/a", "labelled/b", "unlabelled"):
        (tmp_path / "data" / part).mkdir(parents=True)
        (tmp_path / "data" / part / "good.png").write_bytes(saved("PNG"))
    return tmp_path / "data"


def test_folders_pipes_sockets_and_links_with_image_names(root: Path, tmp_path: Path) -> None:
    here = root / "unlabelled"
    (here / "folder.png").mkdir()
    (here / "folder.png" / "inside.png").write_bytes(saved("PNG"))
    os.mkfifo(here / "pipe.png")
    (tmp_path / "real.png").write_bytes(saved("PNG"))
    (here / "link.png").symlink_to(tmp_path / "real.png")
    (here / "nowhere.png").symlink_to(tmp_path / "absent.png")
    (here / "round.png").symlink_to("round.png")
    (here / "to a folder.png").symlink_to(here / "folder.png")
    (here / "device.png").symlink_to("/dev/zero")
    (here / ".hidden.png").write_bytes(b"x")
    source = FolderSource(root, allow_bad=True, cache=True)
    reasons = dict(source.problems)
    assert set(reasons) == {f"unlabelled/{name}.png" for name in ("pipe", "nowhere", "round", "device")}
    assert reasons["unlabelled/pipe.png"] == reasons["unlabelled/device.png"] == "not a regular file"
    assert {i for i in source.ids if i.startswith("unlabelled/")} == {
        "unlabelled/good.png",
        "unlabelled/link.png",
        "unlabelled/folder.png/inside.png",
    }
    again = FolderSource(root, allow_bad=True, cache=True)
    assert (again.ids, again.problems) == (source.ids, source.problems)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_named_and_tried_again(root: Path) -> None:
    closed = root / "unlabelled" / "closed.png"
    closed.write_bytes(saved("PNG"))
    closed.chmod(0)
    assert dict(FolderSource(root, cache=True).problems)["unlabelled/closed.png"] == "no permission to read it"
    closed.chmod(0o644)
    assert FolderSource(root, cache=True).problems == []


def test_a_read_that_fails_is_named_and_not_remembered(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails today may work tomorrow, though the file has not changed."""
    from metapl.data.images import cache, decode

    monkeypatch.setattr(cache, "FRESH", -(10**18))
    (root / "unlabelled" / "other.png").write_bytes(saved("PNG"))
    read = decode._read

    def fails(path: object) -> object:
        if str(path).endswith("other.png"):
            raise OSError(5, "Input/output error")
        return read(path)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(decode, "_read", fails)
        problems = dict(FolderSource(root, cache=True).problems)
    assert "Input/output error" in problems["unlabelled/other.png"]
    assert FolderSource(root, cache=True).problems == []


def test_checksums_in_the_made_files_are_what_they_claim() -> None:
    """The cases above fail for the reason that they are about."""
    head = saved("PNG")[12:29]
    assert zlib.crc32(head) == int.from_bytes(saved("PNG")[29:33], "big")
    assert CASES["wrong sum.png"][29:33] == bytes(4)

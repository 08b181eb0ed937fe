"""Folders and images that cannot serve: one line and a remedy, a reason per image, user files untouched."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from metapl.data import FolderSource, SourceOptions, SplitConfig, Unreadable, decode, make_split, open_source
from metapl.data.images import MAX_PIXELS, decode_many, probe
from metapl.errors import UserError

RNG = np.random.default_rng(0)
PHOTO = RNG.integers(0, 256, (40, 60, 3), dtype=np.uint8)


def put(path: Path, value: int = 100, size: tuple[int, int] = (8, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).save(path)
    return path


def tree(root: Path, count: int = 3) -> Path:
    for k in range(count):
        put(root / "labelled" / "cat" / f"{k}.png")
        put(root / "labelled" / "dog" / f"{k}.png")
        put(root / "unlabelled" / f"{k}.png")
    return root


def plain(root: Path) -> Path:
    for name in ("cat", "dog"):
        for k in range(3):
            put(root / name / f"{k}.png")
    return root


def snapshot(root: Path) -> dict[str, tuple[str, int]]:
    """Hash and change time of every file."""
    return {
        str(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def _untouched(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may leave a changed or new file, counted from its first ``FolderSource``."""
    before: list[dict[str, tuple[str, int]]] = []
    original = FolderSource.__init__

    def spied(self: FolderSource, *args: object, **options: object) -> None:
        before.append(snapshot(tmp_path))
        original(self, *args, **options)  # type: ignore[arg-type]
        assert snapshot(tmp_path) == before[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderSource, "__init__", spied)
        yield


def error_of(root: Path, **options: object) -> str:
    before = snapshot(root) if root.is_dir() else {}
    with pytest.raises(UserError) as error:
        open_source(str(root), SourceOptions(**options))  # type: ignore[arg-type]
    assert error.value.remedy
    assert "\n" not in str(error.value)
    assert not root.is_dir() or snapshot(root) == before
    return str(error.value)


# -- folders that cannot serve


def move(root: Path, old: str, new: str) -> None:
    (root / old).rename(root / new)


BAD_FOLDERS: list[tuple[Callable[[Path], Path], Callable[[Path], object], list[str]]] = [
    (tree, lambda r: shutil.rmtree(r), ["no such path", "Check"]),
    (tree, lambda r: (shutil.rmtree(r), put(r.with_name("t.png")).rename(r)), ["a file, not a folder"]),
    (tree, lambda r: (shutil.rmtree(r), r.mkdir()), ["no images"]),
    (tree, lambda r: (shutil.rmtree(r), put(r / "1.png")), ["no images in class folders"]),
    (tree, lambda r: (r / "labelled" / "owl").mkdir(), ["'owl' has no image", "labelled/owl", "remove"]),
    (plain, lambda r: (r / "owl" / "deep").mkdir(parents=True), ["'owl' has no image"]),
    (tree, lambda r: shutil.rmtree(r / "labelled" / "cat"), ["only one class, 'dog'"]),
    (plain, lambda r: shutil.rmtree(r / "cat"), ["only one class, 'dog'"]),
    (tree, lambda r: shutil.rmtree(r / "unlabelled"), ["is missing", "--labels N", "unlabelled: "]),
    (tree, lambda r: [p.unlink() for p in (r / "unlabelled").iterdir()], ["has no image in it", "--labels N"]),
    (tree, lambda r: shutil.rmtree(r / "labelled"), ["no folder 'labelled'"]),
    (tree, lambda r: shutil.copytree(r / "labelled", r / "labeled"), ["'labelled' and 'labeled' exist"]),
    (tree, lambda r: put(r / "labelled" / "Cat" / "1.png"), ["'Cat' and 'cat'", "differ only"]),
    (tree, lambda r: put(r / "labelled" / "cat " / "1.png"), ["'cat' and 'cat '", "differ only"]),
    (plain, lambda r: (put(r / "caf\u00e9" / "1.png"), put(r / "cafe\u0301" / "1.png")), ["differ only"]),
    (tree, lambda r: put(r / "test" / "dgo" / "1.png"), ["'dgo'", "Did you mean 'dog'", "test/dgo"]),
    (tree, lambda r: put(r / "test" / "Dog" / "1.png"), ["'Dog'", "Did you mean 'dog'"]),
    (plain, lambda r: put(r / "test" / "dog" / "1.png"), ["'test' holds a folder 'dog'", "labelled"]),
    (plain, lambda r: (r / "labelled").mkdir(), ["unlabelled"]),
]


@pytest.mark.parametrize(("make", "spoil", "words"), BAD_FOLDERS)
def test_folders_that_cannot_serve(
    tmp_path: Path, make: Callable[[Path], Path], spoil: Callable[[Path], object], words: list[str]
) -> None:
    root = make(tmp_path / "data")
    open_source(str(root))  # sound before it is spoilt
    spoil(root)
    message = error_of(root)
    assert all(word in message for word in [*words, str(root)]), message


def test_train_and_test_without_unlabelled_is_not_taken_for_two_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        plain(tmp_path / part)
    assert "unlabelled images is missing" in error_of(tmp_path)


def test_fully_labelled_plain_tree_needs_labels(tmp_path: Path) -> None:
    source = FolderSource(plain(tmp_path))
    with pytest.raises(UserError, match="no unlabelled rows"):
        make_split(source, SplitConfig(test=0.0), 0)
    assert len(make_split(source, SplitConfig(labels=1, test=0.0), 0).labeled) == 2


# -- images that cannot be read


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
from metapl.data.images import Unreadable, decode_many
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before = peak()
results = list(decode_many(sys.argv[1:], (1, 8, 8)))
assert len(results) == 10 and all(isinstance(r, Unreadable) for r in results), results
print(peak() - before)
"""
    files = [str(path) for path in sorted(tmp_path.glob("*.png"))]
    run = subprocess.run([sys.executable, "-c", program, *files], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 300


@pytest.mark.parametrize(("count", "bad", "refused"), [(40, 2, False), (39, 2, True), (9, 1, True)])
def test_more_than_5_percent_bad_is_refused(tmp_path: Path, count: int, bad: int, refused: bool) -> None:
    tree(tmp_path, count=2)
    for k in range(count - 6):
        put(tmp_path / "unlabelled" / f"more{k}.png")
    for k in range(bad):
        (tmp_path / "unlabelled" / f"more{k}.png").write_bytes(DAMAGED["truncated.png"])
    if refused:
        message = error_of(tmp_path)
        assert f"{bad} of {count} images cannot be read" in message
        assert "unlabelled/more0.png: truncated" in message
        assert "allow_bad" in message
    source = FolderSource(tmp_path, allow_bad=refused)
    assert [name for name, _ in source.problems] == [f"unlabelled/more{k}.png" for k in range(bad)]
    assert len(source.ids) == count - bad
    assert not set(source.ids) & {name for name, _ in source.problems}
    assert any(f"{bad} images cannot be read" in note for note in source.notes)


def test_all_damaged_at_once_in_a_folder(tmp_path: Path) -> None:
    tree(tmp_path)
    for name, raw in DAMAGED.items():
        (tmp_path / "unlabelled" / name).write_bytes(raw)
        (tmp_path / "test" / "cat").mkdir(parents=True, exist_ok=True)
        (tmp_path / "test" / "cat" / name).write_bytes(raw)
    put(tmp_path / "test" / "cat" / "good.png")
    source = FolderSource(tmp_path, allow_bad=True)
    before = snapshot(tmp_path)
    assert {name for name, _ in source.problems} == {f"unlabelled/{name}" for name in DAMAGED}
    test = np.flatnonzero(source.is_test)
    assert [source.ids[k] for k in source.readable(test)] == ["test/cat/good.png"]
    assert len(source.problems) == 2 * len(DAMAGED)
    assert snapshot(tmp_path) == before


def test_a_class_of_which_nothing_is_left(tmp_path: Path) -> None:
    tree(tmp_path)
    for path in (tmp_path / "labelled" / "cat").iterdir():
        path.write_bytes(b"x")
    message = error_of(tmp_path, allow_bad=True)
    assert "no image of the class 'cat' can be read" in message
    assert "labelled/cat/0.png" in message


def test_no_unlabelled_image_left(tmp_path: Path) -> None:
    tree(tmp_path)
    for path in (tmp_path / "unlabelled").iterdir():
        path.write_bytes(b"x")
    assert "no unlabelled image can be read" in error_of(tmp_path, allow_bad=True)


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


# -- odd names and links

ODD = ["a b", "it's", 'say "hi"', "two\nlines", "-rf", "--help", "ünïcödé", "$(x)", "=1+1", "NA", "None", "é" * 100]


def test_odd_names(tmp_path: Path) -> None:
    for name in ODD:
        put(tmp_path / "labelled" / name / f"{name[:20]}.png")
        put(tmp_path / "unlabelled" / name / f"{name[:20]}.png")
    source = FolderSource(tmp_path)
    assert set(source.class_names) == set(ODD)
    assert len(set(source.ids)) == 2 * len(ODD)
    assert source.problems == []


def test_odd_names_stay_on_one_line_in_messages(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "labelled" / "two\nlines").mkdir()
    assert "two\\nlines" in error_of(tmp_path)


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    tree(tmp_path)
    for part in (b"labelled", b"unlabelled"):
        folder = os.path.join(os.fsencode(tmp_path), part, b"\xff\xfe")
        os.mkdir(folder)
        shutil.copy(os.fsencode(tmp_path / "labelled" / "cat" / "0.png"), os.path.join(folder, b"\xe9.png"))
    source = FolderSource(tmp_path)
    assert "\\xff\\xfe" in source.class_names
    assert all(name.encode("utf-8") for name in source.ids)
    assert len(source.fingerprint()) == 64


def test_link_loops_do_not_hang(tmp_path: Path) -> None:
    tree(tmp_path)
    (tmp_path / "labelled" / "cat" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "labelled" / "up").symlink_to("..", target_is_directory=True)
    (tmp_path / "unlabelled" / "self").symlink_to(".", target_is_directory=True)
    (tmp_path / "round.png").symlink_to("round.png")
    source = FolderSource(tmp_path)
    assert source.class_names == ("cat", "dog")
    assert len(source.ids) == 9
    assert any("'up'" in note and "ignored" in note for note in source.notes)
    assert any("linked folders inside 'cat'" in note for note in source.notes)


def test_links_to_files_and_class_folders_elsewhere(tmp_path: Path) -> None:
    root = tree(tmp_path / "data")
    put(tmp_path / "elsewhere" / "1.png", 7)
    (root / "labelled" / "owl").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (root / "unlabelled" / "linked.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    (root / "unlabelled" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    (root / "unlabelled" / "round.png").symlink_to("round.png")
    source = FolderSource(root, allow_bad=True)
    assert source.class_names == ("cat", "dog", "owl")
    assert "unlabelled/linked.png" in source.ids
    assert {name for name, _ in source.problems} == {"unlabelled/nowhere.png", "unlabelled/round.png"}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_without_permission_is_a_problem(tmp_path: Path) -> None:
    tree(tmp_path)
    closed = tmp_path / "unlabelled" / "closed"
    put(closed / "1.png")
    closed.chmod(0)
    try:
        with pytest.raises(UserError, match="closed"):
            FolderSource(tmp_path)
        assert FolderSource(tmp_path, allow_bad=True).problems[0][0] == "unlabelled/closed"
    finally:
        closed.chmod(0o755)

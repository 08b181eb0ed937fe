"""Images with more than 8 bits: the range of the training's files holds everywhere, and for old runs theirs."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import metapl
from metapl import UserError
from metapl.data.images.folder import FolderSource
from metapl.data.images.levels import levels_of
from metapl.data.images.store import ImageStore
from metapl.inference.run_evaluation import judge_own
from metapl.runs.folder import stored_levels
from metapl.types import Levels

SIZE = (12, 12)


def values(k: int, low: int, high: int, dtype: type = np.uint16) -> np.ndarray:
    return np.random.default_rng(k).integers(low, high, SIZE).astype(dtype)


def folder(root: Path, dtype: type = np.uint16, form: str = "png", scale: float = 1.0) -> Path:
    """Two classes of images that use 12 of 16 bits; 257 is about a twentieth of their difference."""
    for name, low in (("u", 1000), ("v", 1030)):
        (root / name).mkdir(parents=True)
        for k in range(12):
            Image.fromarray((values(k, low, low + 60, float) * scale).astype(dtype)).save(root / name / f"{k}.{form}")
    return root


@pytest.mark.parametrize(
    ("dtype", "form", "scale"),
    [
        (np.uint16, "png", 1),
        (np.int32, "tif", 1),
        (np.int32, "tif", -1),
        (np.float32, "tif", 1),
        (np.float32, "tif", 1e-5),
    ],
)
def test_no_shade_is_lost(tmp_path: Path, dtype: type, form: str, scale: float) -> None:
    """Also numbers below 0, and floats that would be black (or were divided by 255 twice)."""
    source = FolderSource(folder(tmp_path / "d", dtype, form, scale))
    rows = source.rows(np.arange(24)).float()
    assert (rows.min(), rows.max()) == (0, 255)
    means = rows.mean((1, 2, 3))
    assert abs(means[:12].mean() - means[12:].mean()) > 60
    assert len(rows.unique()) > 80
    assert "images with more than 8 bits: their values from" in " ".join(source.notes)


def test_the_range_is_that_of_the_training_images(tmp_path: Path) -> None:
    root = tmp_path / "d"
    folder(root / "labelled")
    for name in ("u", "v"):
        (root / "test" / name).mkdir(parents=True)
        Image.fromarray(np.full(SIZE, 60000, np.uint16)).save(root / "test" / name / "bright.png")
    source = FolderSource(root)
    assert source.levels == Levels((1000.0, 1089.0), None)
    assert source.rows(np.flatnonzero(source.is_test)).min() == 255


def test_cache_and_lazy_images_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("metapl.data.images.store.WORTH", 0.0)
    root = folder(tmp_path / "d")
    every = np.arange(24)
    first, again, lazy = (FolderSource(root, **how) for how in ({"cache": True}, {"cache": True}, {"memory": 0.0}))
    assert first.fingerprint() == again.fingerprint() == lazy.fingerprint()
    assert (first.rows(every) == again.rows(every)).all()
    assert (first.rows(every) == lazy.rows(every)).all()
    Image.fromarray(np.full(SIZE, 4095, np.uint16)).save(root / "u" / "brighter.png")
    wider = FolderSource(root, cache=True)  # the others are known from the cache
    assert wider.levels.whole == (1000.0, 4095.0)
    assert (wider.rows(np.arange(25)) == FolderSource(root).rows(np.arange(25))).all()


def test_new_images_are_read_by_the_range_of_the_training(tmp_path: Path) -> None:
    predictor = metapl.fit(
        str(folder(tmp_path / "d")), steps=20, labels=4, guard="off", out=str(tmp_path / "run")
    ).predictor
    assert predictor.takes.levels.whole == (1000.0, 1089.0)
    loaded = metapl.load_model(tmp_path / "run")
    assert loaded.takes.levels == predictor.takes.levels
    (tmp_path / "new").mkdir()
    Image.fromarray(values(99, 1030, 1060)).save(tmp_path / "new" / "one.png")  # of a range of its own
    rows = [c.probabilities for c in metapl.predict_folder(loaded, tmp_path / "new")]
    pixels = np.rint((values(99, 1030, 1060) - 1000.0) * (255 / 89)).astype(np.uint8)
    assert np.allclose(rows[0], loaded.predict_proba(pixels[None]), atol=1e-6)
    parquet = tmp_path / "new.csv"
    parquet.write_text("path\nnew/one.png\n")
    assert np.allclose(next(iter(metapl.predict_source(loaded, str(parquet)))).probabilities, rows[0], atol=1e-6)


def test_new_images_beyond_the_range_are_named(tmp_path: Path) -> None:
    from metapl.data.images.tree import open_tree

    predictor = metapl.fit(str(folder(tmp_path / "d")), steps=2, labels=4, guard="off").predictor
    (tmp_path / "new").mkdir()
    for k in range(3):
        Image.fromarray(values(k, 1000, 1060)).save(tmp_path / "new" / f"{k}.png")
    assert not open_tree(tmp_path / "new", predictor.input()).notes
    Image.fromarray(values(9, 0, 65000)).save(tmp_path / "new" / "other.png")
    (note,) = open_tree(tmp_path / "new", predictor.input()).notes
    assert note.startswith("1 of 4 new images with more than 8 bits that were looked at hold values from")
    assert "the training's run from 1000 to 1089" in note


@pytest.mark.parametrize("old", [False, True], ids=["this version", "an earlier version"])
def test_resume_and_evaluate_read_as_the_run_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool) -> None:
    data, run = folder(tmp_path / "d"), tmp_path / "run"
    config = metapl.make_config(
        str(data), overrides=["steps=12", "split.labels=6", "guard.mode=off", "loop.save_every=6"]
    )
    with monkeypatch.context() as earlier:
        if old:
            init = ImageStore.__init__
            earlier.setattr(ImageStore, "__init__", lambda *args, **how: init(*args, **{**how, "levels": Levels()}))
        result = metapl.train(config, run)
        assert ("levels" in json.loads((run / "split.json").read_text())) == (not old)
        assert result.predictor.takes.levels == stored_levels(run)
        assert any(stored_levels(run)) == (not old)
        weights = {k: v.clone() for k, v in result.predictor.model.state_dict().items()}
        accuracy = judge_own(run, None)[0]["log_loss"]
    assert judge_own(run, None)[0]["log_loss"] == accuracy
    (run / "results.json").unlink()
    shutil.rmtree(max((run / "checkpoints").iterdir()))
    again = metapl.resume(run)
    assert all((again.predictor.model.state_dict()[k] == v).all() for k, v in weights.items())


def test_pillow_images_of_a_data_set(tmp_path: Path) -> None:
    rows = [(Image.fromarray(values(k, 1000 + 30 * (k % 2), 1060 + 30 * (k % 2))), k % 2) for k in range(24)]
    source = metapl.from_dataset(rows[:12], [x for x, _ in rows[12:]])
    assert source.levels.whole == (1000.0, 1089.0)
    assert (source.data.min(), source.data.max()) == (0, 255)
    assert len(source.data.unique()) > 80


def test_damaged_levels_are_no_levels(tmp_path: Path) -> None:
    for text in ("", "[]", '{"levels": {"whole": [3, 1]}}', '{"levels": {"else": [1, 3]}}', '{"levels": 3}'):
        (tmp_path / "split.json").write_text(text)
        assert stored_levels(tmp_path) == Levels()
    assert levels_of(np.full((2, 4), np.nan)) == Levels()


def test_check_finds_values_that_crowd_together(tmp_path: Path) -> None:
    root = folder(tmp_path / "d")
    kinds = [f.kind for f in metapl.check(str(root)).findings]
    assert "narrow_depth" not in kinds
    hot = values(0, 1000, 1060)
    hot[0, 0] = 65535
    Image.fromarray(hot).save(root / "u" / "0.png")
    (found,) = [f for f in metapl.check(str(root)).findings if f.kind == "narrow_depth"]
    assert found.text == "24 images have more than 8 bits, but 98 % of the values share 1 grey level of 256"
    assert "cut these off" in found.remedy
    for name in ("u", "v"):  # as the remedy says
        for path in (root / name).glob("*.png"):
            Image.fromarray(np.asarray(Image.open(path)).clip(0, 1200)).save(path)
    assert not [f for f in metapl.check(str(root)).findings if f.kind == "narrow_depth"]


def png_of_16_bit_colours(colours: np.ndarray) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", colours.shape[1], colours.shape[0], 16, 2, 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in colours)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("high", "level"), [(4096, "WILL HURT"), (65536, "LOOK AT THIS")])
def test_check_names_16_bits_per_colour(tmp_path: Path, high: int, level: str) -> None:
    for name in ("u", "v"):
        (tmp_path / name).mkdir()
        for k in range(4):
            content = png_of_16_bit_colours(np.random.default_rng(k).integers(0, high, (8, 8, 3)))
            assert Image.open(io.BytesIO(content)).mode == "RGB"
            (tmp_path / name / f"{k}.png").write_bytes(content)
    (found,) = [f for f in metapl.check(str(tmp_path)).findings if f.kind == "deep_colours"]
    assert found.level == level
    assert ("8 images are nearly black so" in found.text) == (high == 4096)


@pytest.mark.parametrize("scale", [255.0, 65535.0])
def test_floats_divided_by_255_twice_are_refused_in_memory(scale: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8)) / 255 / scale
    y = np.arange(20) % 2
    with pytest.raises(UserError, match="as if they had been divided by 255 twice"):
        metapl.from_arrays(images, y)
    with pytest.raises(UserError, match="as if they had been divided by 255 twice"):
        metapl.from_dataset([(image.astype(np.float32), int(k % 2)) for k, image in enumerate(images)])
    with pytest.raises(UserError, match="as if they had been divided by 255 twice"):
        metapl.SemiSupervisedClassifier(steps=2).fit(images, np.where(np.arange(20) < 10, y, -1))


def test_new_floats_divided_by_255_twice_are_named() -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8)) / 255
    predictor = metapl.fit(images, np.arange(20) % 2, steps=2, labels=4, guard="off").predictor
    with pytest.warns(UserWarning, match="as if they had been divided by 255 twice"):
        predictor.predict(images / 255)

"""How images are brought to a size, and that a stored model does the same to new ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from metapl import open_source
from metapl.data.batches.preprocess import fit_preprocessing, preprocessing_from_dict, preprocessing_to_dict
from metapl.data.images.decode import decode
from metapl.data.images.folder import FolderSource
from metapl.data.images.options import ImageOptions
from metapl.data.images.source import ImageSource
from metapl.data.sources import SourceOptions
from metapl.errors import UserError
from metapl.inference.predict import predict_folder
from metapl.runs.model_folder import Predictor
from metapl.types import RESIZES, Preprocessing

CPU = torch.device("cpu")


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """40 x 120: a white middle third between black ones."""
    pixels = np.zeros((40, 120), dtype=np.uint8)
    pixels[:, 40:80] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_cover_stretch_and_pad(wide: Path) -> None:
    cover, stretch, pad = (decode(wide, (1, 12, 12), resize=r)[0].int() for r in RESIZES)
    assert cover[:, 1:-1].unique().tolist() == [255]
    assert stretch[:, 5:7].unique().tolist() == [255]
    assert stretch[:, :3].unique().tolist() == stretch[:, 9:].unique().tolist() == [0]
    assert pad[:4].unique().tolist() == pad[8:].unique().tolist() == [128], "middle grey beside it"
    assert pad[4:8, 5:7].unique().tolist() == [255]
    assert pad[4:8, :3].unique().tolist() == [0]
    colour = decode(wide, (3, 12, 12), resize="pad")
    assert torch.equal(colour[0], colour[2])
    assert colour[:, 0].unique().tolist() == [128]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(1, 20000), (20000, 1), (1, 1), (3, 7000)])
@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 8, 30)])
def test_strips_and_single_pixels(
    tmp_path: Path, resize: str, size: tuple[int, int], shape: tuple[int, int, int]
) -> None:
    Image.new("L", size, 9).save(tmp_path / "x.png")
    row = decode(tmp_path / "x.png", shape, resize=resize)  # type: ignore[arg-type]
    assert tuple(row.shape) == shape
    assert set(row.unique().tolist()) <= ({9, 128} if resize == "pad" else {9})
    assert 9 in row


def test_a_rectangle_is_asked_for_by_height_and_width(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (30, 20), 7).save(tmp_path / name / "1.png")
    source = open_source(str(tmp_path), SourceOptions(image_size="12x40", resize="pad"))
    assert source.rows(np.array([0])).shape == (1, 1, 12, 40)
    assert "images are brought to 12 x 40, grey (pad)" in source.notes
    for bad in ("12x", "x12", "2x40", "12x9999", "12x12x12", "-4", " 12", "1e3", "twelve"):
        with pytest.raises(UserError, match="image size"):
            ImageOptions(size=bad)


@pytest.mark.parametrize("bad", [{"resize": "crop"}, {"memory": -1.0}, {"memory": float("nan")}, {"prefetch": -1}])
def test_settings_that_mean_nothing(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match=f"source.image.{next(iter(bad))}"):
        ImageOptions(**bad)  # type: ignore[arg-type]


def test_the_model_card_keeps_the_resize(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("L", (30, 20), 7).save(tmp_path / name / "1.png")
    for resize in RESIZES:
        source = FolderSource(tmp_path, image_size=16, resize=resize)
        made = fit_preprocessing(source, np.arange(2))
        stored = preprocessing_to_dict(made)
        assert stored["resize"] == resize
        assert preprocessing_from_dict(stored) == made
    del stored["resize"]  # as in models stored before there was a choice
    assert preprocessing_from_dict(stored).resize == "cover"
    with pytest.raises(UserError, match="damaged"):
        preprocessing_from_dict({**stored, "resize": "crop"})


def test_new_images_are_brought_to_size_as_the_training_images_were(wide: Path) -> None:
    """A "network" that answers with the brightness of the first line of pixels: black, grey or white."""

    class Top(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            level = x[:, 0, 0].mean(1)
            return torch.stack([-((level - k) ** 2) for k in (0.0, 0.5, 1.0)], dim=1)

    named = {}
    for resize in RESIZES:
        preprocessing = Preprocessing("image", (1, 12, 12), (0.0,), (1.0,), resize=resize)
        predictor = Predictor(Top(), preprocessing, ("black", "grey", "white"), CPU)
        (chunk,) = predict_folder(predictor, wide)
        named[resize] = chunk.labels[0]
    assert (named["cover"], named["pad"]) == ("white", "grey")


def test_a_source_over_bytes_with_test_rows_in_between(wide: Path) -> None:
    raw = wide.read_bytes()
    items = [raw, b"rubbish", raw[:60], raw, raw]
    test, labels = np.array([True, False, False, False, False]), np.array([1, 0, 1, 0, 1])
    source = ImageSource(
        "column",
        items,
        ids=["t", "bad", "cut", "a", "b"],
        labels=labels,
        class_names=["x", "y"],
        is_test=test,
        options=ImageOptions(allow_bad=True),
    )
    assert source.ids == ("a", "b", "t")
    assert source.labels.tolist() == [0, 1, 1]
    assert source.is_test.tolist() == [False, False, True]
    assert [name for name, _ in source.problems] == ["bad", "cut"]
    assert source.rows(np.array([2, 0])).shape == (2, 1, 64, 64)
    assert source.readable(np.array([2, 0])).tolist() == [2, 0]

"""Images in memory are brought to a size as files are; what cannot be is refused, and nothing is passed over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import metapl
from metapl import open_source
from metapl.config.settings import make_config
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.embedded import embed, for_encoder
from metapl.data.images.decode import decode, probe
from metapl.data.images.folder import FolderSource
from metapl.data.images.options import ImageOptions
from metapl.data.memory.arrays import from_arrays
from metapl.data.sources import SourceOptions
from metapl.errors import UserError
from metapl.inference.predict import predict_source
from metapl.inference.run_evaluation import judge_other
from metapl.inference.run_predictions import predict_to
from metapl.models.encoders import at_size
from metapl.runs.model_folder import Predictor, load_model
from metapl.types import RESIZES, Resize

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)
SHORT: dict[str, Any] = {"method": "supervised", "steps": 2, "guard": "off", "validation": "none"}


def pictures(count: int, height: int, width: int, channels: int = 3) -> Array:
    """uint8 [count, height, width, channels], smooth enough to be scaled."""
    coarse = RNG.integers(0, 256, (count, 4, 5, channels), dtype=np.uint8)
    flat = [Image.fromarray(c.squeeze()).resize((width, height), Image.Resampling.BILINEAR) for c in coarse]
    return np.stack([np.asarray(image).reshape(height, width, channels) for image in flat])


def y(count: int) -> list[int]:
    return [k % 2 for k in range(count)]


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_become_what_files_of_their_pixels_become(tmp_path: Path, resize: Resize, channels: int) -> None:
    X = pictures(3, 30, 50, channels)
    made = from_arrays(X, [0, 1, -1], image_size="12x16", resize=resize)
    assert (made.resize, made.resized) == (resize, True)
    assert any("brought to 12 x 16" in note for note in made.notes)
    for k, image in enumerate(X):
        Image.fromarray(image.squeeze()).save(tmp_path / f"{k}.png")
        assert torch.equal(made.data[k], decode(tmp_path / f"{k}.png", (channels, 12, 16), resize=resize))
    floats = from_arrays(X / 255.0, [0, 1, -1], image_size="12x16", resize=resize)
    assert torch.equal(floats.data, made.data)
    own = from_arrays(X, [0, 1, -1])
    assert (own.data.shape, own.resized) == ((3, channels, 30, 50), False), "auto: their own size, whatever it is"


def test_fit_brings_arrays_and_later_new_ones_to_the_size_that_is_set(tmp_path: Path) -> None:
    X, more, test = pictures(8, 40, 40), pictures(6, 30, 50), pictures(4, 20, 24)
    options = {"source.image.size": "16", "source.image.resize": "pad"}
    result = metapl.fit(
        X, y(8), X_unlabeled=more, X_test=test, y_test=y(4), options=options, out=tmp_path / "r", **SHORT
    )
    takes = result.predictor.takes
    assert (takes.shape, takes.resize, takes.resized) == ((3, 16, 16), "pad", True)
    assert result.evaluate()["rows"] == 4
    wanted = result.predictor.probabilities(result.source.rows(np.arange(8))).numpy()
    for predictor in (result.predictor, load_model(tmp_path / "r")):
        assert np.allclose(predictor.predict_proba(X), wanted, atol=1e-6)
        assert predictor.predict(more).shape == (6,)
        for odd in (X[0], X[..., :1], X[:, :3, :3]):  # one image, grey ones, specks
            with pytest.raises(UserError, match="the model was trained on"):
                predictor.predict(odd)
    np.savez(tmp_path / "new.npz", X=X, y=y(8))
    judged, _, _ = judge_other(tmp_path / "r", str(tmp_path / "new.npz"), "cpu")
    assert judged["rows"] == 8


def test_arrays_of_their_own_size_set_it_for_new_ones() -> None:
    X = pictures(8, 16, 16, 1)
    result = metapl.fit(X, y(8), **SHORT)
    with pytest.raises(UserError, match=r"shape \[1, 20, 20\], the model was trained on \[1, 16, 16\]"):
        result.predict(pictures(2, 20, 20, 1))


def test_a_model_of_files_takes_arrays_of_any_size(tmp_path: Path) -> None:
    X = pictures(8, 70, 90)
    for k, image in enumerate(X):
        (tmp_path / "set" / "ab"[k % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(tmp_path / "set" / "ab"[k % 2] / f"{k}.png")
    result = metapl.fit(tmp_path / "set", **SHORT)
    rows = {Path(name).stem: k for k, name in enumerate(result.source.ids)}
    wanted = result.predictor.probabilities(result.source.rows(np.array([rows[str(k)] for k in range(8)]))).numpy()
    assert np.allclose(result.predict_proba(X), wanted, atol=1e-6)


def idx_folder(root: Path, train: Array, test: Array) -> Path:
    root.mkdir()
    for part, images in (("train", train), ("t10k", test)):
        head = np.array([0x803, *images.shape], dtype=">u4").tobytes()
        (root / f"{part}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = np.array([0x801, len(images)], dtype=">u4").tobytes()
        (root / f"{part}-labels-idx1-ubyte").write_bytes(head + bytes(y(len(images))))
    return root


def test_every_source_of_images_heeds_the_size(tmp_path: Path) -> None:
    X, T = pictures(6, 20, 30, 1)[..., 0], pictures(4, 20, 30, 1)[..., 0]
    np.savez(tmp_path / "set.npz", X=X, y=y(6), X_test=T, y_test=y(4))
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", y(6))
    specs = {f"idx:{idx_folder(tmp_path / 'idx', X, T)}": {}, str(tmp_path / "set.npz"): {}}
    specs[str(tmp_path / "x.npy")] = {"labels": str(tmp_path / "y.npy")}
    wanted = from_arrays(X, y(6), X_test=T, y_test=y(4), image_size=12, resize="stretch").data
    for spec, more in specs.items():
        source = open_source(spec, SourceOptions(image_size=12, resize="stretch", **more))
        index = np.arange(len(source.ids))
        assert torch.equal(source.rows(index), wanted[: len(index)]), spec
        assert source.resized  # type: ignore[attr-defined]
        assert source.fingerprint() != open_source(spec, SourceOptions(**more)).fingerprint()
    digits = open_source("digits", SourceOptions(image_size=16))
    assert digits.rows(np.arange(3)).shape == (3, 1, 16, 16)


def test_a_model_of_enlarged_digits_predicts_on_digits(tmp_path: Path) -> None:
    few = {"split.labels": 4, "split.validation": "none", "steps": 1, "method": "supervised", "guard.mode": "off"}
    config = make_config("digits", options={**few, "source.image.size": 16, "device": "cpu"})
    metapl.train(config, out=tmp_path / "run")
    count, problems, _ = predict_to(tmp_path / "run", "digits", str(tmp_path / "p.csv"), False, "cpu")
    assert (count, problems) == (1797, [])


@pytest.mark.parametrize("kind", ["table", "text"])
def test_a_size_for_what_has_none_is_refused(tmp_path: Path, kind: str) -> None:
    X: Any = RNG.normal(size=(6, 3)) if kind == "table" else [f"text {k}" for k in range(6)]
    name = {"table": "a table", "text": "texts"}[kind]
    sized = {"source.image.size": 32}
    with pytest.raises(UserError, match=f"image_size is set, and the rows are {name}"):
        metapl.fit(X, y(6), options=sized, **SHORT)
    (tmp_path / "rows.csv").write_text("text,label\n" + "".join(f"some {k},{k % 2}\n" for k in range(6)))
    with pytest.raises(UserError, match="image_size is set, and the rows are texts"):
        open_source(str(tmp_path / "rows.csv"), SourceOptions(image_size=32))


def test_a_source_that_is_made_cannot_be_brought_to_another_size() -> None:
    source = from_arrays(pictures(8, 16, 16), y(8))
    with pytest.raises(UserError, match="the source is made already"):
        metapl.fit(source, options={"source.image.size": 12}, **SHORT)
    assert metapl.fit(source, options={"source.image.size": 16}, **SHORT).predictor.takes.shape == (3, 16, 16)


# -- auto:SIZE, and encoders


@pytest.mark.parametrize(
    ("size", "sides", "shape"),
    [
        ("auto", [(50, 60)], (50, 60)),
        ("auto", [(50, 70)], (64, 64)),
        ("auto:96", [(50, 70)], (50, 70)),
        ("auto:96", [(97, 70)], (96, 96)),
        ("auto:96", [(50, 70), (70, 50)], (96, 96)),
        ("auto:40x80", [(40, 80)], (40, 80)),
        ("auto:40x80", [(80, 40)], (40, 80)),
    ],
)
def test_auto_with_a_size(tmp_path: Path, size: str, sides: list[tuple[int, int]], shape: tuple[int, int]) -> None:
    for k in range(4):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        height, width = sides[k % len(sides)]
        Image.new("L", (width, height), 60 * k).save(tmp_path / "ab"[k % 2] / f"{k}.png")
    assert FolderSource(tmp_path, image_size=size).shape == (1, *shape)
    rows = [(Image.open(path), k) for k, path in enumerate(sorted(tmp_path.rglob("*.png")))]
    assert metapl.from_dataset(rows, image_size=size).data.shape[2:] == shape


def test_a_turned_image_does_not_spoil_the_common_size(tmp_path: Path) -> None:
    """Above the side of auto a header may say the size before it is turned; below, it must be exact."""
    exif = Image.Exif()
    exif[0x0112] = 6
    for k in range(4):
        (tmp_path / "ab"[k % 2]).mkdir(exist_ok=True)
        Image.new("RGB", (100, 80), (k, 9, 9)).save(tmp_path / "ab"[k % 2] / f"{k}.jpg", exif=exif)
    assert probe(str(tmp_path / "a" / "0.jpg"), 224) == (100, 80, False)
    assert FolderSource(tmp_path, image_size="auto:224").shape == (3, 100, 80)


@pytest.mark.parametrize("bad", ["auto:", "auto:2", "auto:x", "auto:64x64x64", "automatic"])
def test_sizes_that_mean_nothing(bad: str) -> None:
    with pytest.raises(UserError, match="image size is"):
        ImageOptions(size=bad)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("size", [(48, 48), (90, 31), (24, 24)])
def test_an_encoder_enlarges_as_files_are_brought_to_a_size(resize: Resize, size: tuple[int, int]) -> None:
    X = pictures(2, 24, 36)
    rows = from_arrays(X, [0, 1]).data
    wanted = from_arrays(X, [0, 1], image_size=f"{size[0]}x{size[1]}", resize=resize).data
    found = at_size(rows.float() / 255, size, resize) * 255
    assert found.shape == wanted.shape
    inside = (found - wanted).abs()[..., 2:-2, 2:-2]  # a crop between two pixels is rounded
    assert inside.mean() < 6
    assert torch.equal(at_size(rows.float(), (24, 36), resize), rows.float())


class Areas(nn.Module):
    """Four means; notes the largest batch and the sizes it was shown."""

    most = 0
    sizes: set[tuple[int, ...]] = set()  # noqa: RUF012

    def __init__(self, shape: tuple[int, ...] = (), num_classes: int = 0) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        type(self).most, self.sizes = max(self.most, len(x)), self.sizes | {tuple(x.shape[2:])}
        return self.factor * nn.functional.adaptive_avg_pool2d(x.mean(1, keepdim=True), 2).flatten(1)


def test_small_images_are_enlarged_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """400 images of 16 x 16 for an encoder of 512 x 512: 300 KiB held, where the enlarged ones would be 300 MiB."""
    monkeypatch.setenv("METAPL_CACHE", str(tmp_path))
    monkeypatch.setattr("metapl.data.memory.datasets.MAX_BYTES", 2**20)
    sized = for_encoder(SourceOptions(encoder=f"{__name__}:Areas", encoder_size=512))
    assert sized.image.size == "auto:512x512"
    source = metapl.from_dataset([(p, k % 2) for k, p in enumerate(pictures(400, 16, 16))], image_size=sized.image.size)
    net = Areas()
    made = embed(source, net, size=512)
    assert made.rows(np.arange(400)).shape == (400, 4)
    shown = made.encoder.network
    assert isinstance(shown, Areas)
    assert (Areas.most, shown.sizes) == (64, {(512, 512)})


@pytest.mark.parametrize("size", [8, "auto"])
def test_a_model_of_images_says_so_of_other_rows(tmp_path: Path, size: int | str) -> None:
    """Its own size is no setting of the user's, who cannot leave it out."""
    source = from_arrays(np.arange(20 * 144).reshape(20, 12, 12) % 256, [0, 1] * 10, image_size=size)
    takes = fit_preprocessing(source, np.arange(20))
    predictor = Predictor(torch.nn.Identity(), takes, ("u", "v"), torch.device("cpu"))
    (tmp_path / "labelled.csv").write_text("a,b,label\n" + "1,2.5,u\n3,1,v\n" * 10, encoding="utf-8")
    np.savez(tmp_path / "x.npz", X=np.ones((4, 3)), y=[0, 1, 0, 1])
    file, arrays = tmp_path / "labelled.csv", tmp_path / "x.npz"
    wanted = ((tmp_path, "there is no image"), (file, "one column of image paths"), (arrays, "trained on images"))
    for spec, words in wanted:
        with pytest.raises(UserError, match=words):
            list(predict_source(predictor, spec))

"""Weak and strong views: reproducible, different per sample, in range, and nothing when switched off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.images.figure import views_figure
from metapl.data.images.views import ImageViews
from metapl.data.modalities import make_views
from metapl.data.tables.views import TableViews
from metapl.errors import UserError
from metapl.types import Preprocessing

SIZES = [(1, 1), (1, 4), (2, 2), (4, 4), (8, 8), (9, 31), (28, 28)]
OFF = {"flip": False, "shift": 0.0, "ops": 0, "cutout": 0.0}


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scaling(channels: int, height: int, width: int, mean: float = 0.0, std: float = 1.0) -> Preprocessing:
    return Preprocessing("image", (channels, height, width), (mean,) * channels, (std,) * channels)


def image_views(x: Tensor, mean: float = 0.0, std: float = 1.0, **settings: Any) -> ImageViews:
    channels, height, width = x.shape[1:]
    return ImageViews(ViewConfig(**settings), scaling(channels, height, width, mean, std))


def batch(n: int = 16, channels: int = 1, height: int = 8, width: int = 8) -> Tensor:
    return torch.randint(0, 256, (n, channels, height, width), dtype=torch.uint8, generator=seeded(9))


def table_views(features: int, **settings: Any) -> TableViews:
    shape = (features,)
    return TableViews(ViewConfig(**settings), Preprocessing("table", shape, (2.0,) * features, (4.0,) * features))


# -- images ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_shape_range_and_determinism(kind: str, channels: int, size: tuple[int, int]) -> None:
    x = batch(7, channels, *size)
    before = x.clone()
    make = getattr(image_views(x, ops=3, magnitude=30), kind)
    first, again, other = make(x, seeded(1)), make(x, seeded(1)), make(x, seeded(2))
    assert first.shape == x.shape
    assert first.dtype == torch.float32
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, again)
    assert size == (1, 1) or not torch.equal(first, other)
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_one_image_repeated_gives_many_views(kind: str) -> None:
    x = batch(1, 3, 16, 16).expand(64, -1, -1, -1)
    views = getattr(image_views(x), kind)(x, seeded())
    distinct = len({view.numpy().tobytes() for view in views})
    assert distinct >= (60 if kind == "strong" else 30), f"{distinct} different views of 64"


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_draws_depend_on_the_generator_alone(kind: str) -> None:
    x = batch(5, 3)
    make = getattr(image_views(x), kind)
    generators = [seeded(4), seeded(4)]
    torch.manual_seed(0)
    here = torch.get_rng_state()
    make(x, generators[0])
    make(torch.zeros_like(x), generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert torch.equal(here, torch.get_rng_state())
    torch.manual_seed(123)
    assert torch.equal(make(x, seeded(4)), make(x, seeded(4)))


def test_plain_normalises() -> None:
    x = batch(3, 3, 5, 6)
    views = image_views(x, mean=0.25, std=0.5)
    torch.testing.assert_close(views.plain(x), (x / 255 - 0.25) / 0.5)
    torch.testing.assert_close(views.pixels(views.plain(x)), x / 255)


def test_mean_and_std_are_per_channel() -> None:
    x = batch(2, 3)
    views = ImageViews(ViewConfig(), Preprocessing("image", (3, 8, 8), (0.1, 0.2, 0.3), (1.0, 2.0, 4.0)))
    for c, (mean, std) in enumerate(zip((0.1, 0.2, 0.3), (1.0, 2.0, 4.0))):
        torch.testing.assert_close(views.plain(x)[:, c], (x[:, c] / 255 - mean) / std)


def test_everything_off_is_plain() -> None:
    x = batch(6, 3)
    views = image_views(x, mean=0.4, std=0.3, **OFF)
    assert torch.equal(views.weak(x, seeded()), views.plain(x))
    assert torch.equal(views.strong(x, seeded()), views.plain(x))


@pytest.mark.parametrize(
    ("flip", "channels", "flips"),
    [("auto", 1, False), ("auto", 2, False), ("auto", 3, True), (True, 1, True), (False, 3, False)],
)
def test_flips_only_where_allowed(flip: str | bool, channels: int, flips: bool) -> None:
    x = batch(1, channels).expand(200, -1, -1, -1)
    views = image_views(x, flip=flip, shift=0.0)
    plain, weak = views.plain(x), views.weak(x, seeded())
    mirrored = (weak == plain.flip(3)).flatten(1).all(1)
    assert ((weak == plain).flatten(1).all(1) | mirrored).all()
    assert (70 < int(mirrored.sum()) < 130) if flips else not mirrored.any()


@pytest.mark.parametrize(
    ("side", "shift", "most"), [(8, 0.125, 1), (4, 0.01, 1), (32, 0.125, 4), (3, 0.5, 2), (1, 0.5, 1)]
)
def test_shift_moves_whole_pixels_and_mirrors_the_rest(side: int, shift: float, most: int) -> None:
    x = batch(1, 1, side, side)
    weak = image_views(x, shift=shift).weak(x.expand(400, -1, -1, -1), seeded())
    padded = torch.from_numpy(np.pad((x / 255)[0, 0].numpy(), most, mode="symmetric"))
    seen = set()
    for view in weak[:, 0]:
        places = [
            (dy, dx)
            for dy in range(2 * most + 1)
            for dx in range(2 * most + 1)
            if torch.equal(padded[dy : dy + side, dx : dx + side], view)
        ]
        assert places
        seen.update(places)
    assert len(seen) == (2 * most + 1) ** 2


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (4, 4), (1, 1)])
@pytest.mark.parametrize("cutout", [0.01, 0.5, 1.0])
def test_cutout_blanks_one_square_of_the_stated_size(size: tuple[int, int], cutout: float) -> None:
    x = torch.full((300, 2, *size), 255, dtype=torch.uint8)
    strong = image_views(x, **OFF | {"cutout": cutout, "fill": 0.25}).strong(x, seeded())
    side = max(1, round(cutout * min(size)))
    blank = strong == 0.25
    assert (blank.flatten(2).sum(2) == side * side).all()
    assert ((strong == 1) | blank).all()
    assert torch.equal(blank[:, 0], blank[:, 1])
    assert (blank.any(3).sum(2) == side).all()  # one square: that many rows, that many columns
    assert (blank.any(2).sum(2) == side).all()
    # Every place is used, none far more often than another: the first row of the square over 300 images.
    tops = blank[:, 0].any(2).to(torch.int64).argmax(1).bincount(minlength=size[0] - side + 1)
    assert len(tops) == size[0] - side + 1
    assert tops.min() > 0


def test_magnitude_and_number_of_ops_matter() -> None:
    x = batch(128, 3, 16, 16)

    def change(**settings: Any) -> float:
        views = image_views(x, **OFF | settings)
        return float((views.strong(x, seeded()) - views.plain(x)).abs().mean())

    assert change(ops=2, magnitude=3) < change(ops=2, magnitude=10) < change(ops=2, magnitude=30)
    assert change(ops=1) < change(ops=3)


@pytest.mark.parametrize(("channels", "kinds"), [(1, 13), (3, 14)])
def test_every_op_is_drawn_in_both_directions(monkeypatch: pytest.MonkeyPatch, channels: int, kinds: int) -> None:
    drawn: list[tuple[Tensor, Tensor]] = []

    def record(images: Tensor, kind: Tensor, strength: Tensor, fill: float) -> Tensor:
        drawn.append((kind, strength))
        return images

    monkeypatch.setattr("metapl.data.images.views.ops.apply_drawn", record)
    x = batch(2000, channels, 4, 4)
    image_views(x, ops=2, magnitude=12).strong(x, seeded())
    kind, strength = drawn[0]
    assert kind.shape == (2, 2000)
    torch.testing.assert_close(strength.abs(), torch.full((2, 2000), 0.4))
    for layer in range(2):
        cells = (kind[layer] * 2 + (strength[layer] > 0)).bincount(minlength=2 * kinds)
        assert len(cells) == 2 * kinds
        assert cells.min() > 40  # about 74 expected
    assert not torch.equal(kind[0], kind[1])


@pytest.mark.parametrize("kind", ["weak", "strong"])
@pytest.mark.parametrize("n", [0, 1])
def test_small_batches(kind: str, n: int) -> None:
    x = batch(2, 3)[:n]
    assert getattr(image_views(x), kind)(x, seeded()).shape == x.shape


def test_batch_in_another_memory_order() -> None:
    x = batch(6, 3, 8, 10)
    views = image_views(x)
    other = x.to(memory_format=torch.channels_last)
    assert torch.equal(views.strong(x, seeded()), views.strong(other, seeded()))


def test_float_images_are_refused() -> None:
    x = batch(2)
    with pytest.raises(TypeError, match="uint8"):
        image_views(x).plain(x.float())


def test_another_number_of_channels_is_refused() -> None:
    views = image_views(batch(2, 3))
    with pytest.raises(ValueError, match="1 channels where the preprocessing has 3"):
        views.plain(batch(2, 1))


def test_zero_std_is_refused() -> None:
    with pytest.raises(ValueError, match="above zero"):
        ImageViews(ViewConfig(), scaling(1, 8, 8, std=0.0))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_figure_shows_originals_weak_and_strong(channels: int) -> None:
    x = batch(5, channels)
    figure = views_figure(x, image_views(x, mean=0.5, std=0.25), seed=1, repeats=2)
    assert len(figure.axes) == 5 * (1 + 2 + 2)
    assert [axis.get_ylabel() for axis in figure.axes[::5]] == ["original", "weak", "", "strong", ""]
    shown = torch.as_tensor(figure.axes[0].images[0].get_array())
    expected = (x[0] / 255).permute(1, 2, 0) if channels == 3 else (x[0] / 255).mean(0)
    torch.testing.assert_close(shown, expected)
    figure.canvas.draw()


# -- tables ----------------------------------------------------------------------------------------------------


def rows(n: int = 50, features: int = 12) -> Tensor:
    return torch.randn(n, features, generator=seeded(5)) * 4 + 2


def test_table_plain_and_nothing() -> None:
    x = rows()
    views = table_views(12, noise=0.0, swap=0.0)
    torch.testing.assert_close(views.plain(x), (x - 2) / 4)
    assert torch.equal(views.weak(x, seeded()), views.plain(x))
    assert torch.equal(views.strong(x, seeded()), views.plain(x))


def test_table_noise_has_the_stated_size() -> None:
    x = rows(500)
    views = table_views(12, noise=0.3)
    noise = views.weak(x, seeded()) - views.plain(x)
    assert abs(float(noise.std()) - 0.3) < 0.015  # 6000 draws: a standard error of 0.003
    assert abs(float(noise.mean())) < 0.02


@pytest.mark.parametrize(("swap", "count"), [(0.25, 3), (0.01, 1), (1.0, 12)])
def test_table_swap_takes_a_share_from_one_other_row(swap: float, count: int) -> None:
    x = rows()
    views = table_views(12, noise=0.0, swap=swap)
    plain, strong = views.plain(x), views.strong(x, seeded())
    changed = plain != strong
    assert (changed.sum(1) == count).all()
    for i in range(len(x)):
        donors = (strong[i] == plain).logical_or(~changed[i]).all(1)
        assert donors.any()
        assert not donors[i]
    assert swap == 1.0 or len({tuple(row) for row in changed.tolist()}) > 5


def test_table_determinism_and_single_row() -> None:
    x = rows()
    views = table_views(12)
    assert torch.equal(views.strong(x, seeded(1)), views.strong(x, seeded(1)))
    assert not torch.equal(views.strong(x, seeded(1)), views.strong(x, seeded(2)))
    generators = [seeded(3), seeded(3)]
    views.strong(x[:1], generators[0])
    views.strong(torch.zeros(1, 12), generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert views.strong(x[:1], seeded()).shape == (1, 12)
    assert views.strong(x[:0], seeded()).shape == (0, 12)


def test_make_views_picks_by_kind() -> None:
    assert isinstance(make_views(ViewConfig(), scaling(1, 8, 8)), ImageViews)
    assert isinstance(make_views(ViewConfig(), Preprocessing("table", (2,), (0.0, 0), (1.0, 1))), TableViews)


# -- configuration ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("flip", "yes"),
        ("flip", 1),
        ("shift", -0.1),
        ("shift", 0.6),
        ("shift", float("nan")),
        ("ops", -1),
        ("ops", 1.5),
        ("ops", True),
        ("ops", 11),
        ("magnitude", 31),
        ("magnitude", "high"),
        ("cutout", 1.1),
        ("fill", -1),
        ("fill", None),
        ("noise", -0.1),
        ("noise", float("inf")),
        ("swap", 2),
    ],
)
def test_bad_settings_are_named(field: str, value: Any) -> None:
    with pytest.raises(UserError, match=f"^views\\.{field}: "):
        ViewConfig(**{field: value})

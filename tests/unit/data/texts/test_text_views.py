"""Views of texts: padding at the end, the tokenizer's own ids in place, never empty, driven by the generator alone."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.modalities import make_views
from metapl.data.texts.views import TextViews
from metapl.errors import UserError
from metapl.types import Preprocessing, Tokens

PAD, MASK, BEGIN, END = 0, 1, 2, 3
LENGTH = 12
TOKENS = Tokens("words", LENGTH, PAD, MASK, (BEGIN, END))


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def batch(texts: list[list[int]]) -> Tensor:
    return torch.tensor([t + [PAD] * (LENGTH - len(t)) for t in texts], dtype=torch.int32).reshape(-1, LENGTH)


def views(weak: float = 0.0, drop: float = 0.0, mask: float = 0.0, shuffle: int = 0) -> TextViews:
    return make_views(
        ViewConfig(word_drop_weak=weak, word_drop=drop, word_mask=mask, word_shuffle=shuffle),
        Preprocessing("text", (LENGTH,), (), (), tokens=TOKENS),
    )


words = st.lists(st.integers(10, 30), max_size=LENGTH)
marked = st.lists(st.integers(10, 30), max_size=LENGTH - 2).map(lambda t: [BEGIN, *t, END])
texts = st.lists(st.one_of(words, marked), min_size=1, max_size=6)
chance = st.sampled_from([0.0, 0.3, 1.0])


@settings(max_examples=300, deadline=None)
@given(texts, chance, chance, chance, st.sampled_from([0, 1, 3, 100]), st.integers(0, 99))
def test_what_every_view_keeps_to(
    texts: list[list[int]], weak: float, drop: float, mask: float, shuffle: int, seed: int
) -> None:
    x, made = batch(texts), views(weak, drop, mask, shuffle)
    before = x.clone()
    for view in (made.weak(x, seeded(seed)), made.strong(x, seeded(seed))):
        assert view.dtype == torch.int64
        assert view.shape == x.shape
        filled = (view != PAD).int()
        assert (filled.diff(dim=1) <= 0).all()
        for old, new in zip(texts, view.tolist()):
            new = [k for k in new if k != PAD]
            own = [k for k in old if k >= 10]
            left = [k for k in new if k >= 10]
            assert not Counter(left) - Counter(own)  # nothing but the text's own words
            assert bool(left) == bool(own)  # and at least one of them
            if BEGIN in old:
                assert (new[0], new[-1]) == (BEGIN, END)
            if drop == weak == 1 and own:
                assert len(left) == 1
                assert MASK not in new
    assert torch.equal(x, before)
    assert torch.equal(made.plain(x), x.long())


def test_weak_view_without_drop_is_the_text() -> None:
    x = batch([[10, 11, 12], [BEGIN, 13, END], []])
    assert torch.equal(views(drop=1.0, mask=1.0, shuffle=9).weak(x, seeded()), x.long())
    assert torch.equal(views(weak=1.0).strong(x, seeded()), x.long())


def test_shares_are_what_was_asked_for() -> None:
    x = batch([list(range(10, 10 + LENGTH))] * 4000)
    kept = (views(drop=0.25).strong(x, seeded()) != PAD).double().mean()
    hidden = (views(mask=0.25).strong(x, seeded()) == MASK).double().mean()
    weak = (views(weak=0.25).weak(x, seeded()) != PAD).double().mean()
    # One word of each text, that with the largest key, stays: 11 of 12 are up for dropping, less often than 1/4 each.
    assert kept == pytest.approx(0.75, abs=0.01)
    assert weak == pytest.approx(0.75, abs=0.01)
    assert hidden == pytest.approx(0.25 * 11 / 12, abs=0.01)
    both = views(drop=0.5, mask=0.5).strong(x, seeded())
    assert (both == MASK).sum() / (both != PAD).sum() == pytest.approx(0.5 * (1 - 1 / 6.5), abs=0.03)


@pytest.mark.parametrize("far", [1, 2, 5])
def test_words_move_no_further_than_asked(far: int) -> None:
    x = batch([list(range(10, 10 + LENGTH))] * 2000)
    moved = views(shuffle=far).strong(x, seeded())
    assert torch.equal(moved.sort(dim=1).values, x.long())
    away = (moved - 10 - torch.arange(LENGTH)).abs()
    assert away.max() == far
    assert len({tuple(row) for row in moved.tolist()}) > 100


def test_a_mask_that_is_padding_leaves_out() -> None:
    tokens = Tokens("hf:x", LENGTH, pad=0, mask=0)
    view = TextViews(tokens, 0.0, 0.0, 1.0, 0).strong(batch([[10, 11, 12]]), seeded())
    assert ((view != 0).sum(1) == 1).all()
    assert view[0, 0] != 0


@pytest.mark.parametrize("kind", ["weak", "strong"])
def test_draws_depend_on_the_generator_alone(kind: str) -> None:
    make = getattr(views(0.3, 0.3, 0.3, 3), kind)
    generators = [seeded(4), seeded(4), seeded(5)]
    torch.manual_seed(0)
    here = torch.get_rng_state()
    x = batch([[10, 11, 12, 13, 14, 15]] * 8)
    one = make(x, generators[0])
    make(batch([[]] * 8), generators[1])
    assert torch.equal(generators[0].get_state(), generators[1].get_state())
    assert torch.equal(torch.get_rng_state(), here)
    assert torch.equal(one, make(x, seeded(4)))
    assert not torch.equal(one, make(x, generators[2]))
    assert len({tuple(row) for row in one.tolist()}) > 1  # one text repeated gives many views


@pytest.mark.parametrize(
    ("setting", "value"),
    [("word_drop", 1.5), ("word_mask", -0.1), ("word_shuffle", 1.5), ("word_shuffle", True), ("word_drop_weak", "a")],
)
def test_settings_out_of_range(setting: str, value: object) -> None:
    with pytest.raises(UserError, match=f"views.{setting}"):
        ViewConfig(**{setting: value})

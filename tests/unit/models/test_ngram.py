"""The net for texts: padding does not count, words nearby do, any id is good, the table is used evenly."""

from __future__ import annotations

import copy

import pytest
import torch

from metapl.data.texts.tokens import STEM_SHIFT as IN_IDS
from metapl.data.texts.tokens import make_tokenizer
from metapl.errors import UserError
from metapl.models import NGram, auto_name, build_model
from metapl.models.ngram import STEM_SHIFT, _mixed
from metapl.types import Tokens

WORDS = Tokens("words", 16)


def net(**settings: int) -> NGram:
    torch.manual_seed(0)
    return NGram(WORDS, 3, **settings).eval()


def ids(*texts: str, length: int = 16) -> torch.Tensor:
    return make_tokenizer("words", length).encode(texts)


def test_shape_and_gradients() -> None:
    model = build_model("auto", (16,), 3, WORDS)
    assert isinstance(model, NGram)
    assert auto_name((16,), WORDS) == "ngram"
    for x in (ids("what is this ?", "", "a"), torch.zeros(2, 16, dtype=torch.int64), ids("", "")):
        logits = model(x)
        assert logits.shape == (len(x), 3)
        assert torch.isfinite(logits).all()
    logits = model(ids("a b", "c"))
    logits.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.load_state_dict(copy.deepcopy(build_model("ngram", (16,), 3, WORDS).state_dict()))


def test_padding_and_company_do_not_count() -> None:
    model, x = net(), ids("who wrote it ?", "when ?", "")
    alone = torch.cat([model(row[None]) for row in x])
    assert torch.allclose(model(x), alone, atol=1e-6)
    assert torch.allclose(model(x[:, :5]), alone, atol=1e-6)


def test_order_counts_within_runs_alone() -> None:
    x = ids("a b c d", "c d a b", "a c b d")
    single, double = net(order=1)(x), net(order=2)(x)
    assert torch.allclose(single[0], single[1], atol=1e-6)
    assert torch.allclose(single[0], single[2], atol=1e-6)
    assert not torch.allclose(double[0], double[2], atol=1e-5)


def test_runs_of_words_one_by_one() -> None:
    """What stands at which place: the word, its beginning, itself with the one before, with the two before."""
    model = net(order=3)
    rows, there = model._features(ids("alpha beta gamma beta", length=6).long())
    assert rows.shape == there.shape == (1, 4 * 6)
    words, starts, pairs, triples = rows.view(4, 6)
    assert there.view(4, 6).sum(1).tolist() == [4] * 4
    assert words[1] == words[3]
    assert starts[1] == starts[3]
    assert len({int(k) for k in pairs[:4]}) == 4  # "beta" after "alpha" is not "beta" after "gamma"
    again = model._features(ids("zeta alpha beta", length=6).long())[0].view(4, 6)
    assert again[2, 2] == pairs[1]  # the pair, wherever it stands
    assert again[3, 2] != triples[1]  # but not the triple: there it begins the text
    assert 0 <= int(rows.min()) <= int(rows.max()) < model.buckets


def test_beginnings_are_told_apart_for_hashed_words_alone() -> None:
    assert STEM_SHIFT == IN_IDS
    rows, _ = net()._features(ids("invented", "inventor", length=1).long())
    assert rows[0, 0] != rows[1, 0]
    assert rows[0, 1] == rows[1, 1]
    other = NGram(Tokens("hf:folder", 16, pad=9), 3, order=1)
    rows, there = other._features(torch.tensor([[70000, 70001, 9]]))
    assert rows.shape == (1, 3)
    assert there.tolist() == [[True, True, False]]


def test_the_table_is_used_evenly() -> None:
    for start in (0, 1 << 31, 5 << 32):
        for step in (1, 1 << 16):
            rows = _mixed(start + step * torch.arange(1 << 14)) & ((1 << 12) - 1)
            counts = rows.bincount(minlength=1 << 12).double()
            assert counts.mean() == 4
            assert counts.var() < 6  # 4 if drawn at random
    assert _mixed(torch.tensor([-1, 0, 1, 2**31 - 1, 2**40])).min() >= 0


def test_rows_of_the_table_stay_what_they_are() -> None:
    """Stored weights depend on these numbers: they must never change."""
    assert _mixed(torch.tensor([2, 70000, (3 << 32) + 5])).tolist() == FIXED


FIXED = [1233157164, 1954386959, 614196415]


@pytest.mark.parametrize(
    ("name", "tokens", "message"),
    [
        ("mlp", WORDS, "'mlp' does not take texts. Use ngram"),
        ("small_cnn", WORDS, "'small_cnn' does not take texts"),
        ("ngram", None, r"'ngram' takes texts, these rows have the shape \[16\]. Use mlp"),
        ("ngrams", WORDS, "Did you mean 'ngram'"),
    ],
)
def test_nets_and_rows_that_do_not_fit(name: str, tokens: Tokens | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_model(name, (16,), 3, tokens)
    with pytest.raises(ValueError, match="power of two"):
        net(buckets=1000)

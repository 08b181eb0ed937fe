"""Tokenizers: stable ids for any text, one length, and the tokenizer of a local folder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from metapl.config.settings import make_config
from metapl.data.batches.preprocess import preprocessing_from_dict, preprocessing_to_dict
from metapl.data.texts.tokens import (
    FIRST,
    STEM_SHIFT,
    _load,
    encode_texts,
    make_tokenizer,
    split_words,
    tokenizer_of,
    word_id,
)
from metapl.errors import UserError
from metapl.types import Preprocessing, Tokens

ANY = st.text(st.characters(exclude_categories=[]), max_size=80)  # lone surrogates too


@settings(max_examples=200, deadline=None)
@given(st.lists(ANY, max_size=5), st.integers(1, 20))
@example([""], 1)
@example(["\ud800", "\x00", "\u200d\u0301", "x" * 5000], 2)
def test_any_text_becomes_a_row_padded_at_its_end(texts: list[str], length: int) -> None:
    rows = make_tokenizer("words", length).encode(texts)
    assert rows.shape == (len(texts), length)
    assert rows.dtype == torch.int32
    assert ((rows == 0) | (rows >= FIRST)).all()
    filled = (rows != 0).int()
    assert (filled.diff(dim=1) <= 0).all()  # no id after padding
    assert filled.sum(1).tolist() == [min(length, len(list(split_words(t)))) for t in texts]


def test_ids_stay_what_they_are() -> None:
    """Stored models depend on these numbers: they must never change."""
    assert make_tokenizer("words", 4).encode(["What is it?", ""]).tolist() == [IDS, [0, 0, 0, 0]]


IDS = [511701762, 1625919478, 346287647, 111074910]


def test_what_looks_alike_is_alike() -> None:
    texts = ["Straße café №", "STRASSE cafe\u0301 no", "stra\u00adsse CAFÉ\u00a0NO", "\uff53trasse café\tno"]
    rows = make_tokenizer("words", 6).encode(texts)
    assert (rows == rows[0]).all()
    assert (rows[0] != 0).sum() == 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's up, Doc?", ["what", "'", "s", "up", ",", "doc", "?"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),  # vowel signs are marks and belong to the word
        ("東京は日本", ["東", "京", "は", "日", "本"]),
        ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
        ("abc東def", ["abc", "東", "def"]),
        ("👩\u200d🚀 3.5€", ["👩", "🚀", "3", ".", "5", "€"]),
        ("a\x00b\nc", ["a", "b", "c"]),
        (" \t\n", []),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert list(split_words(text)) == words


def test_words_that_begin_alike_share_a_part_of_their_ids() -> None:
    alike = [word_id(w) for w in ("invent", "invented", "inventor", "inventions")]
    assert len(set(alike)) == 4
    assert len({k >> STEM_SHIFT for k in alike}) == 1
    assert word_id("river") >> STEM_SHIFT != alike[0] >> STEM_SHIFT
    many = [word_id(f"{k}-{k * k}") for k in range(20000)]
    assert len(set(many)) >= 19990
    assert FIRST <= min(many) < max(many) < 2**31


def test_auto_length_is_that_of_the_longest_text_within_bounds() -> None:
    rows, tokens, notes = encode_texts(["a " * 9, "b"], "auto", "auto")
    assert (tuple(rows.shape), tokens, notes) == ((2, 16), Tokens("words", 16), ())
    assert encode_texts(["", ""], "words", "auto")[0].shape == (2, 8)
    rows, tokens, notes = encode_texts(["a " * 1000], "words", "auto")
    assert rows.shape == (1, 256)
    assert "texts that fill all 256 tokens and may be cut: 1 of 1" in notes[0]
    rows, tokens, notes = encode_texts(["a b c", "d"], "words", 2)
    assert rows.tolist() == [[word_id("a"), word_id("b")], [word_id("d"), 0]]
    assert len(notes) == 1
    assert torch.equal(tokenizer_of(tokens).encode(["a b c", "d"]), rows)


@pytest.mark.parametrize(
    ("spec", "length", "message"),
    [
        ("word", 8, "unknown tokenizer 'word'"),
        ("words", 0, "0 tokens per text"),
        ("words", True, "True tokens per text"),
        ("hf:", 8, "there is no folder ''"),
        ("hf:/no/such/folder", 8, "there is no folder '/no/such/folder'"),
        ("hf:.", 8, "no tokenizer can be loaded"),
    ],
)
def test_what_cannot_be_a_tokenizer(spec: str, length: int, message: str, tmp_path: Path, monkeypatch) -> None:
    if spec == "hf:.":
        pytest.importorskip("transformers")
        monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        make_tokenizer(spec, length)
    with pytest.raises(UserError, match="Give a number, or auto"):
        encode_texts(["a"], "words", "many")


def test_transformers_is_missing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'metapl\[text\]'"):
        make_tokenizer(f"hf:{tmp_path}", 8)


@pytest.fixture
def wordpiece(tmp_path: Path) -> str:
    """A tiny BERT tokenizer in a folder."""
    transformers = pytest.importorskip("transformers")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "what", "is", "in", "##vent", "##ed", "?"]
    (tmp_path / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    made = transformers.BertTokenizerFast(vocab=str(tmp_path / "vocab.txt"), do_lower_case=True)
    made.save_pretrained(tmp_path / "encoder")
    return f"hf:{tmp_path / 'encoder'}"


def test_the_tokenizer_of_a_folder(wordpiece: str) -> None:
    tokenizer = make_tokenizer(wordpiece, 7)
    assert replace(tokenizer.tokens, sha256="") == Tokens(wordpiece, 7, pad=0, mask=4, special=(2, 3))
    rows = tokenizer.encode(["What is invented?", "", "what " * 50, "\ud800"])
    assert rows.dtype == torch.int32
    assert rows[0].tolist() == [2, 5, 6, 7, 8, 9, 3]  # cut before its end mark
    assert rows[1].tolist() == [2, 3, 0, 0, 0, 0, 0]
    assert rows[2].tolist() == [2, 5, 5, 5, 5, 5, 3]
    assert rows[3].tolist()[0] == 2
    assert encode_texts(["what is"], wordpiece, "auto")[0].tolist() == [[2, 5, 6, 3, 0, 0, 0, 0]]
    with pytest.raises(UserError, match="2 tokens per text leave no room for words: the tokenizer adds 2"):
        make_tokenizer(wordpiece, 2)
    with pytest.raises(UserError, match="not the one the model was trained with"):
        tokenizer_of(Tokens(wordpiece, 7, pad=9, mask=4, special=(2, 3)))


def changed(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the stored tokenizer, its settings first, and let it be read again as in another process."""
    for path in (folder / "tokenizer_config.json", folder / "tokenizer.json"):
        stored = json.loads(path.read_text(encoding="utf-8"))
        edit(stored)
        path.write_text(json.dumps(stored), encoding="utf-8")
    _load.cache_clear()


def swap(stored: dict[str, Any]) -> None:
    if "model" in stored:
        vocabulary = stored["model"]["vocab"]
        vocabulary["what"], vocabulary["in"] = vocabulary["in"], vocabulary["what"]


def keep_case(stored: dict[str, Any]) -> None:
    if "do_lower_case" in stored:
        stored["do_lower_case"] = False


@pytest.mark.parametrize("edit", [swap, keep_case])
def test_another_tokenizer_in_the_same_folder_is_refused(
    wordpiece: str, edit: Callable[[dict[str, Any]], None]
) -> None:
    tokens, folder = make_tokenizer(wordpiece, 7).tokens, Path(wordpiece.removeprefix("hf:"))
    before = tokenizer_of(tokens).encode(["What is invented?"])
    stored = preprocessing_to_dict(Preprocessing("text", (7,), (), (), tokens=tokens))
    kept = preprocessing_from_dict(json.loads(json.dumps(stored))).tokens
    assert kept == tokens
    changed(folder, lambda stored: None)  # written in another form, as another version of the library would
    assert torch.equal(tokenizer_of(kept).encode(["What is invented?"]), before)
    changed(folder, edit)
    with pytest.raises(UserError, match=r"not the one the model was trained with \(its vocabulary or its rules"):
        tokenizer_of(kept)
    other = tokenizer_of(replace(tokens, sha256=""))  # nothing is known of it, as where Tokens are made by hand
    assert not torch.equal(other.encode(["What is invented?"]), before)
    folder.rename(folder.with_name("gone"))
    _load.cache_clear()
    with pytest.raises(UserError, match="there is no folder"):
        tokenizer_of(kept)


def test_a_model_from_a_folder_brings_its_tokenizer() -> None:
    assert make_config("x.csv", options={"model": "hf:folder"}).source.text.tokenizer == "hf:folder"
    assert make_config("x.csv", options={"model": "mlp"}).source.text.tokenizer == "auto"
    own = {"model": "hf:folder", "source.text.tokenizer": "words"}
    assert make_config("x.csv", options=own).source.text.tokenizer == "words"

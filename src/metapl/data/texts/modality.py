"""Texts as a kind of rows: int32 [length] token ids, padded at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from metapl.data.batches.views import ViewConfig
from metapl.data.modality import ArrayOptions, Modality, RawRows
from metapl.data.texts.checks import TextChecks
from metapl.data.texts.read import read_texts
from metapl.data.texts.tokens import encode_texts, tokenizer_of
from metapl.data.texts.views import TextViews
from metapl.data.traits import traits
from metapl.types import Array, Preprocessing, Source, Tokens
from metapl.utils.printing import cut

TEXT_LOST = "The text of this row is not kept in memory."


class TextModality(Modality):
    """Ids are not normalised, so there is nothing to fit but the tokenizer, which the source has."""

    kind, row, rows = "text", "text", "texts"
    steps, few_labels = 300, 50
    dtype, dimensions = torch.int32, 1
    has_tokens = encodable = True
    checks = TextChecks()

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> TextViews:
        assert preprocessing.tokens is not None  # every preprocessing of texts has them: see is_sound
        c = config
        return TextViews(preprocessing.tokens, c.word_drop_weak, c.word_drop, c.word_mask, c.word_shuffle)

    def read(self, parts: Mapping[str, Any], options: ArrayOptions) -> RawRows:
        texts = {name: read_texts(part, name) for name, part in parts.items()}
        # How many ids are kept of a text depends on the training rows alone.
        train = [text for name in texts if name != "X_test" for text in texts[name]]
        rows, tokens, notes = encode_texts(train, options.tokenizer, options.max_tokens)
        tensors = {"X": rows[: len(texts["X"])]}
        if "X_unlabeled" in texts:
            tensors["X_unlabeled"] = rows[len(texts["X"]) :]
        if "X_test" in texts:
            tensors["X_test"] = tokenizer_of(tokens).encode(texts["X_test"])
        written = [text for name in tensors for text in texts[name]]
        return RawRows(tensors, list(notes), {"tokens": tokens, "texts": written})

    def read_new(self, X: Any, preprocessing: Preprocessing, name: str, tell: Callable[[str], None]) -> Tensor:
        assert preprocessing.tokens is not None
        return tokenizer_of(preprocessing.tokens).encode(read_texts(X, name))

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        return Preprocessing(self.kind, shape, (), (), tokens=source.tokens)

    def size(self, shape: tuple[int, ...]) -> str:
        return ""

    def show(self, source: Source, index: Array) -> list[dict[str, Any]]:
        texts = traits(source).texts
        return [{"text": cut(texts[k]) if texts else TEXT_LOST} for k in index.tolist()]

    def to_dict(self, preprocessing: Preprocessing) -> dict[str, Any]:
        assert preprocessing.tokens is not None
        tokens = {**asdict(preprocessing.tokens), "special": list(preprocessing.tokens.special)}
        return super().to_dict(preprocessing) | {"tokens": tokens}

    def from_dict(self, stored: Mapping[str, Any]) -> Preprocessing:
        tokens = Tokens(**{**stored["tokens"], "special": tuple(map(int, stored["tokens"]["special"]))})
        return replace(super().from_dict(stored), tokens=tokens)

    def is_sound(self, preprocessing: Preprocessing) -> bool:
        p = preprocessing
        return p.tokens is not None and p.shape == (p.tokens.length,) and not p.mean and not p.std

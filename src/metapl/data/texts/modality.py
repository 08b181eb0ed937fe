"""Texts as a kind of rows: int32 [length] token ids, padded at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch

from metapl.data.batches.views import ViewConfig
from metapl.data.modality import Array, Modality
from metapl.data.texts.views import TextViews
from metapl.types import Preprocessing, Source, Tokens


class Texts(Modality):
    """Ids are not normalised, so there is nothing to fit but the tokenizer, which the source has."""

    kind, row, rows = "text", "text", "texts"
    dtype, dimensions = torch.int32, 1
    has_tokens = encodable = True

    def views(self, config: ViewConfig, preprocessing: Preprocessing) -> TextViews:
        assert preprocessing.tokens is not None  # every preprocessing of texts has them: see is_sound
        c = config
        return TextViews(preprocessing.tokens, c.word_drop_weak, c.word_drop, c.word_mask, c.word_shuffle)

    def fit(self, source: Source, index: Array, shape: tuple[int, ...]) -> Preprocessing:
        return Preprocessing(self.kind, shape, (), (), tokens=source.tokens)

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

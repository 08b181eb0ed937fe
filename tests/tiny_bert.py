"""A BERT with random weights, small enough for tests: 50 ids, 16 features, texts of up to 12 ids."""

from __future__ import annotations

from types import ModuleType
from typing import Any


def tiny_bert(transformers: ModuleType, **model: Any) -> Any:
    """A ``BertModel`` without a head; ``model`` goes to its constructor."""
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12,
    )  # fmt: skip
    return transformers.BertModel(config, **model)

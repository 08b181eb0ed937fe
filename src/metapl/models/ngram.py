"""A network for texts without a vocabulary and without a download: hashed words and their neighbours, pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metapl.types import Tokens

GAIN = 3.0  # factor on the table and on the last layer; it multiplies SGD's steps by its square and Adam's by itself
STEM_SHIFT = 16  # the bits of a hashed word from here up depend on its beginning alone (data.texts.tokens)


class NGram(nn.Module):
    """Embeddings of words, of words' beginnings and of runs of words, their mean, and a linear layer.

    Each of these is hashed into one of ``buckets`` rows of one table, so any token id is valid. The order of words
    matters within runs only. Padding does not count; a text without words is pooled as zeros. All parts are look-ups
    and sums with forward-mode derivatives, as exact feedback needs them.

    Args:
        tokens: the meaning of the ids; only hashed words have beginnings.
        num_classes: C.
        order: longest run of words, at least 1; in runs the beginning of the text counts as a word.
        buckets: rows of the table, a power of two.
        width: numbers per embedding.
        hidden: units of a hidden layer with ReLU; 0 = none. With a hidden layer and few labels the net is sure of a
            class for unknown words, and pseudo labels make that worse: docs/notes/trec.md.
        dropout: rate after pooling.
    """

    def __init__(
        self,
        tokens: Tokens,
        num_classes: int,
        order: int = 3,
        buckets: int = 1 << 14,
        width: int = 32,
        hidden: int = 0,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        if buckets < 1 or buckets & (buckets - 1):
            raise ValueError(f"buckets must be a power of two, not {buckets}")
        self.pad, self.order, self.buckets = tokens.pad, order, buckets
        self.beginnings = tokens.tokenizer == "words"
        self.table = nn.Embedding(buckets, width)
        nn.init.normal_(self.table.weight, std=0.01 / GAIN)  # small compared with trained rows
        hidden_layer = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        last = nn.Linear(hidden or width, num_classes)
        with torch.no_grad():
            last.weight /= GAIN
        self.head = nn.Sequential(nn.Dropout(dropout), *hidden_layer, last)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of whole numbers x [B, length]."""
        rows, valid = self._features(self._trimmed(x.to(torch.int64)))
        valid = valid.unsqueeze(-1)
        mean = (self.table(rows) * valid).sum(1) / valid.sum(1).clamp_min(1)
        logits: Tensor = self.head(mean * GAIN**2)  # both factors GAIN at once, since the head is linear
        return logits

    def _trimmed(self, x: Tensor) -> Tensor:
        """Drop the last columns if they are padding in every row: they only cost time."""
        if torch.compiler.is_exporting():  # an exported graph cannot look at the rows
            return x
        used = (x != self.pad).any(0).nonzero()
        return x[:, : int(used[-1]) + 1 if len(used) else 1]

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return rows of the table [B, n], and which of them are not padding [B, n] bool."""
        kinds = [x, x >> STEM_SHIFT] if self.beginnings else [x]
        run = x
        for back in range(1, self.order):
            earlier = nn.functional.pad(x, (back, 0), value=-1)[:, : x.shape[1]]
            run = _mixed(run + _mixed(earlier + back))
            kinds.append(run)
        rows = [_mixed(ids + (k << 32)) & (self.buckets - 1) for k, ids in enumerate(kinds)]
        return torch.cat(rows, 1), (x != self.pad).repeat(1, len(kinds))


def _mixed(ids: Tensor) -> Tensor:
    """Hash each of ``ids`` to a whole number 0 .. 2^31 - 1, the same on every machine."""
    for factor in (0x5BD1E995, 0x1B873593):  # each below 2^31, so that products fit into 64 bits
        ids = (ids & 0xFFFFFFFF) + (ids >> 32) * 0x27D4EB2F & 0xFFFFFFFF
        ids = ids * factor
        ids = (ids ^ (ids >> 31)) & 0x7FFFFFFF
    return ids

"""A network for texts that needs no vocabulary and no download: hashed words and their neighbours, pooled."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from metapl.types import Tokens

GAIN = 3.0  # factor on the table and on the last layer: raises what SGD moves by its square, Adam by itself
STEM_SHIFT = 16  # a hashed word's bits from here up stand for its beginning alone (data.tokens)


class NGram(nn.Module):
    """Embeddings of words, of words' beginnings and of runs of words, their mean, and a linear layer.

    Each of these is hashed into one of ``buckets`` rows of one table, so any token id is good. The order of words
    counts within runs only. Padding does not count; a text without words is pooled as zeros. Plain look-ups and sums:
    every part of it has forward-mode derivatives, which exact feedback wants.

    Args:
        tokens: what the ids are; beginnings are told apart for hashed words alone.
        num_classes: C.
        order: longest run of words, at least 1; the beginning of the text counts as a word there.
        buckets: rows of the table, a power of two.
        width: numbers per embedding.
        hidden: units of a layer between, with ReLU; 0 = none. With one, a net that has seen few labels is sure of a
            class for words it does not know, and pseudo labels make that worse: docs/notes/trec.md.
        dropout: on what was pooled.
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
        nn.init.normal_(self.table.weight, std=0.01 / GAIN)  # small beside what training makes of the words that matter
        between = [nn.Linear(width, hidden), nn.ReLU()] if hidden else []
        last = nn.Linear(hidden or width, num_classes)
        with torch.no_grad():
            last.weight /= GAIN
        self.head = nn.Sequential(nn.Dropout(dropout), *between, last)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, C] of whole numbers x [B, length]."""
        rows, there = self._features(self._trimmed(x.to(torch.int64)))
        there = there.unsqueeze(-1)
        mean = (self.table(rows) * there).sum(1) / there.sum(1).clamp_min(1)
        logits: Tensor = self.head(mean * GAIN**2)  # linear, so that it may stand here for both
        return logits

    def _trimmed(self, x: Tensor) -> Tensor:
        """Without the columns at the end that are padding in every row: they would only cost time."""
        used = (x != self.pad).any(0).nonzero()
        return x[:, : int(used[-1]) + 1 if len(used) else 1]

    def _features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Rows of the table [B, n], and which of them stand for something [B, n]."""
        kinds = [x, x >> STEM_SHIFT] if self.beginnings else [x]
        run = x
        for back in range(1, self.order):
            before = nn.functional.pad(x, (back, 0), value=-1)[:, : x.shape[1]]
            run = _mixed(run + _mixed(before + back))
            kinds.append(run)
        rows = [_mixed(ids + (k << 32)) & (self.buckets - 1) for k, ids in enumerate(kinds)]
        return torch.cat(rows, 1), (x != self.pad).repeat(1, len(kinds))


def _mixed(ids: Tensor) -> Tensor:
    """Whole numbers 0 .. 2^31 - 1, as if drawn at random for each of ``ids``, the same everywhere."""
    for factor in (0x5BD1E995, 0x1B873593):  # each below 2^31, so that no product leaves 64 bits
        ids = (ids & 0xFFFFFFFF) + (ids >> 32) * 0x27D4EB2F & 0xFFFFFFFF
        ids = ids * factor
        ids = (ids ^ (ids >> 31)) & 0x7FFFFFFF
    return ids

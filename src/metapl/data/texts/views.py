"""Weak and strong views of texts: rows of token ids, thinned out, partly hidden and locally out of order."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from metapl.types import Tokens


class TextViews:
    """Views of int32 ids [B, length]; they come out as int64, which every embedding takes.

    Weak: each word is left out with probability ``weak_drop``. Strong: words move by up to ``shuffle`` places; then
    each is left out with probability ``drop``, or else hidden (the id ``tokens.mask``) with probability ``mask``.
    Padding stays at the end, and the tokenizer's own ids (``tokens.special``) keep their places. One word of each text,
    drawn at random, always stays, so that no text becomes empty.
    """

    def __init__(self, tokens: Tokens, weak_drop: float, drop: float, mask: float, shuffle: int) -> None:
        self.tokens, self.weak_drop, self.drop, self.mask, self.shuffle = tokens, weak_drop, drop, mask, shuffle

    def plain(self, x: Tensor) -> Tensor:
        """Return the texts themselves."""
        return x.to(torch.int64)

    def weak(self, x: Tensor, generator: Generator) -> Tensor:
        """Return one weak view of each text."""
        if not self.weak_drop:  # the default: nothing to sort in every step
            return self.plain(x)
        keys = torch.rand(x.shape, generator=generator, device=x.device)
        ids, words = self.plain(x), self._words(x)
        return self._without(ids, (keys < self.weak_drop) & ~_kept(keys, words) & words)

    def strong(self, x: Tensor, generator: Generator) -> Tensor:
        """Return one strong view of each text."""
        places, drops, hides = torch.rand((3, *x.shape), generator=generator, device=x.device)
        ids = self._moved(self.plain(x), places)
        words = self._words(ids)
        free = words & ~_kept(drops, words)
        ids = ids.masked_fill((hides < self.mask) & free, self.tokens.mask)
        return self._without(ids, (drops < self.drop) & free)

    def _words(self, ids: Tensor) -> Tensor:
        """Return [B, length] bool: what views may touch."""
        words = ids != self.tokens.pad
        for own in self.tokens.special:
            words &= ids != own
        return words

    def _moved(self, ids: Tensor, keys: Tensor) -> Tensor:
        """Shuffle words locally: sort them by their place plus 0 .. ``shuffle``."""
        if not self.shuffle:
            return ids
        words = self._words(ids)
        place = torch.arange(ids.shape[1], device=ids.device) + keys * (self.shuffle + 1)
        place = place.masked_fill(~words, torch.inf)
        order = place.argsort(dim=1, stable=True)  # words in their new order, then the rest
        slots = (~words).to(torch.int8).argsort(dim=1, stable=True)  # where words stand, then where the rest stands
        return torch.empty_like(ids).scatter_(1, slots, ids.gather(1, order))

    def _without(self, ids: Tensor, dropped: Tensor) -> Tensor:
        """Remove dropped words and close the gaps; hidden words with the id of padding are removed, too."""
        gone = dropped | (ids == self.tokens.pad)
        order = gone.to(torch.int8).argsort(dim=1, stable=True)
        return ids.masked_fill(gone, self.tokens.pad).gather(1, order)


def _kept(keys: Tensor, words: Tensor) -> Tensor:
    """Return [B, length] bool: the word with the largest key in each text that has words."""
    best = keys.masked_fill(~words, -1.0).argmax(1, keepdim=True)
    return torch.zeros_like(words).scatter_(1, best, True)

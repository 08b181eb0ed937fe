"""A linear layer over TF-IDF: words and pairs of neighbouring words, weighted by how few rows hold them.

Of a row of token ids, with n(t) the number of times that term t occurs in it and D(t) the number of the N fitted rows
that hold t:

    w(t) = n(t) * (1 + log((1 + N) / (1 + D(t))))         logits = sum_t w(t) / |w| * weight[t] + bias

The weighting is scikit-learn's ``TfidfVectorizer`` with its defaults and ``ngram_range=(1, 2)``; the terms are the
tokenizer's ids in place of its words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metapl.models.fitted.logistic import fit_logistic
from metapl.types import Array, Tokens

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

ID_BITS = 31  # token ids are below 2^31


def term_keys(ids: Tensor, pad: int) -> tuple[Tensor, Tensor]:
    """Return one number per word and per pair of neighbours, [B, 2 L - 1] int64, and where there is such a term.

    Args:
        ids: [B, L] whole numbers 0 .. 2^31 - 1, padded at the end with ``pad``.
    """
    ids = ids.to(torch.int64)
    there = ids != pad
    pairs = (ids[:, :-1] + 1 << ID_BITS) + ids[:, 1:]
    return torch.cat([ids, pairs], 1), torch.cat([there, there[:, :-1] & there[:, 1:]], 1)


class TfIdf(nn.Module):
    """See the module's text for the equation. Without ``fit_terms`` it knows no term, and gives the bias for every row.

    Args:
        tokens: how ids were made.
        num_classes: C.

    Attributes:
        vocabulary: [V] int64, the keys of the known terms, ascending.
        idf: [V] float32.
        weight: [V, C]; bias: [C].
    """

    vocabulary: Tensor
    idf: Tensor

    def __init__(self, tokens: Tokens, num_classes: int) -> None:
        super().__init__()
        self.pad, self.num_classes = tokens.pad, num_classes
        self.bias = nn.Parameter(torch.zeros(num_classes))
        self._set_terms(torch.tensor([-1]), torch.zeros(1))  # no term has the key -1

    def _set_terms(self, vocabulary: Tensor, idf: Tensor) -> None:
        self.register_buffer("vocabulary", vocabulary.to(self.bias.device))
        self.register_buffer("idf", idf.to(self.bias.device))
        self.weight = nn.Parameter(torch.zeros(len(vocabulary), self.num_classes, device=self.bias.device))

    def fit_terms(self, labeled: Tensor, pool: Iterable[Tensor] = ()) -> None:
        """Learn the terms and their weights; the layer starts from zero.

        A term counts if it occurs in a labelled row or in two rows of the pool.

        Args:
            labeled: [n, L] ids of the labelled rows.
            pool: batches of the unlabelled rows, [m, L].
        """
        own, held, rows = np.unique(self._pairs(labeled)[1]), [self._pairs(labeled)[1]], len(labeled)
        for batch in pool:
            held.append(self._pairs(batch)[1])
            rows += len(batch)
        keys, counts = np.unique(np.concatenate(held), return_counts=True)
        known = (counts > 1) | np.isin(keys, own)
        if known.any():
            idf = np.log((1 + rows) / (1 + counts[known])) + 1
            self._set_terms(torch.from_numpy(keys[known]), torch.from_numpy(idf.astype(np.float32)))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, pool: Iterable[Tensor], trust: float) -> None:
        """Learn the terms from labelled rows x [n, L] and the pool, then fit the layer to the classes y [n]."""
        self.fit_terms(x, pool)
        weight, bias = fit_logistic(self.features(x), y, self.num_classes, trust)
        self.weight.copy_(weight.T)
        self.bias.copy_(bias)

    def _pairs(self, ids: Tensor) -> tuple[Array, Array]:
        """Return (row, key) of the different terms of each row."""
        keys, there = (part.cpu().numpy() for part in term_keys(ids, self.pad))
        row = np.broadcast_to(np.arange(len(keys))[:, None], keys.shape)[there]
        pairs = np.unique(np.stack([row, keys[there]]), axis=1)
        return pairs[0], pairs[1]

    def features(self, ids: Tensor) -> csr_matrix:
        """Return the rows as scikit-learn takes them: a sparse matrix [B, V] whose rows have length 1 or 0."""
        from scipy.sparse import csr_matrix  # slow to import: only when a network is fitted

        place, weight = (part.cpu().numpy() for part in self._weights(ids))
        row = np.broadcast_to(np.arange(len(place))[:, None], place.shape)
        known = weight > 0
        matrix = csr_matrix((weight[known], (row[known], place[known])), shape=(len(place), len(self.vocabulary)))
        matrix.sum_duplicates()
        return matrix

    def _weights(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return where each term of a row stands in the vocabulary, and its share in the row, [B, 2 L - 1] each."""
        keys, there = term_keys(ids, self.pad)
        place = torch.searchsorted(self.vocabulary, keys).clamp_max(len(self.vocabulary) - 1)
        idf = self.idf[place] * ((self.vocabulary[place] == keys) & there)
        ordered = keys.sort(1).values
        last, first = (torch.searchsorted(ordered, keys, right=right) for right in (True, False))
        # A term that occurs n times stands at n places, so that n^2 idf^2 is n idf^2 at each of them.
        squares = ((last - first) * idf * idf).sum(1, keepdim=True)
        return place, idf / squares.sqrt().clamp_min(1e-12)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of token ids x [B, L]."""
        place, weight = self._weights(x)
        logits: Tensor = F.embedding_bag(place, self.weight, per_sample_weights=weight, mode="sum") + self.bias
        return logits

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take as many terms as were stored: their number is known by the fitted rows alone."""
        stored = state_dict.get(f"{prefix}vocabulary")
        if stored is not None and len(stored) != len(self.vocabulary):
            self._set_terms(torch.zeros_like(stored), torch.zeros(len(stored)))
        super()._load_from_state_dict(state_dict, prefix, *args)

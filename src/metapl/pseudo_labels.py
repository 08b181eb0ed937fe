"""From a network's logits to labels for unlabelled rows. Shapes as in ``losses``."""

from __future__ import annotations

import torch
from torch import Tensor


def sharpen(logits: Tensor, temperature: float) -> Tensor:
    """``softmax(logits / temperature)`` without gradient; a temperature below 1 sharpens."""
    return torch.softmax(logits.detach() / temperature, dim=-1)


def confidence_mask(p: Tensor, threshold: float) -> Tensor:
    """[B] 1.0 where the largest probability of the row is at least ``threshold``, else 0.0."""
    return (p.amax(dim=-1) >= threshold).to(p.dtype)


def sample_labels(p: Tensor) -> Tensor:
    """[B] int64, one draw per row from the row's distribution (MPL, Pham et al. 2021, section 2), global RNG."""
    return torch.multinomial(p.detach(), 1).squeeze(-1)

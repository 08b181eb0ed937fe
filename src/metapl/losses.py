"""Loss terms as pure functions.

Shapes: B rows, C classes; ``logits`` [B, C], ``y`` [B] int64, ``p`` and ``target`` [B, C] rows that sum to 1,
``mask`` [B] in [0, 1]. Every result is 0-d, a mean over all B rows (masked rows count as zero).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def cross_entropy(logits: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return the mean over rows of ``-log softmax(logits)[y]``, with label smoothing in [0, 1)."""
    return F.cross_entropy(logits, y, label_smoothing=smoothing)


def soft_cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows of ``-sum_c target[c] log softmax(logits)[c]``; no gradient into ``target``."""
    return -(target.detach() * F.log_softmax(logits, dim=-1)).sum(-1).mean()


def masked_cross_entropy(logits: Tensor, y: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over all rows of ``mask * -log softmax(logits)[y]`` (FixMatch, Sohn et al. 2020, eq. 4)."""
    return (F.cross_entropy(logits, y, reduction="none") * mask).mean()


def consistency(logits: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over all rows of ``mask * CE(target, logits)``, 0-d, without gradient into ``target``.

    It is the loss of UDA (Xie et al. 2020, section 2.2), with the sharpened prediction of the weak view as target. The
    KL divergence of the paper differs from it by the target's entropy, which has no gradient.
    """
    return (-(target.detach() * F.log_softmax(logits, dim=-1)).sum(-1) * mask).mean()


def squared_distance(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows of ``sum_c (softmax(logits)[c] - target[c])^2``; no gradient into ``target``.

    It is the loss of Mean Teacher (Tarvainen & Valpola 2017, section 2). Their code takes the mean over the C classes
    instead of the sum.
    """
    return (F.softmax(logits, dim=-1) - target.detach()).square().sum(-1).mean()


def kl_divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows of ``KL(target || softmax(logits))``, 0-d, without gradient into ``target``."""
    return F.kl_div(F.log_softmax(logits, dim=-1), target.detach(), reduction="batchmean")

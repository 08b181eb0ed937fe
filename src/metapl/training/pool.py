"""What models say about the unlabelled rows: their classes, the class shares that this speaks for, how sure they are.

P1  q <- mean_i w_i, w_i[c] = p_i[c] q[c] / t[c], rows of w sum to 1: the shares that explain the probabilities p of a
    model that was trained on shares t (Saerens, Latinne, Decaestecker 2002)
P2  the estimate is drawn towards t, as if ``SHRINK`` times as many rows had the shares t: a model with few labels is
    too sure of itself
P3  mean_i max_c softmax(s log p_other,i) = mean_i max_c p_own,i: the sharpness s > 0 with which another model is as
    sure of the pool as one's own
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from metapl.training.alarms import pool_answers
from metapl.training.job import Job

ROUNDS = 100  # of P1; it has settled long before
SHRINK = 0.25
EXPECTED = 10  # rows of a class in the sample below which its absence says nothing (chance: 0.0005)
LOST = 0.2  # a class that is named less often than this share of what is expected is lost
SHARPEST = 64.0  # P3: s lies between 1/64 and 64
HALVINGS = 40  # P3: of the interval of log s


@dataclass(frozen=True)
class PoolView:
    """What one model says about a sample of the unlabelled rows.

    Attributes:
        named: [n] the class that it names for each row.
        shares: [C] the pool's class shares by P1 and P2.
        logits: [n, C] what it answers.
    """

    named: Tensor
    shares: Tensor
    logits: Tensor

    def differs(self, other: PoolView) -> float:
        """Return the share of rows for which the two name different classes: a bound on how far accuracies differ."""
        return float((self.named != other.named).double().mean()) if len(self.named) else 1.0


def look(job: Job, model: nn.Module) -> PoolView:
    """Return the answers of ``model`` on the sample, the same rows at every call."""
    logits = pool_answers(job, model).double()
    p = torch.softmax(logits, -1)
    return PoolView(p.argmax(-1), estimate_shares(p, training_shares(job)), logits)


def training_shares(job: Job) -> Tensor:
    """Return the class shares [C] of the labelled rows."""
    labels = torch.from_numpy(job.source.labels[job.split.labeled])
    counts = torch.bincount(labels, minlength=len(job.source.class_names)).double()
    return counts / counts.sum()


def estimate_shares(p: Tensor, trained: Tensor, shrink: float = SHRINK) -> Tensor:
    """Return the class shares [C] of rows with the probabilities p [n, C]: P1 and P2.

    Args:
        trained: [C] class shares of the rows that the model was trained on.
        shrink: weight of ``trained`` beside the rows.
    """
    if not len(p):
        return trained
    shares, prior = trained.clone(), trained.clamp_min(1e-6)
    for _ in range(ROUNDS):
        weighted = p * (shares / prior)
        weighted = weighted / weighted.sum(1, keepdim=True).clamp_min(1e-12)
        shares = (weighted.mean(0) + shrink * trained) / (1 + shrink)
    return shares


def matched_sharpness(own: Tensor, other: Tensor) -> float:
    """Return the factor of the log-probabilities ``other`` with which they are as sure as ``own`` on average (P3).

    Args:
        own: [n, C] logits of one model; other: of another one, for the same rows. Without rows the factor is 1.
    """
    if not len(own):
        return 1.0
    aim, log_p = _confidence(own.double()), torch.log_softmax(other.double(), -1)
    low, high = -math.log(SHARPEST), math.log(SHARPEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _confidence(math.exp(middle) * log_p) < aim else (low, middle)
    return math.exp((low + high) / 2)


def _confidence(logits: Tensor) -> float:
    return float(torch.softmax(logits, -1).max(-1).values.mean())


def shift(shares: Tensor, trained: Tensor) -> float:
    """Return the share of rows, 0 to 1, that would have to change class to turn one [C] into the other [C]."""
    return float((shares - trained).abs().sum() / 2)


def lost_class(view: PoolView, expected: Tensor) -> int | None:
    """Return the class that ``view`` hardly names although the shares ``expected`` [C] speak for it; None: none.

    The class furthest below its share is returned. Classes of fewer than 10 expected rows are not judged.
    """
    rows = expected * len(view.named)
    counts = torch.bincount(view.named, minlength=len(expected)).double()
    ratio = torch.where(rows >= EXPECTED, counts / rows.clamp_min(1e-12), torch.inf)
    least = int(ratio.argmin())
    return least if ratio[least] < LOST else None

"""Which pseudo-labelled rows count, and how much: a family of objects behind one joint.

Shapes: B unlabelled rows in a batch, C classes, N rows in the pool; p [B, C]: what the network says of the weak views,
q = max p and y = argmax p [B]. w [B] is each row's weight. Nothing here has a gradient.

fixed       w = [q >= threshold]                                                      (FixMatch, Sohn et al. 2020)
curriculum  w = [q > threshold * M(beta_y)], M(x) = x / (2 - x), beta_c = n_c / max(max_c n_c, N - sum_c n_c); n_c: rows
            of the pool whose label, when last above the threshold, was c             (FlexMatch, Zhang et al. 2021)
adaptive    w = [q > tau * m_y / max_c m_c]; tau and m [C]: moving averages of mean q and mean p, from 1/C on, this
            batch included                                                            (FreeMatch, Wang et al. 2023)
soft        w = exp(-n_sigma^2 min(q - mu, 0)^2 / (2 v)); mu and v: moving averages of q's mean and unbiased variance,
            from 1/C and 1 on, this batch included                                    (SoftMatch, Chen et al. 2023)

``docs/thresholds.md`` says when to use which.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.types import Context

Kind = Literal["fixed", "curriculum", "adaptive", "soft"]


class Threshold:
    """What every kind offers; this one lets every row count fully."""

    active = True  # False: no row can ever count

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        """[B] weights in [0, 1] for probabilities ``p`` [B, C] of the pool's rows ``index`` [B] int64 at step ``t``.

        Called once per step: the kinds that remember learn from this batch.
        """
        return torch.ones_like(p[:, 0])

    def report(self) -> dict[str, Tensor]:
        """0-d numbers worth logging, as they were at the last call."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that the next call depends on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what ``state_dict`` gave, exactly."""


class Fixed(Threshold):
    """One number for every class and step; above 1 no row counts."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.active = threshold, threshold <= 1

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        return (p.detach().amax(-1) >= self.threshold).to(p.dtype)


class Curriculum(Threshold):
    """FlexMatch's curriculum pseudo-labelling (Zhang et al. 2021, sections 3.1 to 3.3): learnt classes face more.

    As in the paper's algorithm, a batch is judged by what was remembered before it. Of a row that stands in a batch
    more than once, the last sure label is remembered.
    """

    def __init__(self, threshold: float, num_classes: int, pool_size: int) -> None:
        if pool_size < 1:
            raise ValueError("curriculum remembers the pool's rows: Context.pool_size must be given")
        self.threshold, self.num_classes = threshold, num_classes
        self.labels = torch.full((pool_size,), -1)  # per row of the pool the label last above the threshold, or -1

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        q, y = p.detach().max(-1)
        self.labels = self.labels.to(y.device)
        counts = torch.bincount(self.labels + 1, minlength=self.num_classes + 1).to(p.dtype)  # never sure, then n_c
        beta = counts[1:] / counts.max()  # never zero: N rows are counted
        w = (q > self.threshold * (beta / (2 - beta))[y]).to(p.dtype)
        self._remember(q > self.threshold, y, index)
        return w

    def _remember(self, sure: Tensor, y: Tensor, index: Tensor) -> None:
        # The largest place in the batch wins: assigning to repeated places would be left to chance on a GPU.
        place = torch.where(sure, torch.arange(len(y), device=y.device), -1)
        last = torch.full_like(self.labels, -1).scatter_reduce(0, index, place, "amax")
        self.labels = torch.where(last >= 0, y[last.clamp_min(0)], self.labels)

    def report(self) -> dict[str, Tensor]:
        return {"pool_sure": (self.labels >= 0).float().mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.labels = state["labels"]


class Adaptive(Threshold):
    """FreeMatch's self-adaptive thresholds (Wang et al. 2023, section 4.1), global times local."""

    def __init__(self, num_classes: int, decay: float = 0.999) -> None:
        self.decay = decay
        self.tau = torch.tensor(1 / num_classes)  # global: mean confidence
        self.mean_p = torch.full((num_classes,), 1 / num_classes)  # local: mean probability of each class

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        p = p.detach()
        q, y = p.max(-1)
        self.tau = _average(self.tau, q.mean(), self.decay)
        self.mean_p = _average(self.mean_p, p.mean(0), self.decay)
        return (q > self.tau * (self.mean_p / self.mean_p.max())[y]).to(p.dtype)

    def report(self) -> dict[str, Tensor]:
        return {"threshold": self.tau}

    def state_dict(self) -> dict[str, Any]:
        return {"tau": self.tau, "mean_p": self.mean_p}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.tau, self.mean_p = state["tau"], state["mean_p"]


class Soft(Threshold):
    """SoftMatch's truncated Gaussian (Chen et al. 2023, section 3): less sure than the mean counts less.

    Args:
        num_classes: C.
        decay: of the moving averages.
        n_sigma: the larger, the steeper; the paper's experiments use 2.
        align: uniform alignment: q is the confidence of ``p / m`` scaled to sum 1, with m [C] a moving average of
            mean p that starts with the first batch. Only the weight sees it, the label does not.
    """

    def __init__(self, num_classes: int, decay: float = 0.999, n_sigma: float = 2.0, align: bool = False) -> None:
        self.decay, self.n_sigma, self.align = decay, n_sigma, align
        self.mean, self.variance = torch.tensor(1 / num_classes), torch.tensor(1.0)
        self.mean_p = torch.zeros(num_classes)  # zeros: no batch yet

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        q = (self._aligned(p.detach()) if self.align else p.detach()).amax(-1)
        self.mean = _average(self.mean, q.mean(), self.decay)
        if len(q) > 1:  # one row says nothing of the variance
            self.variance = _average(self.variance, q.var(), self.decay)
        below = (q - self.mean).clamp(max=0)
        tiny = torch.finfo(p.dtype).tiny  # all rows alike: whoever is below the mean does not count
        return torch.exp(-(below**2) * self.n_sigma**2 / (2 * self.variance).clamp_min(tiny))

    def _aligned(self, p: Tensor) -> Tensor:
        start = self.mean_p.to(p)
        self.mean_p = torch.where(start.sum() > 0, _average(start, p.mean(0), self.decay), p.mean(0))
        ratio = p / self.mean_p.clamp_min(torch.finfo(p.dtype).tiny)  # a class at exactly 0 stays there
        return ratio / ratio.sum(-1, keepdim=True)

    def report(self) -> dict[str, Tensor]:
        return {"confidence": self.mean}

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "variance": self.variance, "mean_p": self.mean_p}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.variance, self.mean_p = state["mean"], state["variance"], state["mean_p"]


def check(kind: Kind, threshold: float, decay: float, where: str) -> None:
    """Refuse settings that ``make`` cannot use; ``where`` is the group or key they stand under.

    Raises:
        UserError: a number out of its range.
    """
    if not 0 <= threshold < math.inf:
        raise UserError("threshold must be at least 0", "", where)
    if kind == "curriculum" and threshold > 1:
        raise UserError("a threshold above 1 leaves curriculum nothing to learn from", "Give one in 0..1.", where)
    if not 0 <= decay < 1:
        raise UserError("selection_decay must be at least 0 and below 1", "", where)


def make(kind: Kind, threshold: float, decay: float, context: Context) -> Threshold:
    """The threshold object of ``kind`` from settings that ``check`` has passed."""
    if kind == "curriculum":
        return Curriculum(threshold, context.num_classes, context.pool_size)
    if kind == "adaptive":
        return Adaptive(context.num_classes, decay)
    return Soft(context.num_classes, decay) if kind == "soft" else Fixed(threshold)


def _average(old: Tensor, new: Tensor, decay: float) -> Tensor:
    return decay * old.to(new) + (1 - decay) * new

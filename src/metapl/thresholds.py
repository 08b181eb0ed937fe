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
precision   w = [row stands among the k surest], k the largest for which their mean calibrated confidence, the precision
            to expect, is at least the target; calibrated: p made from logits / T, with T fitted on validation rows

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
    needs_validation = False  # True: ``fit`` must be called

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        """[B] weights in [0, 1] for probabilities ``p`` [B, C] of the pool's rows ``index`` [B] int64 at step ``t``.

        Called once per step: the kinds that remember learn from this batch.
        """
        return torch.ones_like(p[:, 0])

    def fit(self, logits: Tensor, y: Tensor) -> None:
        """Learn from validation rows: ``logits`` [draws, n, C] of several views of n rows, true classes ``y`` [n]."""

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


class Precision(Threshold):
    """A target precision instead of a raw confidence.

    T starts at 1. Each fit takes it half the way, in log T, to ``fit_temperature``'s: few rows make that one jump.
    """

    needs_validation = True

    def __init__(self, target: float) -> None:
        self.target = target
        self.temperature, self.expected = torch.tensor(1.0), torch.tensor(0.0)

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        p = p.detach()
        logits = p.clamp_min(torch.finfo(p.dtype).tiny).log()  # up to a constant per row
        q = torch.softmax(logits / self.temperature.to(p), -1).amax(-1)
        order = q.argsort(descending=True, stable=True)
        places = torch.arange(1, len(q) + 1, device=q.device)
        means = q[order].cumsum(0) / places  # falling
        k = (places * (means >= self.target)).amax()
        w = torch.zeros_like(q).scatter(0, order, (places <= k).to(q.dtype))
        self.expected = (w * q).sum() / k.clamp_min(1)
        return w

    def fit(self, logits: Tensor, y: Tensor) -> None:
        if len(y):
            T = math.sqrt(self.temperature.item() * fit_temperature(logits, y))
            self.temperature = torch.tensor(T, dtype=torch.float32, device=logits.device)

    def report(self) -> dict[str, Tensor]:
        return {"temperature": self.temperature, "expected_precision": self.expected}

    def state_dict(self) -> dict[str, Any]:
        return {"temperature": self.temperature}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.temperature = state["temperature"]


COLDEST, HOTTEST = math.exp(-1), 10.0  # bounds of a fitted temperature; from 1/e on the prior is convex in 1/T
SPREAD = 0.5  # of log T around 0 before any row is seen


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """Temperature scaling (Guo et al. 2017) with a prior, for few rows.

    The T that minimises ``n * mean CE(y, logits / T) + (log T)^2 / (2 SPREAD^2)``. Without the second term, n rows that
    all happen to be right would call for boundless confidence; it counts as much with one row as with a thousand.

    Args:
        logits: [draws, n, C], several views of n > 0 rows.
        y: [n] true classes.
    """
    z, y = logits.detach().cpu().double(), y.cpu()
    true = z[:, torch.arange(len(y)), y]
    low, high = 1 / HOTTEST, 1 / COLDEST  # of b = 1 / T; the loss is convex in b: its slope is brought to zero
    for _ in range(60):
        b = (low + high) / 2
        slope = len(y) * ((torch.softmax(b * z, -1) * z).sum(-1) - true).mean() + math.log(b) / b / SPREAD**2
        low, high = (low, b) if slope > 0 else (b, high)
    return 2 / (low + high)


def check(kind: Kind, threshold: float | str, decay: float, where: str) -> None:
    """Refuse settings that ``make`` cannot use; ``where`` is the group they stand under.

    Raises:
        UserError: a text that is neither a number nor ``precision=P``, or a number out of its range.
    """
    by_precision, value = read(threshold, where)
    if by_precision and not 0 < value < 1:
        raise UserError(f"the target precision is {value:g}", "Give a share between 0 and 1: precision=0.95.", where)
    if by_precision and kind != "fixed":
        raise UserError(f"a target precision does not go with {kind}", "Leave one of the two away.", where)
    if not 0 <= value < math.inf:
        raise UserError("threshold must be at least 0", "", where)
    if kind == "curriculum" and value > 1:
        raise UserError("a threshold above 1 leaves curriculum nothing to learn from", "Give one in 0..1.", where)
    if not 0 <= decay < 1:
        raise UserError("selection_decay must be at least 0 and below 1", "", where)


def read(threshold: float | str, where: str = "") -> tuple[bool, float]:
    """Whether ``threshold`` asks for a precision, and its number.

    Raises:
        UserError: a text that is neither a number nor ``precision=P``.
    """
    text = str(threshold).replace(" ", "")
    try:
        return text.startswith("precision="), float(text.removeprefix("precision="))
    except ValueError:
        remedy = "Give a number such as 0.95, or precision=0.95."
        raise UserError(f"threshold is {threshold!r}", remedy, where) from None


def make(kind: Kind, threshold: float | str, decay: float, context: Context) -> Threshold:
    """The threshold object of ``kind`` from settings that ``check`` has passed."""
    by_precision, value = read(threshold)
    if by_precision:
        return Precision(value)
    if kind == "curriculum":
        return Curriculum(value, context.num_classes, context.pool_size)
    if kind == "adaptive":
        return Adaptive(context.num_classes, decay)
    return Soft(context.num_classes, decay) if kind == "soft" else Fixed(value)


def _average(old: Tensor, new: Tensor, decay: float) -> Tensor:
    return decay * old.to(new) + (1 - decay) * new

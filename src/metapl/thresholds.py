"""Weigh pseudo-labelled rows: which of them count, and how much.

Shapes: B unlabelled rows in a batch, C classes, N rows in the pool; p [B, C]: the network's probabilities for the weak
views, q = max p and y = argmax p [B]. w [B] is each row's weight. Nothing here has a gradient.

fixed       w = [q >= threshold]                                                      (FixMatch, Sohn et al. 2020)
curriculum  w = [q > threshold * M(beta_y)], M(x) = x / (2 - x), beta_c = n_c / max(max_c n_c, N - sum_c n_c); n_c: rows
            of the pool whose label, when last above the threshold, was c             (FlexMatch, Zhang et al. 2021)
adaptive    w = [q > tau * m_y / max_c m_c]; tau and m [C]: moving averages of mean q and mean p, from 1/C on, this
            batch included                                                            (FreeMatch, Wang et al. 2023)
soft        w = exp(-n_sigma^2 min(q - mu, 0)^2 / (2 v)); mu and v: moving averages of q's mean and unbiased variance,
            from 1/C and 1 on, this batch included                                    (SoftMatch, Chen et al. 2023)
precision   w = [row is among the k surest], k the largest number for which their mean calibrated confidence (the
            expected precision) is at least the target; calibrated: softmax(logits / T), T fitted on validation rows

``docs/thresholds.md`` says when to use which.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.types import Context

Selection = Literal["fixed", "curriculum", "adaptive", "soft"]


class Threshold:
    """The interface of all thresholds; this one gives every row the weight 1."""

    active = True  # False: no row can ever count
    needs_validation = False  # True: ``fit`` must be called

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        """Return [B] weights in [0, 1] for the pool's rows ``index`` at step ``t``; call it once per step.

        Thresholds with a memory learn from this batch.

        Args:
            p: [B, C] probabilities of these rows.
            index: [B] int64, positions in the pool.
            t: the step.
        """
        return torch.ones_like(p[:, 0])

    def fit(self, logits: Tensor, y: Tensor) -> None:
        """Learn from validation rows: ``logits`` [draws, n, C] of several views of n rows, true classes ``y`` [n]."""

    def report(self) -> dict[str, Tensor]:
        """Return 0-d numbers to log, as they were at the last call of ``weights``."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next call depends on."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the result of ``state_dict`` exactly."""


class Fixed(Threshold):
    """Uses one number for every class and step; if it is above 1, no row counts."""

    def __init__(self, threshold: float) -> None:
        self.threshold, self.active = threshold, threshold <= 1

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        return (p.detach().amax(-1) >= self.threshold).to(p.dtype)


class Curriculum(Threshold):
    """Raises the threshold of classes that are learnt: FlexMatch (Zhang et al. 2021, sections 3.1 to 3.3).

    As in the paper's algorithm, the weights of a batch depend on earlier batches alone. If a row is in a batch more
    than once, its last sure label is remembered.
    """

    def __init__(self, threshold: float, num_classes: int, pool_size: int) -> None:
        if pool_size < 1:
            raise ValueError("curriculum remembers the pool's rows: Context.pool_size must be given")
        self.threshold, self.num_classes = threshold, num_classes
        self.labels = torch.full((pool_size,), -1)  # [N] each row's last label above the threshold, or -1

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        q, y = p.detach().max(-1)
        self.labels = self.labels.to(y.device)
        counts = torch.bincount(self.labels + 1, minlength=self.num_classes + 1).to(p.dtype)  # [unsure, n_1 ... n_C]
        beta = counts[1:] / counts.max()  # the maximum is above 0, since N rows are counted
        w = (q > self.threshold * (beta / (2 - beta))[y]).to(p.dtype)
        self._remember(q > self.threshold, y, index)
        return w

    def _remember(self, sure: Tensor, y: Tensor, index: Tensor) -> None:
        # Of equal indices the last in the batch counts; a plain assignment would leave that to chance on a GPU.
        position = torch.where(sure, torch.arange(len(y), device=y.device), -1)
        last = torch.full_like(self.labels, -1).scatter_reduce(0, index, position, "amax")
        self.labels = torch.where(last >= 0, y[last.clamp_min(0)], self.labels)

    def report(self) -> dict[str, Tensor]:
        return {"pool_sure": (self.labels >= 0).float().mean()}

    def state_dict(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.labels = state["labels"]


class Adaptive(Threshold):
    """Follows the network's own confidence: FreeMatch (Wang et al. 2023, section 4.1), global times local threshold."""

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
    """Weighs rows below the mean confidence less: SoftMatch's truncated Gaussian (Chen et al. 2023, section 3).

    Args:
        num_classes: C.
        decay: of the moving averages.
        n_sigma: the larger, the steeper; the paper's experiments use 2.
        align: uniform alignment: take q from ``p / m`` scaled to sum 1, with m [C] a moving average of mean p that
            starts with the first batch. It changes the weight, not the label.
    """

    def __init__(self, num_classes: int, decay: float = 0.999, n_sigma: float = 2.0, align: bool = False) -> None:
        self.decay, self.n_sigma, self.align = decay, n_sigma, align
        self.mean, self.variance = torch.tensor(1 / num_classes), torch.tensor(1.0)
        self.mean_p = torch.zeros(num_classes)  # zeros: no batch yet

    def weights(self, p: Tensor, index: Tensor, t: int) -> Tensor:
        q = (self._aligned(p.detach()) if self.align else p.detach()).amax(-1)
        self.mean = _average(self.mean, q.mean(), self.decay)
        if len(q) > 1:  # one row has no variance
            self.variance = _average(self.variance, q.var(), self.decay)
        below = (q - self.mean).clamp(max=0)
        tiny = torch.finfo(p.dtype).tiny  # if all rows are alike, a row below the mean does not count
        return torch.exp(-(below**2) * self.n_sigma**2 / (2 * self.variance).clamp_min(tiny))

    def _aligned(self, p: Tensor) -> Tensor:
        start = self.mean_p.to(p)
        self.mean_p = torch.where(start.sum() > 0, _average(start, p.mean(0), self.decay), p.mean(0))
        ratio = p / self.mean_p.clamp_min(torch.finfo(p.dtype).tiny)  # a probability of exactly 0 stays 0
        return ratio / ratio.sum(-1, keepdim=True)

    def report(self) -> dict[str, Tensor]:
        return {"confidence": self.mean}

    def state_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "variance": self.variance, "mean_p": self.mean_p}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean, self.variance, self.mean_p = state["mean"], state["variance"], state["mean_p"]


class Precision(Threshold):
    """Accepts rows by a target precision instead of a raw confidence.

    T starts at 1. Each fit moves it half the way, in log T, to the result of ``fit_temperature``, which varies much if
    there are few rows.
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
        rank = torch.arange(1, len(q) + 1, device=q.device)
        means = q[order].cumsum(0) / rank  # falling
        k = (rank * (means >= self.target)).amax()
        w = torch.zeros_like(q).scatter(0, order, (rank <= k).to(q.dtype))
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
SPREAD = 0.5  # standard deviation of the prior of log T around 0


def fit_temperature(logits: Tensor, y: Tensor) -> float:
    """Fit the temperature T by temperature scaling (Guo et al. 2017) with a prior, for few rows.

    T minimises ``n * mean CE(y, logits / T) + (log T)^2 / (2 SPREAD^2)``. The second term is the prior: without it, n
    rows that are all right by chance would lead to unlimited confidence.

    Args:
        logits: [draws, n, C], several views of n > 0 rows.
        y: [n] true classes.
    """
    z, y = logits.detach().cpu().double(), y.cpu()
    true = z[:, torch.arange(len(y)), y]
    low, high = 1 / HOTTEST, 1 / COLDEST  # bounds of b = 1 / T; the loss is convex in b, so bisect its slope
    for _ in range(60):
        b = (low + high) / 2
        slope = len(y) * ((torch.softmax(b * z, -1) * z).sum(-1) - true).mean() + math.log(b) / b / SPREAD**2
        low, high = (low, b) if slope > 0 else (b, high)
    return 2 / (low + high)


def check_threshold(selection: Selection, threshold: float | str, decay: float, where: str) -> None:
    """Refuse settings that ``make_threshold`` cannot use; ``where`` is their group.

    Raises:
        UserError: a text that is neither a number nor ``precision=P``, or a number out of its range.
    """
    by_precision, value = read_threshold(threshold, where)
    if by_precision and not 0 < value < 1:
        raise UserError(f"the target precision is {value:g}", "Give a share between 0 and 1: precision=0.95.", where)
    if by_precision and selection != "fixed":
        raise UserError(f"a target precision does not go with {selection}", "Leave one of the two out.", where)
    if not 0 <= value < math.inf:
        raise UserError(f"threshold is {value:g}", "Give a number of 0 or more.", where)
    if selection == "curriculum" and value > 1:
        raise UserError("a threshold above 1 leaves curriculum nothing to learn from", "Give one in 0..1.", where)
    if not 0 <= decay < 1:
        raise UserError("selection_decay is not from 0 up to 1", "Give at least 0 and less than 1.", where)


def read_threshold(threshold: float | str, where: str = "") -> tuple[bool, float]:
    """Return whether ``threshold`` is a target precision, and its number.

    Raises:
        UserError: a text that is neither a number nor ``precision=P``.
    """
    text = str(threshold).replace(" ", "")
    try:
        return text.startswith("precision="), float(text.removeprefix("precision="))
    except ValueError:
        remedy = "Give a number such as 0.95, or precision=0.95."
        raise UserError(f"threshold is {threshold!r}", remedy, where) from None


def make_threshold(selection: Selection, threshold: float | str, decay: float, context: Context) -> Threshold:
    """Make the threshold object from settings that ``check_threshold`` accepts."""
    by_precision, value = read_threshold(threshold)
    if by_precision:
        return Precision(value)
    if selection == "curriculum":
        return Curriculum(value, context.num_classes, context.pool_size)
    if selection == "adaptive":
        return Adaptive(context.num_classes, decay)
    return Soft(context.num_classes, decay) if selection == "soft" else Fixed(value)


def _average(old: Tensor, new: Tensor, decay: float) -> Tensor:
    return decay * old.to(new) + (1 - decay) * new

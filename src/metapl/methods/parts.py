"""Parts that several methods share: UDA's consistency term, feedback by row, the baseline of a gain, fine-tuning.

Shapes: B unlabelled rows, C classes; z are logits [B, C].

UDA (Xie et al. 2020): the strong view must agree with the sharpened weak view.

U1  q = softmax(z_weak / temperature), w = selection.weights(softmax z_weak)   (no gradient)
U2  uda = mean_i w_i CE(q_i, z_strong_i), which enters the loss times weight * ramp(t)

Feedback by row: what a step of plain gradient descent on the feedback alone would do to the class that a row has now.

F1  s_i = -B d feedback / d z[i, c_i], c_i = argmax z_i; below 0 the labelled rows speak against the class
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from metapl.losses import consistency
from metapl.optim import descend, ramp
from metapl.pseudo_labels import sharpen
from metapl.thresholds import Threshold
from metapl.types import SemiBatch, StepReport


class UDATerm:
    """Computes U1 and U2.

    Args:
        selection: weighs the rows by the confidence of their weak view.
        weight: of the term in the loss; 0 = off.
        temperature: below 1 sharpens the target.
        ramp_steps: steps over which the weight rises from 0.

    Attributes:
        active: False if the term is always 0, so that no unlabelled forward is needed.
    """

    def __init__(self, selection: Threshold, weight: float, temperature: float, ramp_steps: int = 0) -> None:
        self.selection, self.weight, self.temperature, self.ramp_steps = selection, weight, temperature, ramp_steps
        self.active = weight > 0 and selection.active

    @property
    def needs_validation(self) -> bool:
        """Return whether the selection must be fitted on validation rows."""
        return self.active and self.selection.needs_validation

    def __call__(self, z_weak: Tensor, z_strong: Tensor, index: Tensor, t: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return uda, 0-d and before its factor, and numbers to log; ``index`` [B]: the rows' positions in the pool."""
        w = self.selection.weights(torch.softmax(z_weak.detach(), -1), index, t)  # U1
        uda = consistency(z_strong, sharpen(z_weak, self.temperature), w)  # U2
        return uda, {"mask_rate": w.mean(), **self.selection.report()}

    def factor(self, t: int) -> float:
        """Return weight * ramp(t)."""
        return self.weight * ramp(t, self.ramp_steps)


class FeedbackScores:
    """Averages F1 over the steps in which a row took part, for people to read; no update depends on it.

    Args:
        pool_size: N unlabelled rows; 0 = remember nothing.
    """

    def __init__(self, pool_size: int) -> None:
        self.total, self.count = torch.zeros(pool_size), torch.zeros(pool_size)  # [N] each

    def add(self, feedback: Tensor, z: Tensor, index: Tensor) -> None:
        """Add the scores of a step.

        Args:
            feedback: 0-d, before its weight; its graph is kept.
            z: [B, C] logits that wrote the pseudo labels, part of that graph.
            index: [B] positions of the rows in the pool.
        """
        if not len(self.total):
            return
        (gradient,) = torch.autograd.grad(feedback, z, retain_graph=True)
        push = -len(z) * gradient.gather(1, z.argmax(-1, keepdim=True))[:, 0]  # F1
        self.total, self.count = self.total.to(push), self.count.to(push)
        self.total.index_add_(0, index, push)
        self.count.index_add_(0, index, torch.ones_like(push))

    def mean(self) -> Tensor:
        """Return [N] the mean score of each row; NaN for rows that no feedback has reached."""
        return self.total / self.count

    def state_dict(self) -> dict[str, Tensor]:
        return {"total": self.total, "count": self.count}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore total and count, [N] each; the empty state of an older version changes nothing."""
        self.total, self.count = state.get("total", self.total), state.get("count", self.count)


class MovingBaseline:
    """Subtracts a moving average of the earlier gains from each gain: this lowers the variance of sampled feedback.

    Args:
        decay: of the moving average; 0 = subtract nothing.
    """

    def __init__(self, decay: float) -> None:
        self.decay, self.value = decay, torch.zeros(())

    def subtract(self, gain: Tensor) -> Tensor:
        """Return the gain minus the baseline, 0-d, then move the baseline towards the gain."""
        if not self.decay:
            return gain
        difference: Tensor = gain - self.value.to(gain)
        self.value = self.value.to(gain) + (1 - self.decay) * difference
        return difference


class FineTuner:
    """Fine-tunes a copy of a network by plain SGD on the labelled rows (E7 of ``mpl``).

    Args:
        lr: the learning rate.

    Attributes:
        model: the copy; None before the first step.
    """

    def __init__(self, lr: float) -> None:
        self.lr = lr
        self.model: nn.Module | None = None

    def step(self, network: nn.Module, batch: SemiBatch) -> StepReport:
        """Step the copy; the first call makes it from ``network``."""
        if self.model is None:
            self.model = _trainable_copy(network)
        loss = descend(self.model, batch, self.lr)
        return StepReport({"loss": loss, "finetune": loss})

    def state_dict(self) -> dict[str, Any]:
        """Return the copy's weights under ``finetuned``; nothing before the first step."""
        return {} if self.model is None else {"finetuned": self.model.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any], network: nn.Module) -> None:
        """Restore the copy from a method's whole ``state``; ``network`` has its architecture."""
        self.model = None
        if "finetuned" in state:
            self.model = _trainable_copy(network)
            self.model.load_state_dict(state["finetuned"])


def unlabeled_views(batch: SemiBatch) -> tuple[Tensor, Tensor]:
    """Return the weak and the strong view of the unlabelled rows, [B, ...] each.

    Raises:
        ValueError: the batch lacks one of them: the method's ``needs`` must name both.
    """
    if batch.u_weak is None or batch.u_strong is None:
        raise ValueError("the batch lacks the weak or the strong view: the method's needs must name both")
    return batch.u_weak, batch.u_strong


def make_report(loss: Tensor, logged: Mapping[str, Tensor]) -> StepReport:
    """Return the report of a step: its loss and the other logged numbers, 0-d each, detached."""
    return StepReport({name: value.detach() for name, value in {"loss": loss, **logged}.items()})


def _trainable_copy(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).requires_grad_(True)

"""What the one-network methods share; what is a method's own stays in its file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.optim import Learner
from metapl.thresholds import Threshold
from metapl.types import Context, Judge, SemiBatch, StepReport, View


class OneNetwork:
    """One ``Learner``; the result is its EMA. A subclass brings ``Config``, ``needs`` and ``step``.

    Args:
        context: what the method is built from.
        selection: says which pseudo labels count; None for a method that writes none.
    """

    needs: frozenset[View] = frozenset()
    extra_steps = 0

    def __init__(self, context: Context, selection: Threshold | None = None) -> None:
        self.net = Learner(context.build_model(), context.optim, context.steps)
        self.selection = selection or Threshold()

    def eval_model(self) -> nn.Module:
        return self.net.ema.model

    def candidates(self) -> dict[str, nn.Module]:
        return {"ema": self.net.ema.model}

    @property
    def needs_validation(self) -> bool:
        return self.selection.needs_validation

    def calibrate(self, judge: Judge) -> None:
        """The pseudo labels are written by ``net.model``, so its logits are what is fitted."""
        self.selection.fit(*judge(self.net.model))

    def state_dict(self) -> dict[str, Any]:
        return {**self.net.state_dict(), "selection": self.selection.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state)
        self.selection.load_state_dict(state["selection"])


class WeakToStrong(OneNetwork):
    """FixMatch and its kin: hard pseudo labels from the weak view, learnt on the strong view, weighted row by row.

    M1  p = softmax f(weak view), y = argmax p, w = selection.weights(p)   (no gradient)
    M2  loss = CE(y_l, f(x_l)) + weight * mean_i w_i CE(y_i, f(strong view_i)) + what a subclass adds in ``terms``

    The subclass's ``Config`` has ``weight`` and ``label_smoothing``.
    """

    needs: frozenset[View] = frozenset({"weak", "strong"})

    def __init__(self, config: Any, context: Context, selection: Threshold) -> None:
        super().__init__(context, selection)
        self.config = config
        self.active = config.weight > 0 and selection.active  # else supervised training, exactly

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        views = (batch.x_l, batch.u_weak, batch.u_strong) if self.active else (batch.x_l,)
        z_l, *z_u = self.net(*views)  # type: ignore[arg-type]
        supervised = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)
        loss, none = supervised, supervised.new_zeros(())
        parts = {"supervised": supervised, "unlabeled": none}
        if z_u:
            p = torch.softmax(z_u[0].detach(), -1)  # M1
            w = self.selection.weights(p, batch.u_index, t)
            for name, (weight, term) in self.terms(p, w, z_u[1]).items():  # M2
                loss, parts[name] = loss + weight * term, term
            parts |= {"mask_rate": w.mean(), **self.selection.report()}
        self.net.step(loss, t)
        return StepReport({k: v.detach() for k, v in {"loss": loss, **parts}.items()})

    def terms(self, p: Tensor, w: Tensor, z_strong: Tensor) -> dict[str, tuple[float, Tensor]]:
        """The terms of M2 that need no label: name to (weight, 0-d loss)."""
        return {"unlabeled": (self.config.weight, masked_cross_entropy(z_strong, p.argmax(-1), w))}


@torch.no_grad()
def label_pool(model: nn.Module, context: Context) -> Tensor:
    """[N, C] probabilities of every row of the pool, plain view, by ``model`` in the mode it is in."""
    if context.pool is None:
        raise ValueError("this method labels the whole pool: Context.pool must be given")
    parts = [torch.softmax(model(rows), -1) for _, rows in context.pool("plain")]
    return torch.cat(parts)


def label_derivative(
    learner: Learner, before: fb.Before, batch: SemiBatch, x: Tensor, how: fb.Derivative, rows: fb.Rows = "even"
) -> tuple[Tensor, Tensor]:
    """E3 to E5 of ``mpl``: what the labelled rows say, after the step just made, about every label it was made from.

    Args:
        learner: has just made its step on ``mean_i CE(labels_i, learner.model(x)_i)``.
        before: the snapshot from right before the forward of ``x``.
        batch: its labelled rows speak.
        x: [B, ...] the very rows of that forward.
        how: forward mode or a difference.
        rows: how the labelled rows are weighted.

    Returns:
        The labelled loss after the step, 0-d, and r [B, C] per unit of the learning rate: the derivative of that loss
        (so weighted) with respect to label [i, c] is ``lr / B * r[i, c]``, exactly.
    """
    labeled, gradient = fb.labeled_gradient(learner.model, before, batch.x_l, batch.y_l, rows)  # E3
    direction = fb.step_adjoint(learner.optimizer, learner.model, gradient, unit_lr=True)  # E5
    if learner.clip_scale is not None:
        weights = [(n, q) for n, q in learner.model.named_parameters() if n in direction]
        moved = {n: torch.zeros_like(q) if q.grad is None else q.grad for n, q in weights}
        direction = fb.clip_adjoint(direction, moved, learner.clip_scale)
    return labeled, fb.log_prob_derivative(learner.model, before, x, direction, how)  # E4


def descend(model: nn.Module, batch: SemiBatch, lr: float) -> Tensor:
    """One plain gradient step of ``model``, in train mode, on the labelled rows (E7 of ``mpl``); the loss before it."""
    loss = cross_entropy(model.train()(batch.x_l), batch.y_l)
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for p, g in zip(parameters, grads):
            if g is not None:
                p.sub_(g, alpha=lr)
    return loss.detach()

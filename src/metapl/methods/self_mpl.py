"""Self Meta Pseudo Labels (Ng & Wang 2022): one network labels, learns its own labels, and hears how that went.

Shapes: B unlabelled rows, C classes; f the network (logits), theta its weights; means are over rows. Each step makes
two updates:

S1  p = softmax f(weak view; theta) [B, C]; ``exact`` teaches p itself, ``sampled`` one draw y ~ p per row
S2  theta' = theta - eta * pseudo_weight * grad CE(labels, f(strong view; theta)), by the run's optimiser
S3  g = grad CE(y_l, f(x_l; theta')), at the new weights
S4  r[i,c] = pseudo_weight * d/ds log f_c(strong view_i; theta + s v), v = M^T g; M: the optimiser's map, as in mpl (E5)
    feedback(phi) = mean_i sum_c stopgrad(r[i,c]) softmax f_c(weak view_i; phi), its gradient taken at phi = theta
S4' gain = L_l(theta) - L_l(theta') - baseline; feedback(phi) = gain * CE(y, f(weak view; phi)), the same y
S5  theta'' = theta' - eta * (grad [CE(y_l, f(x_l; theta')) + uda(theta')] + weight * grad feedback(theta))
    uda = uda_weight * ramp(t) * mean_i mask_i CE(softmax(f(weak)/temperature), f(strong))

S4's gradient is exactly that of eta^-1 L_l(theta') through the labels alone. ``docs/methods/self_mpl.md``: deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from metapl import feedback as fb
from metapl.errors import UserError
from metapl.losses import consistency, cross_entropy, soft_cross_entropy
from metapl.methods.base import OneNetwork, label_derivative
from metapl.optim import ramp
from metapl.pseudo_labels import confidence_mask, sample_labels, sharpen
from metapl.types import Context, SemiBatch, StepReport, View


class SelfMPL(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of Self Meta Pseudo Labels."""

        feedback: Literal["exact", "sampled", "none"] = "exact"  # what the labeller hears (S4)
        feedback_weight: float = 0.3  # w in S5, per unit of eta
        pseudo_weight: float = 1.0  # of the first update (S2): eta_1 / eta_2; 0 = no pseudo labels, no feedback
        baseline: float = 0.99  # decay of the moving baseline of the gain (sampled); 0 = no baseline
        derivative: Literal["auto", "forward", "difference"] = "auto"  # how S4 is computed
        uda_weight: float = 1.0  # of the consistency loss in the second update; 0 = off
        uda_ramp: float = 0.0  # share of the run over which that weight rises from 0
        uda_threshold: float = 0.6  # least confidence of a consistency target; above 1 none passes
        uda_temperature: float = 0.7  # below 1 sharpens the consistency target
        label_smoothing: float = 0.0  # on the labelled rows, in the second update

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "self_mpl")
            weights = (self.feedback_weight, self.pseudo_weight, self.uda_weight, self.uda_threshold)
            if min(weights) < 0 or not 0 <= self.uda_ramp <= 1 or self.uda_temperature <= 0:
                remedy = "Weights and threshold must be at least 0, uda_ramp in 0..1, temperature above 0."
                raise UserError("a setting is out of range", remedy, "self_mpl")
            if not 0 <= self.baseline < 1:
                raise UserError("baseline must be at least 0 and below 1", "", "self_mpl")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)
        self.config, self.steps, self.baseline = config, context.steps, torch.zeros(())
        self.uda_active = config.uda_weight > 0 and config.uda_threshold <= 1
        self.hears = config.feedback != "none" and config.feedback_weight > 0

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c, parts = self.config, dict[str, Tensor]()
        # The first update moves the weights, so what the labels owe to the old ones is kept as a gradient.
        heard = self._learn_own_labels(batch, t, parts) if c.pseudo_weight else {}
        views = (batch.x_l, batch.u_weak, batch.u_strong) if self.uda_active else (batch.x_l,)
        z_l, *z_u = self.net(*views)  # type: ignore[arg-type]
        parts["supervised"] = loss = cross_entropy(z_l, batch.y_l, c.label_smoothing)  # S5, three terms
        if z_u:
            mask = confidence_mask(torch.softmax(z_u[0].detach(), -1), c.uda_threshold)
            parts["uda"], parts["mask_rate"] = (
                consistency(z_u[1], sharpen(z_u[0], c.uda_temperature), mask),
                mask.mean(),
            )
            loss = loss + c.uda_weight * ramp(t, round(c.uda_ramp * self.steps)) * parts["uda"]
        parts["loss"] = loss + c.feedback_weight * parts["feedback"] if heard else loss
        self.net.step(loss + c.feedback_weight * self._linear(heard) if heard else loss, t)
        return StepReport({k: v.detach() for k, v in parts.items()})

    def _learn_own_labels(self, batch: SemiBatch, t: int, parts: dict[str, Tensor]) -> fb.Tensors:
        """S1 to S4: the first update; the feedback's gradient with respect to the labelling weights, by name."""
        assert batch.u_weak is not None  # for the type checker: ``needs`` names both
        assert batch.u_strong is not None
        x, model, old = torch.cat([batch.u_weak, batch.u_strong]), self.net.model, fb.snapshot(self.net.model)
        theta = {
            n: p.requires_grad_() for n, p in old.parameters.items()
        }  # they stay when the update moves the network's
        z, z_strong = functional_call(model, theta, (x,)).chunk(2)
        p = torch.softmax(z, -1)  # S1
        hard = sample_labels(p) if self.config.feedback == "sampled" else None
        own = soft_cross_entropy(z_strong, p) if hard is None else cross_entropy(z_strong, hard)
        # What is logged is detached here: it would keep this forward's activations through the second update.
        parts["unlabeled"] = own.detach()
        parts["agreement"] = (z_strong.argmax(-1) == z.argmax(-1)).to(z.dtype).mean()
        self.net.update(self.config.pseudo_weight * self._linear(_gradient(own, theta, keep=self.hears)), t)  # S2
        if not self.hears:
            return {}
        if hard is None:
            parts["student_labeled"], r = label_derivative(self.net, old, batch, x, self.config.derivative)  # S3, S4
            r = self.config.pseudo_weight * r[len(p) :]
            parts["feedback_spread"], feedback = r.std(), fb.exact_loss(p, r)
        else:
            before, after = (fb.labeled_loss(model, old, batch.x_l, batch.y_l, old=o) for o in (True, False))
            parts["student_labeled"], parts["gain"] = after, self._minus_baseline(before - after)  # S4'
            feedback = fb.sampled_loss(z, hard, parts["gain"])
        parts["feedback"] = feedback.detach()
        return _gradient(feedback, theta)

    def _linear(self, gradient: fb.Tensors) -> Tensor:
        """A 0-d function of the network's weights, of any value, that has this gradient."""
        named = dict(self.net.model.named_parameters())
        return torch.stack([(g * named[n]).sum() for n, g in gradient.items()]).sum()

    def _minus_baseline(self, gain: Tensor) -> Tensor:
        if not self.config.baseline:
            return gain
        result: Tensor = gain - self.baseline.to(gain)
        self.baseline = self.baseline.to(gain) + (1 - self.config.baseline) * result
        return result

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "baseline": self.baseline}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.baseline = state["baseline"]


def _gradient(value: Tensor, weights: fb.Tensors, keep: bool = False) -> fb.Tensors:
    """``keep``: another gradient is taken through the same forward."""
    grads = torch.autograd.grad(value, list(weights.values()), retain_graph=keep, allow_unused=True)
    return {n: g for n, g in zip(weights, grads) if g is not None}

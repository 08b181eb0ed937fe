"""Self Meta Pseudo Labels (Ng & Wang 2022): one network labels, learns its own labels, and gets the feedback on them.

Shapes: B unlabelled rows, C classes; f the network (logits), theta its weights; means are over rows. Each step makes
two updates:

S1  p = softmax f(weak view; theta) [B, C]; ``exact`` learns p itself, ``sampled`` one draw y ~ p per row
S2  theta' = theta - eta * pseudo_weight * grad CE(labels, f(strong view; theta)), by the run's optimiser
S3  g = grad CE(y_l, f(x_l; theta')), at the new weights
S4  r[i,c] = pseudo_weight * d/ds log f_c(strong view_i; theta + s v), v = M^T g; M: the optimiser's map, as in mpl (E5)
    feedback(phi) = mean_i sum_c stopgrad(r[i,c]) softmax f_c(weak view_i; phi), its gradient taken at phi = theta
S4' gain = L_l(theta) - L_l(theta') - baseline; feedback(phi) = gain * CE(y, f(weak view; phi)), the same y
S5  theta'' = theta' - eta * (grad [CE(y_l, f(x_l; theta')) + uda(theta')] + weight * grad feedback(theta))
    uda = uda_weight * ramp(t) * mean_i mask_i CE(softmax(f(weak)/temperature), f(strong))   (``parts.UDATerm``)

S4's gradient is exactly that of eta^-1 L_l(theta') through the labels alone. ``docs/methods/self_mpl.md`` lists every
deviation from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from metapl import feedback as fb
from metapl.errors import UserError
from metapl.losses import cross_entropy, soft_cross_entropy
from metapl.methods.base import OneNetwork
from metapl.methods.parts import MovingBaseline, UDATerm, make_report, unlabeled_views
from metapl.pseudo_labels import sample_labels
from metapl.thresholds import Selection, check_threshold, make_threshold
from metapl.types import Context, SemiBatch, StepReport, View


class SelfMPL(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of Self Meta Pseudo Labels."""

        feedback: Literal["exact", "sampled", "none"] = "exact"  # the feedback to the labels (S4)
        feedback_weight: float = 0.3  # w in S5, per unit of eta
        pseudo_weight: float = 1.0  # of the first update (S2): eta_1 / eta_2; 0 = no pseudo labels, no feedback
        baseline: float = 0.99  # decay of the moving baseline of the gain (sampled); 0 = no baseline
        derivative: Literal["auto", "forward", "difference"] = "auto"  # how S4 is computed
        uda_weight: float = 1.0  # of the consistency loss in the second update; 0 = off
        uda_ramp: float = 0.0  # share of the run over which that weight rises from 0
        uda_threshold: float | str = 0.6  # least confidence of a target (above 1: none passes), or precision=0.6
        uda_selection: Selection = "fixed"  # how that threshold moves: docs/thresholds.md
        uda_selection_decay: float = 0.999  # decay of the averages that adaptive and soft use in place of the threshold
        uda_temperature: float = 0.7  # below 1 sharpens the consistency target
        label_smoothing: float = 0.0  # on the labelled rows, in the second update

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "self_mpl")
            check_threshold(self.uda_selection, self.uda_threshold, self.uda_selection_decay, "self_mpl")
            weights = (self.feedback_weight, self.pseudo_weight, self.uda_weight)
            if min(weights) < 0 or not 0 <= self.uda_ramp <= 1 or self.uda_temperature <= 0:
                remedy = "Weights must be at least 0, uda_ramp in 0..1, temperature above 0."
                raise UserError("a setting is out of range", remedy, "self_mpl")
            if not 0 <= self.baseline < 1:
                raise UserError("baseline must be at least 0 and below 1", "", "self_mpl")

    def __init__(self, config: Config, context: Context) -> None:
        selection = make_threshold(config.uda_selection, config.uda_threshold, config.uda_selection_decay, context)
        super().__init__(context, selection)
        self.config, self.baseline = config, MovingBaseline(config.baseline)
        self.uda = UDATerm(selection, config.uda_weight, config.uda_temperature, round(config.uda_ramp * context.steps))
        self.feedback_active = config.feedback != "none" and config.feedback_weight > 0

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c, logged = self.config, dict[str, Tensor]()
        feedback_gradient: fb.Tensors = {}
        if c.pseudo_weight:  # the first update moves the weights, so the feedback to the old ones is kept as a gradient
            feedback_gradient, logged = self._learn_own_labels(batch, t)
        views = unlabeled_views(batch) if self.uda.active else ()
        z_l, *z_u = self.net(batch.x_l, *views)
        loss = logged["supervised"] = cross_entropy(z_l, batch.y_l, c.label_smoothing)  # S5, three terms
        if z_u:
            uda, more = self.uda(z_u[0], z_u[1], batch.u_index, t)
            loss = loss + self.uda.factor(t) * uda
            logged |= {"uda": uda, **more}
        if not feedback_gradient:
            self.net.step(loss, t)
            return make_report(loss, logged)
        self.net.step(loss + c.feedback_weight * self._linear(feedback_gradient), t)
        return make_report(loss + c.feedback_weight * logged["feedback"], logged)

    def _learn_own_labels(self, batch: SemiBatch, t: int) -> tuple[fb.Tensors, dict[str, Tensor]]:
        """S1 to S4: make the first update.

        Returns:
            The gradient of the feedback by the weights that wrote the labels, by name ({} if it is off); and numbers to
            log, detached: they would keep the activations of this forward through the second update.
        """
        weak, strong = unlabeled_views(batch)
        x, model, before = torch.cat([weak, strong]), self.net.model, fb.snapshot(self.net.model)
        theta = {n: p.requires_grad_() for n, p in before.parameters.items()}  # stays when the network's weights move
        z, z_strong = functional_call(model, theta, (x,)).chunk(2)
        p = torch.softmax(z, -1)  # S1
        y = sample_labels(p) if self.config.feedback == "sampled" else None
        loss = soft_cross_entropy(z_strong, p) if y is None else cross_entropy(z_strong, y)
        agreement = (z_strong.argmax(-1) == z.argmax(-1)).to(z.dtype).mean()
        logged = {"unlabeled": loss.detach(), "agreement": agreement}
        gradient = _gradient(loss, theta, keep_graph=self.feedback_active)
        self.net.update(self.config.pseudo_weight * self._linear(gradient), t)  # S2
        if not self.feedback_active:
            return {}, logged
        if y is None:
            derivative = self.config.derivative
            labeled, r = fb.label_derivative(self.net, before, batch.x_l, batch.y_l, x, derivative)  # S3, S4
            r = self.config.pseudo_weight * r[len(p) :]  # the strong views' part
            feedback = fb.exact_loss(p, r)
            logged |= {"student_labeled": labeled, "feedback_spread": r.std()}
        else:
            old, new = (fb.labeled_loss(model, before, batch.x_l, batch.y_l, old=o) for o in (True, False))
            gain = self.baseline.subtract(old - new)  # S4'
            feedback = fb.sampled_loss(z, y, gain)
            logged |= {"student_labeled": new, "gain": gain}
        return _gradient(feedback, theta), logged | {"feedback": feedback.detach()}

    def _linear(self, gradient: fb.Tensors) -> Tensor:
        """Return a 0-d function of the network's weights with this gradient; its value has no meaning."""
        weights = dict(self.net.model.named_parameters())
        return torch.stack([(g * weights[n]).sum() for n, g in gradient.items()]).sum()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "baseline": self.baseline.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.baseline.value = state["baseline"]


def _gradient(value: Tensor, weights: fb.Tensors, keep_graph: bool = False) -> fb.Tensors:
    """Return the gradient by name; with ``keep_graph`` another one may go through the same forward."""
    grads = torch.autograd.grad(value, list(weights.values()), retain_graph=keep_graph, allow_unused=True)
    return {n: g for n, g in zip(weights, grads) if g is not None}

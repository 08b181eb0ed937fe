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
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.func import functional_call

from metapl import feedback as fb
from metapl.losses import cross_entropy, soft_cross_entropy
from metapl.methods import fields
from metapl.methods.base import OneNetwork
from metapl.methods.parts import FeedbackScores, MovingBaseline, UDATerm, make_report, unlabeled_views
from metapl.pseudo_labels import sample_labels
from metapl.thresholds import check_threshold, make_threshold
from metapl.types import Context, SemiBatch, StepReport, View
from metapl.utils.fields import NOT_NEGATIVE, Settings


class SelfMPL(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config(Settings, group="self_mpl"):
        """Settings of Self Meta Pseudo Labels."""

        feedback: Annotated[Literal["exact", "sampled", "none"], "the feedback to the labels (S4)"] = "exact"
        feedback_weight: Annotated[fields.FeedbackWeight, "w in S5, per unit of eta"] = 0.3
        pseudo_weight: Annotated[
            float, "weight of the first update (S2): eta_1 / eta_2; 0 = no pseudo labels, no feedback", NOT_NEGATIVE
        ] = 1.0
        baseline: fields.Baseline = 0.99
        derivative: fields.DerivativeKind = "auto"
        uda_weight: fields.UdaWeight = 1.0
        uda_ramp: fields.Ramp = 0.0
        uda_threshold: fields.UdaThreshold = 0.6
        uda_selection: fields.SelectionKind = "fixed"
        uda_selection_decay: fields.SelectionDecay = 0.999
        uda_temperature: fields.UdaTemperature = 0.7
        label_smoothing: fields.LabelSmoothing = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            check_threshold(self.uda_selection, self.uda_threshold, self.uda_selection_decay, "self_mpl")

    def __init__(self, config: Config, context: Context) -> None:
        selection = make_threshold(config.uda_selection, config.uda_threshold, config.uda_selection_decay, context)
        super().__init__(context, selection)
        self.config, self.baseline = config, MovingBaseline(config.baseline)
        self.scores = FeedbackScores(context.pool_size)
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
        output = functional_call(model, theta, (x,))
        z, z_strong = output.chunk(2)
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
            labeled, r = fb.label_derivative(
                self.net, before, batch.x_l, batch.y_l, x, derivative, output=output
            )  # S3, S4
            r = self.config.pseudo_weight * r[len(p) :]  # the strong views' part
            feedback = fb.exact_loss(p, r)
            logged |= {"student_labeled": labeled, "feedback_spread": r.std()}
        else:
            old, new = (fb.labeled_loss(model, before, batch.x_l, batch.y_l, old=o) for o in (True, False))
            gain = self.baseline.subtract(old - new)  # S4'
            feedback = fb.sampled_loss(z, y, gain)
            logged |= {"student_labeled": new, "gain": gain}
        self.scores.add(feedback, z, batch.u_index)
        return _gradient(feedback, theta), logged | {"feedback": feedback.detach()}

    def _linear(self, gradient: fb.Tensors) -> Tensor:
        """Return a 0-d function of the network's weights with this gradient; its value has no meaning."""
        weights = dict(self.net.model.named_parameters())
        return torch.stack([(g * weights[n]).sum() for n, g in gradient.items()]).sum()

    def feedback_scores(self) -> Tensor:
        return self.scores.mean()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "baseline": self.baseline.value, "scores": self.scores.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.baseline.value = state["baseline"]
        self.scores.load_state_dict(state.get("scores", {}))


def _gradient(value: Tensor, weights: fb.Tensors, keep_graph: bool = False) -> fb.Tensors:
    """Return the gradient by name; with ``keep_graph`` another one may go through the same forward."""
    grads = torch.autograd.grad(value, list(weights.values()), retain_graph=keep_graph, allow_unused=True)
    return {n: g for n, g in zip(weights, grads) if g is not None}

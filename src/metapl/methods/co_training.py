"""Co-training (Blum & Mitchell 1998) in its deep form: two nets teach each other the rows that they are sure of.

Nets f_0 and f_1 have their own weights. Each net learns from the labels of the other one alone, k = 0, 1:

C1  p_k = softmax f_k(weak view), y_k = argmax p_k   (no gradient)
C2  top: m_k,i = 1 for the surest rows of each class in the batch, share * B / C rows of each;
    threshold: m_k,i = [max p_k,i >= threshold]
C3  loss_k = CE(y_l, f_k(x_l)) + weight * ramp(t) * mean_i m_o,i CE(y_o,i, f_k(learn view_i)),  o = 1 - k

The result is the mean of both nets' probabilities. ``views: features`` gives each net one half of a table's features.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metapl.errors import UserError
from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.methods import fields
from metapl.methods.parts import make_report, unlabeled_views
from metapl.models.combined import Average, Masked
from metapl.optim import Learner, ramp
from metapl.pseudo_labels import confidence_mask, surest_per_class
from metapl.types import Context, SemiBatch, StepReport, View
from metapl.utils.fields import NOT_NEGATIVE, SHARE, Settings, Tries


class CoTraining:
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})
    extra_steps = 0

    @dataclass(frozen=True)
    class Config(Settings, group="co_training"):
        """Settings of co-training."""

        views: Annotated[
            Literal["nets", "features"], "features = each net gets a random half of a table's features"
        ] = "nets"
        select: Annotated[Literal["top", "threshold"], "which labels of a net the other one learns (C2)"] = "top"
        share: Annotated[
            float, "share of the batch to learn, the same number of rows from every class (top); 0 = off", SHARE
        ] = 0.6
        threshold: Annotated[
            float,
            "least confidence of a label (threshold); above 1 none passes",
            NOT_NEGATIVE,
            Tries("0.5,0.7,0.8,0.9,0.95,0.99", idle=("select", "top")),
        ] = 0.8
        learn_view: Annotated[Literal["strong", "weak"], "the view on which a label is learnt"] = "strong"
        weight: fields.Weight = 1.0
        ramp: fields.Ramp = 0.0
        label_smoothing: fields.LabelSmoothing = 0.0

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.steps = config, context.steps
        models = [context.build_model(), context.build_model()]
        if config.views == "features":
            models = [Masked(m, half) for m, half in zip(models, _halves(context.row_shape, models[0]))]
        elif all(torch.equal(a, b) for a, b in zip(models[0].parameters(), models[1].parameters())):
            warnings.warn(
                "both networks of co_training start from the same weights: neither can teach the other anything. "
                "For rows of numbers, co_training.views=features gives each network half of the columns",
                stacklevel=2,
            )
        self.net, self.second = (Learner(m, context.optim, context.steps) for m in models)
        selects = config.threshold <= 1 if config.select == "threshold" else config.share > 0
        self.active = config.weight > 0 and selects  # if not, these are two supervised trainings, exactly

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c = self.config
        weak, strong = unlabeled_views(batch)
        views = () if not self.active else (weak, strong) if c.learn_view == "strong" else (weak,)
        nets = (self.net, self.second)
        z = [net(batch.x_l, *views) for net in nets]
        supervised = [cross_entropy(z_k[0], batch.y_l, c.label_smoothing) for z_k in z]
        losses, logged = supervised, {"supervised": _mean(supervised)}
        if self.active:
            unlabeled, more = self._unlabeled([z_k[1] for z_k in z], [z_k[-1] for z_k in z])
            weight = c.weight * ramp(t, round(c.ramp * self.steps))
            losses, logged = [s + weight * u for s, u in zip(supervised, unlabeled)], logged | more  # C3
        for net, loss in zip(nets, losses):
            net.step(loss, t)
        return make_report(_mean(losses), logged)

    def _unlabeled(self, z_weak: list[Tensor], z_learn: list[Tensor]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the second term of C3 for each net before its weight, 0-d each, and numbers to log."""
        p = [torch.softmax(z.detach(), -1) for z in z_weak]  # C1
        y, m = [p_k.argmax(-1) for p_k in p], [self._selected(p_k) for p_k in p]
        unlabeled = [masked_cross_entropy(z, y_o, m_o) for z, y_o, m_o in zip(z_learn, reversed(y), reversed(m))]
        agreement = (y[0] == y[1]).to(p[0].dtype).mean()
        mask_rate = _mean([m_k.mean() for m_k in m])
        return unlabeled, {"unlabeled": _mean(unlabeled), "mask_rate": mask_rate, "agreement": agreement}

    def _selected(self, p: Tensor) -> Tensor:
        c = self.config
        if c.select == "threshold":
            return confidence_mask(p, c.threshold)  # C2
        return surest_per_class(p, max(1, round(c.share * p.shape[0] / p.shape[1])))

    def eval_model(self) -> nn.Module:
        return Average([self.net.ema.model, self.second.ema.model]).eval()

    def candidates(self) -> dict[str, nn.Module]:
        return {"average": self.eval_model(), "first": self.net.ema.model, "second": self.second.ema.model}

    def state_dict(self) -> dict[str, Any]:
        return {"net": self.net.state_dict(), "second": self.second.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.second.load_state_dict(state["second"])


def _mean(values: list[Tensor]) -> Tensor:
    return torch.stack(values).mean()


def _halves(shape: tuple[int, ...], model: nn.Module) -> list[Tensor]:
    """Return two masks [features] that split a row at random, drawn from the global generator."""
    if len(shape) != 1 or shape[0] < 2:
        problem = f"views=features splits the features of a table, these rows have the shape {list(shape)}"
        raise UserError(problem, "Use co_training.views=nets.", "co_training.views")
    first = (torch.randperm(shape[0]) < (shape[0] + 1) // 2).to(next(model.parameters()).device)
    return [first, ~first]

"""Pseudo-labelling inside the batch (Lee 2013), with a confidence threshold.

P1  p = softmax f(weak view), y = argmax p, mask = [max p >= threshold]   (no gradient)
P2  loss = CE(y_l, f(x_l)) + weight * ramp(t) * mean_i mask_i CE(y_i, f(weak view_i))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metapl import thresholds
from metapl.errors import UserError
from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.methods.base import OneNetwork
from metapl.optim import ramp
from metapl.types import Context, SemiBatch, StepReport, View


class PseudoLabel(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak"})

    @dataclass(frozen=True)
    class Config:
        """Settings of in-batch pseudo-labelling."""

        threshold: float = 0.95  # least confidence of a pseudo label; above 1 none passes
        selection: thresholds.Kind = "fixed"  # how the threshold moves: docs/thresholds.md
        selection_decay: float = 0.999  # of the moving averages behind adaptive and soft, which take no threshold
        weight: float = 1.0  # of the unlabelled loss
        ramp: float = 0.4  # share of the run over which the weight rises from 0
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "pseudo_label")
            thresholds.check(self.selection, self.threshold, self.selection_decay, "pseudo_label")
            if self.weight < 0 or not 0 <= self.ramp <= 1:
                raise UserError("weight must be at least 0, ramp in 0..1", "", "pseudo_label")

    def __init__(self, config: Config, context: Context) -> None:
        kind, threshold, decay = config.selection, config.threshold, config.selection_decay
        super().__init__(context, thresholds.make(kind, threshold, decay, context))
        self.config, self.steps = config, context.steps
        self.active = config.weight > 0 and self.selection.active  # else supervised training, exactly

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c = self.config
        z_l, *z_u = self.net(batch.x_l, batch.u_weak) if self.active else self.net(batch.x_l)  # type: ignore[arg-type]
        supervised = cross_entropy(z_l, batch.y_l, c.label_smoothing)
        unlabeled, mask = self._unlabeled(z_u[0], batch.u_index, t) if z_u else (supervised.new_zeros(()),) * 2
        weight = c.weight * ramp(t, round(c.ramp * self.steps))
        loss = supervised + weight * unlabeled if z_u else supervised  # P2
        self.net.step(loss, t)
        parts = {"loss": loss, "supervised": supervised, "unlabeled": unlabeled, "mask_rate": mask.mean()}
        parts |= self.selection.report()
        return StepReport({k: v.detach() for k, v in parts.items()})

    def _unlabeled(self, z_u: Tensor, index: Tensor, t: int) -> tuple[Tensor, Tensor]:
        p = torch.softmax(z_u.detach(), -1)  # P1
        mask = self.selection.weights(p, index, t)
        return masked_cross_entropy(z_u, p.argmax(-1), mask), mask

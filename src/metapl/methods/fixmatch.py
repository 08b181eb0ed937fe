"""FixMatch (Sohn et al. 2020): hard pseudo labels from the weak view, learnt on the strong view.

F1  p = softmax f(weak view), y = argmax p, mask = [max p >= threshold]   (no gradient; paper eq. 4)
F2  loss = CE(y_l, f(x_l)) + weight * mean_i mask_i CE(y_i, f(strong view_i))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.methods.base import OneNetwork
from metapl.pseudo_labels import confidence_mask
from metapl.types import Context, SemiBatch, StepReport, View


class FixMatch(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of FixMatch."""

        threshold: float = 0.95  # least confidence of a pseudo label; above 1 none passes
        weight: float = 1.0  # of the unlabelled loss (lambda_u)
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "fixmatch")
            if self.threshold < 0 or self.weight < 0:
                raise UserError("threshold and weight must be at least 0", "", "fixmatch")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)
        self.config = config
        self.active = config.weight > 0 and config.threshold <= 1  # else supervised training, exactly

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c = self.config
        views = (batch.x_l, batch.u_weak, batch.u_strong) if self.active else (batch.x_l,)
        z_l, *z_u = self.net(*views)
        supervised = cross_entropy(z_l, batch.y_l, c.label_smoothing)
        unlabeled, mask = self._unlabeled(*z_u) if z_u else (supervised.new_zeros(()),) * 2
        loss = supervised + c.weight * unlabeled if z_u else supervised  # F2
        self.net.step(loss, t)
        parts = {"loss": loss, "supervised": supervised, "unlabeled": unlabeled, "mask_rate": mask.mean()}
        return StepReport({k: v.detach() for k, v in parts.items()})

    def _unlabeled(self, z_weak: Tensor, z_strong: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.softmax(z_weak.detach(), -1)  # F1
        mask = confidence_mask(p, self.config.threshold)
        return masked_cross_entropy(z_strong, p.argmax(-1), mask), mask

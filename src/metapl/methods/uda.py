"""UDA (Xie et al. 2020): the strong view must agree with the sharpened, confident weak view.

U1  q = softmax(f(weak view) / temperature), mask = [max softmax f(weak view) >= threshold]   (no gradient)
U2  loss = CE(y_l, f(x_l)) + weight * ramp(t) * mean_i mask_i CE(q_i, f(strong view_i))
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from metapl import thresholds
from metapl.errors import UserError
from metapl.losses import consistency, cross_entropy
from metapl.methods.base import OneNetwork
from metapl.optim import ramp
from metapl.pseudo_labels import sharpen
from metapl.types import Context, SemiBatch, StepReport, View


class UDA(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of UDA."""

        threshold: float | str = 0.8  # least confidence of a target (above 1: none passes), or precision=0.8
        selection: thresholds.Kind = "fixed"  # how the threshold moves: docs/thresholds.md
        selection_decay: float = 0.999  # of the moving averages behind adaptive and soft, which take no threshold
        temperature: float = 0.4  # below 1 sharpens the target
        weight: float = 1.0  # of the consistency loss
        ramp: float = 0.0  # share of the run over which the weight rises from 0
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "uda")
            thresholds.check(self.selection, self.threshold, self.selection_decay, "uda")
            if self.weight < 0 or not 0 <= self.ramp <= 1 or self.temperature <= 0:
                remedy = "weight must be at least 0, ramp in 0..1, temperature above 0."
                raise UserError("a setting is out of range", remedy, "uda")

    def __init__(self, config: Config, context: Context) -> None:
        kind, threshold, decay = config.selection, config.threshold, config.selection_decay
        super().__init__(context, thresholds.make(kind, threshold, decay, context))
        self.config, self.steps = config, context.steps
        self.active = config.weight > 0 and self.selection.active  # else supervised training, exactly

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c = self.config
        views = (batch.x_l, batch.u_weak, batch.u_strong) if self.active else (batch.x_l,)
        z_l, *z_u = self.net(*views)
        supervised = cross_entropy(z_l, batch.y_l, c.label_smoothing)
        loss, parts = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            parts["unlabeled"], mask = self._unlabeled(z_u[0], z_u[1], batch.u_index, t)
            loss = supervised + c.weight * ramp(t, round(c.ramp * self.steps)) * parts["unlabeled"]  # U2
            parts["mask_rate"] = mask.mean()
        self.net.step(loss, t)
        parts |= self.selection.report()
        return StepReport({k: v.detach() for k, v in {"loss": loss, **parts}.items()})

    def _unlabeled(self, z_weak: Tensor, z_strong: Tensor, index: Tensor, t: int) -> tuple[Tensor, Tensor]:
        mask = self.selection.weights(torch.softmax(z_weak.detach(), -1), index, t)  # U1
        return consistency(z_strong, sharpen(z_weak, self.config.temperature), mask), mask

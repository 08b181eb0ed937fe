"""Supervised training on the labelled rows alone: the method that every other one must beat.

S1  loss = CE(y_l, f(x_l)) with label smoothing; the averaged weights (EMA) are the result.
"""

from __future__ import annotations

from dataclasses import dataclass

from metapl.losses import cross_entropy
from metapl.methods import fields
from metapl.methods.base import OneNetwork
from metapl.methods.parts import make_report
from metapl.types import Context, SemiBatch, StepReport
from metapl.utils.fields import Settings


class Supervised(OneNetwork):
    """See the module's text for the equation."""

    @dataclass(frozen=True)
    class Config(Settings, group="supervised"):
        """Settings of supervised training."""

        label_smoothing: fields.LabelSmoothing = 0.0

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)
        self.config = config

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        (z_l,) = self.net(batch.x_l)
        loss = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)  # S1
        self.net.step(loss, t)
        return make_report(loss, {"supervised": loss})

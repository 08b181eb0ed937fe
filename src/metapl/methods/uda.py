"""UDA (Xie et al. 2020): the strong view must agree with the sharpened, confident weak view.

U1  q = softmax(f(weak view) / temperature), mask = [max softmax f(weak view) >= threshold]   (no gradient)
U2  loss = CE(y_l, f(x_l)) + weight * ramp(t) * mean_i mask_i CE(q_i, f(strong view_i))

The second term of U2 is ``parts.UDATerm``; ``thresholds`` has other masks than U1's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from metapl.losses import cross_entropy
from metapl.methods import fields
from metapl.methods.base import OneNetwork
from metapl.methods.parts import UDATerm, make_report, unlabeled_views
from metapl.thresholds import check_threshold, make_threshold
from metapl.types import Context, SemiBatch, StepReport, View
from metapl.utils.fields import POSITIVE, Settings, Tries


class UDA(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config(Settings, group="uda"):
        """Settings of UDA."""

        threshold: fields.ThresholdSetting = 0.8
        selection: fields.SelectionKind = "fixed"
        selection_decay: fields.SelectionDecay = 0.999
        temperature: Annotated[float, "below 1 sharpens the target", POSITIVE, Tries("0.3,0.4,0.5,0.7,1")] = 0.4
        weight: fields.UdaWeight = 1.0
        ramp: fields.Ramp = 0.0
        label_smoothing: fields.LabelSmoothing = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            check_threshold(self.selection, self.threshold, self.selection_decay, "uda")

    def __init__(self, config: Config, context: Context) -> None:
        selection = make_threshold(config.selection, config.threshold, config.selection_decay, context)
        super().__init__(context, selection)
        self.config = config
        self.uda = UDATerm(selection, config.weight, config.temperature, round(config.ramp * context.steps))

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        views = unlabeled_views(batch) if self.uda.active else ()  # if not, this is supervised training, exactly
        z_l, *z_u = self.net(batch.x_l, *views)
        supervised = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)
        loss, logged = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            uda, more = self.uda(z_u[0], z_u[1], batch.u_index, t)  # U1
            loss = supervised + self.uda.factor(t) * uda  # U2
            logged |= {"unlabeled": uda, **more}
        self.net.step(loss, t)
        return make_report(loss, logged)

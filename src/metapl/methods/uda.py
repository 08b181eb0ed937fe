"""UDA (Xie et al. 2020): the strong view must agree with the sharpened, confident weak view.

U1  q = softmax(f(weak view) / temperature), mask = [max softmax f(weak view) >= threshold]   (no gradient)
U2  loss = CE(y_l, f(x_l)) + weight * ramp(t) * mean_i mask_i CE(q_i, f(strong view_i))

The second term of U2 is ``parts.UDATerm``; ``thresholds`` has other masks than U1's.
"""

from __future__ import annotations

from dataclasses import dataclass

from metapl.errors import UserError
from metapl.losses import cross_entropy
from metapl.methods.base import OneNetwork
from metapl.methods.parts import UDATerm, make_report, unlabeled_views
from metapl.thresholds import Selection, check_threshold, make_threshold
from metapl.types import Context, SemiBatch, StepReport, View


class UDA(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of UDA."""

        threshold: float | str = 0.8  # least confidence of a target (above 1: none passes), or precision=0.8
        selection: Selection = "fixed"  # how the threshold moves: docs/thresholds.md
        selection_decay: float = 0.999  # decay of the averages that adaptive and soft use in place of the threshold
        temperature: float = 0.4  # below 1 sharpens the target
        weight: float = 1.0  # of the consistency loss
        ramp: float = 0.0  # share of the run over which the weight rises from 0
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "uda")
            check_threshold(self.selection, self.threshold, self.selection_decay, "uda")
            if self.weight < 0 or not 0 <= self.ramp <= 1 or self.temperature <= 0:
                remedy = "weight must be at least 0, ramp in 0..1, temperature above 0."
                raise UserError("a setting is out of range", remedy, "uda")

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

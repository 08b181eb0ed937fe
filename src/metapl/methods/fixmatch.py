"""FixMatch (Sohn et al. 2020): hard pseudo labels from the weak view, learnt on the strong view.

F1  p = softmax f(weak view), y = argmax p, mask = [max p >= threshold]   (no gradient; paper eq. 4)
F2  loss = CE(y_l, f(x_l)) + weight * mean_i mask_i CE(y_i, f(strong view_i))

The step is ``base.WeakToStrong`` (M1, M2); ``thresholds`` has other masks than F1's.
"""

from __future__ import annotations

from dataclasses import dataclass

from metapl.methods import fields
from metapl.methods.base import WeakToStrong
from metapl.thresholds import check_threshold, make_threshold
from metapl.types import Context
from metapl.utils.fields import Settings


class FixMatch(WeakToStrong):
    """See the module's text for the equations."""

    @dataclass(frozen=True)
    class Config(Settings, group="fixmatch"):
        """Settings of FixMatch."""

        threshold: fields.ThresholdSetting = 0.95
        selection: fields.SelectionKind = "fixed"
        selection_decay: fields.SelectionDecay = 0.999
        weight: fields.Weight = 1.0
        label_smoothing: fields.LabelSmoothing = 0.0

        def __post_init__(self) -> None:
            super().__post_init__()
            check_threshold(self.selection, self.threshold, self.selection_decay, "fixmatch")

    def __init__(self, config: Config, context: Context) -> None:
        selection = make_threshold(config.selection, config.threshold, config.selection_decay, context)
        super().__init__(config, context, selection)

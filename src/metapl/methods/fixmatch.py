"""FixMatch (Sohn et al. 2020): hard pseudo labels from the weak view, learnt on the strong view.

F1  p = softmax f(weak view), y = argmax p, mask = [max p >= threshold]   (no gradient; paper eq. 4)
F2  loss = CE(y_l, f(x_l)) + weight * mean_i mask_i CE(y_i, f(strong view_i))

The step is ``base.WeakToStrong`` (M1, M2); ``thresholds`` has other masks than F1's.
"""

from __future__ import annotations

from dataclasses import dataclass

from metapl.errors import UserError
from metapl.methods.base import WeakToStrong
from metapl.thresholds import Selection, check_threshold, make_threshold
from metapl.types import Context


class FixMatch(WeakToStrong):
    """See the module's text for the equations."""

    @dataclass(frozen=True)
    class Config:
        """Settings of FixMatch."""

        threshold: float | str = 0.95  # least confidence of a pseudo label (above 1: none passes), or precision=0.95
        selection: Selection = "fixed"  # how the threshold moves: docs/thresholds.md
        selection_decay: float = 0.999  # decay of the averages that adaptive and soft use in place of the threshold
        weight: float = 1.0  # of the unlabelled loss (lambda_u)
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            check_threshold(self.selection, self.threshold, self.selection_decay, "fixmatch")
            if not 0 <= self.label_smoothing < 1 or self.weight < 0:
                raise UserError("label_smoothing must be in 0..1, below 1, and weight at least 0", "", "fixmatch")

    def __init__(self, config: Config, context: Context) -> None:
        selection = make_threshold(config.selection, config.threshold, config.selection_decay, context)
        super().__init__(config, context, selection)

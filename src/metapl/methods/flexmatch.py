"""FlexMatch (Zhang et al. 2021): FixMatch with a threshold per class that rises as the class is learnt.

X1  p = softmax f(weak view), q = max p, y = argmax p   (no gradient)
X2  n_c = rows of the pool whose label, when last above the threshold, was c; N rows in the pool
X3  beta_c = n_c / max(max_c n_c, N - sum_c n_c)   (with the paper's threshold warm-up)
X4  T_c = M(beta_c) * threshold, M(x) = x / (2 - x)
X5  loss = CE(y_l, f(x_l)) + weight * mean_i [q_i > T_(y_i)] CE(y_i, f(strong view_i)); then n learns from this batch

X2 to X4 are ``thresholds.Curriculum``; the step is ``base.WeakToStrong``.
"""

from __future__ import annotations

from dataclasses import dataclass

from metapl.errors import UserError
from metapl.methods.base import WeakToStrong
from metapl.thresholds import Curriculum, check_threshold
from metapl.types import Context


class FlexMatch(WeakToStrong):
    """See the module's text for the equations."""

    @dataclass(frozen=True)
    class Config:
        """Settings of FlexMatch."""

        threshold: float = 0.95  # labels above it are remembered; also the highest threshold of a class
        weight: float = 1.0  # of the unlabelled loss (lambda)
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            check_threshold("curriculum", self.threshold, 0.0, "flexmatch")
            if not 0 <= self.label_smoothing < 1 or self.weight < 0:
                raise UserError("label_smoothing must be in 0..1, below 1, and weight at least 0", "", "flexmatch")

    def __init__(self, config: Config, context: Context) -> None:
        curriculum = Curriculum(config.threshold, context.num_classes, context.pool_size)
        super().__init__(config, context, curriculum)

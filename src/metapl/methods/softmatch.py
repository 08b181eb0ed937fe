"""SoftMatch (Chen et al. 2023): every pseudo label counts, the less sure ones less, by a truncated Gaussian.

S1  p = softmax f(weak view), y = argmax p   (no gradient)
S2  q = max UA(p), UA(p) = p / m scaled to sum 1, m [C] = moving average of mean p   (uniform alignment; off: q = max p)
S3  mu, v = moving averages of the mean and the unbiased variance of q, from 1/C and 1 on
S4  w = exp(-(q - mu)^2 / (2 v / n_sigma^2)) where q < mu, else 1
S5  loss = CE(y_l, f(x_l)) + weight * mean_i w_i CE(y_i, f(strong view_i))

S2 to S4 are ``thresholds.Soft``; the step is ``base.WeakToStrong``. All averages include this batch.
"""

from __future__ import annotations

from dataclasses import dataclass

from metapl.errors import UserError
from metapl.methods.base import WeakToStrong
from metapl.thresholds import Soft
from metapl.types import Context


class SoftMatch(WeakToStrong):
    """See the module's text for the equations."""

    @dataclass(frozen=True)
    class Config:
        """Settings of SoftMatch."""

        align: bool = True  # uniform alignment (S2)
        n_sigma: float = 2.0  # the larger, the faster a row below the mean loses its weight
        decay: float = 0.999  # of the moving averages; take less in shorter runs
        weight: float = 1.0  # of the unlabelled loss (lambda_u)
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            if not 0 <= self.decay < 1 or not 0 <= self.label_smoothing < 1:
                raise UserError("decay and label_smoothing must be at least 0 and below 1", "", "softmatch")
            if self.weight < 0 or self.n_sigma <= 0:
                raise UserError("weight must be at least 0, n_sigma above 0", "", "softmatch")

    def __init__(self, config: Config, context: Context) -> None:
        soft = Soft(context.num_classes, config.decay, config.n_sigma, config.align)
        super().__init__(config, context, soft)

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
from typing import Annotated

from metapl.methods import fields
from metapl.methods.base import WeakToStrong
from metapl.thresholds import Curriculum
from metapl.types import Context
from metapl.utils.fields import SHARE, Settings, Tries


class FlexMatch(WeakToStrong):
    """See the module's text for the equations."""

    @dataclass(frozen=True)
    class Config(Settings, group="flexmatch"):
        """Settings of FlexMatch."""

        threshold: Annotated[
            float,
            "labels above it are remembered; also the highest threshold of a class",
            SHARE,
            Tries("0.5,0.7,0.8,0.9,0.95,0.99"),
        ] = 0.95
        weight: fields.Weight = 1.0
        label_smoothing: fields.LabelSmoothing = 0.0

    def __init__(self, config: Config, context: Context) -> None:
        curriculum = Curriculum(config.threshold, context.num_classes, context.pool_size)
        super().__init__(config, context, curriculum)

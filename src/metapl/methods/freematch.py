"""FreeMatch (Wang et al. 2023): thresholds that follow the network's own confidence, and a loss against unfair classes.

R1  p = softmax f(weak view), q = max p, y = argmax p   (no gradient)
R2  tau, m [C] = moving averages of mean q and mean p, from 1/C on; T_c = tau * m_c / max_c m_c
R3  w = [q > T_y], Q = softmax f(strong view), P = mean_i w_i Q_i, H = mean_i w_i onehot(argmax Q_i)
R4  h [C] = moving average of mean_i onehot(y_i), from 1/C on
R5  unfair = sum_c S(m / h)_c log S(P / H)_c, S(x) = x / sum_c x; classes with H_c = 0 have no part in S(P / H)
R6  loss = CE(y_l, f(x_l)) + weight * mean_i w_i CE(y_i, f(strong view_i)) + fairness * unfair

R2 and w are ``thresholds.Adaptive``; the step is ``base.WeakToStrong``. All averages include this batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from metapl.methods import fields
from metapl.methods.base import WeakToStrong
from metapl.thresholds import Adaptive
from metapl.types import Context
from metapl.utils.fields import NOT_NEGATIVE, Settings


class FreeMatch(WeakToStrong):
    """See the module's text for the equations."""

    @dataclass(frozen=True)
    class Config(Settings, group="freematch"):
        """Settings of FreeMatch."""

        fairness: Annotated[float, "weight of the fairness loss (w_f); 0 = off", NOT_NEGATIVE] = 0.05
        decay: fields.AverageDecay = 0.999
        weight: fields.Weight = 1.0
        label_smoothing: fields.LabelSmoothing = 0.0

    def __init__(self, config: Config, context: Context) -> None:
        self.adaptive = Adaptive(context.num_classes, config.decay)
        super().__init__(config, context, self.adaptive)
        self.active = config.weight > 0 or config.fairness > 0
        self.shares = torch.full((context.num_classes,), 1 / context.num_classes)  # h in R4

    def terms(self, p: Tensor, w: Tensor, z_strong: Tensor) -> dict[str, tuple[float, Tensor]]:
        terms = super().terms(p, w, z_strong)
        if self.config.fairness:
            decay, shares = self.config.decay, one_hot(p).mean(0)
            self.shares = decay * self.shares.to(p) + (1 - decay) * shares  # R4
            terms["unfair"] = (self.config.fairness, unfair(z_strong, w, self.adaptive.mean_p, self.shares))
        return terms

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "shares": self.shares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.shares = state["shares"]


def one_hot(p: Tensor) -> Tensor:
    """Return [B, C] 1.0 at each row's largest entry, in p's dtype."""
    return F.one_hot(p.argmax(-1), p.shape[-1]).to(p.dtype)


def unfair(z_strong: Tensor, w: Tensor, m: Tensor, h: Tensor) -> Tensor:
    """Return R5, 0-d; it is 0 if no row is accepted. ``m`` and ``h`` [C] have no gradient."""
    Q = torch.softmax(z_strong, -1)
    P, H = (w[:, None] * Q).mean(0), (w[:, None] * one_hot(Q)).mean(0)
    present = H > 0
    ratio = torch.where(present, P / torch.where(present, H, 1.0), 0.0)
    ratio = torch.where(present, ratio / ratio.sum().clamp_min(torch.finfo(ratio.dtype).tiny), 1.0)  # log 1 = 0
    target = m / h.clamp_min(torch.finfo(h.dtype).tiny)
    return (target / target.sum() * ratio.log()).sum()

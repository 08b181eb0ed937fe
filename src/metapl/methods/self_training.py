"""Self-training (Scudder 1965; Yarowsky 1995; Noisy Student, Xie et al. 2020): a trained net teaches a fresh one.

The main phase has ``rounds`` equal parts. Round 0 trains a teacher on the labelled rows alone. Every later round
begins with labels for the whole pool and a fresh student, whose average is the teacher of the next round:

N1  p_i = softmax f_ema(plain row i), w_i = [max p_i >= threshold], for every i of the pool   (once per round)
N2  fresh weights, a fresh optimiser, a learning-rate schedule over the round
N3  loss = CE(y_l, f(x_l)) + weight * mean_i w_i CE(q_i, f(the student's view_i)),  q = p (soft) or its argmax (hard)

``balance`` changes N1's weights so that every class has the same share (``pseudo_labels.class_balance``).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metapl.losses import consistency, cross_entropy, masked_cross_entropy
from metapl.methods import fields
from metapl.methods.base import OneNetwork
from metapl.methods.parts import make_report, unlabeled_views
from metapl.optim import Learner
from metapl.pseudo_labels import class_balance, confidence_mask, label_pool
from metapl.types import Context, PoolPasses, SemiBatch, StepReport, View
from metapl.utils.fields import AT_LEAST_ONE, NOT_NEGATIVE, Settings, Tries


class SelfTraining(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config(Settings, group="self_training"):
        """Settings of self-training."""

        rounds: Annotated[
            int, "one for the first teacher, then one per student; 1 = supervised training", AT_LEAST_ONE
        ] = 3
        labels: Annotated[Literal["hard", "soft"], "the student's targets (N3)"] = "hard"
        threshold: Annotated[
            float, "least confidence of a target; above 1 none passes", NOT_NEGATIVE, Tries("0.5,0.7,0.8,0.9,0.95,0.99")
        ] = 0.8
        balance: Annotated[bool, "give every class the same share of the targets (class_balance)"] = False
        student_view: Annotated[Literal["strong", "weak"], "strong = the noisy student"] = "strong"
        keep_weights: Annotated[bool, "start a student from its teacher's weights instead of fresh ones"] = False
        weight: fields.Weight = 1.0
        label_smoothing: fields.LabelSmoothing = 0.0

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)
        self.config, self.context = config, context
        active = config.weight > 0 and config.threshold <= 1  # if not, this is supervised training, exactly
        self.rounds = config.rounds if active else 1
        rounds = min(self.rounds, context.steps)
        self.starts = [k * context.steps // rounds for k in range(rounds)]
        self.p, self.w = torch.zeros(0, context.num_classes), torch.zeros(0)  # N1, of the pool; from round 1 on
        self._begin(0, self.net.model)

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        if (current_round := bisect_right(self.starts, t) - 1) > self.round:
            self._next_round(current_round)
        weak, strong = unlabeled_views(batch)
        student_view = strong if self.config.student_view == "strong" else weak
        z_l, *z_u = self.net(batch.x_l, student_view) if self.round else self.net(batch.x_l)
        supervised = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)
        loss, logged = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            unlabeled, shares = self._unlabeled(z_u[0], batch.u_index)
            loss = supervised + self.config.weight * unlabeled  # N3
            logged |= {"unlabeled": unlabeled, **shares}
        self.net.step(loss, max(0, t - self.starts[self.round]))
        if z_u:
            self.net.ema.measure(weak)
        return make_report(loss, {**logged, "round": supervised.new_tensor(float(self.round))})

    def pool_passes(self, epoch: int) -> PoolPasses:
        return PoolPasses(rounds=self.rounds - 1)

    def _unlabeled(self, z: Tensor, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the second term of N3 before its weight, 0-d, and shares of rows to log."""
        p, w = self.p[index], self.w[index]
        y = p.argmax(-1)
        unlabeled = consistency(z, p, w) if self.config.labels == "soft" else masked_cross_entropy(z, y, w)
        return unlabeled, {"mask_rate": (w > 0).float().mean(), "agreement": (z.argmax(-1) == y).float().mean()}

    def _next_round(self, k: int) -> None:
        teacher = self.net.ema.model
        self.p = label_pool(teacher, self.context)  # N1
        sure = confidence_mask(self.p, self.config.threshold)
        self.w = class_balance(self.p, sure) if self.config.balance else sure
        student = self.context.build_model()  # N2
        if self.config.keep_weights:
            student.load_state_dict(teacher.state_dict())
        self._begin(k, student)

    def _begin(self, k: int, model: nn.Module) -> None:
        """Start round k. A student that learns from strong views has its own BatchNorm statistics for plain rows."""
        end = [*self.starts, self.context.steps][k + 1]
        strong = k > 0 and self.config.student_view == "strong"
        self.net = Learner(model, self.context.optim, end - self.starts[k], own_statistics=strong)
        self.round = k

    def state_dict(self) -> dict[str, Any]:
        labels = {"p": self.p, "w": self.w} if self.round else {}
        return {"net": self.net.state_dict(), "round": self.round, **labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._begin(state["round"], self.net.model)
        self.net.load_state_dict(state["net"])
        self.p, self.w = state.get("p", self.p), state.get("w", self.w)

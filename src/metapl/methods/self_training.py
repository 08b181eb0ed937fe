"""Self-training (Scudder 1965; Yarowsky 1995; Noisy Student, Xie et al. 2020): a trained net labels for a fresh one.

The main phase is cut into ``rounds`` equal parts. Round 0 trains a teacher on the labelled rows alone. Every later
round begins with labels for the whole pool and a fresh student, whose average then is the next round's teacher:

N1  p_i = softmax f_ema(plain row i), w_i = [max p_i >= threshold], for every i of the pool   (once per round)
N2  fresh weights, fresh optimiser, a learning-rate schedule over the round
N3  loss = CE(y_l, f(x_l)) + weight * mean_i w_i CE(q_i, f(the student's view_i)),  q = p (soft) or its argmax (hard)

``balance`` makes N1's weights give every class its share (``pseudo_labels.class_balance``).
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metapl.errors import UserError
from metapl.losses import consistency, cross_entropy, masked_cross_entropy
from metapl.methods.base import OneNetwork, label_pool
from metapl.optim import Learner
from metapl.pseudo_labels import class_balance, confidence_mask
from metapl.types import Context, PoolPasses, SemiBatch, StepReport, View


class SelfTraining(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of self-training."""

        rounds: int = 3  # the teacher's on labelled rows, then one per student; 1 = supervised training
        labels: Literal["hard", "soft"] = "hard"  # what the student is taught (N3)
        threshold: float = 0.8  # least confidence of a row that is taught; above 1 none is
        balance: bool = False  # every class its share of the taught rows: the surest ones, or few ones more heavily
        student_view: Literal["strong", "weak"] = "strong"  # strong = the noisy student
        keep_weights: bool = False  # the student goes on from its teacher's weights instead of fresh ones
        weight: float = 1.0  # of the unlabelled loss
        label_smoothing: float = 0.0  # on the labelled rows

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "self_training")
            if self.rounds < 1 or self.threshold < 0 or self.weight < 0:
                raise UserError("rounds must be at least 1, threshold and weight at least 0", "", "self_training")

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)
        self.config, self.context = config, context
        active = config.weight > 0 and config.threshold <= 1  # else supervised training, exactly
        self.rounds = config.rounds if active else 1
        rounds = min(self.rounds, context.steps)
        self.starts = [k * context.steps // rounds for k in range(rounds)]
        self.p, self.w = torch.zeros(0, context.num_classes), torch.zeros(0)  # of the pool, from round 1 on
        self._begin(0, self.net.model)

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        if (now := bisect_right(self.starts, t) - 1) > self.round:
            self._next(now)
        views = [batch.x_l] if not self.round else [batch.x_l, self._view(batch)]
        z_l, *z_u = self.net(*views)
        supervised = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)
        parts = {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        loss, parts = self._taught(z_u[0], batch.u_index, parts) if z_u else (supervised, parts)
        self.net.step(loss, max(0, t - self.starts[self.round]))
        if z_u and batch.u_weak is not None:
            self.net.ema.measure(batch.u_weak)
        parts |= {"loss": loss, "round": supervised.new_tensor(float(self.round))}
        return StepReport({k: v.detach() for k, v in parts.items()})

    def pool_passes(self, epoch: int) -> PoolPasses:
        return PoolPasses(rounds=self.rounds - 1)

    def _taught(self, z: Tensor, index: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """N3's loss, and ``parts`` with its unlabelled term."""
        p, w = self.p[index], self.w[index]
        y = p.argmax(-1)
        unlabeled = consistency(z, p, w) if self.config.labels == "soft" else masked_cross_entropy(z, y, w)
        shares = {"mask_rate": (w > 0).float().mean(), "agreement": (z.argmax(-1) == y).float().mean()}
        return parts["supervised"] + self.config.weight * unlabeled, {**parts, "unlabeled": unlabeled, **shares}

    def _view(self, batch: SemiBatch) -> Tensor:
        view = batch.u_strong if self.config.student_view == "strong" else batch.u_weak
        assert view is not None  # for the type checker: ``needs`` names both
        return view

    def _next(self, k: int) -> None:
        teacher = self.net.ema.model
        self.p = label_pool(teacher, self.context)  # N1
        sure = confidence_mask(self.p, self.config.threshold)
        self.w = class_balance(self.p, sure) if self.config.balance else sure
        student = self.context.build_model()  # N2
        if self.config.keep_weights:
            student.load_state_dict(teacher.state_dict())
        self._begin(k, student)

    def _begin(self, k: int, model: nn.Module) -> None:
        """Round k's player. A student that learns from strong views is judged by statistics of its own."""
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

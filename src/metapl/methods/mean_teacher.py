"""Mean Teacher (Tarvainen & Valpola 2017): a network must agree with its own moving average on another view.

M1  q = softmax f_ema(the teacher's view), f_ema: the moving average of the network's weights   (no gradient)
M2  mse: J = mean_i sum_c (softmax f_c(the student's view_i) - q[i,c])^2
    kl:  J = mean_i KL(q_i || softmax f(the student's view_i))
M3  loss = CE(y_l, f(x_l)) + weight * exp(-5 (1 - min(1, t / length))^2) * J,  length = ramp * steps
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor

from metapl.losses import cross_entropy, kl_divergence, squared_distance
from metapl.methods import fields
from metapl.methods.base import OneNetwork
from metapl.methods.parts import make_report, unlabeled_views
from metapl.optim import predict_logits, ramp
from metapl.types import Context, SemiBatch, StepReport, View
from metapl.utils.fields import NOT_NEGATIVE, SHARE, Settings, Tries


class MeanTeacher(OneNetwork):
    """See the module's text for the equations. The result is the teacher: the average."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config(Settings, group="mean_teacher"):
        """Settings of Mean Teacher."""

        consistency: Annotated[Literal["mse", "kl"], "the distance between student and teacher (M2)"] = "mse"
        weight: Annotated[float, "weight of the consistency loss", NOT_NEGATIVE, Tries("x0.3,x3")] = 10.0
        ramp: Annotated[
            float, "share of the run over which the weight rises, from 0.0067 of it (M3); 0 = at once", SHARE
        ] = 0.25
        student_view: Annotated[Literal["strong", "weak"], "the view of the student; the teacher gets the other"] = (
            "strong"
        )
        teacher_mode: Annotated[
            Literal["train", "eval"], "train = with dropout and the batch's BatchNorm statistics"
        ] = "train"
        label_smoothing: fields.LabelSmoothing = 0.0

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)
        self.config, self.length = config, round(config.ramp * context.steps)

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c = self.config
        weak, strong = unlabeled_views(batch)
        student_view, teacher_view = (strong, weak) if c.student_view == "strong" else (weak, strong)
        z_l, *z_u = self.net(batch.x_l, student_view) if c.weight else self.net(batch.x_l)
        supervised = cross_entropy(z_l, batch.y_l, c.label_smoothing)
        loss, logged = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            q = torch.softmax(self._teacher_logits(teacher_view), -1)  # M1
            distance = squared_distance if c.consistency == "mse" else kl_divergence
            logged["unlabeled"] = distance(z_u[0], q)  # M2
            logged["agreement"] = (z_u[0].argmax(-1) == q.argmax(-1)).to(q.dtype).mean()
            loss = supervised + c.weight * math.exp(-5 * (1 - ramp(t, self.length)) ** 2) * logged["unlabeled"]  # M3
        self.net.step(loss, t)
        return make_report(loss, logged)

    @torch.no_grad()
    def _teacher_logits(self, view: Tensor) -> Tensor:
        average = self.net.ema.model.train(self.config.teacher_mode == "train")
        logits = predict_logits(average, view)
        average.eval()
        return logits

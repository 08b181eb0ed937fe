"""Reduced Meta Pseudo Labels (Pham et al., CVPR 2021, appendix E): a stored teacher, recalibrated under feedback.

One big network in memory at any time; a small calibrator takes the teacher's place. E1 to E7 are those of ``mpl``.

R1  first ``teacher_share`` of the steps: loss = CE(y_l, f(x_l)) + uda   (E6 without feedback)
    uda = uda_weight * mean_i mask_i CE(softmax(f(weak)/temperature), f(strong))
R2  then l_i = log softmax f_ema(plain row i) is stored for every row i of the pool; the network and its optimiser are
    released, and a fresh student S takes their place
R3  p = softmax(l + h(exp l)) [B, C], h: a small MLP whose last layer starts at 0, so that p starts as the teacher's
R4  student step on CE(p, S(strong view)), no gradient into p   (E2)
R5  calibrator's loss = feedback_weight * mean_i sum_c stopgrad(r[i,c]) p[i,c], r by E3 to E5
R6  afterwards E7: a copy of the student's average is fine-tuned on the labelled rows; validation rows choose
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.errors import UserError
from metapl.losses import consistency, cross_entropy, soft_cross_entropy
from metapl.methods.base import descend, label_derivative, label_pool
from metapl.optim import Learner
from metapl.pseudo_labels import confidence_mask, sharpen
from metapl.types import Context, PoolPasses, SemiBatch, StepReport, View


class Calibrator(nn.Module):
    """R3: log-probabilities [B, C] to logits [B, C]; the identity before its first update."""

    def __init__(self, num_classes: int, units: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(num_classes, units), nn.Linear(units, num_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, log_p: Tensor) -> Tensor:
        """Logits. The MLP is shown the probabilities, which are bounded, and moves the log-probabilities."""
        moved: Tensor = log_p + self.out(torch.relu(self.hidden(log_p.exp())))
        return moved


class ReducedMPL:
    """See the module's text for the equations. ``net`` is the teacher, then the student."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of reduced Meta Pseudo Labels."""

        teacher_share: float = 0.4  # of the run, for the teacher; 1 = the teacher alone
        feedback: Literal["exact", "none"] = "exact"  # what reaches the calibrator; none = plain distillation
        feedback_weight: float = 0.3  # in R5, per unit of eta
        derivative: Literal["auto", "forward", "difference"] = "auto"  # how E4 is computed
        calibrator_units: int = 32  # hidden units
        calibrator_lr: float = 0.0  # peak learning rate; 0 = optim.lr
        uda_weight: float = 1.0  # of the teacher's consistency loss; 0 = off
        uda_threshold: float = 0.6  # least confidence of a consistency target; above 1 none passes
        uda_temperature: float = 0.7  # below 1 sharpens the consistency target
        label_smoothing: float = 0.0  # on the labelled rows, for the teacher
        finetune_steps: int = 100  # R6, after the main phase; 0 = off
        finetune_lr: float = 1e-3  # R6, plain SGD

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "mpl_reduced")
            if not 0 < self.teacher_share <= 1 or self.calibrator_units < 1 or self.uda_temperature <= 0:
                remedy = "teacher_share must be in 0..1 and above 0, like uda_temperature; calibrator_units at least 1."
                raise UserError("a setting is out of range", remedy, "mpl_reduced")
            weights = (self.feedback_weight, self.calibrator_lr, self.uda_weight, self.uda_threshold)
            if min(weights) < 0 or self.finetune_steps < 0 or self.finetune_lr <= 0:
                remedy = "Weights, threshold, rates and steps must be at least 0, finetune_lr above 0."
                raise UserError("a setting is out of range", remedy, "mpl_reduced")

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context, self.extra_steps = config, context, config.finetune_steps
        self.switch = max(1, round(config.teacher_share * context.steps))
        if context.build_teacher and self.switch >= context.steps:
            remedy = "Lower mpl_reduced.teacher_share, or leave teacher_model out."
            raise UserError(
                "there are no steps for a student, and the teacher is another network", remedy, "mpl_reduced"
            )
        self._begin(self._teacher(), student=False)
        self.calibrator: Learner | None = None  # without feedback there is nothing to calibrate by
        if config.feedback != "none" and config.feedback_weight > 0:
            small = Calibrator(context.num_classes, config.calibrator_units).to(_device(self.net.model))
            rate = replace(context.optim, lr=config.calibrator_lr or context.optim.lr)
            self.calibrator = Learner(small, rate, context.steps - self.switch)
        self.log_p: Tensor | None = None  # [N, C]; None = the teacher is still trained
        self.finetuned: nn.Module | None = None
        self.uda_active = config.uda_weight > 0 and config.uda_threshold <= 1

    def _teacher(self) -> nn.Module:
        return (self.context.build_teacher or self.context.build_model)()

    def _begin(self, model: nn.Module, student: bool) -> None:
        length = self.context.steps - self.switch if student else self.switch
        # As in mpl: the student learns from strong views only and is judged on plain rows.
        self.net = Learner(model, self.context.optim, length, own_statistics=student)

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        if t >= self.context.steps:
            return self._finetune(batch)
        if t >= self.switch and self.log_p is None:
            self._replace_teacher()
        parts = self._teacher_step(batch, t) if self.log_p is None else self._student_step(batch, t, self.log_p)
        return StepReport({k: v.detach() for k, v in parts.items()})

    def pool_passes(self, epoch: int) -> PoolPasses:
        return PoolPasses(rounds=1 if self.config.teacher_share < 1 else 0)  # R2

    def _teacher_step(self, batch: SemiBatch, t: int) -> dict[str, Tensor]:
        """R1."""
        c = self.config
        views = (batch.x_l, batch.u_weak, batch.u_strong) if self.uda_active else (batch.x_l,)
        z_l, *z_u = self.net(*views)  # type: ignore[arg-type]
        supervised = loss = cross_entropy(z_l, batch.y_l, c.label_smoothing)
        parts = {"supervised": supervised}
        if z_u:
            mask = confidence_mask(torch.softmax(z_u[0].detach(), -1), c.uda_threshold)
            uda = consistency(z_u[1], sharpen(z_u[0], c.uda_temperature), mask)
            loss, parts = supervised + c.uda_weight * uda, {**parts, "uda": uda, "mask_rate": mask.mean()}
        self.net.step(loss, t)
        return {"loss": loss, **parts}

    def _replace_teacher(self) -> None:
        """R2: at no time are there two big networks (the average beside each is a copy without an optimiser)."""
        p = label_pool(self.net.ema.model, self.context)
        self.log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        del self.net
        self._begin(self.context.build_model(), student=True)

    def _student_step(self, batch: SemiBatch, t: int, log_p: Tensor) -> dict[str, Tensor]:
        assert batch.u_strong is not None  # for the type checker: ``needs`` names both
        assert batch.u_weak is not None
        x, stored, local = batch.u_strong, log_p[batch.u_index], max(0, t - self.switch)
        p = torch.softmax(self.calibrator.model(stored) if self.calibrator else stored, -1)  # R3
        student, before = self.net, fb.snapshot(self.net.model)
        output = student.model(x)
        loss = soft_cross_entropy(output, p)
        student.step(loss, local)  # R4
        student.ema.measure(batch.u_weak)
        agreement = (output.argmax(-1) == p.argmax(-1)).to(p.dtype).mean()
        parts = {"loss": loss, "student": loss, "agreement": agreement}
        if self.calibrator:
            labeled, r = label_derivative(student, before, batch, x, self.config.derivative)  # E3 to E5
            feedback = fb.exact_loss(p, r)
            self.calibrator.step(self.config.feedback_weight * feedback, local)  # R5
            parts |= {"student_labeled": labeled, "feedback": feedback, "feedback_spread": r.std()}
            parts["shift"] = (p.detach() - stored.exp()).abs().sum(-1).mean() / 2
        return parts

    def _finetune(self, batch: SemiBatch) -> StepReport:
        """R6: plain SGD on the labelled rows, from the average."""
        if self.finetuned is None:
            self.finetuned = copy.deepcopy(self.net.ema.model).requires_grad_(True)
        loss = descend(self.finetuned, batch, self.config.finetune_lr)
        return StepReport({"loss": loss, "finetune": loss})

    def eval_model(self) -> nn.Module:
        return self.net.ema.model if self.finetuned is None else self.finetuned

    def candidates(self) -> dict[str, nn.Module]:
        name = "teacher" if self.log_p is None else "student"
        found = {f"{name}_ema": self.net.ema.model}
        return found if self.finetuned is None else {**found, f"{name}_finetuned": self.finetuned}

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"net": self.net.state_dict()}
        state |= {"calibrator": self.calibrator.state_dict()} if self.calibrator else {}
        state |= {} if self.log_p is None else {"log_p": self.log_p}
        return state if self.finetuned is None else {**state, "finetuned": self.finetuned.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        student = "log_p" in state
        del self.net
        self._begin(self.context.build_model() if student else self._teacher(), student)
        self.net.load_state_dict(state["net"])
        if self.calibrator:
            self.calibrator.load_state_dict(state["calibrator"])
        self.log_p, self.finetuned = state.get("log_p"), None
        if "finetuned" in state:
            self.finetuned = copy.deepcopy(self.net.ema.model).requires_grad_(True)
            self.finetuned.load_state_dict(state["finetuned"])


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device

"""Reduced Meta Pseudo Labels (Pham et al., CVPR 2021, appendix E): a stored teacher, recalibrated by feedback.

One big network is in memory at any time; a small calibrator replaces the teacher. E1 to E7 are those of ``mpl``.

R1  first ``teacher_share`` of the steps: loss = CE(y_l, f(x_l)) + uda   (E6 without feedback)
    uda = uda_weight * mean_i mask_i CE(softmax(f(weak)/temperature), f(strong))   (``parts.UDATerm``)
R2  then l_i = log softmax f_ema(plain row i) is stored for every row i of the pool; the network and its optimiser are
    released, and a fresh student S replaces them
R3  p = softmax(l + h(exp l)) [B, C], h: a small MLP whose last layer starts at 0, so that p starts as the teacher's
R4  student step on CE(p, S(strong view)), no gradient into p   (E2)
R5  calibrator's loss = feedback_weight * mean_i sum_c stopgrad(r[i,c]) p[i,c], r by E3 to E5
R6  afterwards E7: a copy of the student's EMA is fine-tuned on the labelled rows (``parts.FineTuner``)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.errors import UserError
from metapl.losses import cross_entropy, soft_cross_entropy
from metapl.methods import fields
from metapl.methods.parts import FeedbackScores, FineTuner, UDATerm, make_report, unlabeled_views
from metapl.optim import Learner
from metapl.pseudo_labels import label_pool
from metapl.thresholds import check_threshold, make_threshold
from metapl.types import Context, Judge, PoolPasses, SemiBatch, StepReport, View
from metapl.utils.fields import AT_LEAST_ONE, NOT_NEGATIVE, Range, Settings


class Calibrator(nn.Module):
    """Maps log-probabilities [B, C] to logits [B, C] (R3); before its first update it is the identity."""

    def __init__(self, num_classes: int, units: int) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(num_classes, units), nn.Linear(units, num_classes)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, log_p: Tensor) -> Tensor:
        """Return logits. The MLP reads the probabilities, which are bounded, and shifts the log-probabilities."""
        logits: Tensor = log_p + self.out(torch.relu(self.hidden(log_p.exp())))
        return logits


class ReducedMPL:
    """See the module's text for the equations. ``net`` is the teacher, then the student."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config(Settings, group="mpl_reduced"):
        """Settings of reduced Meta Pseudo Labels."""

        teacher_share: Annotated[
            float, "share of the run in which the teacher is trained; 1 = the teacher alone", Range(0, 1, above=True)
        ] = 0.4
        feedback: Annotated[Literal["exact", "none"], "the feedback to the calibrator; none = plain distillation"] = (
            "exact"
        )
        feedback_weight: Annotated[fields.FeedbackWeight, "w in R5, per unit of eta"] = 0.3
        derivative: fields.DerivativeKind = "auto"
        calibrator_units: Annotated[int, "hidden units of the calibrator", AT_LEAST_ONE] = 32
        calibrator_lr: Annotated[float, "the calibrator's peak learning rate; 0 = optim.lr", NOT_NEGATIVE] = 0.0
        uda_weight: fields.UdaWeight = 1.0
        uda_threshold: fields.UdaThreshold = 0.6
        uda_selection: fields.SelectionKind = "fixed"
        uda_selection_decay: fields.SelectionDecay = 0.999
        uda_temperature: fields.UdaTemperature = 0.7
        label_smoothing: Annotated[fields.LabelSmoothing, "label smoothing on the labelled rows, for the teacher"] = 0.0
        finetune_steps: fields.FinetuneSteps = 100
        finetune_lr: fields.FinetuneRate = 1e-3

        def __post_init__(self) -> None:
            super().__post_init__()
            check_threshold(self.uda_selection, self.uda_threshold, self.uda_selection_decay, "mpl_reduced")

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context, self.extra_steps = config, context, config.finetune_steps
        self.switch = max(1, round(config.teacher_share * context.steps))
        if context.build_teacher and self.switch >= context.steps:
            remedy = "Lower mpl_reduced.teacher_share, or leave teacher_model out."
            raise UserError(
                "there are no steps for a student, and the teacher is another network", remedy, "mpl_reduced"
            )
        self._begin(self._build_teacher(), student=False)
        self.calibrator: Learner | None = None  # None without feedback, since nothing could train it
        if config.feedback != "none" and config.feedback_weight > 0:
            small = Calibrator(context.num_classes, config.calibrator_units).to(fb.device_of(self.net.model))
            rate = replace(context.optim, lr=config.calibrator_lr or context.optim.lr)
            self.calibrator = Learner(small, rate, context.steps - self.switch)
        self.log_p: Tensor | None = None  # l in R2, [N, C]; None = the teacher is still being trained
        self.finetuner, self.scores = FineTuner(config.finetune_lr), FeedbackScores(context.pool_size)
        self.selection = make_threshold(config.uda_selection, config.uda_threshold, config.uda_selection_decay, context)
        self.uda = UDATerm(self.selection, config.uda_weight, config.uda_temperature)
        self.needs_validation = self.uda.needs_validation

    def _build_teacher(self) -> nn.Module:
        return (self.context.build_teacher or self.context.build_model)()

    def _begin(self, model: nn.Module, student: bool) -> None:
        length = self.context.steps - self.switch if student else self.switch
        # As in mpl, the student learns from strong views only and is judged on plain rows.
        self.net = Learner(model, self.context.optim, length, own_statistics=student)

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        if t >= self.context.steps:
            return self.finetuner.step(self.net.ema.model, batch)  # R6
        if t >= self.switch and self.log_p is None:
            self._replace_teacher()
        return self._teacher_step(batch, t) if self.log_p is None else self._student_step(batch, t, self.log_p)

    def pool_passes(self, epoch: int) -> PoolPasses:
        return PoolPasses(rounds=1 if self.config.teacher_share < 1 else 0)  # R2

    def calibrate(self, judge: Judge) -> None:
        """Fit the threshold on the teacher's logits; the student's phase uses none."""
        if self.log_p is None:
            self.selection.fit(*judge(self.net.model))

    def _teacher_step(self, batch: SemiBatch, t: int) -> StepReport:
        """Step the teacher (R1)."""
        views = unlabeled_views(batch) if self.uda.active else ()
        z_l, *z_u = self.net(batch.x_l, *views)
        supervised = loss = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)
        logged = {"supervised": supervised}
        if z_u:
            uda, more = self.uda(z_u[0], z_u[1], batch.u_index, t)
            loss = supervised + self.uda.factor(t) * uda
            logged |= {"uda": uda, **more}
        self.net.step(loss, t)
        return make_report(loss, logged)

    def _replace_teacher(self) -> None:
        """R2: release the teacher before the student is built, so that there is one big network at any time."""
        p = label_pool(self.net.ema.model, self.context)
        self.log_p = p.clamp_min(torch.finfo(p.dtype).tiny).log()
        del self.net
        self._begin(self.context.build_model(), student=True)

    def _student_step(self, batch: SemiBatch, t: int, log_p: Tensor) -> StepReport:
        """Step student and calibrator (R3 to R5)."""
        weak, strong = unlabeled_views(batch)
        stored, t_student = log_p[batch.u_index], max(0, t - self.switch)
        z = self.calibrator.model(stored) if self.calibrator else stored
        p = torch.softmax(z, -1, dtype=stored.dtype)  # R3
        student, before = self.net, fb.snapshot(self.net.model)
        output = student.model(strong)
        loss = soft_cross_entropy(output, p)
        student.step(loss, t_student)  # R4
        student.ema.measure(weak, self.context.steps_to_look(t))
        logged = {"student": loss, "agreement": (output.argmax(-1) == p.argmax(-1)).to(p.dtype).mean()}
        if self.calibrator:
            labeled, r = fb.label_derivative(
                student, before, batch.x_l, batch.y_l, strong, self.config.derivative, output=output
            )  # E3 to E5
            feedback = fb.exact_loss(p, r)
            self.scores.add(feedback, z, batch.u_index)
            self.calibrator.step(self.config.feedback_weight * feedback, t_student)  # R5
            shift = (p.detach() - stored.exp()).abs().sum(-1).mean() / 2
            logged |= {"student_labeled": labeled, "feedback": feedback, "feedback_spread": r.std(), "shift": shift}
        return make_report(loss, logged)

    def eval_model(self) -> nn.Module:
        return self.net.ema.model if self.finetuner.model is None else self.finetuner.model

    def candidates(self) -> dict[str, nn.Module]:
        name = "teacher" if self.log_p is None else "student"
        networks = {f"{name}_ema": self.net.ema.model}
        if self.finetuner.model is not None:
            networks[f"{name}_finetuned"] = self.finetuner.model
        return networks

    def feedback_scores(self) -> Tensor:
        return self.scores.mean()

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in ("net", "selection", "scores")}
        state |= {"calibrator": self.calibrator.state_dict()} if self.calibrator else {}
        state |= {} if self.log_p is None else {"log_p": self.log_p}
        return {**state, **self.finetuner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        student = "log_p" in state
        del self.net
        self._begin(self.context.build_model() if student else self._build_teacher(), student)
        self.net.load_state_dict(state["net"])
        self.selection.load_state_dict(state.get("selection", {}))  # states of version 0.1.0 have none
        if self.calibrator:
            self.calibrator.load_state_dict(state["calibrator"])
        self.scores.load_state_dict(state.get("scores", {}))
        self.log_p = state.get("log_p")
        self.finetuner.load_state_dict(state, self.net.ema.model)

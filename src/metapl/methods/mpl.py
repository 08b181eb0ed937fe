"""Meta Pseudo Labels (Pham, Dai, Xie, Le; CVPR 2021): the student's labelled loss teaches the teacher.

Shapes: B unlabelled rows, b labelled rows, C classes; T teacher, S student (logits); means are over rows.

E1  p = softmax T(view of x_u) [B, C]; the student learns p itself (exact) or one draw y ~ p per row (sampled)
E2  theta' = theta - eta * grad CE(labels, S(strong view; theta)), by the run's optimiser
E3  g = grad mean_i w_i CE(y_l[i], S(x_l[i]; theta')), at the NEW student; w: see feedback_rows and ``feedback.trust``
E4  r[i,c] = d/ds log S_c(strong view[i]; theta + s v), v = M^T g; feedback = mean_i sum_c stopgrad(r[i,c]) p[i,c]
E4' gain = L_l(theta) - L_l(theta') - baseline; feedback = gain * CE(y, T), the same y
E5  M is the optimiser's linear map from gradient to step, without eta (``feedback.step_adjoint``)
E6  teacher loss = CE(y_l, T(x_l)) + uda + weight * feedback
    uda = uda_weight * ramp(t) * mean_i mask_i CE(softmax(T(weak)/temperature), T(strong))   (``parts.UDATerm``)
E7  afterwards a copy of the student's EMA is fine-tuned on the labelled rows (``parts.FineTuner``), and validation rows
    choose

``docs/methods/mpl.md`` lists every logged number and every deviation from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.errors import UserError
from metapl.losses import cross_entropy, soft_cross_entropy
from metapl.methods.parts import FineTuner, MovingBaseline, UDATerm, make_report, unlabeled_views
from metapl.optim import Learner, predict_logits, ramp
from metapl.pseudo_labels import sample_labels
from metapl.thresholds import Selection, check_threshold, make_threshold
from metapl.types import Context, Judge, SemiBatch, StepReport, View


class MPL:
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of Meta Pseudo Labels."""

        feedback: Literal["exact", "sampled", "none", "official"] = "exact"  # the feedback to the teacher (E4)
        feedback_weight: float = 0.3  # w in E6, per unit of eta
        feedback_start: float = 0.0  # share of the run before the feedback is switched on
        feedback_ramp: float = 0.0  # share of the run over which its weight then rises from 0
        feedback_cap: float = 1.0  # largest standard deviation of r in a batch, scaled down to it; 0 = no cap
        feedback_rows: fb.RowWeights = "trusted"  # trusted: rows that the student contradicts weigh less (E3); even
        baseline: float = 0.99  # decay of the moving baseline of the gain (sampled, official); 0 = no baseline
        derivative: Literal["auto", "forward", "difference"] = "auto"  # how E4 is computed
        label_view: Literal["weak", "strong"] = "weak"  # the view from which the teacher labels (E1)
        uda_weight: float = 1.0  # of the teacher's consistency loss; 0 = off
        uda_ramp: float = 0.0  # share of the run over which that weight rises from 0
        uda_threshold: float | str = 0.6  # least confidence of a target (above 1: none passes), or precision=0.6
        uda_selection: Selection = "fixed"  # how that threshold moves: docs/thresholds.md
        uda_selection_decay: float = 0.999  # decay of the averages that adaptive and soft use in place of the threshold
        uda_temperature: float = 0.7  # below 1 sharpens the consistency target
        label_smoothing: float = 0.0  # on the labelled rows, for the teacher
        student_wait: float = 0.0  # share of the run in which only the teacher learns
        teacher_lr: float = 0.0  # the teacher's peak learning rate; 0 = optim.lr
        finetune_steps: int = 100  # E7, after the main phase; 0 = off
        finetune_lr: float = 1e-3  # E7, plain SGD
        offer_teacher: bool = True  # validation rows may choose the teacher's average (not with teacher_model)

        def __post_init__(self) -> None:
            check_threshold(self.uda_selection, self.uda_threshold, self.uda_selection_decay, "mpl")
            shares = (self.feedback_start, self.feedback_ramp, self.uda_ramp, self.student_wait)
            weights = (self.feedback_weight, self.feedback_cap, self.uda_weight, self.teacher_lr, self.finetune_steps)
            if min(weights) < 0 or min(shares) < 0 or max(shares) > 1 or self.uda_temperature <= 0:
                remedy = "Weights, rates and steps must be at least 0, shares in 0..1, temperature above 0."
                raise UserError("a setting is out of range", remedy, "mpl")
            if not (0 <= self.baseline < 1 and 0 <= self.label_smoothing < 1 and self.finetune_lr > 0):
                raise UserError("baseline and label_smoothing must be in 0..1, below 1, finetune_lr above 0", "", "mpl")

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.steps, self.extra_steps = config, context.steps, config.finetune_steps
        teacher_optim = replace(context.optim, lr=config.teacher_lr or context.optim.lr)
        self.teacher = Learner((context.build_teacher or context.build_model)(), teacher_optim, context.steps)
        # The student learns from strong views only and is judged on plain rows, so it has its own statistics.
        self.student = Learner(context.build_model(), context.optim, context.steps, own_statistics=True)
        self.offers_teacher = config.offer_teacher and context.build_teacher is None
        self.finetuner = FineTuner(config.finetune_lr)
        self.baseline = MovingBaseline(config.baseline)
        self.wait = round(config.student_wait * context.steps)  # steps
        self.selection = make_threshold(config.uda_selection, config.uda_threshold, config.uda_selection_decay, context)
        ramp_steps = round(config.uda_ramp * context.steps)
        self.uda = UDATerm(self.selection, config.uda_weight, config.uda_temperature, ramp_steps)
        self.needs_validation = self.uda.needs_validation
        self.feedback_active = config.feedback != "none" and config.feedback_weight > 0

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        if t >= self.steps:
            return self.finetuner.step(self.student.ema.model, batch)  # E7
        c = self.config
        z_l, z_weak, z_strong = self._teacher_logits(batch)
        feedback_step = t - round(c.feedback_start * self.steps)  # negative: the feedback is still off
        feedback, logged = None, dict[str, Tensor]()
        if t >= self.wait:
            z_label = z_weak if c.label_view == "weak" else z_strong
            use_feedback = self.feedback_active and feedback_step >= 0
            feedback, logged = self._teach_student(batch, z_label, t, use_feedback)
        loss = logged["supervised"] = cross_entropy(z_l, batch.y_l, c.label_smoothing)  # E6, three terms
        if self.uda.active:
            uda, more = self.uda(z_weak, z_strong, batch.u_index, t)
            loss = loss + self.uda.factor(t) * uda
            logged |= {"uda": uda, **more}
        if feedback is not None:
            loss = loss + c.feedback_weight * ramp(feedback_step, round(c.feedback_ramp * self.steps)) * feedback
            logged["feedback"] = feedback
        self.teacher.step(loss, t)
        return make_report(loss, logged)

    def _teacher_logits(self, batch: SemiBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the teacher's logits of the labelled rows, the weak and the strong view."""
        weak, strong = unlabeled_views(batch)
        if self.uda.active or self.feedback_active:
            z_l, z_weak, z_strong = self.teacher(batch.x_l, weak, strong)
            return z_l, z_weak, z_strong
        (z_l,) = self.teacher(batch.x_l)  # without an unlabelled term this is supervised training, exactly
        z = predict_logits(self.teacher.model, weak if self.config.label_view == "weak" else strong)
        return z_l, z, z

    def _teach_student(
        self, batch: SemiBatch, z: Tensor, t: int, use_feedback: bool
    ) -> tuple[Tensor | None, dict[str, Tensor]]:
        """E1 to E4: step the student on the labels that the teacher's logits ``z`` [B, C] make.

        Returns:
            The feedback, 0-d and before its weight, or None without ``use_feedback``; and numbers to log.
        """
        weak, strong = unlabeled_views(batch)
        p = torch.softmax(z, -1)  # E1
        y = sample_labels(p) if self.config.feedback == "sampled" else None
        student, before = self.student, fb.snapshot(self.student.model)
        output = student.model(strong)
        loss = soft_cross_entropy(output, p) if y is None else cross_entropy(output, y)
        student.step(loss, t, first=self.wait)  # E2
        student.ema.measure(weak)
        logged = {"student": loss, "agreement": (output.argmax(-1) == z.argmax(-1)).float().mean()}
        if not use_feedback:
            return None, logged
        if self.config.feedback == "exact":
            feedback, more = self._exact(before, batch, p)
            return feedback, logged | more
        old, new = (fb.labeled_loss(student.model, before, batch.x_l, batch.y_l, old=o) for o in (True, False))
        gain = self.baseline.subtract(old - new)  # E4'
        feedback = fb.official_loss(z, gain) if y is None else fb.sampled_loss(z, y, gain)
        return feedback, logged | {"student_labeled": new, "gain": gain}

    def _exact(self, before: fb.Before, batch: SemiBatch, p: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """E3 to E5: return the exact feedback, 0-d, and numbers to log."""
        c, (_, strong) = self.config, unlabeled_views(batch)
        labeled, r = fb.label_derivative(
            self.student, before, batch.x_l, batch.y_l, strong, c.derivative, c.feedback_rows
        )
        spread = r.std()
        if c.feedback_cap:
            r = r * (c.feedback_cap / spread.clamp_min(1e-12)).clamp(max=1.0)
        return fb.exact_loss(p, r), {"student_labeled": labeled, "feedback_spread": spread}

    def eval_model(self) -> nn.Module:
        return self.student.ema.model if self.finetuner.model is None else self.finetuner.model

    def candidates(self) -> dict[str, nn.Module]:
        """Return the student first; in a run too short for it to catch up the teacher may be better."""
        networks = {"student_ema": self.student.ema.model}
        if self.finetuner.model is not None:
            networks["student_finetuned"] = self.finetuner.model
        if self.offers_teacher:
            networks["teacher_ema"] = self.teacher.ema.model
        return networks

    def calibrate(self, judge: Judge) -> None:
        self.selection.fit(*judge(self.teacher.model))

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("teacher", "student", "selection")}
        return {**parts, "baseline": self.baseline.value, **self.finetuner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("teacher", "student", "selection"):
            getattr(self, name).load_state_dict(state[name])
        self.baseline.value = state["baseline"]
        self.finetuner.load_state_dict(state, self.student.ema.model)

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
E8  the result is the mean of the probabilities of both EMAs, where validation rows do not prefer one network

``docs/methods/mpl.md`` lists every logged number and every deviation from the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.losses import cross_entropy, soft_cross_entropy
from metapl.methods import fields
from metapl.methods.parts import FeedbackScores, FineTuner, MovingBaseline, UDATerm, make_report, unlabeled_views
from metapl.models.combined import Average
from metapl.optim import Learner, predict_logits, ramp
from metapl.pseudo_labels import sample_labels
from metapl.thresholds import check_threshold, make_threshold
from metapl.types import Context, Judge, SemiBatch, StepReport, View
from metapl.utils.fields import NOT_NEGATIVE, SHARE, Settings, Tries


class MPL:
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config(Settings, group="mpl"):
        """Settings of Meta Pseudo Labels."""

        feedback: Annotated[Literal["exact", "sampled", "none", "official"], "the feedback to the teacher (E4)"] = (
            "exact"
        )
        feedback_weight: Annotated[fields.FeedbackWeight, "w in E6, per unit of eta"] = 0.3
        feedback_start: Annotated[float, "share of the run before the feedback is switched on", SHARE] = 0.0
        feedback_ramp: Annotated[float, "share of the run over which its weight then rises from 0", SHARE] = 0.0
        feedback_cap: Annotated[
            float, "largest standard deviation of r in a batch, scaled down to it; 0 = no cap", NOT_NEGATIVE
        ] = 1.0
        feedback_rows: Annotated[fb.RowWeights, "trusted: rows that the student contradicts weigh less (E3); even"] = (
            "trusted"
        )
        baseline: fields.Baseline = 0.99
        derivative: fields.DerivativeKind = "auto"
        label_view: Annotated[Literal["weak", "strong"], "the view from which the teacher labels (E1)"] = "weak"
        uda_weight: fields.UdaWeight = 1.0
        uda_ramp: fields.Ramp = 0.0
        uda_threshold: fields.UdaThreshold = 0.6
        uda_selection: fields.SelectionKind = "fixed"
        uda_selection_decay: fields.SelectionDecay = 0.999
        uda_temperature: fields.UdaTemperature = 0.7
        label_smoothing: Annotated[fields.LabelSmoothing, "label smoothing on the labelled rows, for the teacher"] = 0.0
        student_wait: Annotated[float, "share of the run in which only the teacher learns", SHARE] = 0.0
        teacher_lr: Annotated[
            float, "the teacher's peak learning rate; 0 = optim.lr", NOT_NEGATIVE, Tries("x0.3,x3")
        ] = 0.0
        finetune_steps: fields.FinetuneSteps = 100
        finetune_lr: fields.FinetuneRate = 1e-3
        offer_teacher: Annotated[bool, "return the mean of student and teacher (E8; not with teacher_model)"] = True

        def __post_init__(self) -> None:
            super().__post_init__()
            check_threshold(self.uda_selection, self.uda_threshold, self.uda_selection_decay, "mpl")

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.steps, self.extra_steps = config, context.steps, config.finetune_steps
        self.steps_to_look = context.steps_to_look
        teacher_optim = replace(context.optim, lr=config.teacher_lr or context.optim.lr)
        self.teacher = Learner((context.build_teacher or context.build_model)(), teacher_optim, context.steps)
        # The student learns from strong views only and is judged on plain rows, so it has its own statistics.
        self.student = Learner(context.build_model(), context.optim, context.steps, own_statistics=True)
        self.offers_teacher = config.offer_teacher and context.build_teacher is None
        self.finetuner = FineTuner(config.finetune_lr)
        self.baseline = MovingBaseline(config.baseline)
        self.scores = FeedbackScores(context.pool_size)
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
            if feedback is not None:
                self.scores.add(feedback, z_label, batch.u_index)
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
        student.ema.measure(weak, self.steps_to_look(t))
        logged = {"student": loss, "agreement": (output.argmax(-1) == z.argmax(-1)).float().mean()}
        if not use_feedback:
            return None, logged
        if self.config.feedback == "exact":
            feedback, more = self._exact(before, batch, p, output)
            return feedback, logged | more
        old, new = (fb.labeled_loss(student.model, before, batch.x_l, batch.y_l, old=o) for o in (True, False))
        gain = self.baseline.subtract(old - new)  # E4'
        feedback = fb.official_loss(z, gain) if y is None else fb.sampled_loss(z, y, gain)
        return feedback, logged | {"student_labeled": new, "gain": gain}

    def _exact(
        self, before: fb.Before, batch: SemiBatch, p: Tensor, output: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """E3 to E5: return the exact feedback, 0-d, and numbers to log."""
        c, (_, strong) = self.config, unlabeled_views(batch)
        labeled, r = fb.label_derivative(
            self.student, before, batch.x_l, batch.y_l, strong, c.derivative, c.feedback_rows, output
        )
        spread = r.std()
        if c.feedback_cap:
            r = r * (c.feedback_cap / spread.clamp_min(1e-12)).clamp(max=1.0)
        return fb.exact_loss(p, r), {"student_labeled": labeled, "feedback_spread": spread}

    def eval_model(self) -> nn.Module:
        return self.student.ema.model if self.finetuner.model is None else self.finetuner.model

    def candidates(self) -> dict[str, nn.Module]:
        """Return the mean of both networks first: in a short run the student is late, in a long one both agree."""
        student, teacher = self.student.ema.model, self.teacher.ema.model
        networks = {"student_ema": student}
        if self.finetuner.model is not None:
            networks["student_finetuned"] = self.finetuner.model
        if not self.offers_teacher:
            return networks
        return {"mean": Average([student, teacher]).eval(), **networks, "teacher_ema": teacher}  # E8

    def calibrate(self, judge: Judge) -> None:
        self.selection.fit(*judge(self.teacher.model))

    def feedback_scores(self) -> Tensor:
        return self.scores.mean()

    def state_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name).state_dict() for name in ("teacher", "student", "selection", "scores")}
        return {**parts, "baseline": self.baseline.value, **self.finetuner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("teacher", "student", "selection"):
            getattr(self, name).load_state_dict(state[name])
        self.scores.load_state_dict(state.get("scores", {}))
        self.baseline.value = state["baseline"]
        self.finetuner.load_state_dict(state, self.student.ema.model)

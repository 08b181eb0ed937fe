"""Meta Pseudo Labels (Pham, Dai, Xie, Le; CVPR 2021): the student's labelled loss teaches the teacher.

Shapes: B unlabelled rows, b labelled rows, C classes; T teacher, S student (logits); means are over rows.

E1  p = softmax T(view of x_u) [B, C]; ``exact`` teaches the student p itself, ``sampled`` one draw y ~ p per row
E2  theta' = theta - eta * grad CE(labels, S(strong view; theta)), by the run's optimiser
E3  g = grad mean_i w_i CE(y_l[i], S(x_l[i]; theta')), at the NEW student; w: see feedback_rows and ``feedback.trust``
E4  r[i,c] = d/ds log S_c(strong view[i]; theta + s v), v = M^T g; feedback = mean_i sum_c stopgrad(r[i,c]) p[i,c]
E4' gain = L_l(theta) - L_l(theta') - baseline; feedback = gain * CE(y, T), the same y
E5  M is the optimiser's linear map from gradient to step, without eta (``feedback.step_adjoint``)
E6  teacher loss = CE(y_l, T(x_l)) + uda + weight * feedback
    uda = uda_weight * ramp(t) * mean_i mask_i CE(softmax(T(weak)/temperature), T(strong)), mask: see ``thresholds``
E7  afterwards: a copy of the student's EMA is fine-tuned on the labelled rows; validation rows choose.

``docs/methods/mpl.md`` lists every logged number and every deviation from the paper.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl import thresholds
from metapl.errors import UserError
from metapl.losses import consistency, cross_entropy, soft_cross_entropy
from metapl.methods.base import descend, label_derivative
from metapl.optim import Learner, predict_logits, ramp
from metapl.pseudo_labels import sample_labels, sharpen
from metapl.types import Context, Judge, SemiBatch, StepReport, View


class MPL:
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak", "strong"})

    @dataclass(frozen=True)
    class Config:
        """Settings of Meta Pseudo Labels."""

        feedback: Literal["exact", "sampled", "none", "official"] = "exact"  # what reaches the teacher (E4)
        feedback_weight: float = 0.3  # w in E6, per unit of eta
        feedback_start: float = 0.0  # share of the run before the feedback is switched on
        feedback_ramp: float = 0.0  # share of the run over which its weight then rises from 0
        feedback_cap: float = 1.0  # largest spread (standard deviation) of r in a batch, scaled down to it; 0 = no cap
        feedback_rows: fb.Rows = "trusted"  # trusted: rows that the student contradicts say less (E3); even: all alike
        baseline: float = 0.99  # decay of the moving baseline of the gain (sampled, official); 0 = no baseline
        derivative: Literal["auto", "forward", "difference"] = "auto"  # how E4 is computed
        label_view: Literal["weak", "strong"] = "weak"  # the view from which the teacher labels (E1)
        uda_weight: float = 1.0  # of the teacher's consistency loss; 0 = off
        uda_ramp: float = 0.0  # share of the run over which that weight rises from 0
        uda_threshold: float | str = 0.6  # least confidence of a target (above 1: none passes), or precision=0.6
        uda_selection: thresholds.Kind = "fixed"  # how that threshold moves: docs/thresholds.md
        uda_selection_decay: float = 0.999  # of the moving averages behind adaptive and soft, which take no threshold
        uda_temperature: float = 0.7  # below 1 sharpens the consistency target
        label_smoothing: float = 0.0  # on the labelled rows, for the teacher
        student_wait: float = 0.0  # share of the run in which only the teacher learns
        teacher_lr: float = 0.0  # the teacher's peak learning rate; 0 = optim.lr
        finetune_steps: int = 100  # E7, after the main phase; 0 = off
        finetune_lr: float = 1e-3  # E7, plain SGD
        offer_teacher: bool = True  # its average may be chosen too, by validation rows; not if it is another network

        def __post_init__(self) -> None:
            thresholds.check(self.uda_selection, self.uda_threshold, self.uda_selection_decay, "mpl")
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
        # The student learns from strong views only and is judged on plain rows: hence statistics of its own.
        self.student = Learner(context.build_model(), context.optim, context.steps, own_statistics=True)
        self.offers_teacher = config.offer_teacher and context.build_teacher is None
        self.finetuned: nn.Module | None = None
        self.baseline = torch.zeros(())
        self.wait = round(config.student_wait * context.steps)  # steps
        self.selection = thresholds.make(
            config.uda_selection, config.uda_threshold, config.uda_selection_decay, context
        )
        self.uda_active = config.uda_weight > 0 and self.selection.active
        self.needs_validation = self.uda_active and self.selection.needs_validation
        self.feedback_active = config.feedback != "none" and config.feedback_weight > 0

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        if t >= self.steps:
            return self._finetune(batch)
        c = self.config
        z_l, z_weak, z_strong = self._teacher_logits(batch)
        z_label = z_weak if c.label_view == "weak" else z_strong
        parts, since = dict[str, Tensor](), t - round(c.feedback_start * self.steps)
        hear = self.feedback_active and since >= 0
        feedback = self._teach_student(batch, z_label, t, hear, parts) if t >= self.wait else None
        parts["supervised"] = loss = cross_entropy(z_l, batch.y_l, c.label_smoothing)  # E6, three terms
        if self.uda_active:
            parts |= self._uda(z_weak, z_strong, batch.u_index, t)
            loss = loss + c.uda_weight * ramp(t, round(c.uda_ramp * self.steps)) * parts["uda"]
        if feedback is not None:
            loss = loss + c.feedback_weight * ramp(since, round(c.feedback_ramp * self.steps)) * feedback
            parts["feedback"] = feedback
        self.teacher.step(loss, t)
        return StepReport({"loss": loss.detach(), **{k: v.detach() for k, v in parts.items()}})

    def _teacher_logits(self, batch: SemiBatch) -> tuple[Tensor, Tensor, Tensor]:
        if batch.u_weak is None or batch.u_strong is None:
            raise ValueError("mpl needs the weak and the strong view")
        if self.uda_active or self.feedback_active:
            z_l, z_weak, z_strong = self.teacher(batch.x_l, batch.u_weak, batch.u_strong)
            return z_l, z_weak, z_strong
        (z_l,) = self.teacher(batch.x_l)  # no unlabelled term: the teacher is trained as supervised training, exactly
        view = batch.u_weak if self.config.label_view == "weak" else batch.u_strong
        z = predict_logits(self.teacher.model, view)
        return z_l, z, z

    def _teach_student(
        self, batch: SemiBatch, z: Tensor, t: int, hear: bool, parts: dict[str, Tensor]
    ) -> Tensor | None:
        """E1 to E4: one student step on the teacher's labels, and what the labelled rows say about them."""
        x_u, x_weak, kind = batch.u_strong, batch.u_weak, self.config.feedback
        assert x_u is not None  # for the type checker: _teacher_logits has looked
        assert x_weak is not None
        p = torch.softmax(z, -1)  # E1
        hard = sample_labels(p) if kind == "sampled" else None
        student, before = self.student, fb.snapshot(self.student.model)
        output = student.model(x_u)
        loss = soft_cross_entropy(output, p) if hard is None else cross_entropy(output, hard)
        student.step(loss, t, first=self.wait)  # E2
        student.ema.measure(x_weak)
        parts["student"] = loss
        parts["agreement"] = (output.argmax(-1) == z.argmax(-1)).float().mean()
        if not hear:
            return None
        if kind == "exact":
            return self._exact(before, batch, x_u, p, parts)
        old, new = (fb.labeled_loss(student.model, before, batch.x_l, batch.y_l, old=o) for o in (True, False))
        gain = self._minus_baseline(old - new)  # E4'
        parts["student_labeled"], parts["gain"] = new, gain
        return fb.official_loss(z, gain) if hard is None else fb.sampled_loss(z, hard, gain)

    def _exact(self, before: fb.Before, batch: SemiBatch, x_u: Tensor, p: Tensor, parts: dict[str, Tensor]) -> Tensor:
        c = self.config
        labeled, r = label_derivative(self.student, before, batch, x_u, c.derivative, c.feedback_rows)  # E3 to E5
        parts["student_labeled"] = labeled
        parts["feedback_spread"] = spread = r.std()
        if c.feedback_cap:
            r = r * (c.feedback_cap / spread.clamp_min(1e-12)).clamp(max=1.0)
        return fb.exact_loss(p, r)

    def _uda(self, z_weak: Tensor, z_strong: Tensor, index: Tensor, t: int) -> dict[str, Tensor]:
        mask = self.selection.weights(torch.softmax(z_weak.detach(), -1), index, t)
        uda = consistency(z_strong, sharpen(z_weak, self.config.uda_temperature), mask)
        return {"uda": uda, "mask_rate": mask.mean(), **self.selection.report()}

    def _minus_baseline(self, gain: Tensor) -> Tensor:
        if self.config.baseline:
            gain = gain - self.baseline.to(gain)
            self.baseline = self.baseline.to(gain) + (1 - self.config.baseline) * gain
        return gain

    def _finetune(self, batch: SemiBatch) -> StepReport:
        """E7: plain SGD on the labelled rows, from the student's EMA."""
        if self.finetuned is None:
            self.finetuned = copy.deepcopy(self.student.ema.model).requires_grad_(True)
        loss = descend(self.finetuned, batch, self.config.finetune_lr)
        return StepReport({"loss": loss, "finetune": loss})

    def eval_model(self) -> nn.Module:
        return self.student.ema.model if self.finetuned is None else self.finetuned

    def candidates(self) -> dict[str, nn.Module]:
        """The student is the result; a run too short for it to catch up may end with a better teacher."""
        found = {"student_ema": self.student.ema.model}
        found |= {} if self.finetuned is None else {"student_finetuned": self.finetuned}
        return {**found, "teacher_ema": self.teacher.ema.model} if self.offers_teacher else found

    def calibrate(self, judge: Judge) -> None:
        self.selection.fit(*judge(self.teacher.model))

    def state_dict(self) -> dict[str, Any]:
        parts = {n: getattr(self, n).state_dict() for n in ("teacher", "student", "selection")}
        state = {**parts, "baseline": self.baseline}
        return state if self.finetuned is None else {**state, "finetuned": self.finetuned.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.baseline = state["baseline"]
        for n in ("teacher", "student", "selection"):
            getattr(self, n).load_state_dict(state[n])
        if "finetuned" in state:
            self.finetuned = copy.deepcopy(self.student.ema.model).requires_grad_(True)
            self.finetuned.load_state_dict(state["finetuned"])

"""Pseudo-labelling inside the batch (Lee 2013) or in epochs, with a confidence threshold.

P1  p = softmax f(weak view), y = argmax p, mask = [max p >= threshold]   (no gradient)
P1' schedule=epoch: at the start of every epoch, labels = filter(generate(f, pool), judge) of the plain rows; a row of
    the batch has mask 1 if it holds a label y, else 0   (G1 and G2 of ``pseudo_labels``)
P2  loss = CE(y_l, f(x_l)) + weight * ramp(t) * mean_i mask_i CE(y_i, f(weak view_i))
P2' mean=kept: the second mean is over the rows that the mask keeps, sum_i mask_i CE(...) / sum_i mask_i; 0 if there
    are none
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from metapl.errors import UserError
from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.methods import fields
from metapl.methods.base import OneNetwork
from metapl.methods.parts import make_report
from metapl.optim import ramp
from metapl.pseudo_labels import filter_pseudo_labels, generate_pseudo_labels
from metapl.thresholds import check_threshold, make_threshold, read_threshold
from metapl.types import Context, PoolPasses, SemiBatch, StepReport, View
from metapl.utils.fields import AT_LEAST_ONE, NOT_NEGATIVE, Settings


class PseudoLabel(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak"})

    @dataclass(frozen=True)
    class Config(Settings, group="pseudo_label"):
        """Settings of pseudo-labelling."""

        threshold: fields.ThresholdSetting = 0.95
        selection: fields.SelectionKind = "fixed"
        selection_decay: fields.SelectionDecay = 0.999
        weight: fields.Weight = 1.0
        ramp: fields.Ramp = 0.4
        mean: Annotated[
            Literal["batch", "kept"], "mean of the unlabelled loss: over all rows, or over those with a label"
        ] = "batch"
        label_smoothing: fields.LabelSmoothing = 0.0
        schedule: Annotated[Literal["step", "epoch"], "label each batch, or the whole pool once per epoch"] = "step"
        epoch_steps: Annotated[
            int, "schedule=epoch: steps of an epoch; 0 = one pass over the unlabelled rows", NOT_NEGATIVE
        ] = 0
        judge: Annotated[
            Literal["ema", "views", "none"], "schedule=epoch: the averaged weights or weak views must agree"
        ] = "ema"
        judge_views: Annotated[int, "judge=views: number of views", AT_LEAST_ONE] = 2

        def __post_init__(self) -> None:
            super().__post_init__()
            check_threshold(self.selection, self.threshold, self.selection_decay, "pseudo_label")
            adapts = self.selection != "fixed" or read_threshold(self.threshold)[0]
            if self.schedule == "epoch" and adapts:
                problem = f"selection={self.selection} and threshold={self.threshold} learn from batches"
                raise UserError(problem, "Give selection=fixed and a number, or schedule=step.", "pseudo_label")

    def __init__(self, config: Config, context: Context) -> None:
        selection = make_threshold(config.selection, config.threshold, config.selection_decay, context)
        super().__init__(context, selection)
        self.config, self.steps, self.pool = config, context.steps, context.pool
        self.active = config.weight > 0 and self.selection.active  # if not, this is supervised training, exactly
        self.labels: Tensor | None = None  # schedule=epoch: [N] int64, the label of each row of the pool; -1 = none
        if config.schedule == "epoch":
            if context.pool is None:
                raise ValueError("schedule=epoch passes over the pool: Context.pool must be given")
            self.labels = torch.full((context.pool_size,), -1)

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        c = self.config
        if self.labels is not None and self.active:
            self._label_pool(self.labels, batch, t)
        z_l, *z_u = self.net(batch.x_l, batch.u_weak) if self.active else self.net(batch.x_l)  # type: ignore[arg-type]
        supervised = cross_entropy(z_l, batch.y_l, c.label_smoothing)
        loss, logged = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            logged["unlabeled"], mask = self._unlabeled(z_u[0], batch.u_index, t)
            loss = supervised + c.weight * ramp(t, round(c.ramp * self.steps)) * logged["unlabeled"]  # P2
            logged["mask_rate"] = mask.mean()
            if self.labels is not None:
                logged["pool_labeled"] = (self.labels >= 0).to(loss.dtype).mean()
        self.net.step(loss, t)
        return make_report(loss, logged | self.selection.report())

    def pool_passes(self, epoch: int) -> PoolPasses:
        """Estimate the passes: the judge predicts labelled pool rows k times, and half of the pool is assumed to be."""
        c, (_, threshold) = self.config, read_threshold(self.config.threshold)
        if self.labels is None or not self.active:
            return PoolPasses()
        judge_passes = {"ema": 1, "views": c.judge_views, "none": 0}[c.judge] * (0.5 if threshold > 0 else 1.0)
        return PoolPasses(every=c.epoch_steps or epoch, networks=1 + judge_passes)

    def _unlabeled(self, z_u: Tensor, index: Tensor, t: int) -> tuple[Tensor, Tensor]:
        if self.labels is not None:
            y = self.labels[index]
            y, mask = y.clamp_min(0), (y >= 0).to(z_u.dtype)
        else:
            p = torch.softmax(z_u.detach(), -1)  # P1
            y, mask = p.argmax(-1), self.selection.weights(p, index, t)
        loss = masked_cross_entropy(z_u, y, mask)
        return loss / mask.mean().clamp_min(1e-8) if self.config.mean == "kept" else loss, mask  # P2'

    def _label_pool(self, old_labels: Tensor, batch: SemiBatch, t: int) -> None:
        """Label the pool (P1') if an epoch starts at step t. By default an epoch has a step per batch of the pool."""
        c, net, pool, (_, threshold) = self.config, self.net, self.pool, read_threshold(self.config.threshold)
        size = len(old_labels)
        epoch, step_of_epoch = divmod(t, c.epoch_steps or max(1, -(-size // len(batch.u_index))))
        if step_of_epoch or pool is None:
            return
        pseudo = generate_pseudo_labels(net.model, pool("plain"), threshold=threshold)
        if c.judge == "ema":
            pseudo = filter_pseudo_labels(pseudo, net.ema.model, threshold=threshold, loader=pool("plain"))
        elif c.judge == "views":
            views, first = c.judge_views, epoch * c.judge_views  # fresh draws every epoch
            pseudo = filter_pseudo_labels(
                pseudo, net.model, threshold=threshold, loader=lambda v: pool("weak", first + v), views=views
            )
        labels = torch.full((size,), -1)
        labels[pseudo.ids] = pseudo.labels
        self.labels = labels.to(batch.u_index.device)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({} if self.labels is None else {"labels": self.labels})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.labels = state.get("labels")

"""Pseudo-labelling inside the batch (Lee 2013) or in epochs, with a confidence threshold.

P1  p = softmax f(weak view), y = argmax p, mask = [max p >= threshold]   (no gradient)
P1' schedule=epoch: at the start of every epoch, labels = filter(generate(f, pool), judge) of the plain rows; a row of
    the batch that holds a label y has mask 1, any other 0   (G1 and G2 of ``pseudo_labels``)
P2  loss = CE(y_l, f(x_l)) + weight * ramp(t) * mean_i mask_i CE(y_i, f(weak view_i))
P2' mean=kept: the second mean is over the rows that the mask keeps, sum_i mask_i CE(...) / sum_i mask_i; 0 if none is
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metapl import thresholds
from metapl.errors import UserError
from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.methods.base import OneNetwork
from metapl.optim import ramp
from metapl.pseudo_labels import filter_pseudo_labels, generate_pseudo_labels
from metapl.types import Context, PoolPasses, SemiBatch, StepReport, View


class PseudoLabel(OneNetwork):
    """See the module's text for the equations."""

    needs: frozenset[View] = frozenset({"weak"})

    @dataclass(frozen=True)
    class Config:
        """Settings of pseudo-labelling."""

        threshold: float | str = 0.95  # least confidence of a pseudo label (above 1: none passes), or precision=0.95
        selection: thresholds.Kind = "fixed"  # how the threshold moves: docs/thresholds.md
        selection_decay: float = 0.999  # of the moving averages behind adaptive and soft, which take no threshold
        weight: float = 1.0  # of the unlabelled loss
        ramp: float = 0.4  # share of the run over which the weight rises from 0
        mean: Literal["batch", "kept"] = "batch"  # of the unlabelled loss: over all rows, or those that hold a label
        label_smoothing: float = 0.0  # on the labelled rows
        schedule: Literal["step", "epoch"] = "step"  # label each batch as it comes, or the whole pool once per epoch
        epoch_steps: int = 0  # schedule=epoch: steps of an epoch; 0 = one pass over the unlabelled rows
        judge: Literal["ema", "views", "none"] = "ema"  # schedule=epoch: the averaged weights or weak views must agree
        judge_views: int = 2  # judge=views: how many

        def __post_init__(self) -> None:
            if not 0 <= self.label_smoothing < 1:
                raise UserError("label_smoothing must be at least 0 and below 1", "", "pseudo_label")
            thresholds.check(self.selection, self.threshold, self.selection_decay, "pseudo_label")
            if self.weight < 0 or not 0 <= self.ramp <= 1:
                raise UserError("weight must be at least 0, ramp in 0..1", "", "pseudo_label")
            if self.epoch_steps < 0 or self.judge_views < 1:
                raise UserError("epoch_steps must be at least 0, judge_views at least 1", "", "pseudo_label")
            moves = self.selection != "fixed" or thresholds.read(self.threshold)[0]
            if self.schedule == "epoch" and moves:
                what = f"selection={self.selection} and threshold={self.threshold} learn from batches"
                raise UserError(what, "Give selection=fixed and a number, or schedule=step.", "pseudo_label")

    def __init__(self, config: Config, context: Context) -> None:
        kind, threshold, decay = config.selection, config.threshold, config.selection_decay
        super().__init__(context, thresholds.make(kind, threshold, decay, context))
        self.config, self.steps, self.pool = config, context.steps, context.pool
        self.active = config.weight > 0 and self.selection.active  # else supervised training, exactly
        self.labels: Tensor | None = None  # schedule=epoch: [N] int64, what each row of the pool holds; -1 nothing
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
        loss, parts = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            parts["unlabeled"], mask = self._unlabeled(z_u[0], batch.u_index, t)
            loss = supervised + c.weight * ramp(t, round(c.ramp * self.steps)) * parts["unlabeled"]  # P2
            parts["mask_rate"] = mask.mean()
            if self.labels is not None:
                parts["pool_labeled"] = (self.labels >= 0).to(loss.dtype).mean()
        self.net.step(loss, t)
        parts |= self.selection.report()
        return StepReport({k: v.detach() for k, v in {"loss": loss, **parts}.items()})

    def pool_passes(self, epoch: int) -> PoolPasses:
        """The judge is shown the rows that hold a label, k times. How many will is not known before: half of them."""
        c, (_, threshold) = self.config, thresholds.read(self.config.threshold)
        if self.labels is None or not self.active:
            return PoolPasses()
        judged = {"ema": 1, "views": c.judge_views, "none": 0}[c.judge] * (0.5 if threshold > 0 else 1.0)
        return PoolPasses(every=c.epoch_steps or epoch, networks=1 + judged)

    def _unlabeled(self, z_u: Tensor, index: Tensor, t: int) -> tuple[Tensor, Tensor]:
        if self.labels is not None:
            y = self.labels[index]
            y, mask = y.clamp_min(0), (y >= 0).to(z_u.dtype)
        else:
            p = torch.softmax(z_u.detach(), -1)  # P1
            y, mask = p.argmax(-1), self.selection.weights(p, index, t)
        loss = masked_cross_entropy(z_u, y, mask)
        return loss / mask.mean().clamp_min(1e-8) if self.config.mean == "kept" else loss, mask  # P2'

    def _label_pool(self, old: Tensor, batch: SemiBatch, t: int) -> None:
        """P1', if an epoch starts at step t: by default as many steps as the batches that hold the pool once."""
        c, net, pool, (_, threshold) = self.config, self.net, self.pool, thresholds.read(self.config.threshold)
        epoch, since = divmod(t, c.epoch_steps or max(1, -(-len(old) // len(batch.u_index))))
        if since or pool is None:
            return
        found = generate_pseudo_labels(net.model, pool("plain"), threshold=threshold)
        if c.judge == "ema":
            found = filter_pseudo_labels(found, net.ema.model, threshold=threshold, loader=pool("plain"))
        elif c.judge == "views":
            views, first = c.judge_views, epoch * c.judge_views  # fresh draws every epoch
            found = filter_pseudo_labels(
                found, net.model, threshold=threshold, loader=lambda v: pool("weak", first + v), views=views
            )
        labels = torch.full((len(old),), -1)
        labels[found.ids] = found.labels
        self.labels = labels.to(batch.u_index.device)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | ({} if self.labels is None else {"labels": self.labels})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.labels = state.get("labels")

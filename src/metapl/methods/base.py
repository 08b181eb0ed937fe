"""The two bases of methods that train one network; everything that is a method's own is in its file."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from metapl.losses import cross_entropy, masked_cross_entropy
from metapl.methods.parts import make_report, unlabeled_views
from metapl.optim import Learner
from metapl.thresholds import Threshold
from metapl.types import Context, Judge, SemiBatch, StepReport, View


class OneNetwork:
    """Trains one ``Learner``; the result is its EMA. A subclass defines ``Config``, ``needs`` and ``step``.

    Args:
        context: the data's sizes, the networks and the schedule.
        selection: weighs the pseudo labels; None if the method makes none.
    """

    needs: frozenset[View] = frozenset()
    extra_steps = 0

    def __init__(self, context: Context, selection: Threshold | None = None) -> None:
        self.net = Learner(context.build_model(), context.optim, context.steps)
        self.selection = selection or Threshold()

    def eval_model(self) -> nn.Module:
        return self.net.ema.model

    def candidates(self) -> dict[str, nn.Module]:
        return {"ema": self.net.ema.model}

    @property
    def needs_validation(self) -> bool:
        return self.selection.needs_validation

    def calibrate(self, judge: Judge) -> None:
        """Fit the threshold on the logits of ``net.model``, the network that writes the pseudo labels."""
        self.selection.fit(*judge(self.net.model))

    def state_dict(self) -> dict[str, Any]:
        return {**self.net.state_dict(), "selection": self.selection.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state)
        self.selection.load_state_dict(state["selection"])


class WeakToStrong(OneNetwork):
    """Learns hard pseudo labels of the weak view on the strong view, weighted row by row: FixMatch and its relatives.

    M1  p = softmax f(weak view), y = argmax p, w = selection.weights(p)   (no gradient)
    M2  loss = CE(y_l, f(x_l)) + weight * mean_i w_i CE(y_i, f(strong view_i)) + the subclass's further ``terms``

    The subclass's ``Config`` has ``weight`` and ``label_smoothing``.
    """

    needs: frozenset[View] = frozenset({"weak", "strong"})

    def __init__(self, config: Any, context: Context, selection: Threshold) -> None:
        super().__init__(context, selection)
        self.config = config
        self.active = config.weight > 0 and selection.active  # if not, this is supervised training, exactly

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        views = unlabeled_views(batch) if self.active else ()
        z_l, *z_u = self.net(batch.x_l, *views)
        supervised = cross_entropy(z_l, batch.y_l, self.config.label_smoothing)
        loss, logged = supervised, {"supervised": supervised, "unlabeled": supervised.new_zeros(())}
        if z_u:
            p = torch.softmax(z_u[0].detach(), -1)  # M1
            w = self.selection.weights(p, batch.u_index, t)
            for name, (weight, term) in self.terms(p, w, z_u[1]).items():  # M2
                loss, logged[name] = loss + weight * term, term
            logged |= {"mask_rate": w.mean(), **self.selection.report()}
        self.net.step(loss, t)
        return make_report(loss, logged)

    def terms(self, p: Tensor, w: Tensor, z_strong: Tensor) -> dict[str, tuple[float, Tensor]]:
        """Return the terms of M2 that need no label: name to (weight, 0-d loss)."""
        return {"unlabeled": (self.config.weight, masked_cross_entropy(z_strong, p.argmax(-1), w))}

"""A linear model fitted to the labelled rows: the cheapest sound answer, and what networks must beat.

L1  minimise  C * sum_i CE(y_i, W f(x_i) + b) + |W|^2 / 2, by scikit-learn's logistic regression
    f: the row's values (tables: standardised columns and one column per category; images: their pixels);
    texts: TF-IDF of words and pairs of words, whose weights come from the labelled and the unlabelled rows

The fit is one step: steps, batches, views and optimiser do not concern it. No gradient is taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import nn

from metapl.errors import UserError
from metapl.losses import cross_entropy
from metapl.types import Context, Fitted, SemiBatch, StepReport, View
from metapl.utils.fields import POSITIVE, Settings


class Linear:
    """See the module's text for the equation."""

    needs: frozenset[View] = frozenset()
    extra_steps = 0
    fits_once = True

    @dataclass(frozen=True)
    class Config(Settings, group="linear"):
        """Settings of the linear model."""

        C: Annotated[float, "how much the labelled rows count against the size of the weights", POSITIVE] = 1.0

    def __init__(self, config: Config, context: Context) -> None:
        self.config, self.context = config, context
        self.model = context.build_model().eval()
        if not isinstance(self.model, Fitted):
            raise UserError("method linear brings its own network", "Leave model=auto.", "model")

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        """Fit the network to all labelled rows, not only the batch; report the loss of the fit.

        Raises:
            ValueError: the context has no labelled rows.
        """
        assert isinstance(self.model, Fitted)
        if self.context.labeled is None:
            raise ValueError("this method is fitted to all labelled rows: Context.labeled must be given")
        x, y = self.context.labeled()
        pool = () if self.context.pool is None else (rows for _, rows in self.context.pool("plain"))
        self.model.fit(x, y, pool, self.config.C)  # L1
        with torch.no_grad():
            loss = cross_entropy(self.model(x), y)
        return StepReport({"loss": loss, "supervised": loss})

    def eval_model(self) -> nn.Module:
        return self.model

    def candidates(self) -> dict[str, nn.Module]:
        return {"linear": self.model}

    def state_dict(self) -> dict[str, Any]:
        return {"model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])

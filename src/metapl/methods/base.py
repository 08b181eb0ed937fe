"""The plumbing of methods that train one network; equations stay in the method's own file."""

from __future__ import annotations

from typing import Any

from torch import nn

from metapl.optim import Learner
from metapl.types import Context, View


class OneNetwork:
    """One ``Learner``; the result is its EMA. A subclass brings ``Config``, ``needs`` and ``step``."""

    needs: frozenset[View] = frozenset()
    extra_steps = 0

    def __init__(self, context: Context) -> None:
        self.net = Learner(context.build_model(), context.optim, context.steps)

    def eval_model(self) -> nn.Module:
        return self.net.ema.model

    def candidates(self) -> dict[str, nn.Module]:
        return {"ema": self.net.ema.model}

    def state_dict(self) -> dict[str, Any]:
        return self.net.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state)

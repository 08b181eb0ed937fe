"""A method of one's own in 40 lines: entropy minimisation (Grandvalet & Bengio 2004), as fast as pseudo-labelling.

    python examples/own_method.py
    cd examples && metapl compare digits --labels 4 --steps 400 --methods supervised,own_method:EntropyMinimisation

The network should be sure of the rows without a label too: loss = CE(y_l, f(x_l)) + weight * mean_i H(p_i).
Beyond the loss a method says which views it needs. Batches, exact resume, the guard, compare and tune come for free.
"""

from dataclasses import dataclass
from typing import Annotated

import torch

import metapl
from metapl.losses import cross_entropy
from metapl.methods.base import OneNetwork
from metapl.types import Context, SemiBatch, StepReport

STEPS = 400


class EntropyMinimisation(OneNetwork):
    needs = frozenset({"weak"})

    @dataclass(frozen=True)
    class Config:
        weight: Annotated[float, "weight of the entropy; set it with own.weight=0.5"] = 0.3

    def __init__(self, config: Config, context: Context) -> None:
        super().__init__(context)  # builds self.net: a network, its optimiser, its moving average
        self.config = config

    def step(self, batch: SemiBatch, t: int) -> StepReport:
        z_l, z_u = self.net(batch.x_l, batch.u_weak)
        log_p = torch.log_softmax(z_u, -1)
        supervised = cross_entropy(z_l, batch.y_l)
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        loss = supervised + self.config.weight * entropy
        self.net.step(loss, t)
        parts = {"loss": loss, "supervised": supervised, "entropy": entropy}
        return StepReport({name: value.detach() for name, value in parts.items()})


def main() -> None:
    result = metapl.fit("digits", method="own_method:EntropyMinimisation", steps=STEPS, labels=4)
    judged = result.evaluate()
    print(f"{100 * judged['accuracy']:.1f} % of {judged['rows']} test rows")


if __name__ == "__main__":
    main()

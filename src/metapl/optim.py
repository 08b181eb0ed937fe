"""One network with its optimiser: learning-rate schedule, parameter groups, gradient clipping, EMA."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from metapl.errors import UserError


@dataclass(frozen=True)
class OptimConfig:
    """How every network of a run is stepped."""

    name: Literal["auto", "sgd", "adamw"] = "auto"  # the optimiser; auto: adamw for the network ngram, else sgd
    lr: float = 0.0  # peak learning rate; 0: 0.05 for sgd, 0.001 for adamw (0.01 for ngram)
    momentum: float = 0.9  # SGD's momentum, or Adam's first beta
    nesterov: bool = False  # SGD with Nesterov momentum
    weight_decay: float = 5e-4  # on weights; biases and normalisation layers are left out
    clip: float = 0.0  # largest global gradient norm; 0 = no clipping
    schedule: Literal["cosine", "constant"] = "cosine"  # after the warm-up, over the main phase
    warmup: int = 0  # steps of linear warm-up
    ema: float = 0.99  # decay of the averaged weights per step; less at the start

    def __post_init__(self) -> None:
        checks = {
            "lr": self.lr >= 0, "momentum": 0 <= self.momentum < 1, "weight_decay": self.weight_decay >= 0,
            "clip": self.clip >= 0, "warmup": self.warmup >= 0, "ema": 0 <= self.ema < 1,
        }  # fmt: skip
        for name, good in checks.items():
            if not good:
                raise UserError(f"{getattr(self, name)} is out of range", "See docs/settings.md.", f"optim.{name}")

    def resolved(self, model: str = "") -> OptimConfig:
        """Without ``auto`` and a rate of 0: what they stand for with the network named ``model``."""
        ngram = model == "ngram"  # most rows of its table see a gradient only now and then: rates of their own
        name = self.name if self.name != "auto" else "adamw" if ngram else "sgd"
        return replace(self, name=name, lr=self.lr or (0.05 if name == "sgd" else 0.01 if ngram else 0.001))


def learning_rate(config: OptimConfig, t: int, steps: int) -> float:
    """The rate of step t of ``steps``: linear warm-up, then constant or half a cosine down to zero."""
    if t < config.warmup:
        return config.lr * (t + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (t - config.warmup) / max(1, steps - config.warmup))
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def ramp(t: int, length: int) -> float:
    """Linear ramp from 0 at step 0 to 1 at step ``length``; 1 throughout for length 0."""
    return 1.0 if length <= 0 else min(1.0, t / length)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """SGD or AdamW over two groups: matrices and kernels with weight decay, vectors (biases, norms) without."""
    config = config.resolved()
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)


class EMA:
    """A moving average of all parameters and buffers, BatchNorm's statistics included.

    Args:
        model: the network to follow.
        decay: per step; less at the start.
        own_statistics: BatchNorm's statistics are not averaged but measured under the averaged weights, on the rows
            given to ``measure``: for a network that trains on views other than those it is judged on.
    """

    def __init__(self, model: nn.Module, decay: float, own_statistics: bool = False) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.norms = [
            m for m in self.model.modules() if own_statistics and isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        self._left_alone = {id(b) for norm in self.norms for b in norm.buffers()}

    @torch.no_grad()
    def update(self, model: nn.Module, t: int) -> None:
        """average <- d * average + (1 - d) * model with d = min(decay, (t + 1) / (t + 10))."""
        d = min(self.decay, (t + 1) / (t + 10))
        pairs = [*zip(self.model.parameters(), model.parameters()), *zip(self.model.buffers(), model.buffers())]
        pairs = [(a, m) for a, m in pairs if id(a) not in self._left_alone]
        averages = [a for a, _ in pairs if a.is_floating_point()]
        torch._foreach_lerp_(averages, [m for a, m in pairs if a.is_floating_point()], 1 - d)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """One forward of ``x`` that updates BatchNorm's statistics only (no dropout, no random draw)."""
        if self.norms:
            for norm in self.norms:
                norm.train()
            self.model(x)
            self.model.eval()


class Learner:
    """A network, its optimiser and its EMA: one player in a method.

    Args:
        model: the network, already on its device.
        config: how it is stepped.
        steps: length of the schedule.
        own_statistics: see ``EMA``.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, steps: int, own_statistics: bool = False) -> None:
        self.model, self.config, self.steps = model.train(), config.resolved(), steps
        self.optimizer = make_optimizer(model, self.config)
        self.ema = EMA(model, config.ema, own_statistics)
        self.clip_scale: Tensor | None = None  # factor of the last step's clipping, for the feedback's chain rule

    def __call__(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Logits of several batches from one forward over all of them (joint BatchNorm statistics)."""
        sizes = [len(v) for v in views]
        return tuple(self.model(torch.cat(views)).split(sizes)) if len(views) > 1 else (self.model(views[0]),)

    def step(self, loss: Tensor, t: int, first: int = 0) -> None:
        """Backpropagate ``loss`` and make update t, then move the EMA; ``first``: this network's first t."""
        self.update(loss, t)
        self.ema.update(self.model, t - first)

    def update(self, loss: Tensor, t: int) -> None:
        """The update alone: for a method that makes several in one step and averages what they come to."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, t, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.clip_scale = self._clip() if self.config.clip else None
        self.optimizer.step()

    def _clip(self) -> Tensor:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        return (self.config.clip / (norm + 1e-6)).clamp(max=1.0)

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.ema.model.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])


@torch.no_grad()
def predict_logits(model: nn.Module, x: Tensor) -> Tensor:
    """Logits of ``x`` in train mode (batch statistics) that leave the network's buffers untouched."""
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    logits: Tensor = torch.func.functional_call(model, buffers, (x,))
    return logits

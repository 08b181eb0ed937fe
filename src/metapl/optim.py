"""Step one network: learning-rate schedule, parameter groups, gradient clipping, moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from metapl.hardware.precision import loss_scale, wide
from metapl.losses import cross_entropy
from metapl.types import SemiBatch
from metapl.utils.fields import BELOW_ONE, NOT_NEGATIVE, Help, Settings, Tries

MEMORY = 5.0  # steps times momentum after which a BatchNorm has forgotten a batch: exp(-5) = 0.7 %


@dataclass(frozen=True)
class OptimConfig(Settings, group="optim"):
    """How every network of a run is stepped."""

    name: Annotated[
        Literal["auto", "sgd", "adamw"],
        "the optimiser; auto: adamw for ngram and for norms=weights, else sgd",
    ] = "auto"
    lr: Annotated[
        float,
        "peak rate; 0: 0.05 for sgd (0.01 for head), 0.001 for adamw (0.01 for ngram, 0.0003 for norms=weights)",
        NOT_NEGATIVE,
        Tries("x0.3,x3"),
    ] = 0.0
    momentum: Annotated[float, "SGD's momentum, or Adam's first beta", BELOW_ONE] = 0.9
    nesterov: Annotated[bool, "SGD with Nesterov momentum"] = False
    weight_decay: Annotated[
        float | Literal["auto"], "on weights; not on biases and norms; auto: 0.0005 (0.05 for head)", NOT_NEGATIVE
    ] = "auto"
    clip: Annotated[float, "largest global gradient norm; 0 = no clipping", NOT_NEGATIVE] = 0.0
    schedule: Annotated[Literal["cosine", "constant"], "after the warm-up, over the main phase"] = "cosine"
    warmup: Annotated[int, Help("linear warm-up", "steps"), NOT_NEGATIVE] = 0
    ema: Annotated[float, "decay of the averaged weights per step; less at the start", BELOW_ONE] = 0.99

    def resolved(self, model: str = "", finetuned: bool = False) -> OptimConfig:
        """Return the config with the optimiser and the rate that ``auto`` and 0 mean for the network ``model``.

        ``finetuned``: it begins with weights of a library's network, which large steps would destroy.
        """
        ngram = model == "ngram"  # most rows of its table rarely see a gradient, so it has rates of its own
        name = self.name if self.name != "auto" else "adamw" if ngram or finetuned else "sgd"
        head = model == "head"  # rows of features are long, and few labels support few directions
        adam = 0.01 if ngram else 0.0003 if finetuned else 0.001
        lr = self.lr or ((0.01 if head else 0.05) if name == "sgd" else adam)
        decay = (0.05 if head else 5e-4) if self.weight_decay == "auto" else self.weight_decay
        return replace(self, name=name, lr=lr, weight_decay=decay)


def learning_rate(config: OptimConfig, t: int, steps: int) -> float:
    """Return the rate of step t of ``steps``: linear warm-up, then constant or half a cosine down to zero."""
    if t < config.warmup:
        return config.lr * (t + 1) / (config.warmup + 1)
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (t - config.warmup) / max(1, steps - config.warmup))
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))


def ramp(t: int, length: int) -> float:
    """Return the height of a linear ramp from 0 at step 0 to 1 at step ``length``; 1 throughout for length 0."""
    return 1.0 if length <= 0 else min(1.0, t / length)


def make_optimizer(model: nn.Module, config: OptimConfig) -> torch.optim.Optimizer:
    """Make SGD or AdamW over two groups: matrices and kernels with weight decay, vectors (biases, norms) without."""
    config = config.resolved()
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trainable if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=(config.momentum, 0.999))
    nesterov = config.nesterov and config.momentum > 0
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)


class EMA:
    """Keeps a moving average of all parameters and buffers, BatchNorm's statistics included.

    Args:
        model: the network to follow.
        decay: of the average per step; smaller at the start.
        own_statistics: measure BatchNorm's statistics under the averaged weights, on the rows given to ``measure``,
            instead of averaging them. For a network that trains on other views than it is judged on.
    """

    def __init__(self, model: nn.Module, decay: float, own_statistics: bool = False) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.norms = [
            m for m in self.model.modules() if own_statistics and isinstance(m, nn.modules.batchnorm._BatchNorm)
        ]
        self._measured = {id(b) for norm in self.norms for b in norm.buffers()}
        # Batches from before so many steps weigh less than 1 % in the statistics; momentum None: all weigh alike.
        self.memory = max((MEMORY / norm.momentum if norm.momentum else math.inf for norm in self.norms), default=0.0)

    @torch.no_grad()
    def update(self, model: nn.Module, t: int) -> None:
        """Set average <- d * average + (1 - d) * model with d = min(decay, (t + 1) / (t + 10))."""
        d = min(self.decay, (t + 1) / (t + 10))
        pairs = [*zip(self.model.parameters(), model.parameters()), *zip(self.model.buffers(), model.buffers())]
        pairs = [(a, m) for a, m in pairs if id(a) not in self._measured]
        averages = [a for a, _ in pairs if a.is_floating_point()]
        torch._foreach_lerp_(averages, [m for a, m in pairs if a.is_floating_point()], 1 - d)
        for average, value in pairs:
            if not average.is_floating_point():
                average.copy_(value)

    @torch.no_grad()
    def measure(self, x: Tensor, steps_to_look: int = 0) -> None:
        """Update BatchNorm's statistics by one forward of ``x`` [B, ...], without dropout or another random draw.

        Nothing is done where ``steps_to_look`` more steps, before the average is used, will have replaced what this one
        adds.
        """
        if self.norms and steps_to_look < self.memory:
            for norm in self.norms:
                norm.train()
            self.model(x)
            self.model.eval()


class Learner:
    """Trains one network: holds it with its optimiser and its moving average (EMA).

    Args:
        model: the network, already on its device.
        config: how it is stepped.
        steps: length of the learning-rate schedule.
        own_statistics: as in ``EMA``.
    """

    def __init__(self, model: nn.Module, config: OptimConfig, steps: int, own_statistics: bool = False) -> None:
        self.model, self.config, self.steps = model.train(), config.resolved(), steps
        self.optimizer = make_optimizer(model, self.config)
        self.ema = EMA(model, config.ema, own_statistics)
        self.clip_scale: Tensor | None = None  # factor by which the last step was clipped; the feedback needs it

    def __call__(self, *views: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of several batches from one forward over all of them (joint BatchNorm statistics)."""
        sizes = [len(v) for v in views]
        return tuple(self.model(torch.cat(views)).split(sizes)) if len(views) > 1 else (self.model(views[0]),)

    def step(self, loss: Tensor, t: int, first: int = 0) -> None:
        """Backpropagate ``loss`` (0-d), make update t, move the EMA; ``first``: the t of this network's first step."""
        self.update(loss, t)
        self.ema.update(self.model, t - first)

    def update(self, loss: Tensor, t: int) -> None:
        """Make the update for ``loss`` (0-d) without moving the EMA, for a method with several updates in one step."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.config, t, self.steps)
        self.optimizer.zero_grad(set_to_none=True)
        scale = loss_scale(loss.device)
        with wide(loss.device):  # each pass goes back in the precision in which it went forward
            (loss * scale if scale != 1 else loss).backward()  # type: ignore[no-untyped-call]
        if scale != 1:
            torch._foreach_div_([p.grad for p in self.model.parameters() if p.grad is not None], scale)
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
    """Return the logits [B, C] of ``x`` [B, ...] in train mode (batch statistics); the buffers stay untouched."""
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    logits: Tensor = torch.func.functional_call(model, buffers, (x,))
    return logits


def descend(model: nn.Module, batch: SemiBatch, lr: float) -> Tensor:
    """Make one plain gradient step of ``model`` on the labelled rows, in train mode; return the loss before it, 0-d."""
    loss = cross_entropy(model.train()(batch.x_l), batch.y_l)
    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients):
            if gradient is not None:
                parameter.sub_(gradient, alpha=lr)
    return loss.detach()

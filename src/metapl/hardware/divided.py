"""One network over several processes: each computes its part of the rows, and all of them get all logits.

A divided network is the same function as before, with the same gradients, so methods and the feedback need not know.
Let n rows lie on W processes, X_k in process k, and let L be any loss of all logits Z:

D1  Z = [f(X_1); ...; f(X_W)], gathered; every process computes L from the same Z
D2  dL/dw = sum_k (dZ_k/dw)^T dL/dZ_k: one sum over the processes for each forward that w was used in
D3  BatchNorm: mean = sum_k n_k mean_k / n,  var = sum_k n_k (var_k + (mean_k - mean)^2) / n, with gradients
D4  dropout draws its mask for all n rows, and each process takes its part

D1 and D3 also have the forward-mode derivative that the exact feedback takes (E4).
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from metapl.hardware import ranks
from metapl.hardware.device import rng_state, set_rng_state

_inside = False  # whether a divided network runs


def divide(model: nn.Module) -> nn.Module:
    """Divide the rows of each forward of ``model``, and of its copies, over the processes of the run.

    Returns:
        The same object. With one process nothing changes.
    """
    if ranks.count() > 1:
        model.forward = MethodType(_forward, model)
    return model


def _forward(self: nn.Module, x: Tensor) -> Tensor:
    global _inside
    own, processes = type(self).forward, ranks.count()
    if _inside or processes == 1 or len(x) < processes:  # of fewer rows every process computes all
        logits: Tensor = own(self, x)
        return logits
    rows, before = len(x), rng_state(x.device)
    weights: dict[str, Tensor] = {}
    if torch.is_grad_enabled():  # D2
        weights = {name: w for name, w in self.named_parameters() if w.requires_grad}
        weights = dict(zip(weights, _SumGradients.apply(*weights.values()))) if weights else {}
        (x,) = _SumGradients.apply(x) if x.requires_grad else (x,)
    _inside = True
    try:
        with _Together(rows):
            z = functional_call(self, weights, (x[ranks.part(rows)],))
    finally:
        _inside = False
    if not torch.equal(before, now := rng_state(x.device)):  # layers may have drawn for other numbers of rows
        set_rng_state(ranks.broadcast_(now), x.device)
    gathered: Tensor = _Gather.apply(z, rows)
    return gathered


class _Together(TorchFunctionMode):
    """Makes the layers that do not treat rows one by one act as if all ``rows`` rows were here: D3 and D4."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is F.dropout:
            return _dropout(self.rows, *args, **kwargs)
        return func(*args, **kwargs)


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """D3, with the arguments of ``F.batch_norm``."""
    if not training:
        return F.batch_norm(x, running_mean, running_var, weight, bias, False, momentum, eps)
    wide: Tensor = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    own_var, own_mean = torch.var_mean(wide, [d for d in range(x.ndim) if d != 1], correction=0)
    own = torch.cat([own_mean, own_var, own_mean.new_tensor([x.numel() / x.shape[1]])])
    everyone = torch.zeros(ranks.count(), len(own), dtype=own.dtype, device=own.device)
    everyone = _Sum.apply(everyone.index_add(0, torch.tensor([ranks.rank()], device=own.device), own[None]))
    means, variances = everyone[:, :-1].chunk(2, dim=1)
    counts = everyone[:, -1:].detach()
    n = counts.sum()
    mean = (counts * means).sum(0) / n
    var = (counts * (variances + (means - mean) ** 2)).sum(0) / n
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            running_mean.lerp_(mean.to(running_mean.dtype), momentum)
            running_var.lerp_((var * (n / (n - 1))).to(running_var.dtype), momentum)
    scale = torch.rsqrt(var + eps) if weight is None else weight * torch.rsqrt(var + eps)
    shift = -mean * scale if bias is None else bias - mean * scale
    shape = [1, -1, *[1] * (x.ndim - 2)]
    normalized: Tensor = wide * scale.view(shape) + shift.view(shape)
    return normalized.to(x.dtype)


def _dropout(rows: int, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """D4, with the arguments of ``F.dropout``. ``x`` may hold several entries per row, one row after the other."""
    own = ranks.part(rows)
    per_row, rest = divmod(len(x), own.stop - own.start)
    if not training or p == 0 or rest:
        return F.dropout(x, p, training, inplace)
    everyone = x.new_ones((rows * per_row, *x.shape[1:]))
    if x.ndim == 4 and not x.is_contiguous():  # numbers are drawn in the order of the memory
        everyone = everyone.contiguous(memory_format=torch.channels_last)
    mask = F.dropout(everyone, p)
    return x * mask[own.start * per_row : own.stop * per_row]


class _Gather(torch.autograd.Function):
    """D1. The loss is the same in every process, so each takes its own part of the gradient."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, rows: int) -> Tensor:
        ctx.rows = rows
        return ranks.gathered(own, rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[ranks.part(ctx.rows)], None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return ranks.gathered(tangent, ctx.rows)


class _Sum(torch.autograd.Function):
    """The sum over the processes, each of which uses it for its own rows: gradients are summed, too."""

    @staticmethod
    def forward(ctx: Any, own: Tensor) -> Tensor:
        return ranks.sum_(own.clone())

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return ranks.sum_(gradient.clone())

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor) -> Tensor:
        return ranks.sum_(tangent.clone())


class _SumGradients(torch.autograd.Function):
    """D2: the tensors themselves; their gradients are summed over the processes, in one message."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(t.detach() for t in tensors)  # the same memory layout, which a view may change

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        total = list(gradients)
        for dtype in {g.dtype: None for g in gradients if g is not None}:
            places = [k for k, g in enumerate(gradients) if g is not None and g.dtype == dtype]
            for k, summed in zip(places, _summed([g for g in gradients if g is not None and g.dtype == dtype])):
                total[k] = summed
        return tuple(total)


def _summed(tensors: Sequence[Tensor]) -> list[Tensor]:
    flat = ranks.sum_(torch.cat([t.reshape(-1) for t in tensors]))
    return [piece.view_as(t) for piece, t in zip(torch.split(flat, [t.numel() for t in tensors]), tensors)]

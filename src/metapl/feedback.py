"""What the student's labelled loss says about each pseudo label: equations E3 to E5 of ``docs/methods/mpl.md``.

Shapes: B pseudo-labelled rows, C classes. theta is the student before its step, theta' after it.

The chain, for soft labels p [B, C] and one optimiser step theta' = theta - M grad_theta CE(p, S(x_u; theta)) + const:

    d L_l(theta') / d p[i, c] = (1/B) * d/ds log S_c(x_u[i]; theta + s v) at s = 0,   v = M^T grad L_l(theta')

so one labelled gradient at the NEW student (E3), the optimiser's linear map M transposed (E5) and one forward-mode
derivative at the OLD student (E4) give the exact derivative. No second-order graph is built.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.autograd.forward_ad as fwad
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metapl.errors import UserError

Tensors = dict[str, Tensor]
Derivative = Literal["auto", "forward", "difference"]
Rows = Literal["even", "trusted"]  # how the labelled rows are weighted in E3
MAJORITY = 3  # rows of a class from which on one of them can be outvoted


@dataclass(frozen=True)
class Before:
    """The student as it stood before its step: all that E4 and E4' need to look back.

    ``rng`` is the random state just before the student's forward, so that dropout repeats itself.
    """

    parameters: Tensors
    buffers: Tensors
    rng: Tensor


def snapshot(student: nn.Module) -> Before:
    """Copy the student's trainable parameters, buffers and the random state; call it right before E2's forward."""
    parameters = {n: p.detach().clone() for n, p in student.named_parameters() if p.requires_grad}
    buffers = {n: b.detach().clone() for n, b in student.named_buffers()}
    return Before(parameters, buffers, _rng_state(_device(student)))


def labeled_gradient(
    student: nn.Module, before: Before, x_l: Tensor, y_l: Tensor, rows: Rows = "even"
) -> tuple[Tensor, Tensors]:
    """E3: the labelled loss at the NEW student, and ``g = grad_theta' mean_i w_i CE(y_l[i], S(x_l[i]; theta'))``.

    The loss is the plain mean; w is 1 for ``even`` rows, and ``trust`` of the rows' losses, held fixed, for ``trusted``
    ones. The student's own buffers (BatchNorm's running statistics) are left alone.
    """
    parameters = {n: p for n, p in student.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        each = F.cross_entropy(_call(student, parameters, before.buffers, x_l), y_l, reduction="none")
        loss = each.mean()
        heard = loss if rows == "even" else (trust(each.detach(), y_l) * each).mean()
        grads = torch.autograd.grad(heard, list(parameters.values()), allow_unused=True)
    gradient = {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), grads)}
    return loss.detach(), gradient


def trust(losses: Tensor, y: Tensor) -> Tensor:
    """E3': how far each labelled row is believed, by the student's probability of its label; mean 1 in each class.

    ``w_i = p_i / mean of p_j over the rows j of row i's class``, p = exp(-losses). A row with a wrong label is one that
    the student contradicts while it agrees with others of that class. Where it contradicts a whole class, which the
    teacher must hear, nothing is lost: only the rows' shares within the class change. Two rows that disagree hold no
    majority, so a class with fewer than ``MAJORITY`` rows has weights of 1.

    Args:
        losses: [b] cross-entropy of each row.
        y: [b] int64 labels.
    """
    same = y[:, None] == y[None]
    of_class, count = torch.where(same, -losses[None], -torch.inf), same.sum(1)
    weights = torch.exp(-losses - torch.logsumexp(of_class, 1)) * count
    return torch.where(count < MAJORITY, torch.ones_like(weights), weights)


def labeled_loss(student: nn.Module, before: Before, x_l: Tensor, y_l: Tensor, *, old: bool) -> Tensor:
    """E4': the labelled loss of the old or the new student, with the same dropout draw and buffers for both."""
    parameters = before.parameters if old else {n: p for n, p in student.named_parameters() if p.requires_grad}
    with torch.no_grad(), replayed_rng(before.rng, _device(student)):
        return F.cross_entropy(_call(student, parameters, before.buffers, x_l), y_l)


def step_adjoint(
    optimizer: torch.optim.Optimizer, student: nn.Module, gradient: Mapping[str, Tensor], *, unit_lr: bool = False
) -> Tensors:
    """E5: ``v = M^T g`` for the step that ``optimizer`` has just made, theta' = theta - M grad + const.

    Past gradients and weight decay are constants of the step and drop out. Per parameter M is a diagonal:

    - SGD and momentum: ``lr``;  Nesterov: ``lr (1 + momentum)``
    - Adam, AdamW: ``lr (1 - b1) / (1 - b1^k) / (sqrt(v_hat) + eps)``, second moment held fixed.

    Args:
        unit_lr: leave the factor ``lr`` out (the scale in which the feedback weight is stated).

    Raises:
        UserError: for an optimiser whose step is none of these.
    """
    names = {id(p): n for n, p in student.named_parameters()}
    result: Tensors = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) in names and names[id(p)] in gradient:
                scale = _step_coefficient(optimizer, group, p)
                result[names[id(p)]] = gradient[names[id(p)]] * (scale if unit_lr else group["lr"] * scale)
    return result


def clip_adjoint(direction: Mapping[str, Tensor], clipped: Mapping[str, Tensor], scale: Tensor) -> Tensors:
    """The transpose of global-norm clipping ``grad -> scale * grad``, ``scale = min(1, max_norm / |grad|)``.

    Where it clipped, ``J v = scale * (v - u (u . v))`` with u the gradient's unit vector; else J is the identity.
    ``clipped`` are the gradients after clipping, of which only the direction is used.
    """
    dot = sum((clipped[n] * direction[n]).sum() for n in direction)
    square = sum((clipped[n] ** 2).sum() for n in direction)
    along = torch.where(scale < 1, dot / square, torch.zeros_like(scale))
    return {n: scale * (v - along * clipped[n]) for n, v in direction.items()}


def log_prob_derivative(
    student: nn.Module, before: Before, x: Tensor, direction: Mapping[str, Tensor], how: Derivative = "auto"
) -> Tensor:
    """E4: ``r[i, c] = d/ds log S_c(x[i]; theta + s * direction)`` at s = 0, at the OLD student; [B, C].

    ``forward`` is one forward-mode derivative. ``difference`` is the central difference along ``direction`` (two
    forwards), for layers without a forward-mode rule. ``auto`` tries the first, once per network, and says so
    with a warning when it has to take the second.
    """
    if how == "difference" or (how == "auto" and getattr(student, _NO_FORWARD_MODE, False)):
        return _central_difference(student, before, x, direction)
    try:
        return _forward_mode(student, before, x, direction)
    except (NotImplementedError, RuntimeError) as error:
        if how == "forward" or not _is_missing_rule(error):
            raise
    setattr(student, _NO_FORWARD_MODE, True)
    warnings.warn(
        f"{type(student).__name__} holds a layer without a forward-mode derivative; "
        "the exact feedback uses a central difference instead (one more forward per step).",
        stacklevel=2,
    )
    return _central_difference(student, before, x, direction)


def exact_loss(p: Tensor, r: Tensor) -> Tensor:
    """E4: ``mean_i sum_c stopgrad(r[i, c]) * p[i, c]``; its gradient with respect to p is the chain's above."""
    return (r.detach() * p).sum(-1).mean()


def sampled_loss(logits: Tensor, labels: Tensor, gain: Tensor) -> Tensor:
    """E4': ``stopgrad(gain) * mean_i CE(labels[i], T(x[i]))``, gain = old minus new labelled loss, minus baseline.

    The unbiased estimate of the derivative of the expected labelled loss is B times this (the sum over rows).
    """
    return gain.detach() * F.cross_entropy(logits, labels)


def official_loss(logits: Tensor, gain: Tensor) -> Tensor:
    """The released code's term: ``gain * CE(stopgrad softmax(z), z)``. Its gradient is zero by algebra; a control."""
    return gain.detach() * -(torch.softmax(logits, -1).detach() * F.log_softmax(logits, -1)).sum(-1).mean()


# ---- below: how, not what ------------------------------------------------------------------------------------

_NO_FORWARD_MODE = "_metapl_no_forward_mode"


def _call(student: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
    # Buffers are cloned because BatchNorm writes to them in train mode.
    state = {**parameters, **{n: b.clone() for n, b in buffers.items()}}
    logits: Tensor = functional_call(student, state, (x,))
    return logits


def _forward_mode(student: nn.Module, before: Before, x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
    _load_forward_rules()
    # Attention has a forward-mode rule only for the plain mathematical kernel.
    math_only = sdpa_kernel(SDPBackend.MATH)
    with torch.no_grad(), replayed_rng(before.rng, x.device), math_only, fwad.dual_level():
        duals = {n: fwad.make_dual(before.parameters[n], v) for n, v in direction.items()}  # type: ignore[no-untyped-call]
        duals = {**before.parameters, **duals}  # what the optimiser does not hold stays put
        log_probs = F.log_softmax(_call(student, duals, before.buffers, x), dim=-1)
        tangent = fwad.unpack_dual(log_probs).tangent  # type: ignore[no-untyped-call]
        return torch.zeros_like(log_probs) if tangent is None else tangent.clone()


@functools.cache
def _load_forward_rules() -> None:
    # torch loads its own rules at the first dual tensor, by a function that it has deprecated: not the user's concern.
    with warnings.catch_warnings(), fwad.dual_level():
        warnings.simplefilter("ignore")
        fwad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


def _central_difference(student: nn.Module, before: Before, x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
    names = list(direction)
    length = torch.sqrt(sum((direction[n] ** 2).sum() for n in names))  # type: ignore[arg-type]
    size = torch.sqrt(sum((before.parameters[n] ** 2).sum() for n in names))  # type: ignore[arg-type]
    tiny = torch.finfo(length.dtype)
    # eps^(1/3) balances the truncation error (quadratic in the step) against rounding (inverse to it).
    h = tiny.eps ** (1 / 3) * (1 + size) / length.clamp_min(tiny.tiny)
    with torch.no_grad():
        sides = []
        for sign in (1.0, -1.0):
            moved = {n: before.parameters[n] + sign * h * v for n, v in direction.items()}
            moved = {**before.parameters, **moved}
            with replayed_rng(before.rng, x.device):
                sides.append(F.log_softmax(_call(student, moved, before.buffers, x), dim=-1))
        return torch.where(length > 0, (sides[0] - sides[1]) / (2 * h), torch.zeros_like(sides[0]))


def _step_coefficient(optimizer: torch.optim.Optimizer, group: dict[str, Any], p: Tensor) -> Tensor | float:
    if isinstance(optimizer, torch.optim.SGD) and not group["dampening"] and not group["maximize"]:
        return 1.0 + (float(group["momentum"]) if group["nesterov"] else 0.0)
    if isinstance(optimizer, torch.optim.Adam) and not group["amsgrad"] and not group["maximize"]:
        state, (b1, b2) = optimizer.state[p], group["betas"]
        if not state:  # the parameter got no gradient, so it did not move
            return 0.0
        k = state["step"].to(p.device, p.dtype)
        root: Tensor = torch.sqrt(state["exp_avg_sq"] / (1 - b2**k))
        return (1 - b1) / (1 - b1**k) / (root + group["eps"])  # type: ignore[no-any-return]
    raise UserError(
        f"the feedback knows no step rule for {type(optimizer).__name__} with these options",
        "Use SGD (momentum, Nesterov; no dampening) or Adam/AdamW (no amsgrad).",
    )


def _is_missing_rule(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or "forward AD" in str(error) or "forward-mode" in str(error)


def _device(module: nn.Module) -> torch.device:
    return next(module.parameters()).device


def _rng_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_rng_state(state: Tensor, device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


@contextmanager
def replayed_rng(state: Tensor, device: torch.device) -> Iterator[None]:
    """Run a block from the random state ``state`` of ``device``, then go on from where the stream was."""
    now = _rng_state(device)
    _set_rng_state(state, device)
    try:
        yield
    finally:
        _set_rng_state(now, device)

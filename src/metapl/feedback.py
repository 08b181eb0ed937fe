"""The derivative of the student's labelled loss by each pseudo label: equations E3 to E5 of ``docs/methods/mpl.md``.

Shapes: B pseudo-labelled rows, b labelled rows, C classes. theta is the student before its step, theta' after it.

For soft labels p [B, C] and one optimiser step theta' = theta - M grad_theta CE(p, S(x_u; theta)) + const:

    d L_l(theta') / d p[i, c] = (1/B) * d/ds log S_c(x_u[i]; theta + s v) at s = 0,   v = M^T grad L_l(theta')

So three parts give the exact derivative, without a second-order graph: one labelled gradient at the NEW student (E3),
the optimiser's linear map M transposed (E5), and one forward-mode derivative at the OLD student (E4).
``label_derivative`` puts them together.
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
from metapl.hardware.device import rng_state, set_rng_state
from metapl.hardware.precision import loss_scale, low_dtype, wide
from metapl.optim import Learner

Tensors = dict[str, Tensor]
Derivative = Literal["auto", "forward", "difference", "one_sided"]
RowWeights = Literal["even", "trusted"]  # how the labelled rows are weighted in E3
LOW_STEPS = {torch.bfloat16: 3e-3, torch.float16: 5e-4}  # of a one-sided difference, as shares of the parameters' size
MAJORITY = 3  # from this number of rows of a class on, one of them can be outvoted


@dataclass(frozen=True)
class Before:
    """The student before its step, as E4 and E4' need it.

    Attributes:
        parameters: copies of the trainable parameters, by name.
        buffers: copies of the buffers, by name.
        rng: the random state just before the student's forward, so that dropout repeats itself.
    """

    parameters: Tensors
    buffers: Tensors
    rng: Tensor


def snapshot(student: nn.Module) -> Before:
    """Copy the student's trainable parameters, buffers and random state; call it right before E2's forward."""
    parameters = {n: p.detach().clone() for n, p in student.named_parameters() if p.requires_grad}
    buffers = {n: b.detach().clone() for n, b in student.named_buffers()}
    return Before(parameters, buffers, rng_state(device_of(student)))


def label_derivative(
    learner: Learner,
    before: Before,
    x_l: Tensor,
    y_l: Tensor,
    x: Tensor,
    derivative: Derivative = "auto",
    rows: RowWeights = "even",
    output: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """E3 to E5: return the labelled loss after the step and its derivative by each label that the step was made from.

    Args:
        learner: the student. Its last step was made on ``mean_i CE(labels_i, learner.model(x)_i)``.
        before: the snapshot from right before the forward of ``x``.
        x_l, y_l: [b, ...] labelled rows and [b] int64 labels.
        x: [B, ...] the very rows of that forward.
        derivative: forward mode or a difference, as in ``log_prob_derivative``.
        output: [B, C] the logits of that forward, which ``one_sided`` uses again.
        rows: how the labelled rows are weighted, as in ``labeled_gradient``.

    Returns:
        The labelled loss, 0-d, and r [B, C] per unit of the learning rate: the derivative of the weighted labelled loss
        by label [i, c] is ``lr / B * r[i, c]``, exactly.
    """
    loss, gradient = labeled_gradient(learner.model, before, x_l, y_l, rows)  # E3
    direction = step_adjoint(learner.optimizer, learner.model, gradient, unit_lr=True)  # E5
    if learner.clip_scale is not None:
        weights = {n: p for n, p in learner.model.named_parameters() if n in direction}
        clipped = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in weights.items()}
        direction = clip_adjoint(direction, clipped, learner.clip_scale)
    return loss, log_prob_derivative(learner.model, before, x, direction, derivative, output)  # E4


def labeled_gradient(
    student: nn.Module, before: Before, x_l: Tensor, y_l: Tensor, rows: RowWeights = "even"
) -> tuple[Tensor, Tensors]:
    """E3: return the labelled loss at the NEW student and ``g = grad_theta' mean_i w_i CE(y_l[i], S(x_l[i]; theta'))``.

    The loss is the plain mean. w is 1 for ``even`` rows; for ``trusted`` rows it is ``trust`` of their losses, without
    gradient. The student's own buffers (BatchNorm's running statistics) stay as they are.
    """
    parameters = {n: p for n, p in student.named_parameters() if p.requires_grad}
    with torch.enable_grad():
        losses = F.cross_entropy(_logits(student, parameters, before.buffers, x_l), y_l, reduction="none")
        loss = losses.mean()
        weighted = loss if rows == "even" else (trust(losses.detach(), y_l) * losses).mean()
        scale = loss_scale(weighted.device)
        with wide(weighted.device):
            weighted = weighted * scale if scale != 1 else weighted
            grads = torch.autograd.grad(weighted, list(parameters.values()), allow_unused=True)
    gradient = {n: torch.zeros_like(p) if g is None else g / scale for (n, p), g in zip(parameters.items(), grads)}
    return loss.detach(), gradient


def trust(losses: Tensor, y: Tensor) -> Tensor:
    """E3': weigh each labelled row by the student's probability of its label; the mean is 1 in each class.

    ``w_i = p_i / mean of p_j over the rows j of row i's class``, p = exp(-losses). A row probably has a wrong label
    if the student contradicts it and agrees with others of its class. A class that the student contradicts as a whole
    keeps its weight, since only the shares within a class change. Two rows that disagree are not a majority, so a class
    with fewer than ``MAJORITY`` rows has weights of 1.

    Args:
        losses: [b] cross-entropy of each row.
        y: [b] int64 labels.

    Returns:
        [b] weights.
    """
    same_class = y[:, None] == y[None]
    log_p, count = torch.where(same_class, -losses[None], -torch.inf), same_class.sum(1)
    weights = torch.exp(-losses - torch.logsumexp(log_p, 1)) * count
    return torch.where(count < MAJORITY, torch.ones_like(weights), weights)


def labeled_loss(student: nn.Module, before: Before, x_l: Tensor, y_l: Tensor, *, old: bool) -> Tensor:
    """E4': return the labelled loss, 0-d, of the old or the new student, with one dropout draw and the same buffers."""
    parameters = before.parameters if old else {n: p for n, p in student.named_parameters() if p.requires_grad}
    with torch.no_grad(), replayed_rng(before.rng, device_of(student)):
        return F.cross_entropy(_logits(student, parameters, before.buffers, x_l), y_l)


def step_adjoint(
    optimizer: torch.optim.Optimizer, student: nn.Module, gradient: Mapping[str, Tensor], *, unit_lr: bool = False
) -> Tensors:
    """E5: return ``v = M^T g`` by name for the last step of ``optimizer``, theta' = theta - M grad + const.

    Past gradients and weight decay are constants of the step and drop out. For each parameter M is a diagonal:

    - SGD and momentum: ``lr``;  Nesterov: ``lr (1 + momentum)``
    - Adam, AdamW: ``lr (1 - b1) / (1 - b1^k) / (sqrt(v_hat) + eps)``, second moment held fixed.

    Args:
        optimizer: has just stepped the student.
        student: the network.
        gradient: g, by the names of the student's parameters.
        unit_lr: leave out the factor ``lr``: the feedback weight is stated in this scale.

    Raises:
        UserError: the optimiser's step is not one of these.
    """
    names = {id(p): n for n, p in student.named_parameters()}
    result: Tensors = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            if id(p) in names and names[id(p)] in gradient:
                coefficient = _step_coefficient(optimizer, group, p)
                scale = coefficient if unit_lr else group["lr"] * coefficient
                result[names[id(p)]] = gradient[names[id(p)]] * scale
    return result


def clip_adjoint(direction: Mapping[str, Tensor], clipped: Mapping[str, Tensor], scale: Tensor) -> Tensors:
    """Apply the transpose of global-norm clipping, ``grad -> scale * grad``, ``scale = min(1, max_norm / |grad|)``.

    Where the gradient was clipped, ``J v = scale * (v - u (u . v))`` with u its unit vector; else J is the identity.

    Args:
        direction: v, by the names of the parameters.
        clipped: the gradients after clipping, of which only the direction is used.
        scale: 0-d, the factor of the clipping.
    """
    dot = sum((clipped[n] * direction[n]).sum() for n in direction)
    square = sum((clipped[n] ** 2).sum() for n in direction)
    along = torch.where(scale < 1, dot / square, torch.zeros_like(scale))
    return {n: scale * (v - along * clipped[n]) for n, v in direction.items()}


def log_prob_derivative(
    student: nn.Module,
    before: Before,
    x: Tensor,
    direction: Mapping[str, Tensor],
    derivative: Derivative = "auto",
    output: Tensor | None = None,
) -> Tensor:
    """E4: return ``r[i, c] = d/ds log S_c(x[i]; theta + s * direction)`` at s = 0, at the OLD student; [B, C].

    ``forward`` takes one forward-mode derivative, which costs about three forwards. ``difference`` takes the central
    difference along ``direction`` (two forwards), for layers without a forward-mode rule. ``one_sided`` takes the
    difference from ``output``, the logits [B, C] of the student's own forward (one forward more). ``auto`` tries the
    first; if the network has no rule for it, it warns and takes the second from then on. In mixed precision the first
    two run in fp32, since a difference of 16-bit numbers says little; ``one_sided`` runs as the forward did.
    """
    if derivative == "one_sided":
        return _one_sided_difference(student, before, x, direction, output)
    if derivative == "difference" or (derivative == "auto" and getattr(student, _NO_FORWARD_MODE, False)):
        with wide(x.device):
            return _central_difference(student, before, x, direction)
    try:
        with wide(x.device):
            return _forward_mode(student, before, x, direction)
    except (NotImplementedError, RuntimeError) as error:
        if derivative == "forward" or not _is_missing_rule(error):
            raise
    setattr(student, _NO_FORWARD_MODE, True)
    warnings.warn(
        f"{type(student).__name__} has a layer without a forward-mode derivative; "
        "the exact feedback uses a central difference instead (one more forward per step).",
        stacklevel=2,
    )
    with wide(x.device):
        return _central_difference(student, before, x, direction)


def exact_loss(p: Tensor, r: Tensor) -> Tensor:
    """E4: return ``mean_i sum_c stopgrad(r[i, c]) * p[i, c]``, whose gradient by p is the exact derivative."""
    return (r.detach() * p).sum(-1).mean()


def sampled_loss(logits: Tensor, labels: Tensor, gain: Tensor) -> Tensor:
    """E4': return ``stopgrad(gain) * mean_i CE(labels[i], T(x[i]))``, gain: old minus new labelled loss minus baseline.

    Its gradient times B (the sum over rows) is an unbiased estimate of the gradient of the expected labelled loss.
    """
    return gain.detach() * F.cross_entropy(logits, labels)


def official_loss(logits: Tensor, gain: Tensor) -> Tensor:
    """Return the released code's term ``gain * CE(stopgrad softmax(z), z)``, 0-d, a control with a gradient of zero."""
    return gain.detach() * -(torch.softmax(logits, -1).detach() * F.log_softmax(logits, -1)).sum(-1).mean()


# ---- below: how it is computed ---------------------------------------------------------------------------------

_NO_FORWARD_MODE = "_metapl_no_forward_mode"


def _logits(student: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor) -> Tensor:
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
        duals = {**before.parameters, **duals}  # parameters without an optimiser do not move
        log_probs = F.log_softmax(_logits(student, duals, before.buffers, x), dim=-1)
        tangent = fwad.unpack_dual(log_probs).tangent  # type: ignore[no-untyped-call]
        return torch.zeros_like(log_probs) if tangent is None else tangent.clone()


@functools.cache
def _load_forward_rules() -> None:
    # At the first dual tensor torch loads its own rules by a function that it has deprecated: hide that warning.
    with warnings.catch_warnings(), fwad.dual_level():
        warnings.simplefilter("ignore")
        fwad.make_dual(torch.zeros(1), torch.zeros(1))  # type: ignore[no-untyped-call]


@torch.no_grad()
def _central_difference(student: nn.Module, before: Before, x: Tensor, direction: Mapping[str, Tensor]) -> Tensor:
    # The power 1/3 balances the truncation error (quadratic in the step) against rounding (inverse to it).
    h, length = _difference_step(before, direction, 1 / 3)
    sides = [_moved_log_probs(student, before, x, direction, sign * h) for sign in (1.0, -1.0)]
    return torch.where(length > 0, (sides[0] - sides[1]) / (2 * h), torch.zeros_like(sides[0]))


@torch.no_grad()  # self_mpl's old weights take gradients
def _one_sided_difference(
    student: nn.Module, before: Before, x: Tensor, direction: Mapping[str, Tensor], output: Tensor | None
) -> Tensor:
    # Across the kinks of ReLUs the truncation error grows with the square root of the step, so the power is 2/3. In 16
    # bits many roundings average out, so that a shorter step than by that rule is better.
    low = low_dtype(x.device)
    h, length = _difference_step(before, direction, 2 / 3, None if low is None else LOW_STEPS[low])
    if output is None:
        old = _moved_log_probs(student, before, x, direction, torch.zeros_like(h))
    else:
        old = F.log_softmax(output.detach(), dim=-1)
    new = _moved_log_probs(student, before, x, direction, h)
    return torch.where(length > 0, (new - old) / h, torch.zeros_like(new))


def _difference_step(
    before: Before, direction: Mapping[str, Tensor], power: float, share: float | None = None
) -> tuple[Tensor, Tensor]:
    """Return the step along ``direction`` that is ``share`` (or ``eps^power``) of the parameters' size; its length."""
    length = torch.sqrt(sum((v**2).sum() for v in direction.values()))  # type: ignore[arg-type]
    size = torch.sqrt(sum((before.parameters[n] ** 2).sum() for n in direction))  # type: ignore[arg-type]
    tiny = torch.finfo(length.dtype)
    return (share or tiny.eps**power) * (1 + size) / length.clamp_min(tiny.tiny), length


@torch.no_grad()
def _moved_log_probs(
    student: nn.Module, before: Before, x: Tensor, direction: Mapping[str, Tensor], h: Tensor
) -> Tensor:
    """Return log S(x; theta + h * direction) [B, C], with the random draws of the student's own forward."""
    moved = {n: before.parameters[n] + h * v for n, v in direction.items()}
    with replayed_rng(before.rng, x.device):
        return F.log_softmax(_logits(student, {**before.parameters, **moved}, before.buffers, x), dim=-1)


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
        f"the feedback has no step rule for {type(optimizer).__name__} with these options",
        "Use SGD (momentum, Nesterov; no dampening) or Adam/AdamW (no amsgrad).",
    )


def _is_missing_rule(error: Exception) -> bool:
    return isinstance(error, NotImplementedError) or "forward AD" in str(error) or "forward-mode" in str(error)


def device_of(module: nn.Module) -> torch.device:
    """Return the device of a network's first parameter."""
    return next(module.parameters()).device


@contextmanager
def replayed_rng(state: Tensor, device: torch.device) -> Iterator[None]:
    """Run a block from the random state ``state`` of ``device``; afterwards the state is as it was before the block."""
    now = rng_state(device)
    set_rng_state(state, device)
    try:
        yield
    finally:
        set_rng_state(now, device)

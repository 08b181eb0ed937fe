"""Compute the teacher's feedback gradient of one meta step, so that anyone can check it."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from metapl import feedback as fb
from metapl.errors import UserError, nearest
from metapl.losses import cross_entropy, soft_cross_entropy
from metapl.pseudo_labels import sample_labels

FEEDBACKS = ("exact", "sampled", "none", "official")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adamw")


def teacher_feedback_gradient(
    teacher: nn.Module,
    student: nn.Module,
    x_l: Tensor,
    y_l: Tensor,
    x_teacher: Tensor,
    x_student: Tensor,
    lr: float,
    feedback: str = "exact",
    optimizer: str | torch.optim.Optimizer = "sgd",
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    labels: Tensor | None = None,
    derivative: fb.Derivative = "auto",
) -> dict[str, Tensor]:
    """Return the feedback part of the teacher's gradient for one student step, at weight 1.

    It has the scale of the true derivative. For ``exact`` it is ``d L_l(theta') / d teacher parameters``, with theta'
    the student after one step of ``optimizer`` on the teacher's soft labels. For ``sampled`` it is one unbiased draw of
    ``d E[L_l(theta')] / d teacher parameters`` over hard labels y ~ softmax T. For ``official`` it is zero up to
    rounding, for ``none`` zero. Both networks are used in their current mode and do not change.

    Args:
        teacher, student: networks that return logits [*, C].
        x_l, y_l: [b, ...] labelled rows and [b] int64 labels.
        x_teacher, x_student: [B, ...] the same unlabelled rows as the teacher and the student see them.
        lr: the student's learning rate (an optimiser instance keeps its own).
        feedback: exact, sampled, none or official.
        optimizer: sgd, momentum, nesterov or adamw (a first step from a fresh state), or an optimiser over
            ``student``'s parameters, whose state and options are used but not changed.
        momentum: of momentum and nesterov.
        weight_decay: coupled for the SGD family, decoupled for adamw.
        labels: [B] int64, the labels for ``sampled``; by default drawn with the global generator.
        derivative: ``forward`` mode, central ``difference``, or ``auto``.

    Returns:
        {parameter name of the teacher: tensor of the parameter's shape}.

    Raises:
        UserError: an unknown feedback or optimiser name.
    """
    if feedback not in FEEDBACKS:
        raise UserError(f"unknown feedback '{feedback}'", nearest(feedback, FEEDBACKS))
    student, stepper = _copy(student, optimizer, lr, momentum, weight_decay)
    teacher = copy.deepcopy(teacher)
    logits = teacher(x_teacher)
    p = torch.softmax(logits, dim=-1)
    hard = (sample_labels(p) if labels is None else labels) if feedback == "sampled" else None

    before = fb.snapshot(student)
    output = student(x_student)
    stepper.zero_grad()
    loss = soft_cross_entropy(output, p) if hard is None else cross_entropy(output, hard)
    loss.backward()  # type: ignore[no-untyped-call]
    stepper.step()

    if feedback == "exact":
        _, gradient = fb.labeled_gradient(student, before, x_l, y_l)
        direction = fb.step_adjoint(stepper, student, gradient)
        meta = fb.exact_loss(p, fb.log_prob_derivative(student, before, x_student, direction, derivative))
    elif feedback == "none":
        meta = logits.sum() * 0.0
    else:
        old, new = (fb.labeled_loss(student, before, x_l, y_l, old=o) for o in (True, False))
        gain = (old - new) * len(logits)  # the derivative of the expectation wants the sum over rows
        meta = fb.official_loss(logits, gain) if hard is None else fb.sampled_loss(logits, hard, gain)
    names, parameters = zip(*[(n, q) for n, q in teacher.named_parameters() if q.requires_grad])
    grads = torch.autograd.grad(meta, parameters, allow_unused=True)
    return {n: torch.zeros_like(q) if g is None else g for n, q, g in zip(names, parameters, grads)}


def _copy(
    student: nn.Module, optimizer: str | torch.optim.Optimizer, lr: float, momentum: float, weight_decay: float
) -> tuple[nn.Module, torch.optim.Optimizer]:
    if isinstance(optimizer, str):
        student = copy.deepcopy(student)
        return student, _named_optimizer(student, optimizer, lr, momentum, weight_decay)
    return copy.deepcopy((student, optimizer))  # in one call, so that the optimiser's copy steps the student's copy


def _named_optimizer(
    student: nn.Module, name: str, lr: float, momentum: float, weight_decay: float
) -> torch.optim.Optimizer:
    if name not in OPTIMIZERS:
        raise UserError(f"unknown optimiser '{name}'", nearest(name, OPTIMIZERS))
    parameters = [p for p in student.parameters() if p.requires_grad]
    if name == "adamw":
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
    momentum = 0.0 if name == "sgd" else momentum
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=name == "nesterov", weight_decay=weight_decay)

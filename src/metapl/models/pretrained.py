"""Go on from weights that someone else has trained: their scale of pixels, their BatchNorm, and a head that fits.

P1  BatchNorm: (x - mean) / sqrt(var + eps) with the stored mean and var, in training too
P2  head: W, b of a logistic regression on the labelled rows' features f, scaled to length 1
    (linear probe first, then fine-tuning: Kumar et al. 2022, "Fine-Tuning can Distort Pretrained Features")
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metapl.models.encoders import own_input_spec
from metapl.models.fitted.logistic import fit_logistic
from metapl.types import Preprocessing

CHUNK = 64  # rows per forward
MOST_ROWS = 500  # labelled rows that fit a head at the start
TRUST = 10.0  # of the rows against the size of the weights: scikit-learn's C


def as_pretrained(preprocessing: Preprocessing, name: str) -> Preprocessing:
    """Return it with the mean and spread of pixels that the network ``name`` was trained with, where they are known.

    Grey images take the mean over the channels, since the first convolution's weights are summed for them.
    """
    spec = own_input_spec(name) if len(preprocessing.shape) == 3 else None
    if spec is None or not spec.mean:
        return preprocessing
    channels = preprocessing.shape[0]
    mean, std = spec.mean, spec.std
    if channels == 1:
        mean, std = (sum(mean) / len(mean),), (sum(std) / len(std),)
    return replace(preprocessing, mean=mean, std=std) if channels == len(mean) else preprocessing


def keep_statistics(model: nn.Module) -> None:
    """Let each BatchNorm of ``model`` use its stored mean and variance in training too, so that they do not move (P1).

    Few labelled rows give other statistics than the data of the first weights, and those differ from batch to batch.
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(_use_stored)


def _use_stored(norm: nn.Module, given: tuple[Any, ...]) -> None:
    norm.training = False


@torch.no_grad()
def start_head(model: nn.Module, x: Tensor, y: Tensor, num_classes: int) -> None:
    """Set the last layer by P2, from rows x [n, channels, height, width] and their classes y [n].

    A head that is not one linear layer over a vector stays as it is.
    """
    head = [m for m in model.modules() if isinstance(m, nn.Linear)][-1:]
    if not head or head[0].out_features != num_classes or len(set(y.tolist())) < 2:
        return
    seen, was_training = list[Tensor](), model.training
    hook = head[0].register_forward_pre_hook(lambda _, given: seen.append(given[0].detach().float()))
    try:
        for rows in torch.split(x, CHUNK):
            model.eval()(rows)
    finally:
        hook.remove()
        model.train(was_training)
    features = torch.cat(seen)
    if features.ndim != 2 or len(features) != len(x):
        return
    lengths = features.norm(dim=1, keepdim=True).clamp_min(1e-12)
    weight, bias = fit_logistic((features / lengths).double().cpu().numpy(), y, num_classes, TRUST)
    head[0].weight.copy_(weight / lengths.mean().cpu())
    if head[0].bias is not None:
        head[0].bias.copy_(bias)

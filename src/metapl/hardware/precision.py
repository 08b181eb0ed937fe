"""The precision of a training's passes: fp32, or mixed with bf16 or fp16, where weights and updates stay in fp32."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from metapl.errors import UserError

Precision = Literal["auto", "fp32", "bf16", "fp16"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
LARGE = ("wrn-", "timm:", "torchvision:")  # names of convolutional networks that gain from bf16; small ones do not
FP16_SCALE = 1024.0  # of losses before a backward in fp16, whose smallest number is 6e-8


def pick_precision(name: Precision, device: torch.device, model: str) -> Precision:
    """Return the precision that ``auto`` means: bf16 for a large convolutional network on a fast GPU, else fp32.

    Raises:
        UserError: the device cannot compute in this precision.
    """
    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
        return "bf16" if fast and model.startswith(LARGE) else "fp32"
    if name in DTYPES and device.type not in ("cpu", "cuda"):
        raise UserError(f"{name} is not usable on {device.type}", "Use fp32.", "precision")
    return name


def mixed(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which passes run in ``precision``.

    Casts of weights are not kept from pass to pass: within one step of a method the weights change.
    """
    dtype = DTYPES.get(precision, torch.bfloat16)
    return torch.autocast(device.type, dtype, enabled=precision in DTYPES, cache_enabled=False)


def wide(device: torch.device) -> torch.autocast:
    """Return a context in which passes run in fp32 within ``mixed``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=False)


def low_dtype(device: torch.device) -> torch.dtype | None:
    """Return the dtype of the passes within ``mixed``; None for fp32."""
    return torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None


def loss_scale(device: torch.device) -> float:
    """Return the factor on a loss before its backward, a power of two by which the gradients must be divided."""
    return FP16_SCALE if low_dtype(device) is torch.float16 else 1.0


def keep_logits_wide(model: nn.Module) -> None:
    """Let the network give float32 logits, so that losses are not computed in 16 bits."""
    model.register_forward_hook(_widen)


def _widen(model: nn.Module, inputs: Any, output: Any) -> Any:
    return output.float() if isinstance(output, Tensor) and output.dtype in DTYPES.values() else output

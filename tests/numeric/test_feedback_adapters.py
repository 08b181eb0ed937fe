"""E4 on networks of other packages: forward mode works on them, and is the derivative that reverse mode gives."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from metapl import feedback as fb
from metapl.models import build_model
from metapl.types import Tokens

TOKENS = Tokens("hf:there", 10, pad=0, mask=3)
ROWS = 6


def make(name: str, folder: Path) -> tuple[nn.Module, Tensor]:
    """The network in float64 and in train mode, and rows for it."""
    torch.manual_seed(0)
    if not name.startswith("hf:"):
        shape = (3, 32, 32)
        return build_model(name, shape, 4).double(), torch.randn(ROWS, *shape, dtype=torch.float64)
    transformers = pytest.importorskip("transformers")
    small = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 16, "intermediate_size": 32}
    if name == "hf:bert":
        config = transformers.BertConfig(**small, vocab_size=50, max_position_embeddings=12)
        transformers.BertModel(config).save_pretrained(folder)
        ids = torch.randint(4, 50, (ROWS, 10))
        ids[:, 7:] = TOKENS.pad
        return build_model(f"hf:{folder}", (10,), 4, TOKENS).double(), ids
    config = transformers.ViTConfig(**small, image_size=16, patch_size=8)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    # Twice the network's own size: its positions are interpolated.
    return build_model(f"hf:{folder}", (3, 32, 32), 4).double(), torch.randn(ROWS, 3, 32, 32, dtype=torch.float64)


def by_reverse_mode(model: nn.Module, before: fb.Before, x: Tensor, direction: fb.Tensors) -> Tensor:
    """J v as the gradient of u -> <J^T u, v>: two passes of reverse mode, no dual numbers."""
    parameters = {n: p.clone().requires_grad_() for n, p in before.parameters.items()}
    buffers = {n: b.clone() for n, b in before.buffers.items()}
    with (
        sdpa_kernel(SDPBackend.MATH),
        fb.replayed_rng(before.rng, x.device),
    ):  # the fast kernels have no second derivative
        log_p = F.log_softmax(functional_call(model, {**parameters, **buffers}, (x,)), -1)
        u = torch.zeros_like(log_p, requires_grad=True)
        pulled = torch.autograd.grad(log_p, list(parameters.values()), u, create_graph=True, allow_unused=True)
        dot = sum((g * direction[n]).sum() for n, g in zip(parameters, pulled) if g is not None)
        (made,) = torch.autograd.grad(dot, u)  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize(
    "name", ["timm:test_vit", "timm:test_resnet", "torchvision:squeezenet1_1", "hf:vit", "hf:bert"]
)
def test_exact_feedback_needs_no_difference(name: str, tmp_path: Path) -> None:
    model, x = make(name, tmp_path)
    y = torch.arange(ROWS) % 4
    before = fb.snapshot(model.train())
    _, gradient = fb.labeled_gradient(model, before, x, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # auto says so where it falls back to a difference
        made = fb.log_prob_derivative(model, before, x, gradient, "auto")
    expected = by_reverse_mode(model, before, x, gradient)
    assert expected.abs().max() > 1e-6
    assert torch.allclose(made, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))

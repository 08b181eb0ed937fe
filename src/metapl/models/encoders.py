"""Frozen encoders: a network without a head that turns raw rows into features, with its preprocessing.

Shapes: n rows, D features.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metapl.errors import UserError
from metapl.models import huggingface, own, vision, weights
from metapl.models.lite0 import LITE0, NETWORK, build_lite0
from metapl.models.probe import probe_rows, sketch
from metapl.models.vision import InputSpec as InputSpec
from metapl.types import Preprocessing, Resize, Tokens
from metapl.utils.minilm import MINILM, SPEC
from metapl.utils.names import split_name

BATCH = 64  # rows per forward
PAD_LEVEL = 128  # middle grey, beside images that do not fill their square
BEGIN = 2  # number of words that are a text's beginning
KINDS = (LITE0, MINILM, "timm:NAME", "torchvision:NAME", "hf:FOLDER", "package.module:factory")


class FrozenEncoder:
    """A network in eval mode with its preprocessing of raw rows.

    Attributes:
        name: the argument of ``build_encoder``, or a name for an object.
        weights: the file of its weights, or "".
        takes: kind, shape and tokens of the raw rows; mean and std are not used.
        sha256: over weights and class.
        probe: float32 [n, at most 16], features of rows that are the same everywhere (models/probe.py). It differs if
            two encoders have the same weights but other code, settings or libraries.
        normalize: whether features are scaled to length 1.
        bfloat16: whether images are encoded in bfloat16: on CPUs with instructions for it, by networks of the libraries
            that are named in KINDS. It is about three times as fast; features agree to a cosine of 0.999 on average.
        pooling: texts: "mean" over all ids but padding, "cls" (the first id), or "begin", the mean over the first
            ``BEGIN`` ids of the text itself: for texts whose first words say most, such as questions.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        takes: Preprocessing,
        spec: InputSpec | None = None,
        *,
        weights: str = "",
        normalize: bool = False,
        pooling: str = "mean",
    ) -> None:
        self.network, self.name, self.takes, self.weights = network.eval(), name, takes, weights
        self.spec, self.normalize, self.pooling = spec or InputSpec(), normalize, pooling
        self.sha256 = _digest(network)
        known = takes.tokens is None and _library(name) is not None  # the user's own network may take no other layout
        self.layout = torch.channels_last if known else torch.preserve_format  # nearly twice as fast for convolutions
        self.network.to(memory_format=self.layout)
        self.bfloat16 = False
        features = self.encode(probe_rows(takes))  # this also checks that it takes such rows
        self.features, self.probe = int(features.shape[1]), sketch(features)
        self.bfloat16 = known and _has_bfloat16()

    def to(self, device: torch.device | str) -> FrozenEncoder:
        """Move the network to ``device``."""
        self.network.to(device)
        self.bfloat16 &= torch.device(device).type == "cpu"
        return self

    @property
    def identity(self) -> str:
        """Return everything beside the row that its features depend on, as far as it is known exactly."""
        parts = [self.sha256, self.spec.size, self.spec.mean, self.spec.std, self.spec.channels]
        takes = [self.takes.kind, self.takes.shape, repr(self.takes.tokens), self.takes.resize]
        return json.dumps([*parts, self.normalize, self.pooling, *takes])

    @property
    def versions(self) -> str:
        """Return the libraries of the network with their versions, and "bfloat16" where it computes in that."""
        versions = [f"torch {torch.__version__}"]
        if (library := _library(self.name)) is not None:
            versions.append(f"{library} {metadata.version(library)}")
        return ", ".join([*versions, "bfloat16"] if self.bfloat16 else versions)

    @torch.no_grad()
    def encode(self, rows: Tensor) -> Tensor:
        """Return float32 [n, D] on the CPU for raw rows [n, ...].

        Raises:
            UserError: the rows have another shape, or the network refuses them or returns no [n, D].
        """
        if tuple(rows.shape[1:]) != self.takes.shape:
            got, wanted = list(rows.shape[1:]), list(self.takes.shape)
            raise UserError(f"rows have the shape {got}, the encoder takes {wanted}", "Use rows of that shape.")
        if self.takes.tokens is not None:
            return self._texts(rows)
        images = (self._image(chunk).to(memory_format=self.layout) for chunk in torch.split(rows, BATCH))
        parts = [self._batch(x) for x in images]
        return torch.cat(parts) if parts else torch.zeros(0, self.features)

    def _texts(self, rows: Tensor) -> Tensor:
        """Encode texts of similar length together, cut to the longest of them: padding costs time."""
        assert self.takes.tokens is not None  # build_encoder has looked
        lengths = (rows != self.takes.tokens.pad).sum(1).clamp_min(1)
        order = torch.argsort(lengths, stable=True)
        parts = [self._batch(rows[some, : int(lengths[some].max())]) for some in torch.split(order, BATCH)]
        if not parts:
            return torch.zeros(0, self.features)
        features = torch.cat(parts)
        return torch.empty_like(features).index_copy_(0, order, features)

    def _batch(self, x: Tensor) -> Tensor:
        device = next((p.device for p in self.network.parameters()), torch.device("cpu"))
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
                out = self._scaled(self._pooled(x.to(device)))
        except (AssertionError, IndexError, RuntimeError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"the encoder '{self.name}' cannot take these rows ({reason})", REMEDY, "encoder"
            ) from error
        if not isinstance(out, Tensor) or out.ndim != 2 or len(out) != len(x):
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise UserError(
                f"the encoder '{self.name}' gives {got} for {len(x)} rows", "It must give [B, D].", "encoder"
            )
        return out.cpu()

    def graph(self, rows: Tensor) -> Tensor:
        """Return float32 [n, D] for raw rows as one chain of tensor operations, which can be exported."""
        out: Tensor = self._scaled(self._pooled(rows if self.takes.tokens is not None else self._image(rows)))
        return out

    def _scaled(self, out: Any) -> Any:
        if not isinstance(out, Tensor):  # it is refused by the caller
            return out
        return F.normalize(out.float(), dim=1) if self.normalize and out.ndim == 2 else out.float()

    def _image(self, x: Tensor) -> Tensor:
        """Bring uint8 [n, C, h, w] to the size, channels and scale of the network's own training."""
        spec, x = self.spec, x.float().div_(255)
        if spec.channels and x.shape[1] != spec.channels:
            x = x.expand(-1, spec.channels, -1, -1) if x.shape[1] == 1 else x.mean(1, keepdim=True)
        if spec.size is not None:
            x = at_size(x, spec.size, self.takes.resize)
        if spec.mean:
            mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (spec.mean, spec.std))
            x = (x - mean) / std
        return x

    def _pooled(self, x: Tensor) -> Any:
        if not isinstance(self.network, HFBody):
            return self.network(x)
        return self.network(x, self.pooling)


def at_size(x: Tensor, size: tuple[int, int], resize: Resize) -> Tensor:
    """Resize float images [n, C, h, w] to ``size`` (height, width); ``resize`` as for files (data/images)."""
    (height, width), (h, w) = size, x.shape[2:]
    if (h, w) == size:
        return x
    inner = size
    if resize == "cover":
        scale = max(height / h, width / w)
        tall, wide = max(1, min(h, round(height / scale))), max(1, min(w, round(width / scale)))
        x = x[..., (h - tall) // 2 :, (w - wide) // 2 :][..., :tall, :wide]
    elif resize == "pad":
        scale = min(height / h, width / w)
        inner = max(1, min(height, round(h * scale))), max(1, min(width, round(w * scale)))
    x = F.interpolate(x, inner, mode="bilinear", antialias=True, align_corners=False)
    if inner == size:
        return x
    whole = x.new_full((*x.shape[:2], *size), PAD_LEVEL / 255)
    top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
    whole[..., top : top + inner[0], left : left + inner[1]] = x
    return whole


_LIBRARIES = {LITE0: "timm", "timm": "timm", "torchvision": "torchvision", "hf": "transformers"}


def _library(name: str) -> str | None:
    """Return the library that the named encoder is from; None for the user's own."""
    return _LIBRARIES.get(split_name(name).prefix or name)


def _has_bfloat16() -> bool:
    """Return whether the processor multiplies matrices of bfloat16 itself; emulated, it is slower than float32."""
    asked = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(ask() for ask in asked if ask is not None)


REMEDY = "Set source.image.size or source.encoder.size to what it takes, or choose another encoder."


class HFBody(nn.Module):
    """Pools the outputs of a transformers network without a head to one vector per row."""

    def __init__(self, model: nn.Module, tokens: Tokens | None) -> None:
        super().__init__()
        self.model, self.pad = model, None if tokens is None else tokens.pad
        self.own = (tokens.pad, *tokens.special) if tokens is not None else ()  # ids that are not words of the text
        self.sized = tokens is None and huggingface.takes_sizes(model)
        self.has_class = any("cls_token" in n or "class_embedding" in n for n, _ in model.named_parameters())

    def forward(self, x: Tensor, pooling: str) -> Tensor:
        """Return [B, D] of images [B, channels, height, width] or ids [B, length]."""
        given = huggingface.inputs(self, x)
        last: Tensor = self.model(**given).last_hidden_state
        if last.ndim == 4:
            return last.mean((2, 3))
        if pooling == "cls" if self.pad is not None else self.has_class:
            return last[:, 0]
        if self.pad is None:
            return last.mean(1)
        mask: Tensor = given["attention_mask"]
        if pooling == "begin":
            words = ~torch.isin(x, torch.tensor(self.own, device=x.device, dtype=x.dtype))
            words &= words.cumsum(1) <= BEGIN
            mask = torch.where(words.any(1, keepdim=True), words, mask)  # an empty text: all ids
        mask = mask.unsqueeze(-1).to(last.dtype)
        return (last * mask).sum(1) / mask.sum(1).clamp_min(1)


def build_encoder(
    encoder: str | nn.Module | Callable[..., nn.Module],
    takes: Preprocessing,
    *,
    weights_file: str = "",
    spec: InputSpec | None = None,
    normalize: bool | None = None,
    pooling: str = "auto",
) -> FrozenEncoder:
    """Build the frozen encoder for raw rows as ``takes`` describes them.

    Args:
        encoder: one of KINDS, or from Python a module (a copy is used) or a factory.
        takes: kind, shape and tokens of the rows.
        weights_file: its weights, .safetensors or .pth.
        spec: the form of its images, if not that of its own configuration.
        normalize: scale features to length 1; None = as the folder of an ``hf:`` encoder says, else no.
        pooling: see ``FrozenEncoder``; auto = as the folder says.

    Raises:
        UserError: the name is unknown, the weights do not fit, or it cannot take these rows.
    """
    encoder = SPEC if encoder == MINILM else encoder
    name = encoder if isinstance(encoder, str) else own.given_name(encoder)
    kind, rest = split_name(name)
    if pooling != "auto" and not (kind == "hf" and takes.tokens is not None):
        problem = f"encoder.pooling is for hf: encoders of texts, not for '{name}' here"
        raise UserError(problem, "Leave it out.", "source.encoder.pooling")
    if kind == "hf" and isinstance(encoder, str):
        if weights_file:
            raise UserError(
                "encoder.weights does not go with an hf: encoder", "Its folder has them.", "source.encoder.weights"
            )
        return _hf(rest, takes, spec, normalize, pooling)
    if takes.tokens is not None and (kind in ("timm", "torchvision") or encoder == LITE0):
        raise UserError(f"the encoder '{name}' takes images, these rows are texts", "Use hf:FOLDER.", "encoder")
    if encoder == LITE0 and weights_file:
        raise UserError("encoder.weights does not go with lite0", "It brings its own.", "source.encoder.weights")
    spec = spec or own_input_spec(name) or InputSpec()
    with torch.random.fork_rng():
        torch.manual_seed(0)  # weights that no file has are the same every time
        network = _network(encoder, name, (spec.channels or takes.shape[0], *(spec.size or takes.shape[1:])))
    if weights_file:
        weights_file = os.path.abspath(os.path.expanduser(weights_file))
        weights.load_body(network, weights.read_weights(weights_file), 0, weights_file)
    return FrozenEncoder(network, name, takes, spec, weights=weights_file, normalize=bool(normalize))


def own_input_spec(name: str) -> InputSpec | None:
    """Return the form of the named encoder's images; None if it is not known.

    Raises:
        UserError: an unknown name.
    """
    kind, rest = split_name(f"timm:{NETWORK}" if name == LITE0 else name)
    if kind == "timm":
        return vision.timm_input_spec(rest)
    if kind == "torchvision":
        return vision.torchvision_input_spec(rest)
    if kind == "hf":
        return huggingface.input_spec(huggingface.model_folder(rest))
    return None


def _network(encoder: Any, name: str, shape: tuple[int, ...]) -> nn.Module:
    if isinstance(encoder, nn.Module):
        return _copied(encoder, name)
    if isinstance(encoder, str) and encoder == LITE0:
        return build_lite0()
    kind, rest = split_name(name)
    if isinstance(encoder, str) and kind == "timm":
        return vision.build_timm(rest, shape, 0, False)
    if isinstance(encoder, str) and kind == "torchvision":
        return vision.without_head(vision.build_torchvision(rest, shape, 1000, False))
    if isinstance(encoder, str) and kind is None:
        raise UserError(f"'{name}' is not an encoder", f"Give {', '.join(KINDS)}.", "encoder")
    if isinstance(encoder, str) and name.startswith(own.GIVEN):
        problem = f"the encoder '{rest}' was given as a Python object, which is not stored"
        raise UserError(problem, "Give it again: load_model(folder, encoder=...).", "encoder")
    network = own.call(own.imported(name) if isinstance(encoder, str) else encoder, name, shape, 0)
    if not isinstance(network, nn.Module):
        raise UserError(f"'{name}' gave a {type(network).__name__}, not an nn.Module", "Let it return one.", "encoder")
    return network


def _copied(module: nn.Module, name: str) -> nn.Module:
    """Copy the module, so that the mode, device and gradients of the user's own do not change."""
    try:
        return copy.deepcopy(module)
    except (RuntimeError, TypeError) as error:
        remedy = "Give a function that makes it."
        raise UserError(f"the encoder '{name}' cannot be copied ({error})", remedy, "encoder") from error


def _hf(
    folder: str, takes: Preprocessing, spec: InputSpec | None, normalize: bool | None, pooling: str
) -> FrozenEncoder:
    if pooling not in ("auto", "mean", "cls", "begin"):
        raise UserError(f"unknown pooling '{pooling}'", "Use auto, mean, cls or begin.", "source.encoder.pooling")
    path = Path(os.path.abspath(huggingface.model_folder(folder)))
    name = SPEC if folder == MINILM else f"hf:{path}"  # the package may lie elsewhere on the next machine
    huggingface.check_kind(huggingface.read_config(path), takes.tokens, path)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = huggingface.load_base(path)
    huggingface.check_length(network.config, takes.tokens)
    noted, unit = huggingface.sentence_settings(path)
    return FrozenEncoder(
        HFBody(network, takes.tokens),
        name,
        takes,
        None if takes.tokens is not None else spec or huggingface.input_spec(path),
        normalize=unit if normalize is None else normalize,
        pooling=noted if pooling == "auto" else pooling,
    )


def _digest(network: nn.Module) -> str:
    """Return SHA-256 (hex) over the class and every tensor of the network."""
    digest = hashlib.sha256(type(network).__qualname__.encode())
    for name, value in sorted(network.state_dict().items()):
        tensor = value.detach().cpu().contiguous()
        digest.update(f"|{name} {tensor.dtype} {tuple(tensor.shape)}|".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""Load networks of transformers from a folder on this machine: config.json and safetensors, but no code."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from metapl.errors import UserError
from metapl.models.vision import InputSpec, library
from metapl.types import Shape, Tokens
from metapl.utils.minilm import local_folder

INSTALL = 'Install it: pip install "metapl[text]".'


class HFClassifier(nn.Module):
    """Wraps a classifier of transformers as a plain network.

    Args:
        model: returns an output with ``logits``.
        pad: texts: the id of padding, which the attention ignores; None for images.
    """

    def __init__(self, model: nn.Module, pad: int | None = None) -> None:
        super().__init__()
        self.model, self.pad = model, pad
        self.sized = pad is None and takes_sizes(model)

    @property
    def architecture(self) -> dict[str, Any]:
        """Return the config as JSON values: the same network can be built from it without the folder."""
        config: dict[str, Any] = json.loads(self.model.config.to_json_string(use_diff=False))  # type: ignore[union-attr, operator]
        return config

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of images [B, channels, height, width] or ids [B, length]."""
        logits: Tensor = self.model(**inputs(self, x)).logits
        return logits


def inputs(wrapper: Any, x: Tensor) -> dict[str, Any]:
    """Return the keyword arguments of ``wrapper.model`` for rows ``x`` [B, ...]."""
    config = wrapper.model.config
    if wrapper.pad is not None:
        ids = x.long()
        return {"input_ids": ids, "attention_mask": (ids != wrapper.pad).long()}
    channels = getattr(config, "num_channels", x.shape[1])
    if x.shape[1] == 1 and channels == 3:  # a grey image as RGB
        x = x.expand(-1, 3, -1, -1)
    size = getattr(config, "image_size", None)
    size = (size, size) if isinstance(size, int) else size
    resized = wrapper.sized and size is not None and tuple(size) != tuple(x.shape[2:])
    return {"pixel_values": x, **({"interpolate_pos_encoding": True} if resized else {})}


def build_hf(
    folder: str,
    shape: Shape,
    num_classes: int,
    tokens: Tokens | None,
    architecture: Mapping[str, Any] | None = None,
    notes: list[str] | None = None,
) -> nn.Module:
    """Build the classifier in ``folder`` with a head for ``num_classes`` and the folder's weights in its body.

    Args:
        folder: holds config.json and model.safetensors.
        shape: one row's shape.
        num_classes: C.
        tokens: for texts, how ids were made.
        architecture: a stored ``HFClassifier.architecture``: then nothing is read from the folder, weights are random.
        notes: a list to which a message about new weights is added.

    Raises:
        UserError: transformers is not installed, the folder is missing, or its network is of another kind.
    """
    transformers = library("transformers", INSTALL)
    kind = "AutoModelForImageClassification" if tokens is None else "AutoModelForSequenceClassification"
    auto = getattr(transformers, kind)
    with quiet(transformers):
        if architecture is not None:
            config = transformers.AutoConfig.for_model(**architecture)
            model = auto.from_config(config, trust_remote_code=False)
        else:
            path = model_folder(folder)
            check_kind(read_config(path), tokens, path)
            config = {"num_labels": num_classes, "ignore_mismatched_sizes": True, "output_loading_info": True}
            model, info = _loaded(auto, path, **config)
            new = sorted({str(k) for k in info["missing_keys"]} | {str(k[0]) for k in info["mismatched_keys"]})
            if notes is not None and new:
                notes.append(f"{folder}: new weights for {', '.join(new[:4])}{' ...' * (len(new) > 4)}")
    check_length(model.config, tokens)
    return HFClassifier(model.float(), None if tokens is None else tokens.pad)


def _loaded(auto: Any, path: Path, **options: Any) -> Any:
    """Call ``from_pretrained`` without the network, without pickle and without code of the folder.

    Raises:
        UserError: it fails.
    """
    safe = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False}
    try:
        return auto.from_pretrained(str(path), **safe, **options)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        remedy = "It must hold config.json and model.safetensors, as save_pretrained writes them."
        raise UserError(f"the network cannot be loaded ({reason})", remedy, str(path)) from error


def load_base(path: Path) -> nn.Module:
    """Load the network in ``path`` without a head, in float32.

    Raises:
        UserError: as ``build_hf``.
    """
    transformers = library("transformers", INSTALL)
    with quiet(transformers):
        model: nn.Module = _loaded(transformers.AutoModel, path)
    return model.float()


def model_folder(folder: str) -> Path:
    """Return the folder's path if it may hold a network.

    Raises:
        UserError: it holds none, or it is a name on a hub; ``minilm``: see ``utils.minilm``.
    """
    path = local_folder(folder)
    if not (path / "config.json").is_file():
        remedy = "Give a folder on this machine with config.json and model.safetensors; nothing is downloaded here."
        raise UserError("this folder holds no network of transformers", remedy, f"hf:{folder}")
    return path


def read_config(path: Path) -> dict[str, Any]:
    """Read ``config.json`` of a network's folder.

    Raises:
        UserError: it cannot be read.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"config.json cannot be read ({error})", "Copy the folder again.", str(path)) from error
    if not isinstance(config, dict):
        raise UserError("config.json holds no settings", "Copy the folder again.", str(path))
    return config


def check_kind(config: Mapping[str, Any], tokens: Tokens | None, path: Path) -> None:
    """Check that the network reads this kind of rows; a network for texts needs the ids of its own tokenizer.

    Raises:
        UserError: it does not.
    """
    reads_text = "vocab_size" in config
    if reads_text and tokens is None:
        raise UserError("this network reads texts, these rows are images", "Choose one for images.", f"hf:{path}")
    if tokens is None:
        return
    if not reads_text:
        raise UserError("this network takes no texts", "Choose one for texts.", f"hf:{path}")
    if not tokens.tokenizer.startswith("hf:"):
        problem = f"this network needs its own tokenizer, the texts were cut by '{tokens.tokenizer}'"
        raise UserError(problem, f"Set source.text.tokenizer=hf:{path}.", f"hf:{path}")


def takes_sizes(model: nn.Module) -> bool:
    """Return whether the network can take images of another size than its own."""
    return "interpolate_pos_encoding" in inspect.signature(model.forward).parameters


def input_spec(path: Path) -> InputSpec:
    """Return the image size, mean and std stated in ``preprocessor_config.json``, else in ``config.json``."""
    config = read_config(path)
    try:
        stated = json.loads((path / "preprocessor_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        stated = {}
    channels = int(config.get("num_channels", 3))
    mean, std = (tuple(stated.get(k) or (0.5,) * channels) for k in ("image_mean", "image_std"))
    size = stated.get("crop_size") or stated.get("size") or config.get("image_size")
    if isinstance(size, dict):
        side = size.get("shortest_edge") or config.get("image_size")
        size = (size["height"], size["width"]) if {"height", "width"} <= size.keys() else side
    sides = (size, size) if isinstance(size, int) else tuple(size) if size else None
    return InputSpec(sides, mean, std, channels)


def sentence_settings(path: Path) -> tuple[str, bool]:
    """Return ("mean" or "cls", whether features have length 1) from a folder of sentence-transformers."""
    pooling, unit = "mean", False
    with suppress(OSError, ValueError, AttributeError):
        stated = json.loads((path / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
        pooling = (
            "cls" if stated.get("pooling_mode_cls_token") and not stated.get("pooling_mode_mean_tokens") else "mean"
        )
    with suppress(OSError, ValueError, AttributeError):
        parts = json.loads((path / "modules.json").read_text(encoding="utf-8"))
        unit = any(str(part.get("type", "")).endswith("Normalize") for part in parts)
    return pooling, unit


def check_length(config: Any, tokens: Tokens | None) -> None:
    """Refuse texts that are longer than the network's positions.

    Raises:
        UserError: they are.
    """
    longest = getattr(config, "max_position_embeddings", None)
    if tokens is not None and isinstance(longest, int) and tokens.length > longest:
        raise UserError(f"texts of {tokens.length} ids, this network takes {longest}", "Cut them shorter.", "model")


@contextmanager
def quiet(transformers: Any) -> Iterator[None]:
    """Hide the library's messages and progress bars: metapl reports new weights itself."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), getattr(log, "is_progress_bar_enabled", lambda: False)()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with warnings.catch_warnings(), torch.device("cpu"):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()

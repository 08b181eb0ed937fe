"""methods and models."""

from __future__ import annotations

from typing import Annotated

import typer

from metapl import show
from metapl.cli.app import Debug, Json, Text, app


@app.command()
def methods(
    name: Annotated[Text, typer.Argument(metavar="NAME", help="Show this method's settings.")] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """List the training methods, or the settings of one.

    \b
    Example:
      metapl methods mpl
    """
    from metapl import describe
    from metapl.methods import METHODS, method_class, settings_group

    show.check_json(json)
    if name is None:
        lines = {n: describe.summary(n) for n in METHODS}
        lines["package.module:Class"] = "your own: see examples/own_method.py"
        show.give(lines, json, show.table(("method", "what it does"), lines.items()))
        return
    found = describe.settings(method_class(name).Config, f"{settings_group(name)}.")
    rows = [(s.key, s.default, f"{s.meaning} ({s.takes})") for s in found]
    text = f"{describe.summary(name)}\n\n{show.table(('setting', 'default', 'meaning'), rows)}"
    show.give({s.key: {"default": s.default, "takes": s.takes, "meaning": s.meaning} for s in found}, json, text)


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
      metapl train photos --model convnet
      metapl models timm:resnet18
    """
    from metapl.models import ADAPTERS, MODELS, names_like

    show.check_json(json)
    if name is not None:
        found = names_like(name)
        show.give(found, json, "\n".join(found))
        return
    lines = {n: entry.about for n, entry in MODELS.items()}
    lines["auto"] = "the default: mlp for feature rows, else small_cnn; wrn-28-2 above 32 pixels if there is a GPU"
    lines |= {f"{kind}:{'FOLDER' if kind == 'hf' else 'NAME'}": about for kind, about in ADAPTERS.items()}
    lines["package.module:function"] = "your own: called with shape=(channels, height, width), num_classes=C"
    show.give(lines, json, show.table(("model", "what it is"), lines.items()))

"""The typer app, and what the commands share: options, the state of the command at hand, messages."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from metapl._version import __version__
from metapl.errors import nearest
from metapl.utils.names import split_name

# How --help lists the commands; one that is not named here comes last.
ORDER = (
    *("demo", "check", "train", "resume", "evaluate", "predict", "label"),
    *("compare", "tune", "report", "export", "methods", "models"),
)


class State:
    """What the error handling needs to know about the command at hand."""

    debug = False
    folder: Path | None = None


class _Group(TyperGroup):
    """Names the nearest command when there is no such command, and ends with a word on a signal."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"Unknown command '{args[0]}'. {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:  # a training that is stopped saves its state instead, see running._finish
            raise typer.Exit(stopped(stop)) from None


def stopped(stop: KeyboardInterrupt) -> int:
    """Say which signal ended the command, and give the exit code for it."""
    number = signal.Signals(stop.args[0] if stop.args else signal.SIGINT)
    say(f"stopped by {number.name}")
    return 128 + number


def _set_debug(value: bool) -> None:
    State.debug = State.debug or value


def _show_version(value: bool) -> None:
    if value:
        print(f"metapl {__version__}")
        raise typer.Exit


# Typer before 0.12.4 cannot read `str | None`.
Text = Optional[str]  # noqa: UP045
Texts = Optional[list[str]]  # noqa: UP045
Whole = Optional[int]  # noqa: UP045
Number = Optional[float]  # noqa: UP045
OptionalPath = Optional[Path]  # noqa: UP045

Json = Annotated[
    Text,
    typer.Option("--json", metavar="FILE", help="Also write the result as JSON to FILE; - prints only the JSON."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="On an error, show the full traceback.")]
Device = Annotated[Text, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as train made it.")]

# What train shares with the commands that train many times.
Data = Annotated[
    Text,
    typer.Argument(
        metavar="DATA",
        help="Images in folders, a file of rows (.csv, .parquet, ...) or of arrays (.npz), torchvision:NAME, digits.",
    ),
]
Settings = Annotated[
    Texts, typer.Argument(metavar="KEY=VALUE", help="Any other setting, such as optim.lr=0.02 or mpl.feedback=none.")
]
Model = Annotated[
    Text, typer.Option(metavar="NAME", help="See `metapl models`, or package.module:function; by default auto.")
]
Encoder = Annotated[
    Text,
    typer.Option(
        metavar="NAME",
        help="Train a small head on a frozen network's features: timm:NAME, torchvision:NAME, hf:FOLDER.",
    ),
]
Download = Annotated[
    bool,
    typer.Option("--download", help="Fetch what is not on this machine: data of torchvision: or hf:, first weights."),
]
Labels = Annotated[Whole, typer.Option(metavar="N", help="Use N labels per class (validation rows come out of these).")]
LabelsTotal = Annotated[Whole, typer.Option(metavar="N", help="Use N labels in all, spread evenly.")]
Validation = Annotated[
    Text,
    typer.Option(metavar="SHARE", help="Labelled rows kept for choosing: auto, none, a share, or rows per class."),
]
ConfigFile = Annotated[
    OptionalPath,
    typer.Option("--config", metavar="FILE", help="Settings as YAML; options and KEY=VALUE come on top."),
]

app = typer.Typer(
    cls=_Group, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, name="metapl"
)


@app.callback(invoke_without_command=True)
def _metapl(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Train classifiers from few labels and many unlabelled rows, with Meta Pseudo Labels.

    Start with `metapl demo`. For your own images: `metapl train FOLDER`, then `metapl evaluate RUN` and
    `metapl predict RUN IMAGES`. Each command explains itself: `metapl train --help`.
    """
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())


def say(text: str) -> None:
    """Print a message, not a result: on stderr; nothing for an empty text."""
    if text:
        print(text, file=sys.stderr, flush=True)


def data_and_pairs(data: str | None, settings: list[str] | None) -> tuple[str | None, list[str]]:
    """DATA and the KEY=VALUE pairs; with ``--config FILE key=value`` the first pair stands where DATA would."""
    pairs = list(settings or [])
    if data is not None and "=" in data and not os.path.exists(data):
        return None, [data, *pairs]
    return data, pairs


def fetching(download: bool, model: str | None) -> dict[str, Any]:
    """The settings that ``--download`` stands for: None where it was not given."""
    weights = download and split_name(model or "").prefix in ("timm", "torchvision")
    return {"source.download": download or None, "download": weights or None}


def parsed(value: str | None) -> Any:
    """``0.2`` and ``2`` as numbers, ``auto`` and ``none`` as they are."""
    import yaml

    try:
        return None if value is None else yaml.safe_load(value)
    except yaml.YAMLError:
        return value

"""The typer app, with the options, the state and the messages that commands share."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from metapl._version import __version__
from metapl.cli.home import home_text
from metapl.cli.options import Debug
from metapl.cli.processes import started_together
from metapl.errors import UserError, nearest
from metapl.utils.signals import stopped

# How --help lists the commands; one that is not named here comes last.
ORDER = (
    *("demo", "check", "train", "resume", "evaluate", "predict", "label"),
    *("compare", "tune", "report", "review", "export", "serve", "methods", "models"),
)


class _Group(TyperGroup):
    """Names the nearest command when there is no such command, and ends with a word on a signal."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"Unknown command '{args[0]}'. {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def make_context(self, *given: Any, **more: Any) -> Any:
        with _end_with_a_word():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        with _end_with_a_word():  # a training that is stopped saves its state instead, see running._finish
            return super().invoke(ctx)


@contextmanager
def _end_with_a_word() -> Iterator[None]:
    """Serve a signal here: typer would end without a word, and with the exit code of Ctrl-C."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise typer.Exit(stopped(stop)) from None


def _show_version(value: bool) -> None:
    if value:
        print(f"metapl {__version__}")
        raise typer.Exit


app = typer.Typer(cls=_Group, add_completion=True, rich_markup_mode=None, pretty_exceptions_enable=False, name="metapl")


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
    if started_together() and ctx.invoked_subcommand not in ("train", "resume"):
        raise UserError("only train and resume run in several processes", "Start this command without torchrun.")
    if ctx.invoked_subcommand is None:
        print(home_text(Path()))


def say(text: str) -> None:
    """Print a message, not a result: on stderr; nothing for an empty text."""
    if text:
        print(text, file=sys.stderr, flush=True)

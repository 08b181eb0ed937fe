"""review."""

from __future__ import annotations

import shlex
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from metapl.cli.app import app, say
from metapl.cli.options import Debug, Device, OptionalPath, Overwrite, Run, State, TrustCode
from metapl.utils import printing

if TYPE_CHECKING:
    from metapl.review.server import Session


@app.command()
def review(
    run: Run,
    export: Annotated[
        OptionalPath,
        typer.Option(
            "--export",
            metavar="FILE",
            help="Write .csv, .json (Label Studio), .npz (cleanlab), or a folder (FiftyOne).",
        ),
    ] = None,
    take: Annotated[
        OptionalPath,
        typer.Option(
            "--import", metavar="FILE", help="Take in answers: CSV (id, label), or an export that was filled in."
        ),
    ] = None,
    overwrite: Overwrite = False,
    port: Annotated[int, typer.Option(metavar="N", help="Port of the page; 0 is a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    device: Device = None,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Label the rows whose answer helps the model most.

    Opens a page on this machine alone, one row at a time: those between two classes, those whose class changed during
    the training, and labels that the model contradicts. Each answer goes to corrections.csv in the run folder at once,
    and a later review goes on from there. Your data are only read. Ctrl-C ends it.

    \b
    Examples:
      metapl review runs/photos-mpl-0
      metapl review runs/photos-mpl-0 --export tasks.json
    """
    from metapl.errors import UserError
    from metapl.review.answers import AnswerFile
    from metapl.review.exchange import export_to, import_from
    from metapl.review.queue import open_review
    from metapl.review.server import Session as ReviewSession
    from metapl.utils.locks import locked

    if export is not None and take is not None:
        raise UserError("--export and --import are both given", "Give one of the two.")
    State.folder = run
    opened = open_review(run, device, trust_code)
    with locked(opened.folder / ".lock-review"):
        answers = AnswerFile(opened.folder, opened.source)
        if take is not None:
            print(printing.one_line(import_from(opened, answers, take)))
        elif export is not None:
            print(printing.one_line(export_to(opened, answers, export, overwrite)))
        else:
            _serve(run, ReviewSession(opened, answers), port, browser)


def _serve(run: Path, session: Session, port: int, browser: bool) -> None:
    """Serve the page until Ctrl-C."""
    from metapl.errors import UserError
    from metapl.review.server import serve

    try:
        server, address = serve(session, port)
    except OSError as error:
        raise UserError(f"the page cannot be served ({error.strerror})", "Name another port.", "--port") from error
    print(f"review: {address}", flush=True)
    say("Answer in the browser; Ctrl-C here ends the review.")
    if browser:
        webbrowser.open(address)
    try:
        server.serve_forever()
    finally:
        server.server_close()
        config, file = (shlex.quote(str(path)) for path in (run / "config.yaml", session.answers.path))
        count = len(session.answers.given)
        command = f" To train with them: metapl train --config {config} --corrections {file}"
        say(f"{count} answer{'s' * (count != 1)}.{command if session.answers.path.is_file() else ''}")

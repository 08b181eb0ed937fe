"""check."""

from __future__ import annotations

from typing import Annotated

import typer

from metapl.cli.app import app, say
from metapl.cli.options import Data, Debug, Json, OptionalPath, Overwrite, Quiet, SettingPairs, data_and_pairs
from metapl.utils import printing


@app.command()
def check(
    data: Data = None,
    settings: SettingPairs = None,
    out: Annotated[
        OptionalPath,
        typer.Option(metavar="DIR", help="Folder for check.json and problems.csv, which names every row concerned."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 1 where something WILL HURT.")] = False,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Look over data before you train on them.

    Counts rows and classes; finds copies, exact and near, inside and across labelled, unlabelled and test rows; a row
    under two classes; unreadable files; uneven classes; columns, texts and images that carry nothing. The worst
    comes first, each with what to do. Your files are only read.

    Exit code 0, also where something is found; 2 where no training could start; with --strict 1 where something WILL
    HURT.

    \b
    Examples:
      metapl check photos
      metapl check photos --out photos-check
      metapl check digits --json -
    """
    from metapl.checks import check as run
    from metapl.checks.report import check_place
    from metapl.config.settings import make_config
    from metapl.utils.progress import make_progress

    printing.check_json(json, overwrite)
    if out is not None:
        check_place(out)  # before the work is done
    data, pairs = data_and_pairs(data, settings)
    config = make_config(data, overrides=pairs)
    result = run(config.data, options=config.source, progress=make_progress(quiet))
    if out is not None:
        say(f"check.json and problems.csv are in {printing.one_line(result.save(out))}")
    printing.give(result.to_dict(), json, str(result))
    if not result.usable or (strict and result.harmful):
        raise typer.Exit(1 if result.usable else 2)

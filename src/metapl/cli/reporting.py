"""report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metapl.cli.app import app
from metapl.cli.options import Debug, Device, OptionalPath, Overwrite, State, TrustCode
from metapl.utils import printing


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Folders of runs, or the folder of one comparison.")
    ],
    out: Annotated[
        OptionalPath,
        typer.Option(metavar="FILE", help="Where to write the page of several runs; by default runs-report.html here."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Write what happened as one HTML page.

    Of one run, the page and its figures stand in the run folder: report.html and figures/. Several runs, or a
    comparison, stand side by side. The page holds its pictures, runs no script and loads nothing. Test rows are not
    opened: their figures appear once `metapl evaluate` has made them. The page of a run that diverged or was stopped
    says what happened and what to do.

    \b
    Examples:
      metapl report runs/photos-mpl-0
      metapl report runs/photos-mpl-0 runs/photos-fixmatch-0 --out side-by-side.html
      metapl report comparisons/photos
    """
    from metapl.comparison.comparison import is_comparison
    from metapl.errors import UserError
    from metapl.report.many import several
    from metapl.report.write import report_run

    if len(runs) == 1 and not is_comparison(runs[0]):
        if out is not None:
            raise UserError("the page of one run stands in its folder", "Leave --out away.", "--out")
        State.folder = runs[0]
        page = report_run(runs[0], device, trust_code)
    else:
        page = several([run.expanduser() for run in runs], out, overwrite)
    print(f"report: {printing.one_line(page)}")

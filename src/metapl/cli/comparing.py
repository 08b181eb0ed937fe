"""compare."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from metapl.cli.app import app, say
from metapl.cli.options import (
    Number,
    OptionalPath,
    State,
    Text,
    TrainOptions,
    Whole,
    with_train_options,
)
from metapl.errors import UserError
from metapl.utils import printing

if TYPE_CHECKING:
    from metapl.comparison import Comparison


@app.command()
@with_train_options
def compare(
    options: TrainOptions,
    methods: Annotated[
        str,
        typer.Option(
            metavar="LIST", help="all, or names with commas between, each with settings of its own if need be."
        ),
    ] = "all",
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs per method, each with other labels and weights.")] = 5,
    budget: Annotated[
        Text,
        typer.Option(
            metavar="WHAT",
            help="What is equal: steps, passes (rows through networks: those of the first method) or minutes.",
        ),
    ] = None,
    minutes: Annotated[
        Number, typer.Option(metavar="M", help="Training per run, as many steps as fit: --budget minutes.")
    ] = None,
    reference: Annotated[
        Text, typer.Option(metavar="METHOD", help="What all are compared with; by default supervised, or the first.")
    ] = None,
    workers: Annotated[
        Whole, typer.Option(metavar="N", help="Runs at a time, one core each; by default all cores, on a GPU 1.")
    ] = None,
    out: Annotated[
        OptionalPath,
        typer.Option(metavar="DIR", help="Folder of the results; by default a free one in comparisons/."),
    ] = None,
) -> None:
    """Compare methods on your data, seed by seed, with intervals.

    Each seed draws labels, test rows and weights, the same for every method. Each run is judged once on test rows that
    it has not seen. The table says who wins, by how much, and whether the difference is more than luck. DATA is as for
    train; it needs test rows, a label on every row, or enough labels to hold some out.

    A method may have settings of its own, as in mpl:feedback=none+uda_weight=0; any key will do that does not decide
    data, split, seed, steps or device. mpl:ablate stands for mpl, and mpl with one part taken away at a time.
    sklearn:NAME is a classifier of scikit-learn, on the same rows and features.

    DIR gets table.md, comparison.png, results.json, results.csv and all run folders. Ctrl-C saves; the same command
    with the same --out, or metapl resume DIR, goes on. More --seeds may be added later.

    \b
    Examples:
      metapl compare digits --labels 20 --methods all --seeds 2 --steps 50
      metapl compare photos --labels 10 --methods supervised,fixmatch,mpl
      metapl compare photos --labels 10 --methods mpl:ablate
      metapl compare rows.csv --labels 10 --methods linear,mpl,sklearn:RandomForest,sklearn:SelfTraining
      metapl compare photos --methods fixmatch:views.ops=1+optim.lr=0.02,mpl
      metapl compare photos --methods fixmatch,mpl --minutes 5
    """
    from metapl.comparison import compare as run
    from metapl.utils.progress import make_progress

    printing.check_json(options.json, options.overwrite)
    if options.steps is not None and (minutes is not None or budget == "minutes"):
        raise UserError("--steps and a budget of minutes are both given", "Give one of the two.")
    data, pairs = options.data_and_pairs
    by: Literal["steps", "passes", "minutes"] = budget or ("minutes" if minutes else "steps")  # type: ignore[assignment]
    State.folder = out
    _finish(
        lambda: run(
            data,
            methods,
            seeds,
            out=out,
            settings=pairs,
            file=options.config,
            options=options.keys(),
            budget=by,
            minutes=minutes,
            reference=reference,
            workers=workers,
            progress=make_progress(options.quiet),
            command=shlex.join(["metapl", *sys.argv[1:]]),
        ),
        options.json,
    )


def resume_comparison(folder: Path, json: str | None, quiet: bool) -> None:
    """Go on with a stopped comparison, for ``metapl resume``."""
    from metapl.comparison import resume_comparison as run
    from metapl.utils.progress import make_progress

    _finish(lambda: run(folder, progress=make_progress(quiet)), json)


def _finish(work: Callable[[], Comparison], json: str | None) -> None:
    """Compare, and print the end; a stop is reported with the command that goes on."""
    from metapl.comparison import ComparisonStopped
    from metapl.comparison.plan import plan_code

    try:
        result = work()
    except ComparisonStopped as stopped:
        place = shlex.quote(str(stopped.folder))
        flag = " --trust-code" if stopped.folder and plan_code(stopped.folder) else ""
        say(f"{stopped}, the state of the others is saved. To go on: metapl resume {place}{flag}")
        raise typer.Exit(128 + stopped.signal_number) from None
    end = f"table.md, comparison.png, results.json and results.csv are in {printing.one_line(result.folder)}"
    printing.give({**result.to_dict(), "folder": str(result.folder)}, json, f"{result}\n\n{end}")

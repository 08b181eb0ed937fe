"""tune."""

from __future__ import annotations

import shlex
import signal
from typing import Annotated

import typer

from metapl.cli.app import app, say
from metapl.cli.options import (
    MethodName,
    Number,
    OptionalPath,
    State,
    Text,
    TextList,
    TrainOptions,
    Whole,
    with_train_options,
)
from metapl.utils import printing

MOST = 8  # trainings side by side where nobody asks for a number: each holds PyTorch and the rows


@app.command()
@with_train_options
def tune(
    options: TrainOptions,
    method: MethodName = None,
    search: Annotated[
        TextList,
        typer.Option(
            metavar="KEY=VALUES",
            help="What to try: key=v1,v2 or key=low..high[:log]; x3 is three times the default. Repeatable; by "
            "default thresholds, temperatures, feedback weight and learning rates.",
        ),
    ] = None,
    sampler: Annotated[
        str, typer.Option(metavar="NAME", help="single (one setting at a time), grid, random or optuna.")
    ] = "single",
    trials: Annotated[Whole, typer.Option(metavar="N", help="Settings at most, beside the default.")] = None,
    folds: Annotated[
        Whole, typer.Option(metavar="K", help="By default the labels of the rarest class, from 2 to 5.")
    ] = None,
    minutes: Annotated[
        Number, typer.Option(metavar="M", help="Begin no setting that would not be done within M minutes in all.")
    ] = None,
    workers: Annotated[
        Whole, typer.Option(metavar="N", help="Trainings side by side; by default one per core, one on a GPU.")
    ] = None,
    guard: Annotated[
        Text,
        typer.Option(metavar="MODE", help="Guard of the training with best.yaml: return (the default), warn, off."),
    ] = None,
    out: Annotated[
        OptionalPath,
        typer.Option(metavar="DIR", help="Folder for the results; one of the same tuning goes on where it was."),
    ] = None,
) -> None:
    """Choose settings by cross-validation on the labelled rows.

    The settings as given are the default; others are compared with it on the same folds. Test rows are not read.
    Writes best.yaml, which `metapl train DATA --config best.yaml` takes, results.json, trials.csv and tune.png. The
    same command with the same --out goes on after a stop.

    \b
    Examples:
      metapl tune digits --labels 4 --method fixmatch --steps 300 --out tuned
      metapl tune photos --search mpl.uda_threshold=0.5,0.7,0.9 --minutes 60
      metapl tune photos --sampler random --trials 20 --search optim.lr=0.005..0.2:log --search views.ops=1..3
    """
    from metapl.config.settings import make_config
    from metapl.hardware.device import pick_device
    from metapl.training.workers import JobsStopped, default_workers
    from metapl.tuning import free_folder
    from metapl.tuning import tune as run
    from metapl.utils.progress import make_progress

    printing.check_json(options.json, options.overwrite)
    data, pairs = options.data_and_pairs
    keys = options.keys(method=method, **{"guard.mode": guard})
    run_config = make_config(data, file=options.config, options=keys, overrides=pairs)
    folder = State.folder = out or free_folder(run_config)
    try:
        result = run(
            run_config,
            folder,
            space=search or None,
            trials=trials,
            sampler=sampler,
            folds=folds,
            minutes=minutes or 0.0,
            workers=default_workers(MOST, pick_device(run_config.device).type) if workers is None else workers,
            progress=make_progress(options.quiet),
        )
    except (JobsStopped, KeyboardInterrupt) as stopped:
        say(f"stopped. To go on, give the same command with --out {shlex.quote(str(folder))}")
        raise typer.Exit(128 + getattr(stopped, "signal_number", signal.SIGINT)) from None
    printing.give(
        {**result.summary, "folder": str(result.folder)}, options.json, printing.tuning(result.folder, result.summary)
    )

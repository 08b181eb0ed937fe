"""demo, train and resume."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import Annotated, Any

import typer

from metapl.cli.app import app, say
from metapl.cli.options import (
    Debug,
    Guard,
    Json,
    MaxRestarts,
    MethodName,
    Number,
    OptionalPath,
    Overwrite,
    Procs,
    Quiet,
    Run,
    State,
    TrainOptions,
    TrustCode,
    with_train_options,
)
from metapl.cli.processes import joined, own_progress, start_processes
from metapl.errors import Silenced, UserError
from metapl.utils import printing


@app.command()
def demo(
    out: Annotated[
        OptionalPath, typer.Option(metavar="DIR", help="Folder for the results. By default a free name: demo, demo-2.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs per method, each with other labels.")] = 3,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare five methods on real digits with 20 labels.

    Trains each, prints a table and writes results.json and a picture of the learning curves. Nothing is downloaded.

    \b
    Examples:
      metapl demo
      metapl demo --seeds 1 --out my-demo
    """
    from metapl.api.demo import run_demo
    from metapl.training.workers import JobsStopped
    from metapl.utils.progress import make_progress

    printing.check_json(json, overwrite)
    try:
        result = run_demo(out, seeds, make_progress(quiet))
    except JobsStopped as stopped:
        say("stopped; a demo does not go on where it was")
        raise typer.Exit(128 + stopped.signal_number) from None
    printing.give(result, json, printing.demo(result))


@app.command()
@with_train_options
def train(
    options: TrainOptions,
    method: MethodName = None,
    minutes: Annotated[
        Number, typer.Option(metavar="M", help="As many steps as fit into M minutes here, instead of --steps.")
    ] = None,
    guard: Guard = None,
    out: Annotated[
        OptionalPath, typer.Option(metavar="DIR", help="The run folder, new or empty; by default a free one in runs/.")
    ] = None,
    corrections: Annotated[
        OptionalPath,
        typer.Option(metavar="FILE", help="CSV with id and label: labels laid over those of DATA, as review writes."),
    ] = None,
    extended: Annotated[
        OptionalPath,
        typer.Option("--continue", metavar="RUN", help="Go on with a finished run until it has --steps steps in all."),
    ] = None,
    trust_code: TrustCode = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")] = True,
    procs: Procs = 1,
    max_restarts: MaxRestarts = 0,
) -> None:
    """Train a classifier and store it in a new run folder.

    DATA is a folder with labelled/CLASS/*, unlabelled/* and, if you have them, test/CLASS/* images; or a folder with
    one folder per class, of which --labels N images per class keep their label. Your files are only read. Ctrl-C
    saves the state, and `metapl resume` goes on from there. A finished run is extended with --continue RUN --steps N,
    in a new folder, or in its own with --out RUN.

    \b
    Examples:
      metapl train digits --labels 10
      metapl train photos --minutes 10 --out my-run
      metapl train photos --labels 10 --method fixmatch fixmatch.threshold=0.9
      metapl train --continue my-run --steps 2000 --out my-longer-run
    """
    from metapl.config.settings import make_config

    printing.check_json(options.json, options.overwrite)
    if options.steps is not None and minutes is not None:
        raise UserError("--steps and --minutes are both given", "Give one of the two.")
    if extended is not None:
        given = {"--method": method, "--minutes": minutes, "--guard": guard, "--corrections": corrections}
        _check_extension(extended, options, given, trust_code)
        start_processes(procs, max_restarts)
        return _finish(lambda: _extended(extended, options, out), options.json, report)
    data, pairs = options.data_and_pairs
    labels = None if corrections is None else str(corrections)
    given = {"guard.mode": guard, "source.corrections": labels}
    keys = options.keys(method=method, minutes=minutes, **given)
    made = make_config(data, file=options.config, options=keys, overrides=pairs)
    State.folder = out
    start_processes(procs, max_restarts)
    _finish(lambda: _trained(made, out, options.quiet), options.json, report)


def _check_extension(run: Path, options: TrainOptions, given: dict[str, Any], trust_code: bool) -> None:
    """Check the words beside ``--continue``: only the length changes.

    Raises:
        UserError: another setting is given, or no number of steps.
    """
    from metapl.config.settings import stored_code
    from metapl.models.own import check_trusted

    data, pairs = options.data_and_pairs
    given = {"DATA": data, "KEY=VALUE": pairs or None, "--config": options.config, **given}
    given |= {key: value for key, value in options.keys().items() if key != "steps"}
    if other := [name for name, value in given.items() if value is not None]:
        raise UserError(f"{other[0]} is given beside --continue", "Give --steps alone: only the length changes.")
    if options.steps is None:
        raise UserError("--continue needs --steps", "Give the number of steps in all.", "--steps")
    State.folder = run
    if (run / "config.yaml").is_file():
        for name in stored_code(run / "config.yaml"):
            check_trusted(name, trust_code, str(run))


def _extended(run: Path, options: TrainOptions, out: Path | None) -> Any:
    """Go on with a finished run; after a restart of the processes go on with the run that they had begun."""
    from metapl.hardware.ranks import earlier_folder
    from metapl.training.loop import extend, resume

    folder, progress = earlier_folder(), own_progress(options.quiet)
    if folder is not None:
        return resume(folder, progress=progress)
    return extend(run, options.steps or 0, out, progress=progress)


@app.command()
def resume(
    run: Run,
    trust_code: TrustCode = False,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")] = True,
    procs: Procs = 1,
    max_restarts: MaxRestarts = 0,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a stopped training or comparison.

    Python code of your own that the folder names, a method or a network, runs only with --trust-code.

    A training continues from its newest checkpoint and, on a CPU, ends with the same model as an unbroken run, byte for
    byte. A comparison keeps its finished runs and continues the others.

    \b
    Examples:
      metapl resume runs/photos-mpl-0
      metapl resume comparisons/photos
    """
    from metapl.cli.comparing import resume_comparison
    from metapl.comparison.comparison import is_comparison
    from metapl.comparison.plan import plan_code
    from metapl.config.settings import stored_code
    from metapl.models.own import check_trusted
    from metapl.training.loop import resume as go_on

    printing.check_json(json, overwrite)
    State.folder = run
    if is_comparison(run):
        for name in plan_code(run):
            check_trusted(name, trust_code, str(run))
        return resume_comparison(run, json, quiet)
    if (run / "config.yaml").is_file():
        for name in stored_code(run / "config.yaml"):
            check_trusted(name, trust_code, str(run))
    start_processes(procs, max_restarts)
    _finish(lambda: go_on(run, progress=own_progress(quiet)), json, report)


def _trained(config: Any, out: Any, quiet: bool) -> Any:
    """Train; after a restart of the processes go on with the run that they had begun."""
    from metapl.hardware.ranks import earlier_folder, from_first
    from metapl.runs.checkpoint import steps
    from metapl.training.loop import resume, train

    folder = earlier_folder()
    if folder is None:
        return train(config, out, progress=own_progress(quiet))
    if from_first(lambda: bool(steps(Path(folder) / "checkpoints"))):
        return resume(folder, progress=own_progress(quiet))
    from_first(lambda: shutil.rmtree(folder, ignore_errors=True))  # this command made it, and lost a process at once
    return train(config, folder, progress=own_progress(quiet))


def _reported(work: Any, report: bool) -> Any:
    """Train; a run that diverges gets its report before its error goes on."""
    from metapl.hardware.ranks import rank
    from metapl.report.write import try_unfinished
    from metapl.training.finite import Diverged

    try:
        return work()
    except Diverged as fault:
        if report and rank() == 0 and fault.folder is not None and (page := try_unfinished(fault.folder)):
            say(f"report: {printing.one_line(page)}")
        raise


def _finish(work: Any, json: str | None, report: bool) -> None:
    """Train, write pseudo labels and report, and print the end; a stop is reported with the command that goes on."""
    from metapl.config.settings import stored_code
    from metapl.report.pseudo_labels import try_pseudo_labels
    from metapl.report.write import try_report
    from metapl.training.loop import Stopped

    try:
        with joined():
            result = _reported(work, report)
    except Silenced as silenced:
        stop = silenced.__cause__
        raise typer.Exit(128 + stop.signal_number if isinstance(stop, Stopped) else 2) from None
    except Stopped as stopped:
        place = shlex.quote(str(stopped.folder))
        flag = " --trust-code" if stopped.folder and stored_code(stopped.folder / "config.yaml") else ""
        say(f"stopped at step {stopped.step}, the state is saved. To go on: metapl resume {place}{flag}")
        raise typer.Exit(128 + stopped.signal_number) from None
    if os.environ.get("RANK", "0") != "0":
        return
    assert result.folder is not None  # a command's run is never in memory
    page, problem = try_report(result) if report else (None, "")
    for text in filter(None, (try_pseudo_labels(result), problem)):
        say(f"note: {printing.one_line(text)}")
    text = printing.training(result.folder, result.summary, page)
    printing.give({**result.summary, "folder": str(result.folder)}, json, text)

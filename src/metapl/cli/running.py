"""demo, train and resume."""

from __future__ import annotations

import shlex
from typing import Annotated, Any

import typer

from metapl.cli.app import (
    ConfigFile,
    Data,
    Debug,
    Device,
    Download,
    Encoder,
    Json,
    Labels,
    LabelsTotal,
    Model,
    Number,
    OptionalPath,
    Quiet,
    Run,
    Settings,
    State,
    Text,
    Validation,
    Whole,
    app,
    data_and_pairs,
    fetching,
    parsed,
    say,
)
from metapl.errors import UserError
from metapl.utils import printing


@app.command()
def demo(
    out: Annotated[
        OptionalPath, typer.Option(metavar="DIR", help="Folder for the results. By default a free name: demo, demo-2.")
    ] = None,
    seeds: Annotated[int, typer.Option(metavar="N", help="Runs per method, each with other labels.")] = 3,
    json: Json = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Compare five methods on real digits with 20 labels.

    Trains each, prints a table and writes results.json and a picture of the learning curves. Nothing is downloaded.

    \b
    Example:
      metapl demo --seeds 1
    """
    from metapl.api.demo import run_demo
    from metapl.training.workers import JobsStopped
    from metapl.utils.progress import make_progress

    printing.check_json(json)
    try:
        result = run_demo(out, seeds, make_progress(quiet))
    except JobsStopped as stopped:
        say("stopped; a demo does not go on where it was")
        raise typer.Exit(128 + stopped.signal_number) from None
    printing.give(result, json, printing.demo(result))


@app.command()
def train(
    data: Data = None,
    settings: Settings = None,
    method: Annotated[Text, typer.Option(metavar="NAME", help="See `metapl methods`; by default mpl.")] = None,
    model: Model = None,
    encoder: Encoder = None,
    labels: Labels = None,
    labels_total: LabelsTotal = None,
    validation: Validation = None,
    steps: Annotated[Whole, typer.Option(metavar="N", help="Updates before fine-tuning; by default 1000.")] = None,
    minutes: Annotated[
        Number, typer.Option(metavar="M", help="As many steps as fit into M minutes here, instead of --steps.")
    ] = None,
    seed: Annotated[Whole, typer.Option(metavar="N", help="Other labels, weights and batches; default 0.")] = None,
    device: Device = None,
    download: Download = False,
    guard: Annotated[
        Text,
        typer.Option(
            metavar="MODE",
            help="Also train on the labels alone, and if that is not worse: return it (the default), warn, or off.",
        ),
    ] = None,
    config: ConfigFile = None,
    out: Annotated[
        OptionalPath, typer.Option(metavar="DIR", help="The run folder, new or empty; by default a free one in runs/.")
    ] = None,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")] = True,
    json: Json = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Train a classifier and store it in a new run folder.

    DATA is a folder with labelled/CLASS/*, unlabelled/* and, if you have them, test/CLASS/* images; or a folder with
    one folder per class, of which --labels N images per class keep their label. Your files are only read. Ctrl-C
    saves the state, and `metapl resume` goes on from there.

    \b
    Examples:
      metapl train digits --labels 10
      metapl train photos --minutes 10 --out my-run
      metapl train photos --labels 10 --method fixmatch fixmatch.threshold=0.9
    """
    from metapl.config.paths import anchored
    from metapl.config.settings import make_config
    from metapl.training.loop import train as run
    from metapl.utils.progress import make_progress

    printing.check_json(json)
    if steps is not None and minutes is not None:
        raise UserError("--steps and --minutes are both given", "Give one of the two.")
    data, pairs = data_and_pairs(data, settings)
    options = {
        "method": method,
        "model": model,
        "source.encoder.name": encoder,
        "split.labels": labels,
        "split.labels_total": labels_total,
        "split.validation": parsed(validation),
        "steps": steps,
        "minutes": minutes,
        "seed": seed,
        "device": device,
        **fetching(download, model),
        "guard.mode": guard,
    }
    made = make_config(data, file=config, options=options, overrides=pairs)
    State.folder = out
    _finish(lambda: run(anchored(made), out, progress=make_progress(quiet)), json, report)


@app.command()
def resume(
    run: Run,
    report: Annotated[bool, typer.Option("--report/--no-report", help="Write report.html at the end.")] = True,
    json: Json = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Go on with a stopped training or comparison.

    A training continues from its newest checkpoint and, on a CPU, ends with the same model as an unbroken run, byte for
    byte. A comparison keeps its finished runs and continues the others.

    \b
    Examples:
      metapl resume runs/photos-mpl-0
      metapl resume comparisons/photos
    """
    from metapl.cli.comparing import resume_comparison
    from metapl.comparison.comparison import is_comparison
    from metapl.training.loop import resume as go_on
    from metapl.utils.progress import make_progress

    printing.check_json(json)
    State.folder = run
    if is_comparison(run):
        return resume_comparison(run, json, quiet)
    _finish(lambda: go_on(run, progress=make_progress(quiet)), json, report)


def _finish(work: Any, json: str | None, report: bool) -> None:
    """Train, write the report, and print the end; a stop is reported with the command that goes on."""
    from metapl.report.write import try_report
    from metapl.training.loop import Stopped

    try:
        result = work()
    except Stopped as stopped:
        place = shlex.quote(str(stopped.folder))
        say(f"stopped at step {stopped.step}, the state is saved. To go on: metapl resume {place}")
        raise typer.Exit(128 + stopped.signal_number) from None
    assert result.folder is not None  # a command's run is never in memory
    page, problem = try_report(result) if report else (None, "")
    say(f"note: {printing.one_line(problem)}" if problem else "")
    text = printing.training(result.folder, result.summary, page)
    printing.give({**result.summary, "folder": str(result.folder)}, json, text)

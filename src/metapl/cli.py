"""The command line: a thin face. Everything slow to import is imported inside the commands."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from typer.core import TyperGroup

from metapl import show
from metapl._version import __version__
from metapl.errors import UserError, nearest

_ClickException: Any = typer.BadParameter.__mro__[2]  # the base of usage errors, wherever this typer keeps it


class _State:
    """What the error handling needs to know about the command at hand."""

    debug = False
    folder: Path | None = None


class _Group(TyperGroup):
    """Names the nearest command when there is no such command, and ends quietly on Ctrl-C."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            ctx.fail(f"Unknown command '{args[0]}'. {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # a training that is stopped saves its state instead, see _finish
            _say("stopped at once")
            raise typer.Exit(130) from None


def _set_debug(value: bool) -> None:
    _State.debug = _State.debug or value


def _show_version(value: bool) -> None:
    if value:
        print(f"metapl {__version__}")
        raise typer.Exit


# Typer before 0.12.4 cannot read `str | None`.
_Text = Optional[str]  # noqa: UP045
_Texts = Optional[list[str]]  # noqa: UP045
_Whole = Optional[int]  # noqa: UP045
_Number = Optional[float]  # noqa: UP045
_Path = Optional[Path]  # noqa: UP045

Json = Annotated[
    _Text,
    typer.Option("--json", metavar="FILE", help="Also write the result as JSON to FILE; - prints only the JSON."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="On an error, show the full traceback.")]
Device = Annotated[_Text, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as train made it.")]

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


@app.command()
def demo(
    out: Annotated[
        _Path, typer.Option(metavar="DIR", help="Folder for the results. By default a free name: demo, demo-2.")
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
    from metapl.demo import run_demo
    from metapl.progress import make_progress

    show.check_json(json)
    result = run_demo(out, seeds, make_progress(quiet))
    show.give(result, json, show.demo(result))


@app.command()
def train(
    data: Annotated[
        _Text,
        typer.Argument(metavar="DATA", help="A folder of images, idx:FOLDER (MNIST files), or digits."),
    ] = None,
    settings: Annotated[
        _Texts,
        typer.Argument(metavar="KEY=VALUE", help="Any other setting, such as optim.lr=0.02 or mpl.feedback=none."),
    ] = None,
    method: Annotated[_Text, typer.Option(metavar="NAME", help="See `metapl methods`; by default mpl.")] = None,
    model: Annotated[
        _Text,
        typer.Option(metavar="NAME", help="See `metapl models`, or package.module:function; by default auto."),
    ] = None,
    labels: Annotated[
        _Whole, typer.Option(metavar="N", help="Use N labels per class (validation rows come out of these).")
    ] = None,
    labels_total: Annotated[_Whole, typer.Option(metavar="N", help="Use N labels in all, spread evenly.")] = None,
    validation: Annotated[
        _Text,
        typer.Option(metavar="SHARE", help="Labelled rows kept for choosing: auto, none, a share, or rows per class."),
    ] = None,
    steps: Annotated[_Whole, typer.Option(metavar="N", help="Updates before fine-tuning; by default 1000.")] = None,
    minutes: Annotated[
        _Number, typer.Option(metavar="M", help="As many steps as fit into M minutes here, instead of --steps.")
    ] = None,
    seed: Annotated[_Whole, typer.Option(metavar="N", help="Other labels, weights and batches; default 0.")] = None,
    device: Device = None,
    config: Annotated[
        _Path, typer.Option(metavar="FILE", help="Settings as YAML; options and KEY=VALUE come on top.")
    ] = None,
    out: Annotated[
        _Path, typer.Option(metavar="DIR", help="The run folder, new or empty; by default a free one in runs/.")
    ] = None,
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
    from metapl.apply import anchored
    from metapl.config import make_config
    from metapl.progress import make_progress
    from metapl.train import train as run

    show.check_json(json)
    if steps is not None and minutes is not None:
        raise UserError("--steps and --minutes are both given", "Give one of the two.")
    pairs = list(settings or [])
    if data is not None and "=" in data and not os.path.exists(data):  # metapl train --config FILE key=value
        pairs, data = [data, *pairs], None
    options = {
        "method": method,
        "model": model,
        "split.labels": labels,
        "split.labels_total": labels_total,
        "split.validation": _parsed(validation),
        "steps": steps,
        "minutes": minutes,
        "seed": seed,
        "device": device,
    }
    made = make_config(data, file=config, options=options, overrides=pairs)
    _State.folder = out
    _finish(lambda: run(anchored(made), out, progress=make_progress(quiet)), json)


@app.command()
def resume(run: Run, json: Json = None, quiet: Quiet = False, debug: Debug = False) -> None:
    """Go on with a training that was stopped or killed.

    It continues from the newest checkpoint and, on a CPU, ends with the same model as an unbroken run, byte for byte.

    \b
    Example:
      metapl resume runs/photos-mpl-0
    """
    from metapl.progress import make_progress
    from metapl.train import resume as go_on

    show.check_json(json)
    _State.folder = run
    _finish(lambda: go_on(run, progress=make_progress(quiet)), json)


@app.command()
def evaluate(
    run: Run,
    data: Annotated[
        _Text,
        typer.Argument(metavar="DATA", help="Other labelled data: a folder CLASS/*, or a source such as digits."),
    ] = None,
    device: Device = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """Measure the accuracy of a trained model.

    Without DATA it is judged on the run's test rows, and the figures are also stored as evaluation.json in the run
    folder. With DATA it is judged on other labelled rows, whose classes are matched to the model's by name.

    \b
    Examples:
      metapl evaluate runs/photos-mpl-0
      metapl evaluate runs/photos-mpl-0 new-photos
    """
    from metapl.apply import judge_other, judge_own
    from metapl.evaluate import summary

    show.check_json(json)
    _State.folder = run
    result, found, where = judge_other(run, data, device) if data else judge_own(run, device)
    _say(show.problems(found))
    show.give(result, json, show.evaluation(result, summary(result), where))


@app.command()
def predict(
    run: Run,
    input: Annotated[
        str, typer.Argument(metavar="INPUT", help="A folder of images, one image, or a source such as digits.")
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The CSV file to write; - prints it.")] = "-",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE if it exists.")] = False,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Label new images with a trained model.

    The answer is CSV: id, label, probability. INPUT may hold folders in folders; no class folders are needed. Images
    that cannot be read are skipped, named on the screen and listed in problems.csv beside FILE.

    \b
    Example:
      metapl predict runs/photos-mpl-0 holiday --out predictions.csv
    """
    from metapl.apply import predict_to

    _State.folder = run
    count, found, listed = predict_to(run, input, out, overwrite, device)
    _say(show.problems(found, listed))
    _say(f"labelled {count} row{'s' * (count != 1)}{'' if out == '-' else f': {show.one_line(out)}'}")


@app.command()
def methods(
    name: Annotated[_Text, typer.Argument(metavar="NAME", help="Show this method's settings.")] = None,
    json: Json = None,
    debug: Debug = False,
) -> None:
    """List the training methods, or the settings of one.

    \b
    Example:
      metapl methods mpl
    """
    from metapl import describe
    from metapl.methods import METHODS, method_class

    show.check_json(json)
    if name is None:
        lines = {n: describe.summary(n) for n in METHODS}
        show.give(lines, json, show.table(("method", "what it does"), lines.items()))
        return
    found = describe.settings(method_class(name).Config, f"{name}.")
    rows = [(s.key, s.default, f"{s.meaning} ({s.takes})") for s in found]
    text = f"{describe.summary(name)}\n\n{show.table(('setting', 'default', 'meaning'), rows)}"
    show.give({s.key: {"default": s.default, "takes": s.takes, "meaning": s.meaning} for s in found}, json, text)


@app.command()
def models(json: Json = None, debug: Debug = False) -> None:
    """List the networks.

    \b
    Example:
      metapl train photos --model convnet
    """
    from metapl.models import MODELS

    show.check_json(json)
    lines = {n: entry.about for n, entry in MODELS.items()}
    lines["auto"] = "the default: mlp for feature rows, else small_cnn; wrn-28-2 above 32 pixels if there is a GPU"
    lines["package.module:function"] = "your own: called with shape=(channels, height, width), num_classes=C"
    show.give(lines, json, show.table(("model", "what it is"), lines.items()))


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code: 0 done, 2 a mistake in the input, 130 or 143 stopped, 1 a bug."""
    _State.debug, _State.folder = False, None
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # as `python -m metapl` does, so that --model file:function finds the file
    with warnings.catch_warnings():
        warnings.showwarning = _warned  # type: ignore[assignment]
        try:
            command = typer.main.get_command(app)
            code = command.main(list(sys.argv[1:] if argv is None else argv), "metapl", standalone_mode=False)
            return code if isinstance(code, int) else 0
        except UserError as error:
            return _failed(str(error), 2)
        except KeyboardInterrupt:
            return 130
        except BrokenPipeError:  # the reader of a pipe went away, such as `| head`
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:  # a full disk, a folder that may not be written to
            return _failed(f"{error}. Check the path, its permissions and the free space.", 2)
        except Exception as error:
            if isinstance(error, _ClickException):
                return _failed(_usage(error), 2)
            return _crashed(error)


def _finish(work: Any, json: str | None) -> None:
    """Train, and print the end; a stop is told with the command that goes on."""
    from metapl.train import Stopped

    try:
        result = work()
    except Stopped as stopped:
        place = shlex.quote(str(stopped.folder))
        _say(f"stopped at step {stopped.step}, the state is saved. To go on: metapl resume {place}")
        raise typer.Exit(128 + stopped.signal_number) from None
    show.give({**result.summary, "folder": str(result.folder)}, json, show.training(result.folder, result.summary))


def _parsed(value: str | None) -> Any:
    """``0.2`` and ``2`` as numbers, ``auto`` and ``none`` as they are."""
    import yaml

    try:
        return None if value is None else yaml.safe_load(value)
    except yaml.YAMLError:
        return value


def _usage(error: Any) -> str:
    ctx = getattr(error, "ctx", None)
    text = show.one_line(error.format_message())
    return f"{text}{'' if text.endswith(('.', '?')) else '.'} See `{ctx.command_path if ctx else 'metapl'} --help`."


def _say(text: str) -> None:
    if text:
        print(text, file=sys.stderr, flush=True)


def _failed(text: str, code: int) -> int:
    if _State.debug:
        traceback.print_exc()
    _say(f"error: {show.one_line(text)}")
    return code


def _crashed(error: Exception) -> int:
    """A bug: the traceback goes to a file, in the run folder if there is one, and its name to the screen."""
    inside = _State.folder if _State.folder is not None and (_State.folder / "config.yaml").is_file() else None
    with tempfile.NamedTemporaryFile(
        "w",
        prefix="metapl-error-",
        suffix=".log",
        dir=inside,
        delete=False,
        encoding="utf-8",
        errors="backslashreplace",
    ) as log:
        log.write(f"metapl {__version__}, python {sys.version}\n{sys.argv}\n\n{traceback.format_exc()}")
    return _failed(f"unexpected {type(error).__name__}: {error}. This is a bug; the traceback is in {log.name}", 1)


def _warned(message: Warning | str, *place: Any) -> None:
    _say(f"note: {show.one_line(message)}")

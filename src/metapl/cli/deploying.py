"""export and serve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metapl.cli.app import app, say
from metapl.cli.options import Debug, Device, Number, Overwrite, Run, State, Text, TrustCode
from metapl.utils import printing


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The file to write, such as model.onnx.")],
    form: Annotated[str, typer.Option("--format", metavar="NAME", help="onnx or torch-export.")] = "onnx",
    rows: Annotated[
        Text,
        typer.Option(metavar="INPUT", help="Rows to compare on, as predict takes them. By default the run's own."),
    ] = None,
    overwrite: Overwrite = False,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Write a trained model as one file for programs without metapl.

    The preprocessing is inside: images go in as bytes, tables as numbers, texts as token ids, any number of rows at a
    time, and probabilities come out. Classes and the form of the input stand in the file. Before the file is kept, its
    answers for real rows are compared with the model's own.

    \b
    Examples:
      metapl export runs/photos-mpl-0 --out model.onnx
      metapl export runs/people-mpl-0 --format torch-export --out model.pt2
    """
    from metapl.deploy.export import export_run

    State.folder = run
    made = export_run(run, out, form, rows=rows or "", overwrite=overwrite, trust_code=trust_code)
    entry = made.facts["input"]
    size = made.path.stat().st_size / 1e6
    files = " and ".join(printing.one_line(path) for path in (made.path, *made.beside))
    print(f"exported to {files} ({size:.1f} MB)")
    print(f"input: {entry['name']}, {entry['dtype']} [{', '.join(map(str, entry['shape']))}]")
    print(f"largest difference of a probability from the model's own: {made.difference:.1e}, over {made.rows} rows")


@app.command()
def serve(
    run: Run,
    host: Annotated[str, typer.Option(metavar="NAME", help="The address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Its port; 0 is a free one.", min=0, max=65535)] = 8000,
    top: Annotated[int, typer.Option(metavar="K", help="Answer the K most probable classes of each row.")] = 1,
    abstain_below: Annotated[
        float, typer.Option(metavar="P", help="Answer no label where its probability is below P.")
    ] = 0.0,
    precision: Annotated[
        Number, typer.Option(metavar="P", help="Choose --abstain-below so that a share P of the answers is right.")
    ] = None,
    max_megabytes: Annotated[float, typer.Option(metavar="N", help="Size of a request.", min=0.001)] = 16.0,
    max_rows: Annotated[int, typer.Option(metavar="N", help="Rows in a request.", min=1)] = 1000,
    max_megapixels: Annotated[float, typer.Option(metavar="N", help="Size of an image.", min=0.001)] = 50.0,
    device: Device = None,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Answer requests for predictions over HTTP.

    GET /health and /schema say that it runs and what it takes; POST /predict takes one row or a batch: images as bytes,
    files or base64, rows of a table as JSON objects, texts. A damaged row gets an error of its own and never ends a
    batch. Nothing of a request is kept or logged. There is no encryption and no password: put it behind a server that
    has them before others reach it. RUN may be the folder model of a run alone. Ctrl-C or SIGTERM ends it.

    \b
    Examples:
      metapl serve runs/photos-mpl-0
      metapl serve runs/people-mpl-0 --port 0 --top 3 --precision 0.95
    """
    from metapl.deploy.serve import Limits, bound_socket, make_app, serve_app
    from metapl.hardware.device import pick_device
    from metapl.inference.answers import AnswerForm
    from metapl.runs.model_folder import load_model

    State.folder = run
    predictor = load_model(run, pick_device(device or "auto"), trust_code=trust_code)
    form = AnswerForm(top, abstain_below, precision).settled(predictor, say)
    limits = Limits(int(max_megabytes * 2**20), max_rows, int(max_megapixels * 1e6))
    application = make_app(predictor, form, limits)
    listening = bound_socket(host, port)
    name, number = listening.getsockname()[:2]
    print(f"serving at http://{f'[{name}]' if ':' in name else name}:{number}", flush=True)
    say("GET /health and /schema, POST /predict; Ctrl-C ends it.")
    serve_app(application, listening)

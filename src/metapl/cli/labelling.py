"""label."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from metapl.cli.app import app, say
from metapl.cli.options import Debug, Device, Json, Overwrite, Quiet, Run, State, Text, TrustCode
from metapl.errors import UserError, nearest
from metapl.utils import printing

ENGINES = ("local", "ray")


@app.command()
def label(
    run: Run,
    pool: Annotated[
        str, typer.Argument(metavar="POOL", help="A folder of images, a file of rows, or a folder of such files.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder of the labels; an earlier one is continued.")],
    engine: Annotated[str, typer.Option(metavar="NAME", help="local, or ray: all cores, or a cluster.")] = "local",
    address: Annotated[Text, typer.Option(metavar="HOST:PORT", help="A Ray cluster; by default this machine.")] = None,
    device: Device = None,
    trust_code: TrustCode = False,
    json: Json = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Label a pool of any size into Parquet files.

    The pool is read in parts, so that memory does not grow with it. Each part becomes a file with the columns id,
    label, confidence (calibrated on validation rows) and margin. Rows that cannot be labelled are counted and listed
    in problems.csv. The same command goes on where a killed one was.

    \b
    Examples:
      metapl label runs/photos-mpl-0 all-photos --out labels
      metapl label runs/people-mpl-0 people.parquet --out labels --engine ray
    """
    from metapl.inference.label_pool import label_pool, run_here
    from metapl.inference.ray_engine import ray_engine

    printing.check_json(json, overwrite)
    if engine not in ENGINES:
        raise UserError(f"unknown engine '{engine}'", nearest(engine, ENGINES), "--engine")
    if address and engine != "ray":
        raise UserError("--address is for --engine ray", "Leave it out.", "--address")
    State.folder = run
    work = ray_engine(address) if engine == "ray" else run_here
    tell = (lambda text: None) if quiet else (lambda text: say(printing.one_line(text)))
    result = label_pool(run, pool, out, device, tell, trust_code, work)
    rows, problems = result["rows"], result["problems"]
    text = f"labelled {rows:,} row{'s' * (rows != 1)} in {result['parts']:,} parts: {printing.one_line(str(out))}"
    left = f"\n{problems:,} left out, see {printing.one_line(str(out / 'problems.csv'))}" if problems else ""
    printing.give(result, json, text + left)

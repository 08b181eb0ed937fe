"""evaluate and predict."""

from __future__ import annotations

from typing import Annotated

import typer

from metapl.cli.app import app, say
from metapl.cli.options import Debug, Device, Json, Number, Overwrite, Run, State, Text, TrustCode
from metapl.utils import printing


@app.command()
def evaluate(
    run: Run,
    data: Annotated[
        Text,
        typer.Argument(metavar="DATA", help="Other labelled data: a folder CLASS/*, a file of rows, or a source."),
    ] = None,
    device: Device = None,
    trust_code: TrustCode = False,
    json: Json = None,
    overwrite: Overwrite = False,
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
    from metapl.inference.evaluate import summary
    from metapl.inference.run_evaluation import judge_other, judge_own
    from metapl.report.write import refresh

    printing.check_json(json, overwrite)
    State.folder = run
    judged = (
        judge_other(run, data, device, _note, trust_code) if data else judge_own(run, device, trust_code, tell=_note)
    )
    result, found, where = judged
    say(printing.problems(found))
    page = None if data else refresh(run)
    report = f"\n\nreport: {printing.one_line(page)}" if page is not None else ""
    printing.give(result, json, printing.evaluation(result, summary(result), where) + report)


@app.command()
def predict(
    run: Run,
    input: Annotated[
        str,
        typer.Argument(metavar="INPUT", help="A folder of images, an image, a file of rows, a source, or - (stdin)."),
    ],
    out: Annotated[str, typer.Option(metavar="FILE", help="The file to write, CSV or .parquet; - prints CSV.")] = "-",
    top: Annotated[int, typer.Option(metavar="K", help="Write the K most probable classes of each row.")] = 1,
    abstain_below: Annotated[
        float, typer.Option(metavar="P", help="Leave the label empty where its probability is below P.")
    ] = 0.0,
    precision: Annotated[
        Number,
        typer.Option(metavar="P", help="Choose --abstain-below so that a share P of the answers is right."),
    ] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Label new rows with a trained model.

    The answer has the columns id, label and probability, and with --top 3 also label_2, probability_2 and so on. A
    folder may hold folders in folders; no class folders are needed. Rows that cannot be read are skipped, named on the
    screen and listed in problems.csv beside FILE. A file of rows needs the columns that the model was trained on, in
    any order; its ids are those of the column id, or line numbers. --precision 0.95 is kept by means of the run's
    validation rows, and says which share of them it answers.

    \b
    Examples:
      metapl predict runs/photos-mpl-0 holiday --out predictions.csv
      metapl predict runs/people-mpl-0 new.csv --top 3 --precision 0.95 --out predictions.parquet
    """
    from metapl.inference.answers import AnswerForm
    from metapl.inference.run_predictions import predict_to

    State.folder = run
    count, found, listed = predict_to(
        run, input, out, overwrite, device, _note, trust_code, AnswerForm(top, abstain_below, precision)
    )
    say(printing.problems(found, listed))
    say(f"labelled {count} row{'s' * (count != 1)}{'' if out == '-' else f': {printing.one_line(out)}'}")


def _note(text: str) -> None:
    say(f"note: {printing.one_line(text)}")

"""Write the report of a run into its folder. A failing report never spoils a finished training."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

from metapl.errors import UserError
from metapl.inference.run_evaluation import open_own
from metapl.report.charts import draw_all
from metapl.report.gather import gather, store, stored
from metapl.report.page import run_page
from metapl.report.record import Record, read_any, read_record
from metapl.report.unfinished import unfinished_page
from metapl.training.result import Result
from metapl.utils.files import write_text

PAGE, FIGURES, LOG = "report.html", "figures", "report-error.log"


def report_result(result: Result) -> Path:
    """Write the report of a training that has just ended, while its rows are in memory; gives the page.

    Raises:
        UserError: the run has no folder.
    """
    if result.folder is None:
        raise UserError("a run in memory has no folder for a report", "Save it first: result.save(folder).")
    record = read_record(result.folder)
    material = gather(record, result.predictor, result.source, result.split)
    store(result.folder, material)
    return _write(record, material)


def report_run(folder: str | Path, device: str | None = None, trust_code: bool = False) -> Path:
    """Write the report of a stored run; gives the page.

    What was gathered at the end of the training is used again. Where it was not, the run's data are opened anew, but
    for its test rows. The page of a run that diverged, was stopped or still trains says so, and what to do.

    Raises:
        UserError: not a run, or data that are needed and have changed or gone.
    """
    folder = Path(folder).expanduser()
    record = read_any(folder)
    if not record.results:
        return _put(record, unfinished_page(record, draw_all(record, {}, folder / FIGURES)))
    material = stored(folder)
    if material is None:
        _, predictor, source, split = open_own(folder, device, trust_code)
        material = gather(record, predictor, source, split)
        store(folder, material)
    return _write(record, material)


def write_report(run: Result | str | Path, device: str | None = None, trust_code: bool = False) -> Path:
    """Write ``report.html`` into the folder of a run, as ``metapl train`` and ``metapl report`` do; gives the page.

    Args:
        run: what a training gave back, or its folder.
        device: where the model runs if rows have to be asked again; None = auto.
        trust_code: as in ``load_model``.

    Raises:
        UserError: a run in memory, not a run, or data that are needed and have changed or gone.
    """
    return report_result(run) if isinstance(run, Result) else report_run(run, device, trust_code)


def try_report(result: Result) -> tuple[Path | None, str]:
    """Call ``report_result``; return the page, or None and a message about the failure."""
    assert result.folder is not None
    try:
        return report_result(result), ""
    except Exception as error:
        log = result.folder / LOG
        try:
            log.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        except OSError:
            return None, f"the report could not be written ({error}); the run itself is complete"
        return None, f"the report could not be made ({type(error).__name__}: {error}); the run is complete, see {log}"


def try_unfinished(folder: Path) -> Path | None:
    """Write the page of a run that has just diverged; None where that fails: the error of the training says more."""
    try:
        return report_run(folder)
    except Exception:
        return None


def refresh(folder: Path) -> Path | None:
    """Write the page again after new figures, where there is one with its material; None where there is not."""
    material = stored(folder)
    if material is None or not (folder / PAGE).is_file():
        return None
    try:
        return _write(read_record(folder), material)
    except Exception:  # the evaluation stands, and an old page does no harm
        return None


def _write(record: Record, material: dict[str, Any]) -> Path:
    charts = draw_all(record, material, record.folder / FIGURES)
    return _put(record, run_page(record, material, charts))


def _put(record: Record, text: str) -> Path:
    page = record.folder / PAGE
    write_text(page, text)
    return page

"""Write a trained model as a file that other programs run: ONNX, or torch.export. It is compared before it is kept."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.config.settings import RunConfig
from metapl.data.sources import open_source, read_ref
from metapl.data.tables.columns import matching
from metapl.data.texts.tokens import HF, tokenizer_json
from metapl.data.traits import traits
from metapl.deploy.graph import INPUT, OUTPUT, ProbabilityGraph, describe_graph, to_input
from metapl.errors import UserError
from metapl.inference.run_evaluation import open_own
from metapl.inference.stored_run import open_model
from metapl.runs.model_folder import Predictor
from metapl.utils.files import check_output, write_text

FORMATS = ("onnx", "torch-export")
KEY = "metapl"  # of the facts: in the metadata of an ONNX file, or the name of the extra file of torch.export
COMPARED = 64  # rows of the comparison
BESIDE = ".tokenizer.json"  # how the file of a tokenizer ends that lies beside
MOST = 1e-4  # largest difference of a probability with which a file is kept
INSTALL = 'Install it: pip install "metapl[export]".'


@dataclass(frozen=True)
class Exported:
    """What an export wrote.

    Attributes:
        path: the file. beside: further files that belong to it.
        facts: what stands in the file for other programs.
        difference: the largest difference of a probability from the model's own, over ``rows`` rows.
    """

    path: Path
    beside: tuple[Path, ...]
    facts: dict[str, Any]
    difference: float
    rows: int


def export_run(
    run: Path,
    out: str | Path,
    form: str = "onnx",
    *,
    rows: str = "",
    overwrite: bool = False,
    trust_code: bool = False,
) -> Exported:
    """Export the model of a run with its preprocessing, and compare it with the original on real rows.

    Args:
        run: the run folder.
        out: the file to write; it appears when it is whole and was compared.
        form: one of FORMATS.
        rows: rows to compare on, as ``metapl predict`` takes them; by default some that the run trained on.
        overwrite: replace the file.
        trust_code: as in ``load_model``.

    Raises:
        UserError: a package is missing, the file exists, the model cannot be exported, or its answers differ.
    """
    if form not in FORMATS:
        raise UserError(f"unknown format '{form}'", f"Use {' or '.join(FORMATS)}.", "--format")
    path = Path(out).expanduser()
    if form == "torch-export" and path.suffix != ".pt2":
        raise UserError("a file of torch.export ends with .pt2", "Name such a file.", str(path))
    if form == "onnx" and path.suffix == ".pt2":
        raise UserError("a file that ends with .pt2 is one of torch.export", "Add --format torch-export.", str(path))
    check_output(path, overwrite)
    check_output(path.with_suffix(BESIDE), overwrite)
    run_file = _onnx_runner() if form == "onnx" else _run_program
    config, predictor = open_model(run, "cpu", trust_code)
    if predictor.encoder is not None:
        predictor.encoder.bfloat16 = False  # the file computes in float32
    raw = _given_rows(config, predictor, rows) if rows else _own_rows(run, trust_code)
    if len(raw) < 2:
        raise UserError("there are fewer than two rows to compare on", "Name a file with more: --rows FILE.", str(run))
    given = to_input(raw, predictor.takes)
    facts = describe_graph(predictor, given, predictor.temperature)
    program = _traced(predictor, given)
    aside = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        _write(program, aside, form, facts)
        wanted = predictor.probabilities(raw)
        answers = [run_file(aside, given), torch.cat([run_file(aside, row[None]) for row in given[:2]])]
        difference = max(float((answer - wanted[: len(answer)]).abs().max()) for answer in answers)
        if not difference <= MOST:
            what = f"the exported model's probabilities differ by up to {difference:.1e}, so it is not kept"
            raise UserError(what, "Please report this with the run's config.yaml.", str(run))
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return Exported(path, _vocabulary(predictor, path), facts, difference, len(given))


def _own_rows(run: Path, trust_code: bool) -> Tensor:
    """Return raw rows that the run trained on or chose by; test rows are not among them."""
    try:
        _, predictor, source, split = open_own(run, "cpu", trust_code)
    except UserError as error:
        remedy = "Name rows to compare on: --rows INPUT, as `metapl predict` takes it."
        raise UserError(f"the run's own rows cannot be opened ({error.what})", remedy, str(run)) from error
    index = np.unique(np.concatenate([split.unlabeled, split.validation, split.labeled]))
    index = source.readable(index[:: -(-len(index) // COMPARED) or 1])
    inner = traits(source).inner or source
    return matching(inner.columns, predictor.takes.columns, inner.name)(inner.rows(index))


def _given_rows(config: RunConfig, predictor: Predictor, name: str) -> Tensor:
    source = open_source(read_ref(name), config.source, like=predictor.input())
    index = source.readable(np.arange(len(source.ids))[:COMPARED])
    return matching(source.columns, predictor.takes.columns, source.name)(source.rows(index))


def _traced(predictor: Predictor, given: Tensor) -> Any:
    """Return the model as a ``torch.export.ExportedProgram`` for any number of rows.

    Raises:
        UserError: a part of it cannot be written as a graph.
    """
    batch = torch.export.Dim("batch", min=1)
    with _quiet(), torch.no_grad():
        try:
            graph = ProbabilityGraph(predictor).eval()
            graph(given[:2])  # what is made once per device is made now
            return torch.export.export(graph, (given[: max(2, min(len(given), 8))],), dynamic_shapes=({0: batch},))
        except UserError:
            raise
        except Exception as error:
            raise _not_exportable(error) from error


def _write(program: Any, path: Path, form: str, facts: dict[str, Any]) -> None:
    text = json.dumps(facts)
    with _quiet():
        try:
            if form == "onnx":
                names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT]}
                made = torch.onnx.export(program, dynamo=True, verbose=False, **names)
                assert made is not None
                made.model.metadata_props[KEY] = text
                made.save(path, external_data=False)
            else:
                torch.export.save(program, path, extra_files={f"{KEY}.json": text})
        except OSError:
            raise
        except Exception as error:
            raise _not_exportable(error) from error


def _not_exportable(error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    remedy = "Networks and encoders of your own must be plain tensor operations, without a look at the values."
    return UserError(f"this model cannot be written as a graph ({reason})", remedy, "export")


def _onnx_runner() -> Callable[[Path, Tensor], Tensor]:
    """Return what runs an ONNX file.

    Raises:
        UserError: a package of the extra is missing.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise UserError(f"ONNX needs onnx, onnxscript and onnxruntime ({error})", INSTALL, "--format") from error
    del onnx, onnxscript  # torch imports them by itself

    def run(path: Path, rows: Tensor) -> Tensor:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run(None, {INPUT: rows.numpy()})[0])

    return run


@torch.no_grad()
def _run_program(path: Path, rows: Tensor) -> Tensor:
    with _quiet():
        answers: Tensor = torch.export.load(path).module()(rows)
    return answers


def _vocabulary(predictor: Predictor, path: Path) -> tuple[Path, ...]:
    """Write the tokenizer of a folder beside the file, as the library ``tokenizers`` reads it; hashed words need none.

    Raises:
        UserError: the tokenizer has no such form.
    """
    tokens = predictor.takes.tokens
    if tokens is None or not tokens.tokenizer.startswith(HF):
        return ()
    beside = path.with_suffix(BESIDE)
    write_text(beside, tokenizer_json(tokens))
    return (beside,)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the exporter says to people who write exporters."""
    logs = [(log, log.level) for log in map(logging.getLogger, ("torch.onnx", "onnxscript", "onnx_ir", "onnx"))]
    for log, _ in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in logs:
            log.setLevel(level)

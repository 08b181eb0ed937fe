"""Options that commands share; those of every command that trains are one dataclass, ``TrainOptions``."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from metapl.errors import UserError
from metapl.utils.names import split_name


class State:
    """What the error handling needs to know about the command at hand."""

    debug = False
    folder: Path | None = None
    argv: tuple[str, ...] = ()


def _set_debug(value: bool) -> None:
    State.debug = State.debug or value


def _keep_inputs(overwrite: bool) -> bool:
    """Refuse ``--overwrite`` where two words of the command name one file: the result would replace an input."""
    files = [part for word in State.argv for part in _parts(word) if os.path.isfile(part)] if overwrite else []
    for place, file in enumerate(files):
        if any(os.path.samefile(file, other) for other in files[:place]):
            raise UserError("the file is named twice", "A result may not replace what it is made from.", file)
    return overwrite


def _parts(word: str) -> list[str]:
    """Return the parts of a word that may be a path, as in ``csv:FILE``, ``--json=FILE`` or ``source.test=FILE``."""
    return [word, *(word[place + 1 :] for place, sign in enumerate(word) if sign in "=:")]


# Typer before 0.12.4 cannot read `str | None`.
Text = Optional[str]  # noqa: UP045
TextList = Optional[list[str]]  # noqa: UP045
Whole = Optional[int]  # noqa: UP045
Number = Optional[float]  # noqa: UP045
OptionalPath = Optional[Path]  # noqa: UP045

Json = Annotated[
    Text,
    typer.Option("--json", metavar="FILE", help="Also write the result as JSON to FILE; - prints only the JSON."),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", callback=_keep_inputs, help="Replace FILE, whatever it holds. Folders are never replaced."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress.")]
Debug = Annotated[bool, typer.Option("--debug", callback=_set_debug, help="On an error, show the full traceback.")]
Device = Annotated[Text, typer.Option(metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, as train made it.")]
TrustCode = Annotated[
    bool, typer.Option("--trust-code", help="Run Python code package.module:NAME that the files of RUN name.")
]
Data = Annotated[
    Text,
    typer.Argument(
        metavar="DATA",
        help="Images in folders, a file of rows (.csv, .parquet, ...) or of arrays (.npz), torchvision:NAME, digits.",
    ),
]
SettingPairs = Annotated[
    TextList, typer.Argument(metavar="KEY=VALUE", help="Any other setting, such as optim.lr=0.02 or mpl.feedback=none.")
]
MethodName = Annotated[Text, typer.Option(metavar="NAME", help="See `metapl methods`; by default mpl.")]
Guard = Annotated[
    Text,
    typer.Option(
        metavar="MODE",
        help="Compare with models of the labels alone and return the best choice (the default), warn, or off.",
    ),
]

Procs = Annotated[
    int,
    typer.Option(
        "--procs", metavar="N", min=1, help="Divide each batch over N processes: one per GPU, or on cores of the CPU."
    ),
]
MaxRestarts = Annotated[
    int,
    typer.Option(
        "--max-restarts",
        metavar="N",
        min=0,
        help="With --procs: go on from the newest checkpoint if one dies, N times.",
    ),
]


@dataclass(frozen=True)
class TrainOptions:
    """The options of train, compare and tune; ``with_train_options`` gives them to a command."""

    data: Data = None
    settings: SettingPairs = None
    model: Annotated[
        Text, typer.Option(metavar="NAME", help="See `metapl models`, or package.module:function; by default auto.")
    ] = None
    encoder: Annotated[
        Text,
        typer.Option(
            metavar="NAME",
            help="Train a head on a frozen network's features: lite0, minilm, timm:NAME, torchvision:NAME, hf:FOLDER.",
        ),
    ] = None
    labels: Annotated[
        Whole, typer.Option(metavar="N", help="Use N labels per class (validation rows come out of these).")
    ] = None
    labels_total: Annotated[Whole, typer.Option(metavar="N", help="Use N labels in all, spread evenly.")] = None
    validation: Annotated[
        Text,
        typer.Option(metavar="SHARE", help="Labelled rows kept for choosing: auto, none, a share, or rows per class."),
    ] = None
    steps: Annotated[
        Whole,
        typer.Option(
            metavar="N", help="Updates of each training, before fine-tuning; by default 1000, 300 for tables and texts."
        ),
    ] = None
    seed: Annotated[
        Whole,
        typer.Option(metavar="N", help="Other labels, weights and batches; default 0. Of several seeds, the first."),
    ] = None
    device: Device = None
    download: Annotated[
        bool,
        typer.Option(
            "--download", help="Fetch what is not on this machine: data of torchvision: or hf:, first weights."
        ),
    ] = False
    config: Annotated[
        OptionalPath,
        typer.Option("--config", metavar="FILE", help="Settings as YAML; options and KEY=VALUE come on top."),
    ] = None
    json: Json = None
    overwrite: Overwrite = False
    quiet: Quiet = False
    debug: Debug = False

    def keys(self, **more: Any) -> dict[str, Any]:
        """Return the settings that the options stand for, by dotted key, and ``more``; None where none was given."""
        weights = self.download and split_name(self.model or "").prefix in ("timm", "torchvision")
        return {
            "model": self.model,
            "source.encoder.name": self.encoder,
            "split.labels": self.labels,
            "split.labels_total": self.labels_total,
            "split.validation": _parsed(self.validation),
            "steps": self.steps,
            "seed": self.seed,
            "device": self.device,
            "source.download": self.download or None,
            "download": weights or None,
            **more,
        }

    @property
    def data_and_pairs(self) -> tuple[str | None, list[str]]:
        """Return DATA and the KEY=VALUE pairs."""
        return data_and_pairs(self.data, self.settings)


def with_train_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of ``TrainOptions``, which it gets as its argument ``options``.

    DATA and KEY=VALUE come first, then the command's own options, then the shared ones.
    """
    shared = {f.name: f.default for f in dataclasses.fields(TrainOptions)}
    hints = typing.get_type_hints(TrainOptions, include_extras=True)
    own = [p for p in inspect.signature(function, eval_str=True).parameters.values() if p.name != "options"]
    every = [inspect.Parameter(name, _KEYWORD, default=value, annotation=hints[name]) for name, value in shared.items()]
    arguments, options = every[:2], every[2:]
    parameters = [*arguments, *(p.replace(kind=_KEYWORD) for p in own), *options]

    @functools.wraps(function)
    def command(**values: Any) -> None:
        given = {name: values.pop(name) for name in shared}
        function(options=TrainOptions(**given), **values)

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def data_and_pairs(data: str | None, settings: list[str] | None) -> tuple[str | None, list[str]]:
    """Return DATA and the KEY=VALUE pairs. With ``--config FILE key=value`` the first pair stands in DATA's place."""
    pairs = list(settings or [])
    if data is not None and "=" in data and not os.path.exists(data):
        return None, [data, *pairs]
    return data, pairs


def _parsed(value: str | None) -> Any:
    """Return ``0.2`` and ``2`` as numbers, ``auto`` and ``none`` as they are."""
    import yaml

    try:
        return None if value is None else yaml.safe_load(value)
    except yaml.YAMLError:
        return value

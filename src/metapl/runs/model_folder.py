"""The trained model as a folder: weights (safetensors) and a JSON card with class names and preprocessing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from metapl._version import __version__
from metapl.data.batches.preprocess import preprocessing_from_dict, preprocessing_to_dict
from metapl.data.batches.views import ViewConfig
from metapl.data.memory.new_rows import rows_for
from metapl.data.modalities import make_views
from metapl.errors import UserError
from metapl.models import Factory, architecture, as_factory, build_given, rebuild
from metapl.models.combined import PLAIN, assemble, describe
from metapl.models.encoders import FrozenEncoder, InputSpec, build_encoder
from metapl.models.own import check_trusted
from metapl.models.probe import alike
from metapl.thresholds import fit_temperature
from metapl.types import Array, ModelInput, Preprocessing
from metapl.utils.chunks import rows_at_once
from metapl.utils.files import replace_tensors, seal, sha256, write_json
from metapl.utils.limits import read_json

SMALLEST = 1e-12  # of a probability whose logarithm is taken
CARD, WEIGHTS, VALIDATION = "model.json", "weights.safetensors", "validation.safetensors"
UNSEALED = "0.1.0"  # the version whose models carry no sums
CHUNK, VALUES = 256, 2**23  # rows per forward, and numbers in them


@dataclass(frozen=True)
class ValidationAnswers:
    """What a model answers about validation rows, which it did not learn from.

    Attributes:
        p: [m, C] float32 probabilities.
        y: [m] int64 true classes, by the model's numbers.
    """

    p: Tensor
    y: Tensor


@dataclass(frozen=True)
class Predictor:
    """A trained network with all it needs to judge raw rows."""

    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    device: torch.device
    encoder: FrozenEncoder | None = None  # turns raw rows into what ``preprocessing`` describes
    files: Mapping[str, str] = field(default_factory=dict)  # ``TableOptions.written`` of the training, and ``widths``
    validation: ValidationAnswers | None = None

    @property
    def takes(self) -> Preprocessing:
        """Return what raw rows the model takes: kind, shape, columns, tokens."""
        return self.preprocessing if self.encoder is None else self.encoder.takes

    @cached_property
    def temperature(self) -> float | None:
        """Return the divisor of the log probabilities that calibrates them; None without validation rows."""
        known = self.validation
        return None if known is None else fit_temperature(known.p.clamp_min(SMALLEST).log()[None], known.y)

    def calibrated(self, p: Tensor) -> Tensor:
        """Return probabilities p [n, C] after temperature scaling; p itself without validation rows."""
        if self.temperature is None:
            return p
        return torch.softmax(p.clamp_min(SMALLEST).log() / self.temperature, -1)

    def input(self, labels: bool = False) -> ModelInput:
        """Return what the model asks of new rows; ``labels``: whether these are read, too."""
        widths = tuple(int(width) for width in self.files.get("widths", "").split(",") if width.isdecimal())
        return ModelInput(self.takes, self.class_names, labels, widths)

    def predict_proba(self, X: Any) -> Array:
        """Return [n, C] float32 for new rows, in any of the forms that ``from_arrays`` takes.

        Raises:
            UserError: rows of another kind or shape than those of the training.
        """
        found: Array = self.probabilities(rows_for(X, self.takes)).numpy()
        return found

    def predict(self, X: Any) -> Array:
        """Return [n] class names for new rows; see ``predict_proba``."""
        return self.names(self.predict_proba(X))

    def names(self, p: Array) -> Array:
        """Return [n] the name of the most probable class for each row of ``p`` [n, C]."""
        return np.array(self.class_names, dtype=object)[p.argmax(1)] if len(p) else np.array([], dtype=object)

    @torch.no_grad()
    def probabilities(self, rows: Tensor) -> Tensor:
        """Return [n, C] on the CPU for raw rows [n, ...], as ``types`` has them; with an encoder, or for its
        features.
        """
        if self.encoder is not None and not rows.is_floating_point():  # images and texts are whole numbers
            rows = self.encoder.encode(rows)
        if tuple(rows.shape[1:]) != self.preprocessing.shape:
            got, wanted = list(rows.shape[1:]), list(self.preprocessing.shape)
            raise UserError(f"rows have the shape {got}, the model was trained on {wanted}", "Use rows of that shape.")
        views, was_training = make_views(ViewConfig(), self.preprocessing), self.model.training
        self.model.eval()
        size = rows_at_once(rows.shape[1:], CHUNK, VALUES)
        chunks = [self.model(views.plain(chunk.to(self.device))) for chunk in torch.split(rows, size)]
        self.model.train(was_training)
        logits = torch.cat(chunks) if chunks else torch.zeros(0, len(self.class_names))
        return _finite(torch.softmax(logits.float(), dim=-1).cpu(), rows)


def _finite(p: Tensor, rows: Tensor) -> Tensor:
    """Return the probabilities, all of them finite.

    Raises:
        NotFinite: some are not: a value lies so far from those of the training that the network cannot answer.
    """
    bad = torch.nonzero(~torch.isfinite(p).all(1)).flatten().tolist()
    if bad:
        raise NotFinite(bad, float(rows[bad[0]].abs().nan_to_num(0.0).max()))
    return p


class NotFinite(UserError):
    """The network has no finite answer for some rows, whose positions are ``rows``."""

    def __init__(self, rows: list[int], value: float) -> None:
        self.rows = rows
        what = f"row {rows[0]} has no finite answer: its largest value, {value:g}, lies too far from the training's"
        super().__init__(what, "Mend or leave out such rows.", "X")


def non_finite(model: nn.Module) -> str:
    """Name the first parameter or buffer that holds NaN or infinity; empty where all numbers are finite."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return next((name for name, tensor in tensors if not bool(torch.isfinite(tensor).all())), "")


def save_model(folder: Path, predictor: Predictor, name: str, card: dict[str, Any]) -> None:
    """Write the model into ``folder``, which is made where it is missing.

    The card carries the SHA-256 of the weights and a seal over itself, which ``load_model`` checks.

    Args:
        folder: the model's folder.
        predictor: the trained model.
        name: what ``build_model`` takes.
        card: how the model was trained.

    Raises:
        UserError: a number in the network is not finite.
    """
    if bad := non_finite(predictor.model):
        what = f"the model is not stored: '{bad}' holds numbers that are not finite"
        raise UserError(what, "Train with a lower learning rate (optim.lr).", str(folder))
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in predictor.model.state_dict().items()}
    replace_tensors(folder / WEIGHTS, tensors)
    sums = {WEIGHTS: sha256(folder / WEIGHTS)}
    if predictor.validation is not None:
        replace_tensors(folder / VALIDATION, {"p": predictor.validation.p, "y": predictor.validation.y})
        sums[VALIDATION] = sha256(folder / VALIDATION)
    facts = {
        "metapl": __version__,
        "model": name,
        "class_names": list(predictor.class_names),
        "preprocessing": preprocessing_to_dict(predictor.preprocessing),
        **({} if (combine := describe(predictor.model)) == PLAIN else {"combine": combine}),
        **({} if (made := architecture(predictor.model)) is None else {"architecture": made}),
        **({} if predictor.encoder is None else {"encoder": _encoder_to_dict(predictor.encoder)}),
        **({"files": dict(predictor.files)} if predictor.files else {}),
        **card,
        "sha256": sums,
    }
    write_json(folder / CARD, {**facts, "seal": seal(facts)})


def load_model(
    folder: str | Path,
    device: torch.device | str = "cpu",
    *,
    network: nn.Module | Factory | None = None,
    encoder: nn.Module | Factory | None = None,
    trust_code: bool = False,
) -> Predictor:
    """Read a model that ``save_model`` wrote. ``folder`` is the model's folder, or the run folder that holds it.

    ``network``: the ``nn.Module`` or factory that was trained, where it was given as an object; its weights are loaded.

    ``encoder``: likewise, the frozen encoder that was given to ``embed`` as an object.

    ``trust_code``: where the folder names a factory ``package.module:function`` for its network or encoder, import and
    call it. Say so only of a folder that you or someone you trust has made.

    Raises:
        UserError: a file is missing or damaged, the weights do not fit the network, the encoder is gone or another, or
            the folder asks for code that is not trusted.
    """
    folder, device = Path(folder).expanduser(), torch.device(device)
    folder = folder / "model" if (folder / "model" / CARD).is_file() else folder
    try:
        card = _sealed_card(folder)
        preprocessing, names = preprocessing_from_dict(card["preprocessing"]), tuple(card["class_names"])
        shape = preprocessing.input_shape
        if not isinstance(card["model"], str):
            raise TypeError(f"the network's name is {card['model']!r}")
        build = partial(rebuild, card["model"], shape, len(names), preprocessing.tokens, card.get("architecture"))
        check_trusted(card["model"], trust_code or network is not None, str(folder))
        if network is not None:
            build = partial(build_given, as_factory(network), card["model"], shape, len(names), preprocessing.tokens)
        files = {str(key): str(value) for key, value in dict(card.get("files", {})).items()}
        if "encoder" in card:
            check_trusted(str(card["encoder"]["name"]), trust_code or encoder is not None, str(folder))
        fitted = partial(rebuild, shape=shape, num_classes=len(names), tokens=preprocessing.tokens, architecture=None)
        model = assemble(card.get("combine", PLAIN), build, shape, fitted)
        model.load_state_dict(load_file(folder / WEIGHTS))
        if bad := non_finite(model):
            raise ValueError(f"'{bad}' holds numbers that are not finite")
        frozen = _encoder_from_dict(card["encoder"], encoder) if "encoder" in card else None
        validation = validation_answers(folder, card, len(names))
    except FileNotFoundError as error:
        remedy = "Has the training finished? `metapl resume` goes on where it stopped."
        raise UserError("there is no trained model here", remedy, str(folder)) from error
    except UserError:
        raise
    except PermissionError as error:
        remedy = "Ask the owner of the file for the right to read it."
        raise UserError("the file may not be read by this user", remedy, str(error.filename)) from error
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, RecursionError, SafetensorError) as error:
        raise UserError(f"the model cannot be loaded ({error})", "Train again.", str(folder)) from error
    frozen = None if frozen is None else frozen.to(device)
    return Predictor(model.to(device).eval(), preprocessing, names, device, frozen, files, validation)


def _sealed_card(folder: Path) -> dict[str, Any]:
    """Read the card and compare its seal, and the sum of the weights, with what is on disk.

    Models of 0.1.0 carry neither.

    Raises:
        UserError: a file differs from what was written; the message names it.
        FileNotFoundError: there is no card, or there are no weights.
    """
    for name in (CARD, WEIGHTS):
        if (folder / name).exists() and not (folder / name).is_file():
            raise UserError("this is not a file", "Train again.", str(folder / name))
    card: dict[str, Any] = dict(read_json(folder / CARD))
    if card.get("metapl") == UNSEALED and not {"seal", "sha256"} & card.keys():
        return card
    remedy = "Copy it again from where it was trained, or train again."
    if card.pop("seal", "") != seal(card):
        raise UserError("the file is damaged or was edited (its seal differs)", remedy, str(folder / CARD))
    if sha256(folder / WEIGHTS) != card["sha256"][WEIGHTS]:
        raise UserError("the file is damaged (SHA-256 differs)", remedy, str(folder / WEIGHTS))
    return card


def validation_answers(folder: Path, card: Mapping[str, Any], classes: int) -> ValidationAnswers | None:
    """Read the model's answers for validation rows; None where it has none, or where they were left behind.

    Raises:
        UserError: the file differs from what was written.
    """
    path, wanted = folder / VALIDATION, card.get("sha256", {}).get(VALIDATION)
    if wanted is None or not path.is_file():
        return None
    if sha256(path) != wanted:
        remedy = "Copy it again from where it was trained, or remove it."
        raise UserError("the file is damaged (SHA-256 differs)", remedy, str(path))
    tensors = load_file(path)
    if tensors["p"].shape != (len(tensors["y"]), classes):
        raise ValueError(f"{VALIDATION} does not fit the classes")
    return ValidationAnswers(tensors["p"], tensors["y"])


def _encoder_to_dict(encoder: FrozenEncoder) -> dict[str, Any]:
    return {
        "name": encoder.name,
        "weights": encoder.weights,
        "sha256": encoder.sha256,
        "probe": [" ".join(f"{value:.6g}" for value in row) for row in encoder.probe.tolist()],
        "look": asdict(encoder.spec),
        "normalize": encoder.normalize,
        "pooling": encoder.pooling if encoder.takes.tokens is not None and encoder.name.startswith("hf:") else "auto",
        "takes": preprocessing_to_dict(encoder.takes),
    }


def _encoder_from_dict(stored: dict[str, Any], given: nn.Module | Factory | None) -> FrozenEncoder:
    """Return the encoder that the card describes, built again.

    Raises:
        UserError: its files are gone, or it has other weights, or makes something else of the same row now.
    """
    spec: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored["look"].items()}
    made = build_encoder(
        stored["name"] if given is None else given,
        preprocessing_from_dict(stored["takes"]),
        weights_file="" if given is not None else stored["weights"],
        spec=InputSpec(**spec),
        normalize=stored["normalize"],
        pooling=stored.get("pooling", "auto"),
    )
    remedy = "Bring back the encoder that the model was trained with, or train again."
    if made.sha256 != stored["sha256"]:
        raise UserError("the encoder has other weights than at the training", remedy, stored["name"])
    if not alike(made.probe, torch.tensor([[float(value) for value in row.split()] for row in stored["probe"]])):
        what = "the encoder gives other features than at the training: its code, its settings or its library changed"
        raise UserError(what, remedy, stored["name"])
    return made

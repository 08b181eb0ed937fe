"""The trained model as a folder: weights (safetensors) and a JSON card with class names and preprocessing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from metapl._version import __version__
from metapl.data.chunks import rows_at_once
from metapl.data.preprocess import preprocessing_from_dict, preprocessing_to_dict
from metapl.data.views import ViewConfig, make_views
from metapl.errors import UserError
from metapl.files import sync_file, write_json
from metapl.models import Factory, architecture, as_factory, build_given, rebuild
from metapl.models.combined import PLAIN, assemble, describe
from metapl.types import Preprocessing

CHUNK, VALUES = 256, 2**23  # rows per forward, and numbers in them


@dataclass(frozen=True)
class Predictor:
    """A trained network with all it needs to judge raw rows."""

    model: nn.Module
    preprocessing: Preprocessing
    class_names: tuple[str, ...]
    device: torch.device

    @torch.no_grad()
    def probabilities(self, rows: Tensor) -> Tensor:
        """[n, C] on the CPU for raw rows [n, ...], as ``types`` has them."""
        if tuple(rows.shape[1:]) != self.preprocessing.shape:
            got, wanted = list(rows.shape[1:]), list(self.preprocessing.shape)
            raise UserError(f"rows have the shape {got}, the model was trained on {wanted}", "Use rows of that shape.")
        views, was_training = make_views(ViewConfig(), self.preprocessing), self.model.training
        self.model.eval()
        size = rows_at_once(rows.shape[1:], CHUNK, VALUES)
        chunks = [self.model(views.plain(chunk.to(self.device))) for chunk in torch.split(rows, size)]
        self.model.train(was_training)
        logits = torch.cat(chunks) if chunks else torch.zeros(0, len(self.class_names))
        return torch.softmax(logits.float(), dim=-1).cpu()


def save_model(folder: Path, predictor: Predictor, name: str, card: dict[str, Any]) -> None:
    """Write ``folder`` (made if missing). ``name`` is what ``build_model`` takes; ``card`` says how it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {n: t.detach().to("cpu", copy=True).contiguous() for n, t in predictor.model.state_dict().items()}
    save_file(tensors, folder / "weights.safetensors")
    sync_file(folder / "weights.safetensors")
    facts = {
        "metapl": __version__,
        "model": name,
        "class_names": list(predictor.class_names),
        "preprocessing": preprocessing_to_dict(predictor.preprocessing),
        **({} if (combine := describe(predictor.model)) == PLAIN else {"combine": combine}),
        **({} if (made := architecture(predictor.model)) is None else {"architecture": made}),
        **card,
    }
    write_json(folder / "model.json", facts)


def load_model(
    folder: str | Path, device: torch.device | str = "cpu", *, network: nn.Module | Factory | None = None
) -> Predictor:
    """What ``save_model`` wrote. ``folder`` is the model's folder, or the run folder that holds it.

    ``network``: the ``nn.Module`` or factory that was trained, where it was given as an object; its weights are loaded.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the network.
    """
    folder, device = Path(folder), torch.device(device)
    folder = folder / "model" if (folder / "model" / "model.json").is_file() else folder
    try:
        card = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        preprocessing, names = preprocessing_from_dict(card["preprocessing"]), tuple(card["class_names"])
        shape = preprocessing.input_shape
        build = partial(rebuild, card["model"], shape, len(names), preprocessing.tokens, card.get("architecture"))
        if network is not None:
            build = partial(build_given, as_factory(network), card["model"], shape, len(names), preprocessing.tokens)
        model = assemble(card.get("combine", PLAIN), build, shape)
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    except FileNotFoundError as error:
        remedy = "Has the training finished? `metapl resume` goes on where it stopped."
        raise UserError("there is no trained model here", remedy, str(folder)) from error
    except UserError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise UserError(f"the model cannot be loaded ({error})", "Train again.", str(folder)) from error
    return Predictor(model.to(device).eval(), preprocessing, names, device)

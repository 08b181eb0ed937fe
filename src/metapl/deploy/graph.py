"""A trained model as one chain of tensor operations, from rows as other programs have them to probabilities.

Shapes: B rows, C classes. The preprocessing inside is the very code of a training's plain view.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from metapl._version import __version__
from metapl.data.batches.views import ViewConfig
from metapl.data.modalities import make_views, modality_of
from metapl.data.texts.tokens import WORDS, word_pattern
from metapl.models.fitted.tfidf import TfIdf, term_keys
from metapl.runs.model_folder import Predictor
from metapl.types import Preprocessing

INPUT, OUTPUT = "rows", "probabilities"


class ProbabilityGraph(nn.Module):
    """Turns rows as ``to_input`` gives them into probabilities [B, C].

    Args:
        predictor: the trained model, on the CPU. It is copied, so that it stays as it is.
    """

    offsets: Tensor | None

    def __init__(self, predictor: Predictor) -> None:
        super().__init__()
        self.takes, self.encoder = predictor.takes, predictor.encoder
        self.encoder_network = None if self.encoder is None else self.encoder.network
        self.network = exportable(predictor.model).eval()
        self.views = make_views(ViewConfig(), predictor.preprocessing)
        self.register_buffer("offsets", _offsets(self.takes))

    def forward(self, rows: Tensor) -> Tensor:
        """Return [B, C] float32 for rows [B, ...]."""
        if modality_of(self.takes.kind).sized:
            rows = rows.permute(0, 3, 1, 2)
        elif self.offsets is not None:
            rows = (rows - self.offsets).to(torch.float32)
        if self.encoder is not None:
            rows = self.encoder.graph(rows)
        return torch.softmax(self.network(self.views.plain(rows)).float(), dim=-1)


def to_input(rows: Tensor, takes: Preprocessing) -> Tensor:
    """Return raw rows, as a source gives them, in the form that the graph takes.

    Images: uint8 [B, height, width, channels]. Tables: float64 [B, columns], numbers as they were in the file and
    categories by the number of their level. Texts: int32 [B, length]. Other kinds: as they are.
    """
    if modality_of(takes.kind).sized:
        return rows.permute(0, 2, 3, 1).contiguous()
    offsets = _offsets(takes)
    return rows if offsets is None else rows.double() + offsets


def _offsets(takes: Preprocessing) -> Tensor | None:
    """Return [columns] float64, what is subtracted from the numbers of a table before they become float32."""
    if takes.tokens is not None or len(takes.shape) != 1:
        return None
    columns = [column.offset for column in takes.columns] or [0.0] * takes.shape[0]
    return torch.tensor(columns, dtype=torch.float64)


def describe_graph(predictor: Predictor, rows: Tensor, temperature: float | None) -> dict[str, Any]:
    """Return as JSON values what another program has to know: classes, input, output, temperature.

    Args:
        predictor: the trained model.
        rows: some rows of ``to_input``, for type and shape.
        temperature: divides the logarithms of the probabilities, so that they match how often the model is right.
    """
    takes, names = predictor.takes, list(predictor.class_names)
    entry: dict[str, Any] = {"name": INPUT, "kind": takes.kind, "dtype": str(rows.dtype).removeprefix("torch.")}
    entry["shape"] = ["batch", *rows.shape[1:]]
    if modality_of(takes.kind).sized:
        entry |= {"layout": "batch, height, width, channels; 0 to 255", "resize": takes.resize}
    if takes.columns:
        entry["columns"] = [{"name": c.name, "levels": list(c.levels)} for c in takes.columns]
        entry["missing"] = "NaN; a category is given by the place of its level, from 0"
    if takes.tokens is not None:
        entry["tokenizer"] = _tokenizer(takes)
    output = {"name": OUTPUT, "dtype": "float32", "shape": ["batch", len(names)]}
    facts = {"metapl": __version__, "classes": names, "input": entry, "output": output}
    return {**facts, "temperature": temperature}


def _tokenizer(takes: Preprocessing) -> dict[str, Any]:
    tokens = takes.tokens
    assert tokens is not None
    own = tokens.tokenizer == WORDS
    facts = {"name": WORDS if own else "tokenizer.json", "length": tokens.length, "pad": tokens.pad}
    return {**facts, **({"pattern": word_pattern()} if own else {})}


class ExportableTfIdf(nn.Module):
    """``TfIdf`` by operations that graphs have: terms are found by bisection, and counted by comparing all pairs.

    Args:
        fitted: the layer whose terms and weights are used.
    """

    vocabulary: Tensor
    idf: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, fitted: TfIdf) -> None:
        super().__init__()
        self.pad, self.terms = fitted.pad, len(fitted.vocabulary)
        for name in ("vocabulary", "idf", "weight", "bias"):
            self.register_buffer(name, getattr(fitted, name).detach())

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of token ids x [B, L]."""
        keys, there = term_keys(x, self.pad)
        place = self._places(keys)
        known = (self.vocabulary[place] == keys) & there
        idf = self.idf[place] * known
        count = (keys[:, :, None] == keys[:, None, :]).sum(-1)
        length = (count * idf * idf).sum(1, keepdim=True).sqrt().clamp_min(1e-12)
        return (self.weight[place] * (idf / length)[:, :, None]).sum(1) + self.bias

    def _places(self, keys: Tensor) -> Tensor:
        """Return the place of the last term that is not above each key, or 0."""
        place = torch.zeros_like(keys)
        for bit in reversed(range(self.terms.bit_length())):
            further = place + (1 << bit)
            inside = further.clamp_max(self.terms - 1)
            place = torch.where((further < self.terms) & (self.vocabulary[inside] <= keys), further, place)
        return place


def exportable(model: nn.Module) -> nn.Module:
    """Return a copy of the network without the layers that graphs have no operations for."""
    if isinstance(model, TfIdf):
        return ExportableTfIdf(model)
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        for name, child in parent.named_children():
            if isinstance(child, TfIdf):
                setattr(parent, name, ExportableTfIdf(child))
    return copied

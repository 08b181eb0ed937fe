"""The graph of a model, with its preprocessing inside, gives the model's own probabilities."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import metapl
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.embedded import embed
from metapl.data.traits import traits
from metapl.deploy.graph import ProbabilityGraph, describe_graph, to_input
from metapl.models import build_model
from metapl.models.combined import Average, Blend, Masked
from metapl.models.fitted.forest import Forest
from metapl.models.fitted.tfidf import TfIdf
from metapl.runs.model_folder import Predictor, ValidationAnswers
from metapl.types import Source

DRAW = np.random.default_rng(0)
WORDS = [f"wörd{k}" for k in range(30)]
LABELS = [0, 1, 2] * 8


def images() -> Source:
    return metapl.from_arrays(DRAW.integers(0, 256, (24, 10, 12, 3), dtype=np.uint8), LABELS)


def table() -> Source:
    columns = {
        "a": [*DRAW.normal(size=23), None],
        "when": list(1.7e9 + (np.arange(24) * 7 % 24) * 3.0),
        "c": ["x", "y", None] * 8,
    }
    return metapl.from_arrays(columns, LABELS)


def numbers() -> Source:
    return metapl.from_arrays(DRAW.normal(size=(24, 5)), LABELS)


def texts() -> Source:
    return metapl.from_arrays([" ".join(DRAW.choice(WORDS, k % 9)) for k in range(24)], LABELS)


def features() -> Source:
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return embed(images(), encoder, size=24, mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), normalize=True, cache=False)


def plain(name: str) -> Callable[[Source, tuple[int, ...]], nn.Module]:
    return lambda source, shape: build_model(name, shape, 3, source.tokens)


def blend(source: Source, shape: tuple[int, ...]) -> nn.Module:
    masked = Masked(plain("mlp")(source, shape), torch.arange(shape[0]) % 2 == 0)
    return Blend(Average([masked, plain("mlp")(source, shape)]), plain("linear")(source, shape), "linear")


def forest(source: Source, shape: tuple[int, ...]) -> nn.Module:
    model = build_model("forest", shape, 3)
    assert isinstance(model, Forest)
    model.fit(torch.randn(30, *shape), torch.arange(30) % 3, (), 1.0)
    return Blend(blend(source, shape), model, "forest")


def tfidf(source: Source, shape: tuple[int, ...]) -> nn.Module:
    model = build_model("tfidf", shape, 3, source.tokens)
    assert isinstance(model, TfIdf)
    model.fit(source.rows(np.arange(15)), torch.tensor(LABELS[:15]), [source.rows(np.arange(15, 24))], 1.0)
    return Blend(plain("ngram")(source, shape), model, "tfidf", 2.5)


CASES = {
    "images": (images, plain("small_cnn")),
    "table": (table, blend),
    "forest": (table, forest),
    "numbers": (numbers, plain("mlp")),
    "texts": (texts, plain("ngram")),
    "tfidf": (texts, tfidf),
    "features": (features, plain("head")),
}


def predictor_of(case: str) -> tuple[Predictor, Tensor]:
    """A model with weights drawn at random, and raw rows."""
    torch.manual_seed(0)
    make, build = CASES[case]
    source = make()
    index = np.arange(24)
    preprocessing = fit_preprocessing(source, index)
    model = build(source, preprocessing.input_shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    encoder, inner = traits(source).encoder, traits(source).inner or source
    return Predictor(model, preprocessing, ("p", "q", "r"), torch.device("cpu"), encoder), inner.rows(index)


@pytest.mark.parametrize("case", CASES)
def test_the_graph_gives_the_models_own_probabilities(case: str) -> None:
    predictor, raw = predictor_of(case)
    wanted = predictor.probabilities(raw)
    assert wanted.std(0).max() > 1e-4, "the rows must not all have the same answer"
    with torch.no_grad():
        found = ProbabilityGraph(predictor)(to_input(raw, predictor.takes))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_other_programs_learn_what_goes_in() -> None:
    predictor, raw = predictor_of("table")
    rows = to_input(raw, predictor.takes)
    facts = describe_graph(predictor, rows, predictor.temperature)
    assert facts["classes"] == ["p", "q", "r"]
    assert facts["temperature"] is None
    entry = facts["input"]
    assert (entry["dtype"], entry["shape"]) == ("float64", ["batch", 3])
    assert entry["columns"][2] == {"name": "c", "levels": ["x", "y"]}
    assert rows[:3, 1].tolist() == [1.7e9, 1.7e9 + 21, 1.7e9 + 42], (
        "numbers as they were, whatever float32 keeps of them"
    )
    predictor, raw = predictor_of("images")
    assert describe_graph(predictor, to_input(raw, predictor.takes), None)["input"]["shape"] == ["batch", 10, 12, 3]


def test_the_temperature_is_fitted_on_validation_rows() -> None:
    predictor, _ = predictor_of("numbers")
    sure = torch.full((40, 3), 0.01)
    sure[:, 0] = 0.98
    right = ValidationAnswers(sure, torch.tensor([0, 1] * 20))
    overconfident = Predictor(**{**vars(predictor), "validation": right})
    assert overconfident.temperature is not None
    assert overconfident.temperature > 2

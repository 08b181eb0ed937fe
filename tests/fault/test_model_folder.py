"""A finished model that differs from what was written is refused, and nothing that is not finite is stored."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path

import pytest
import torch

from metapl.errors import UserError
from metapl.models import build_model
from metapl.runs.model_folder import (
    CARD,
    UNSEALED,
    VALIDATION,
    WEIGHTS,
    Predictor,
    ValidationAnswers,
    load_model,
    save_model,
)
from metapl.types import Preprocessing

SHAPE = (1, 8, 8)


def predictor() -> Predictor:
    torch.manual_seed(0)
    preprocessing = Preprocessing("image", SHAPE, (0.5,), (0.25,))
    network, answers = build_model("small_cnn", SHAPE, 3).eval(), ValidationAnswers(torch.eye(3), torch.arange(3))
    return Predictor(network, preprocessing, ("a", "b", "c"), torch.device("cpu"), validation=answers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", predictor(), "small_cnn", {"method": "mpl"})
    return tmp_path / "model"


def test_a_whole_model_loads_and_answers_the_same(folder: Path) -> None:
    rows = torch.randint(0, 256, (5, *SHAPE), dtype=torch.uint8)
    assert torch.equal(load_model(folder).probabilities(rows), predictor().probabilities(rows))


@pytest.mark.parametrize("flips", [100, pytest.param(1000, marks=pytest.mark.fault)])
@pytest.mark.parametrize("name", [WEIGHTS, CARD, VALIDATION])
def test_every_flipped_bit_is_refused_and_the_file_named(folder: Path, name: str, flips: int) -> None:
    whole, draw = (folder / name).read_bytes(), random.Random(1)
    for _ in range(flips):
        place, bit = draw.randrange(len(whole)), 1 << draw.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= bit
        (folder / name).write_bytes(bytes(damaged))
        if name == CARD and _same_facts(damaged, whole):
            continue
        with pytest.raises(UserError, match=rf"{re.escape(name)}|cannot be loaded"):
            load_model(folder)


@pytest.mark.fault
@pytest.mark.parametrize("name", [WEIGHTS, CARD, VALIDATION])
def test_200_truncations_are_refused_and_the_file_named(folder: Path, name: str) -> None:
    whole, draw = (folder / name).read_bytes(), random.Random(2)
    for _ in range(200):
        (folder / name).write_bytes(whole[: draw.randrange(len(whole) - 1)])
        with pytest.raises(UserError, match=rf"{re.escape(name)}|cannot be loaded"):
            load_model(folder)


def _same_facts(damaged: bytes, whole: bytes) -> bool:
    """Whether only white space differs: then nothing that the card says has changed."""
    try:
        return bool(json.loads(damaged) == json.loads(whole))
    except ValueError:
        return False


@pytest.mark.parametrize("name", [WEIGHTS, CARD, VALIDATION])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(folder: Path, name: str, share: float) -> None:
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"damaged|cannot be loaded"):
        load_model(folder)


def test_answers_for_validation_rows_may_be_left_behind(folder: Path) -> None:
    assert load_model(folder).validation is not None
    (folder / VALIDATION).unlink()
    assert load_model(folder).validation is None


def test_an_edited_order_of_classes_is_refused(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    card["class_names"].reverse()
    (folder / CARD).write_text(json.dumps(card))
    with pytest.raises(UserError, match=r"edited.*model\.json|model\.json.*edited"):
        load_model(folder)


def test_a_model_of_the_first_version_loads_without_sums(folder: Path) -> None:
    card = json.loads((folder / CARD).read_text())
    old = {key: value for key, value in card.items() if key not in ("seal", "sha256")} | {"metapl": UNSEALED}
    (folder / CARD).write_text(json.dumps(old))
    assert load_model(folder).class_names == ("a", "b", "c")
    (folder / CARD).write_text(json.dumps({**old, "metapl": "0.2.0"}))
    with pytest.raises(UserError, match="seal differs"):
        load_model(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_neither_stored_nor_loaded(tmp_path: Path, value: float) -> None:
    bad = predictor()
    name, buffer = next((n, b) for n, b in bad.model.named_buffers() if b.is_floating_point())
    buffer[0] = value
    with pytest.raises(UserError, match=name):
        save_model(tmp_path / "model", bad, "small_cnn", {})
    assert not (tmp_path / "model").exists()


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_the_weights_can_be_read_by_whoever_may_read_the_folder(tmp_path: Path) -> None:
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        old = os.umask(mask)
        try:
            save_model(tmp_path / f"{mask}", predictor(), "small_cnn", {})
        finally:
            os.umask(old)
        for name in (WEIGHTS, CARD):
            assert (tmp_path / f"{mask}" / name).stat().st_mode & 0o777 == mode


def test_a_pipe_in_the_place_of_a_file_does_not_hang(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(UserError, match="not a file"):
        load_model(folder)

"""Images that are judged once do not stay in memory, and each is decoded once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metapl.data.images import store
from metapl.inference import predict
from metapl.models import build_model
from metapl.runs.model_folder import Predictor
from metapl.types import Preprocessing

SHAPE = (1, 8, 8)


def test_what_is_kept_is_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for k in range(60):
        Image.fromarray(np.full((8, 8), k, dtype=np.uint8)).save(tmp_path / f"{k:02}.png")
    monkeypatch.setattr(store, "KEPT_BYTES", 10 * 64)
    monkeypatch.setattr(predict, "VALUES", 10 * 64)
    decoded, kept, whole = list[int](), list[int](), store.ImageStore._decoded

    def counted(self: store.ImageStore, index, *words, **more):  # type: ignore[no-untyped-def]
        decoded.extend(index.tolist())
        kept.append(len(self._others))
        return whole(self, index, *words, **more)

    monkeypatch.setattr(store.ImageStore, "_decoded", counted)
    predictor = Predictor(
        build_model("small_cnn", SHAPE, 2),
        Preprocessing("image", SHAPE, (0.5,), (0.25,), resized=True),
        ("a", "b"),
        torch.device("cpu"),
    )
    chunks = list(predict.predict_folder(predictor, tmp_path))
    assert [len(chunk.ids) for chunk in chunks] == [10] * 6
    assert sorted(decoded) == list(range(60)), "each once"
    assert max(kept) <= 10


def test_the_room_holds_the_chunk_that_is_asked_for_twice() -> None:
    from metapl.inference import evaluate

    assert max(predict.VALUES, evaluate.VALUES) <= store.KEPT_BYTES

"""Images that are decoded when needed train exactly as images in memory do."""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import signal
import threading
import time
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metapl.config.settings import RunConfig, make_config
from metapl.data.batches.prefetch import Prefetch
from metapl.data.batches.preprocess import SAMPLE, fit_preprocessing
from metapl.data.batches.split import SplitConfig, make_split
from metapl.data.batches.stream import BatchConfig, Stream
from metapl.data.batches.views import ViewConfig
from metapl.data.images import store
from metapl.data.images.folder import FolderSource
from metapl.data.modalities import make_views
from metapl.errors import UserError
from metapl.inference.evaluate import evaluate
from metapl.runs.model_folder import Predictor
from metapl.training.loop import Result, Stopped, resume, train
from metapl.tuning.material import gather, judge_fold
from metapl.types import SemiBatch, View

BOTH: frozenset[View] = frozenset({"weak", "strong"})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bright and dark squares: 12 labelled, 36 not, 8 test images of 16 x 16."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("labelled", 6), ("unlabelled", 18), ("test", 4)):
        for k in range(2 * count):
            folder = root / part if part == "unlabelled" else root / part / ("dark" if k % 2 else "light")
            folder.mkdir(parents=True, exist_ok=True)
            pixels = draw.integers(0, 100, (16, 16, 3)) + (20 if k % 2 else 130)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{k}.png")
    return root


def config(root: Path, memory: float, prefetch: int = 2, method: str = "fixmatch") -> RunConfig:
    small = {"steps": 12, "batch.labeled": 4, "batch.unlabeled": 8, "loop.eval_every": 5, "guard.mode": "warn"}
    lazy = {"source.image.memory": memory, "source.image.prefetch": prefetch, "model": "small_cnn", "method": method}
    return make_config(str(root), options={**small, **lazy, "device": "cpu", "guard.min_validation": 1})


def weights(result: Result) -> list[torch.Tensor]:
    return list(result.predictor.model.state_dict().values())


def no_thread_left(before: Collection[threading.Thread], seconds: float = 30.0) -> bool:
    """Whether every thread that was not there ``before`` ends in time."""
    deadline = time.monotonic() + seconds
    while True:
        gc.collect()  # an error holds its frames in a circle, and a thread may still raise one
        if not any("metapl" in t.name for t in threading.enumerate() if t not in before):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


@pytest.mark.parametrize("method", ["fixmatch", "self_training"])
def test_a_whole_training_is_the_same_bit_for_bit(pictures: Path, tmp_path: Path, method: str) -> None:
    results = [
        train(config(pictures, memory, prefetch, method), tmp_path / f"{memory}-{prefetch}")
        for memory, prefetch in ((4.0, 2), (0.0, 2), (0.0, 0))
    ]
    assert [getattr(r.source, "lazy", None) for r in results] == [False, True, True]
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(weights(results[0]), weights(other), strict=True))
        same = ("validation", "guard", "chosen", "alarms")
        assert {k: results[0].summary[k] for k in same} == {k: other.summary[k] for k in same}


def test_a_stopped_lazy_run_resumes_to_the_same_weights(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.enumerate()
    whole = train(config(pictures, 0.0), tmp_path / "whole")

    make = Stream.__call__

    def signalled(self: Stream, step: int, needs: frozenset[View]) -> SemiBatch:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return make(self, step, needs)

    with monkeypatch.context() as patch:
        patch.setattr(Stream, "__call__", signalled)
        with pytest.raises(Stopped):
            train(config(pictures, 0.0), tmp_path / "cut")
    assert no_thread_left(before)
    again = resume(tmp_path / "cut")
    assert again.summary["resumed_at"] == 7
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))


def stream_of(root: Path, **options: float) -> Stream:
    source = FolderSource(root, **options)  # type: ignore[arg-type]
    split = make_split(source, SplitConfig(), 0)
    views = make_views(ViewConfig(), fit_preprocessing(source, split.unlabeled))
    return Stream(source, split, BatchConfig(4, 8), views, 0)


def test_steps_in_any_order_and_passes_over_the_pool(pictures: Path) -> None:
    held, lazy = stream_of(pictures), stream_of(pictures, memory=0.0)
    for step, needs in ((5, BOTH), (6, BOTH), (8, BOTH), (7, frozenset()), (0, BOTH), (6, BOTH), (99, BOTH), (9, BOTH)):
        a, b = held(step, needs), lazy(step, needs)
        for name in ("x_l", "y_l", "u_weak", "u_strong", "u_index"):
            one, other = getattr(a, name), getattr(b, name)
            assert (one is None) == (other is None), name
            assert one is None or torch.equal(one, other), name
    for view in ("plain", "strong"):
        for (p, x), (q, y) in zip(held.pool(view), lazy.pool(view), strict=True):  # type: ignore[arg-type]
            assert torch.equal(p, q)
            assert torch.equal(x, y)
    assert torch.equal(held.plain(torch.tensor([3, 1])), lazy.plain(torch.tensor([3, 1])))


def test_labelled_rows_that_are_too_many_to_hold_are_read_too(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = stream_of(pictures)
    monkeypatch.setattr("metapl.data.batches.row_readers.LABELED_BYTES", 0)
    lazy = stream_of(pictures, memory=0.0)
    for step in range(4):
        for needs in (BOTH, frozenset()):
            a, b = held(step, needs), lazy(step, needs)
            assert torch.equal(a.x_l, b.x_l)
            assert a.u_strong is None or torch.equal(a.u_strong, b.u_strong)  # type: ignore[arg-type]


def test_no_thread_outlives_a_stream_or_an_error(pictures: Path, tmp_path: Path) -> None:
    before = threading.enumerate()  # threads of other tests may still end
    stream = stream_of(pictures, memory=0.0)
    stream(0, BOTH)
    passes = stream.pool()
    next(iter(passes))
    assert not no_thread_left(before, 0.1), "both have begun one"
    del stream, passes
    assert no_thread_left(before)

    root = tmp_path / "copy"
    for path in pictures.rglob("*.png"):
        target = root / path.relative_to(pictures)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    lazy = stream_of(root, memory=0.0)
    for path in (root / "unlabelled").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no longer be read"):
        lazy(0, BOTH)
    del lazy
    assert no_thread_left(before)


def test_statistics_of_a_large_lazy_set_come_from_a_fixed_sample(
    pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert SAMPLE == 10_000
    lazy, held = FolderSource(pictures, memory=0.0), FolderSource(pictures)
    index = np.arange(48)
    assert fit_preprocessing(lazy, index) == fit_preprocessing(held, index)
    monkeypatch.setattr("metapl.data.batches.preprocess.SAMPLE", 20)
    seen: list[int] = []
    rows = lazy.rows
    monkeypatch.setattr(lazy, "rows", lambda index: (seen.extend(index.tolist()), rows(index))[1])
    first = fit_preprocessing(lazy, index)
    assert len(set(seen)) == 20
    assert fit_preprocessing(lazy, index[::-1]) == first != fit_preprocessing(held, index)


def test_reading_ahead_in_order_once_and_with_errors() -> None:
    before = threading.enumerate()
    read: list[int] = []

    def rows(index: np.ndarray) -> torch.Tensor:  # type: ignore[type-arg]
        read.append(int(index[0]))
        if index[0] == 3:
            raise UserError("three")
        return torch.from_numpy(index)

    ahead = Prefetch(rows)
    index = {k: np.array([k]) for k in range(6)}
    for k in range(3):
        ahead.want({j: index[j] for j in range(k, k + 3)})
        assert ahead.take(k, index[k]).tolist() == [k]
    with pytest.raises(UserError, match="three"):
        ahead.take(3, index[3])
    ahead.want({5: index[5]})  # 4 is dropped, or read in vain
    assert ahead.take(5, index[5]).tolist() == [5]
    assert ahead.take(4, index[4]).tolist() == [4]
    assert sorted(set(read)) == [0, 1, 2, 3, 4, 5]
    assert [k for k in read if k != 4] == [0, 1, 2, 3, 5]
    del ahead
    assert no_thread_left(before)


def test_tuning_trains_the_same_on_images_that_are_not_held(pictures: Path, tmp_path: Path) -> None:
    found = []
    for memory in (4.0, 0.0):
        source, settings = FolderSource(pictures, memory=memory), config(pictures, memory)
        split = make_split(source, settings.split, 0)
        material = pickle.loads(pickle.dumps(gather(source, split, 2, 0)))  # as on its way to another process
        assert getattr(material.source, "lazy", False) == (memory == 0.0)
        found.append((material.preprocessing, judge_fold(material, settings, 1)))
    assert found[0] == found[1]
    assert found[0][1]["right"]


def test_opened_images_do_not_pile_up_and_each_is_decoded_once(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Judging 8 test images with room for 3: a chunk of 2 is read, used and forgotten."""
    source = FolderSource(pictures, memory=0.0)
    test, decoded = np.flatnonzero(source.is_test), list[str]()
    original = store.decode_many

    def spied(paths: list[str], *args: object, **options: object) -> object:
        decoded.extend(paths)
        return original(paths, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "decode_many", spied)
    monkeypatch.setattr(store, "KEPT_BYTES", 3 * 768)
    monkeypatch.setattr(importlib.import_module("metapl.inference.evaluate"), "ROWS", 2)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))
    preprocessing = fit_preprocessing(source, np.arange(4))
    decoded.clear()
    result = evaluate(Predictor(model, preprocessing, source.class_names, torch.device("cpu")), source, test)
    assert result["rows"] == 8
    assert len(decoded) == len(set(decoded)) == 8
    assert len(source.store._others) <= 3
    assert torch.equal(source.rows(test), FolderSource(pictures).rows(test))


def test_decoding_that_takes_long_says_how_far_it_is(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from metapl import open_source
    from metapl.data.sources import SourceOptions

    told: list[str] = []
    open_source(str(pictures), SourceOptions(cache=False), tell=told.append)
    assert told == [], "nothing where it is quick"
    monkeypatch.setattr(store, "SLOW", -1.0)
    open_source(str(pictures), SourceOptions(cache=False), tell=told.append)
    assert told == ["0 of 48 images are decoded"]
    FolderSource(pictures)
    assert len(told) == 1, "nobody is told afterwards"

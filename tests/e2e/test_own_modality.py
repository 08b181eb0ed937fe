"""A kind of rows from outside the package is trained on, judged, predicted, stored and resumed like any other."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import metapl
from metapl.data.batches.preprocess import fit_preprocessing, preprocessing_from_dict, preprocessing_to_dict
from metapl.data.modalities import MODALITIES
from metapl.errors import UserError

EXAMPLES = Path(__file__).parents[2] / "examples"
STEPS = 20


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's module, whose import registers the kind; afterwards metapl does not know it any more."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module("own_modality")
    MODALITIES.pop("signal", None)
    sys.modules.pop("own_modality", None)


@pytest.fixture
def source(signals: ModuleType, tmp_path: Path) -> Any:
    (tmp_path / "recordings").mkdir()
    signals.write_recordings(tmp_path / "recordings")
    return signals.Recordings(tmp_path / "recordings")


def config(**options: Any) -> metapl.RunConfig:
    given = {"guard.mode": "off", "loop.save_every": 5, "loop.keep": 9, "batch.labeled": 8, "batch.unlabeled": 16}
    return metapl.make_config("recordings", options={"steps": STEPS, **given, **options})


def test_every_step_of_a_run_knows_the_kind(source: Any, signals: ModuleType, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = metapl.train(config(method="mpl", **{"mpl.finetune_steps": 4}), run, source=source)
    assert result.summary["model"] == "own_modality:network", "the kind's own network stands for auto"
    judged = result.evaluate()
    assert judged["rows"] == 150

    loaded = metapl.load_model(run / "model", trust_code=True)
    rows = signals.simulate("sine", 6, seed=3)
    assert np.array_equal(loaded.predict_proba(rows), result.predict_proba(rows))
    answers = list(metapl.predict_source(loaded, source))
    assert sum(len(chunk.ids) for chunk in answers) == len(source.ids)
    again = metapl.evaluate(loaded, source, np.flatnonzero(source.is_test))
    assert again["accuracy"] == judged["accuracy"]

    resumed = tmp_path / "resumed"
    shutil.copytree(run, resumed)
    for late in (resumed / "checkpoints").iterdir():
        if not late.name.startswith("step") or int("".join(c for c in late.name if c.isdigit())) > STEPS // 2:
            shutil.rmtree(late) if late.is_dir() else late.unlink()
    (resumed / "results.json").unlink()
    assert metapl.resume(resumed, source=source).summary["resumed_at"] == STEPS // 2
    one, other = (load_file(folder / "model" / "weights.safetensors") for folder in (run, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_arrays_tuning_and_the_guard_take_the_kind_too(signals: ModuleType, tmp_path: Path) -> None:
    X = np.concatenate([signals.simulate(wave, 30, seed=k) for k, wave in enumerate(signals.WAVES)])
    y = np.repeat(signals.WAVES, 30)
    arrays = metapl.from_arrays(X, y, kind="signal")
    assert arrays.rows(np.array([0])).shape == (1, 2, 64)
    result = metapl.fit(
        arrays, method="fixmatch", steps=5, labels=5, validation=2, options={"guard.folds": 2, "guard.least_steps": 5}
    )
    assert result.summary["guard"]["way"] != "none"
    tuning = metapl.tune(
        config(steps=3, method="fixmatch", **{"split.labels": 6, "split.validation": 0}),
        tmp_path / "tuned",
        space={"fixmatch.threshold": [0.5, 0.9]},
        source=arrays,
        workers=2,
    )
    assert len(tuning.scores) > 1, "processes of their own know the kind, too"


def test_rows_of_another_form_are_refused(signals: ModuleType) -> None:
    with pytest.raises(UserError, match="it has 2 dimensions, signals have 3"):
        metapl.from_arrays(np.zeros((4, 5)), [0, 0, 1, 1], kind="signal")
    with pytest.raises(UserError, match="not finite"):
        metapl.from_arrays(np.full((4, 2, 8), np.inf), [0, 0, 1, 1], kind="signal")
    with pytest.raises(UserError, match="image_size is set, and the rows are signals"):
        metapl.from_arrays(np.zeros((4, 2, 8)), [0, 0, 1, 1], kind="signal", image_size=8)


def test_the_stored_preprocessing_of_a_kind_that_is_not_known_is_refused(signals: ModuleType, source: Any) -> None:
    fitted = fit_preprocessing(source, np.arange(20))
    assert len(fitted.mean) == len(fitted.std) == 2, "one of each per channel"
    stored = json.loads(json.dumps(preprocessing_to_dict(fitted)))
    assert preprocessing_from_dict(stored) == fitted
    with pytest.raises(UserError, match="damaged"):
        preprocessing_from_dict({**stored, "mean": [0.0]})
    del MODALITIES["signal"]
    with pytest.raises(UserError, match="rows of the kind 'signal' are not known") as caught:
        preprocessing_from_dict(stored)
    assert "register_modality" in caught.value.remedy


def test_a_name_of_metapls_own_cannot_be_taken() -> None:
    class Mine(metapl.Modality):
        kind = "image"

    class Nameless(metapl.Modality):
        pass

    for wrong in (Mine(), Nameless()):
        with pytest.raises(UserError, match="cannot be the name"):
            metapl.register_modality(wrong)
    with pytest.raises(UserError, match="a modality is needed"):
        metapl.register_modality(Mine)  # type: ignore[arg-type]


def test_check_finds_copies_and_foreign_rows(signals: ModuleType) -> None:
    ours = [signals.simulate(wave, 30, seed=k) for k, wave in enumerate(signals.WAVES)]
    foreign = 40 * signals.simulate("sine", 20, seed=7)
    X, y = np.concatenate([*ours, ours[0][:5], foreign]), [*np.repeat(signals.WAVES, 30), *[None] * 25]
    found = metapl.check(metapl.from_arrays(X, y, kind="signal"))
    assert "115 signals of 2 x 64" in str(found)
    assert found.facts["copies"]["unlabelled in labelled"] == {"exact": 5, "near": 0}
    assert "strange_rows" in {finding.kind for finding in found.findings}


def test_an_encoder_of_images_or_texts_does_not_take_the_kind(signals: ModuleType) -> None:
    source = metapl.from_arrays(signals.simulate("sine", 4, seed=0), [0, 0, 1, 1], kind="signal")
    with pytest.raises(UserError, match="an encoder takes images or texts, these rows are signals"):
        metapl.embed(source, torch.nn.Flatten())

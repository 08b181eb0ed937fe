"""``metapl.train`` called from Python: paths and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import metapl
from metapl.config.settings import load_config, make_config
from metapl.training.loop import train

SMALL: dict[str, Any] = {"method": "fixmatch", "model": "mlp", "guard.mode": "off", "device": "cpu"}


def test_relative_data_are_found_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [f"{k % 7},{k % 2},{'ab'[k % 2] if k < 20 else ''}" for k in range(60)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,y,label", *rows]) + "\n")
    monkeypatch.chdir(tmp_path)
    train(make_config("rows.csv", options={**SMALL, "steps": 2}), "run")
    assert load_config(tmp_path / "run" / "config.yaml").data == str(tmp_path / "rows.csv")


def test_trainings_in_threads_do_not_disturb_each_other() -> None:
    def answers(_: int) -> Any:
        made = metapl.fit("digits", method="mpl", model="mlp", labels=2, steps=6, guard="off", device="cpu")
        return made.predictor.probabilities(made.source.rows(np.arange(50))).numpy()

    alone = answers(0)
    with ThreadPoolExecutor(3) as threads:
        assert all(np.array_equal(alone, found) for found in threads.map(answers, range(3)))

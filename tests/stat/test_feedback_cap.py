"""The default cap on the feedback saves a student that would never begin; slow (minutes on two cores)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "feedback_study.py"
SEEDS = (2000, 2001, 2002)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_student_that_would_never_begin_is_saved_by_the_default_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five classes, so chance is 20 %: without the cap every seed of the study ends there, with it above 90 %."""
    spec = importlib.util.spec_from_file_location("feedback_study", SCRIPT)
    study = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "feedback_study", study)  # dataclasses look their module up
    spec.loader.exec_module(study)
    monkeypatch.setitem(study.METHODS, "mpl", study.MPL)  # ``one`` replaces it
    for seed in SEEDS:
        capped, free = (
            study.one("pictures", variant, seed, {"steps": 200})["pool"] for variant in ("exact", "uncapped")
        )
        assert capped > 75, (seed, capped, free)
        assert free < 40, (seed, capped, free)

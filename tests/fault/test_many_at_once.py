"""Two to four processes at once on one run folder, one output, one cache: one works, the others are told who does."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from damaged import saved
from test_checkpoint import needs_proc
from test_kills import begin, go_on, stopped_at
from test_nan import of_the_run

import metapl
from metapl.cli import main
from metapl.errors import UserError
from metapl.utils import files
from methods_table import BY_NAME

pytestmark = [
    needs_proc,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]
ROW = BY_NAME["fixmatch"]
ROUNDS = [2, pytest.param(50, marks=[pytest.mark.fault, pytest.mark.timeout(3600)])]


def at_once(works: list[Callable[[], object]], place: Path) -> list[str]:
    """Do all works in copies of this process that begin together; "" for each that ended well, else its message."""
    place.mkdir()
    children, moment = [], time.time() + 0.05
    for number, work in enumerate(works):
        if (child := os.fork()) == 0:
            said = "crashed"
            try:
                time.sleep(max(0.0, moment - time.time()))
                work()
                said = ""
            except UserError as error:
                said = str(error)
            except BaseException as error:
                said = f"crashed: {type(error).__name__}: {error}"
            finally:
                (place / f"{number}.txt").write_text(said)
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [(place / f"{number}.txt").read_text() for number in range(len(works))]


@pytest.mark.parametrize("rounds", ROUNDS)
def test_one_run_folder(rounds: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They resume one stopped run, or begin in one folder: exactly one trains, and the run is the unbroken one."""
    begin(ROW, tmp_path / "whole")()
    whole, draw = of_the_run(tmp_path / "whole"), random.Random(0)
    for number in range(rounds):
        folder, count = tmp_path / f"run-{number}", draw.randrange(2, 5)
        if number % 2:
            stopped_at(ROW, draw.randrange(6), folder, monkeypatch)
            works = [go_on(folder)] * count
        else:
            works = [begin(ROW, folder)] * count
        said = at_once(works, tmp_path / f"said-{number}")
        refused = [text for text in said if text]
        assert len(refused) == count - 1, said
        for text in refused:  # later than the other's end it is told that all is done
            known = ("another program is at work", "the run has finished", "is not empty", "another training began")
            assert any(part in text for part in known), text
            assert "at work" not in text or "process" in text
        assert of_the_run(folder) == whole


@pytest.mark.parametrize("rounds", ROUNDS)
def test_one_output_and_one_cache(rounds: int, tmp_path: Path) -> None:
    """All write the same answers to one file, and read one folder of images through one cache."""
    photos, target, draw = tmp_path / "photos", tmp_path / "out.csv", random.Random(1)
    for name in ("labelled/a", "labelled/b", "unlabelled"):
        (photos / name).mkdir(parents=True)
        for k in range(3):
            (photos / name / f"{k}.png").write_bytes(saved("PNG") + bytes(k))
    plain = metapl.open_source(str(photos)).fingerprint()
    for number in range(rounds):
        os.environ["METAPL_CACHE"], before = str(tmp_path / f"cache-{number}"), os.environ.get("METAPL_CACHE", "")
        (tmp_path / f"cache-{number}").mkdir()

        def work() -> None:
            assert metapl.open_source(str(photos)).fingerprint() == plain
            files.write_text(target, "whole\n" * 10_000)
            assert main(["check", str(photos), "--json", str(tmp_path / "check.json")]) == 0

        said = at_once([work] * draw.randrange(2, 5), tmp_path / f"said-{number}")
        os.environ["METAPL_CACHE"] = before
        assert said == [""] * len(said)
        assert target.read_text() == "whole\n" * 10_000
        assert not list(tmp_path.glob(".*.tmp"))

"""The report of a run that diverged or was stopped: what happened, what is left, what to do."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path
from typing import Any

import pytest

from metapl.config.settings import GuardConfig, LoopConfig, OptimConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.methods import METHODS
from metapl.report.charts import short
from metapl.report.record import read_any
from metapl.report.unfinished import unfinished_page
from metapl.report.write import report_run
from metapl.training.finite import Diverged
from metapl.training.loop import resume, train
from metapl.training.steps import Steps, Stopped


def config_of(rate: float, steps: int) -> RunConfig:
    return RunConfig(
        "digits",
        method="fixmatch",
        model="mlp",
        steps=steps,
        split=SplitConfig(labels=4),
        optim=OptimConfig(lr=rate),
        loop=LoopConfig(log_every=1, eval_every=50, save_every=4),
        guard=GuardConfig("off"),
        settings=METHODS["fixmatch"].Config(),
    )


def words(page: Path | str) -> str:
    """Return the text of a page without its tags."""
    text = page if isinstance(page, str) else page.read_text(encoding="utf-8")
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", text)).split())


@pytest.fixture(scope="module")
def diverged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    with pytest.raises(Diverged) as caught:
        train(config_of(1e8, 40), folder)
    assert caught.value.folder == folder
    return folder


def test_a_run_that_diverged_says_what_went_bad_and_what_to_do(diverged: Path) -> None:
    stored = json.loads((diverged / "diverged.json").read_text(encoding="utf-8"))
    rates = [back["learning_rate"] for back in stored["rollbacks"]]
    assert rates == [1e8 / 2, 1e8 / 4, 1e8 / 8]
    page = report_run(diverged)
    text, step = words(page), stored["step"]
    assert page == diverged / "report.html"
    assert f"The training diverged in step {step} of 40. It made no model." in text
    assert "loss on the labelled rows (supervised)" in text
    assert f"All numbers of step {step - 1} were finite." in text
    assert "no, 3 times" in text
    assert "5e+07, 2.5e+07, 1.25e+07" in text
    assert f"--config {diverged}/config.yaml --out NEW_RUN optim.lr=1.2e+06" in text
    assert "--out NEW_RUN optim.clip=1" in text
    assert "metapl check digits" in text
    assert "predict" not in text


def test_the_page_shows_the_terms_up_to_the_divergence(diverged: Path) -> None:
    page = report_run(diverged).read_text(encoding="utf-8")
    assert page.count("<svg") == len(list((diverged / "figures").glob("*.svg"))) >= 3
    assert "Content-Security-Policy" in page
    assert "http://" not in page
    assert "https://" not in page


def test_a_run_that_goes_on_no_longer_counts_as_diverged(diverged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (diverged / "diverged.json").read_bytes()

    def run(self: Steps, stop: list[int]) -> None:
        self.store.truncate(self.start)
        raise Stopped(self.store.folder, self.start, 2)

    monkeypatch.setattr(Steps, "run", run)
    with pytest.raises(Stopped):
        resume(diverged)
    assert not (diverged / "diverged.json").exists()
    text = words(report_run(diverged))
    (diverged / "diverged.json").write_bytes(before)
    assert "The training has not finished" in text
    assert f"metapl resume {diverged}" in text


def test_a_stopped_run_says_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Now(list[int]):
        """A signal that comes in step 6."""

        def __bool__(self) -> bool:
            return len(steps) > 5

    steps: list[int] = []
    step = Steps._step

    def counted(self: Steps, t: int, stop: list[int]) -> int:
        steps.append(t)
        return step(self, t, Now([15]))

    monkeypatch.setattr(Steps, "_step", counted)
    with pytest.raises(Stopped):
        train(config_of(0.03, 40), tmp_path / "run")
    text = words(report_run(tmp_path / "run"))
    assert "It made 6 of 40 steps or more." in text
    assert "The state of step 6 is saved." in text
    assert f"metapl resume {tmp_path / 'run'}" in text


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"cause": "weight of <b>x</b>", "rollbacks": []}, ["weight of <b>x</b>", "not tried", "optim.lr=0.003"]),
        ({"cause": "loss, uda, student, feedback, mine", "rollbacks": []}, ["(loss)", "(student) and 2 more"]),
    ],
)
def test_names_are_escaped_and_long_lists_cut(diverged: Path, facts: dict[str, Any], said: list[str]) -> None:
    record = read_any(diverged)
    record.config["optim"]["lr"] = 0.03
    record.diverged.update(facts)  # type: ignore[union-attr]
    page = unfinished_page(record, [])
    assert "<b>x" not in page
    assert all(word in words(page.replace("&lt;", "<")) or word in words(page) for word in said)


@pytest.mark.parametrize(("value", "text"), [(2.31, "2.31"), (1234.0, "1 234"), (1.56e27, "1.56e+27")])
def test_numbers_are_short(value: float, text: str) -> None:
    assert short(value) == text

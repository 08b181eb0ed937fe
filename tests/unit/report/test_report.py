"""The report of a run: what it says, that test rows stay closed, and that a failure never spoils a training."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import metapl
from metapl.comparison import compare
from metapl.comparison.figure import axis_ends
from metapl.config.settings import GuardConfig, LoopConfig, RunConfig
from metapl.data.batches.split import SplitConfig
from metapl.data.batches.stream import BatchConfig
from metapl.errors import UserError
from metapl.methods import METHODS
from metapl.report import charts, gather, write
from metapl.report.charts import draw_all
from metapl.report.many import report_runs, several
from metapl.report.page import TEMPLATES, per_class
from metapl.report.record import read_record
from metapl.report.svg import inline
from metapl.report.verdict import against_supervised, verdict, weakest
from metapl.training.loop import train
from metapl.training.result import Result


def config_of(method: str = "mpl", **changes: Any) -> RunConfig:
    made = RunConfig(
        "digits",
        method=method,
        model="mlp",
        steps=40,
        split=SplitConfig(labels=8),
        batch=BatchConfig(labeled=8, unlabeled=12),
        loop=LoopConfig(log_every=5, eval_every=4),
        guard=GuardConfig("off"),
        settings=METHODS[method].Config(**({"finetune_steps": 4} if method == "mpl" else {})),
    )
    return replace(made, **changes)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return train(config_of(), tmp_path_factory.mktemp("runs") / "run")


def test_the_page_answers_the_four_questions_and_holds_its_figures(result: Result) -> None:
    page = write.report_result(result)
    assert page == result.folder / "report.html"  # type: ignore[operator]
    text = page.read_text(encoding="utf-8")
    for words in (
        "How good is the model?",
        "Did the unlabelled rows help?",
        "Did the feedback help?",
        "metapl evaluate",
    ):
        assert words in re.sub(r"<[^>]+>", "", text)
    assert text.count("<svg") >= 8
    assert text.count("data:image/png;base64,") >= 20
    assert "http://" not in text
    assert "https://" not in text
    figures = {p.name for p in (page.parent / "figures").iterdir()}
    assert {"accuracy.png", "accuracy.svg", "confusion.png", "class-shares.svg"} <= figures


def test_a_stored_report_needs_neither_data_nor_model(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    assert result.folder is not None
    first = write.report_result(result).read_text(encoding="utf-8")

    def gone(*_: Any, **__: Any) -> Any:
        raise AssertionError("opened")

    monkeypatch.setattr(write, "open_own", gone)
    assert write.report_run(result.folder).read_text(encoding="utf-8") == first


def test_a_run_without_stored_material_is_asked_again(result: Result) -> None:
    assert result.folder is not None
    first = write.report_result(result).read_text(encoding="utf-8")
    (result.folder / gather.FILE).unlink()
    assert write.report_run(result.folder, "cpu").read_text(encoding="utf-8") == first


def test_a_hidden_label_is_not_shown(result: Result) -> None:
    assert metapl.write_report(result) == result.folder / "report.html"  # type: ignore[operator]
    material = gather.stored(result.folder)  # type: ignore[arg-type]
    assert material is not None
    known = {result.source.ids[k] for part in (result.split.labeled, result.split.validation) for k in part.tolist()}
    cards = [card for grid in material["grids"] for card in grid["rows"]]
    assert {card["label"] is None for card in cards} == {True, False}
    assert all((card["label"] is not None) == (card["id"] in known) for card in cards)


def test_test_rows_stay_closed(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    source, opened = result.source, list[int]()
    rows = type(source).rows

    def watched(self: Any, index: np.ndarray[Any, Any]) -> torch.Tensor:
        opened.extend(np.asarray(index).tolist())
        return rows(self, index)

    monkeypatch.setattr(type(source), "rows", watched)
    write.report_result(result)
    assert len(opened) > 1000
    assert not set(opened) & set(result.split.test.tolist())


def test_a_failing_report_spoils_nothing(result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    assert result.folder is not None

    def broken(*_: Any) -> Any:
        raise RuntimeError("<no> pictures today")

    monkeypatch.setattr(write, "draw_all", broken)
    page, problem = write.try_report(result)
    assert page is None
    assert "the run is complete" in problem
    log = result.folder / "report-error.log"
    assert "pictures today" in log.read_text(encoding="utf-8")
    assert str(log) in problem


def test_figures_of_evaluate_come_first(result: Result) -> None:
    assert result.folder is not None
    write.report_result(result)
    figures = result.evaluate()
    (result.folder / "evaluation.json").write_text(json.dumps(figures), encoding="utf-8")
    try:
        assert write.refresh(result.folder) is not None
        assert f"of the {figures['rows']} test rows are right" in (result.folder / "report.html").read_text("utf-8")
    finally:
        (result.folder / "evaluation.json").unlink()


@pytest.mark.parametrize(("method", "validation"), [("supervised", "auto"), ("fixmatch", "none"), ("mpl", "none")])
def test_every_kind_of_run_has_a_report(tmp_path: Path, method: str, validation: Any) -> None:
    config = config_of(method, split=SplitConfig(labels=4, validation=validation), steps=6)
    text = write.report_result(train(config, tmp_path / "run")).read_text(encoding="utf-8")
    assert ("test rows wait to be judged" in text) == (validation == "none")
    assert ("learns from the labelled rows alone" in text) == (method == "supervised")


GUARD = {
    "mode": "return", "way": "validation rows", "rows": 100, "accuracy": {"mpl": 0.9, "supervised": 0.8},
    "difference": 0.1, "difference_95": [0.02, 0.18], "better": True, "doubt": "", "returned": "mpl",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "short", "mood"),
    [
        ({}, "yes, +10.0 points", "good"),
        ({"difference_95": [-0.02, 0.18]}, "probably, +10.0 points", "open"),
        (
            {
                "difference_95": [-0.3, -0.1],
                "difference": -0.2,
                "accuracy": {"mpl": 0.7, "supervised": 0.9},
                "better": False,
            },
            "no, -20.0 points",
            "bad",
        ),
        (
            {
                "difference_95": [-0.1, 0.1],
                "difference": 0.0,
                "accuracy": {"mpl": 0.8, "supervised": 0.8},
                "better": False,
            },
            "not shown, +0.0 points",
            "open",
        ),
        (
            {"better": False, "doubt": "many answers", "returned": "supervised baseline"},
            "in doubt, +10.0 points",
            "open",
        ),
    ],
)
def test_the_guards_figures_become_an_answer(result: Result, change: Any, short: str, mood: str) -> None:
    record = read_record(result.folder)  # type: ignore[arg-type]
    answer = against_supervised(replace(record, results={**record.results, "guard": {**GUARD, **change}}))
    assert (answer.short, answer.mood) == (short, mood)


def test_the_weakest_class_is_surely_weak() -> None:
    figures = {
        "accuracy": 0.9,
        "per_class_accuracy": {"cat": 0.95, "dog": 0.5, "cow": 0.5},
        "confusion": [[95, 5, 0], [9, 10, 1], [1, 1, 2]],
    }
    assert weakest(figures) == ("dog", 0.5, 20, "cat")
    assert weakest({**figures, "confusion": [[95, 5, 0], [1, 2, 1], [1, 1, 2]]}) is None


def test_a_method_that_was_clearly_worse_is_called_that(result: Result) -> None:
    record = read_record(result.folder)  # type: ignore[arg-type]
    change = {"difference_95": [-0.3, -0.1], "difference": -0.2, "accuracy": {"mpl": 0.7, "supervised": 0.9}}
    guard = {**GUARD, **change, "better": False, "returned": "supervised baseline"}
    record = replace(
        record, results={**record.results, "guard": guard, "chosen_by": "guard", "alarms": []}, evaluation=None
    )
    found = verdict(record, {})
    assert "mpl was worse than the labels alone" in found["headline"]
    assert found["answers"][3]["text"].startswith("mpl was worse.")
    assert found["steps"][0]["text"].startswith("Check that the unlabelled rows are of the same classes")


def test_the_comparison_that_is_proposed_keeps_as_many_labels(result: Result) -> None:
    record = read_record(result.folder)  # type: ignore[arg-type]
    record = replace(record, config={**record.config, "split": {"labels": 4, "labels_total": None}})
    commands = [step["command"] for step in verdict(record, {})["steps"]]
    assert any(" --labels 4 --methods " in command for command in commands)


def test_bars_of_few_seeds_stay_on_the_axis() -> None:
    rows = [{"low": -45.0, "high": 170.0}, {"low": None, "high": None}, {"low": 40.0, "high": 60.0}]
    runs = [{"test_accuracy": 54.0}, {"test_accuracy": 71.0}]
    low, high = axis_ends(rows, runs)
    assert -10 < low < 0
    assert 100 < high < 110
    low, high = axis_ends(rows[1:], runs)
    assert low < 40
    assert 71 < high < 80


def test_a_share_of_few_rows_is_said_in_rows() -> None:
    confusion = [[1, 0], [1, 20]]
    first, second = per_class({"confusion": confusion}, ["a", "b"], [3, 3])
    assert (first["recall"], first["precision"]) == ("1 of 1", "1 of 2")
    assert (second["recall"], second["precision"]) == ("95.2 %", "100.0 %")


def test_alarms_come_first(result: Result) -> None:
    record = read_record(result.folder)  # type: ignore[arg-type]
    alarm = {"name": "gap", "step": 7, "value": 0.1, "text": "they disagree"}
    found = verdict(replace(record, results={**record.results, "alarms": [alarm]}), {})
    assert found["steps"][0]["text"] == "Alarm at step 7: they disagree."


def test_calibration_is_judged_on_rows_it_was_not_fitted_on() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (4000,), generator=g)
    logits = torch.nn.functional.one_hot(y, 3) * 1.0 + torch.randn(4000, 3, generator=g)
    found = gather.calibration(torch.softmax(4 * logits, -1), y)
    assert found is not None
    assert found["temperature"] > 2
    assert found["after"]["error"] < 0.03 < found["before"]["error"]
    assert sum(b[2] for b in found["before"]["bins"]) == 4000
    assert gather.calibration(torch.softmax(logits[:19], -1), y[:19]) is None


def test_a_class_whose_name_begins_with_an_underscore_is_in_the_legend() -> None:
    looks: list[dict[str, Any]] = [{"step": k, "pool": {"class": [0, 1, 1]}} for k in (1, 2)]
    record: Any = SimpleNamespace(snapshots=looks)
    (chart,) = charts.render(charts._classes(record, {"classes": ["_bg", "dog"], "labels": [1, 1]}), None)
    assert "_bg" in chart.svg


def test_svg_for_the_page_has_no_style_and_its_ids_are_its_own() -> None:
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="3"><metadata/>'
        '<defs><style>*{x:y}</style><path id="m" d="M0"/></defs><script>1</script>'
        '<use xlink:href="#m" style="fill: #1f2a37; stroke: none"/><g clip-path="url(#m)" onclick="x"/></svg>'
    )
    text = inline(svg, "a-")
    assert 'href="#a-m"' in text
    assert 'id="a-m"' in text
    assert "url(#a-m)" in text
    assert 'fill="var(--ink)"' in text
    for word in ("style", "script", "metadata", "http"):
        assert word not in text


def test_runs_stand_side_by_side(result: Result, tmp_path: Path) -> None:
    write.report_result(result)
    other = train(config_of("fixmatch", seed=1), tmp_path / "other")
    assert result.folder is not None
    assert other.folder is not None
    page = report_runs([result.folder, other.folder], tmp_path / "both.html")
    text = page.read_text(encoding="utf-8")
    assert "different splits" in text
    assert "<td>fixmatch</td>" in text
    assert "judged on different rows" in text
    assert "mean over the seeds" not in text
    assert ">method</th>" in text
    assert "mpl.feedback_weight" not in text, "a setting that one of the two methods lacks"
    report_runs([result.folder, other.folder], page)  # its own page is replaced
    page.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="exists already"):
        report_runs([result.folder, other.folder], page)
    assert page.read_text(encoding="utf-8") == "mine"


def test_what_is_no_finished_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.yaml"):
        write.report_run(tmp_path)
    (tmp_path / "config.yaml").write_text("data: digits\n", encoding="utf-8")
    with pytest.raises(UserError, match="not finished"):
        report_runs([tmp_path, tmp_path], tmp_path / "x.html")


def test_precision_is_of_the_validation_rows_above_the_threshold(result: Result) -> None:
    looks = [
        {"step": k, "validation": {"class": [0, 1, 1], "confidence": [900, 700, 500], "true": [0, 1, 0]}}
        for k in (1, 2)
    ]
    record = replace(read_record(result.folder), metrics=[], snapshots=looks)  # type: ignore[arg-type]
    (chart,) = draw_all(record, {"threshold": 0.6}, None)
    assert chart.about == "Validation rows, at least 60 % sure: at the end 67 % count, and 100 % of these are right."
    (chart,) = draw_all(record, {"threshold": 0.0}, None)
    assert chart.about == "Validation rows, any confidence: at the end 100 % count, and 67 % of these are right."


def test_rows_that_the_feedback_corrected_most_are_shown(result: Result) -> None:
    write.report_result(result)
    assert result.folder is not None
    grids = {grid["name"]: grid["rows"] for grid in (gather.stored(result.folder) or {})["grids"]}
    scores = read_record(result.folder).feedback(result.split.unlabeled)
    known = {*result.split.labeled.tolist(), *result.split.validation.tolist()}
    worst = sorted((score, row) for row, score in scores.items() if row not in known)[: gather.SHOWN]
    assert [card["id"] for card in grids["corrected"]] == [result.source.ids[row] for _, row in worst]
    assert grids["corrected"][0]["note"] == f"feedback {worst[0][0]:.3f}"


def test_no_numbers_no_figures(result: Result) -> None:
    record = replace(read_record(result.folder), metrics=[], snapshots=[])  # type: ignore[arg-type]
    assert draw_all(record, {}, None) == []


def test_a_comparison_has_a_page(tmp_path: Path) -> None:
    config = config_of("supervised", steps=4)
    made = compare(config, ["supervised", "fixmatch"], 2, out=tmp_path / "both", workers=1)
    page = several([made.folder], None)
    text = page.read_text(encoding="utf-8")
    assert page == made.folder / "report.html"
    assert made.verdict[:20] in text
    assert text.count("<svg") == 2, "every seed, and the curves"
    with pytest.raises(UserError, match="page of its own"):
        several([made.folder, made.folder], tmp_path / "x.html")


def test_tensorboard_gets_the_logged_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    config = config_of("supervised", steps=10, loop=LoopConfig(log_every=5, tensorboard=True))
    made = train(config, tmp_path / "run")
    assert made.folder is not None
    events = list((made.folder / "tensorboard").iterdir())
    assert len(events) == 1
    assert b"supervised" in events[0].read_bytes()


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb`` (WCAG 2.1)."""
    parts = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(theme: int) -> None:
    """WCAG AA asks for a contrast of 4.5 for texts of this size."""
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    colours = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root {(.*?)}", css, re.S)]
    for text in ("ink", "soft", "link", "good", "bad", "open"):
        for back in ("page", "card"):
            pair = sorted(luminance(colours[theme][name]) for name in (text, back))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (text, back)


def test_a_printed_page_is_light() -> None:
    css = (TEMPLATES / "style.css").read_text(encoding="utf-8")
    assert css.count("@media screen and (prefers-color-scheme: dark)") == css.count("prefers-color-scheme") == 2

"""The report from the command line."""

from __future__ import annotations

from pathlib import Path

from commands import QUICK, Call, refused


def test_train_evaluate_and_report(call: Call, data: Path) -> None:
    words = [word for word in QUICK if word != "--no-report"]
    done = call("train", data / "tree", *words, "--out", "run", "--quiet")
    assert done.code == 0, done.err
    assert "report: run/report.html" in done.out
    page = Path("run/report.html")
    assert "validation rows are right" in page.read_text(encoding="utf-8")
    judged = call("evaluate", "run")
    assert judged.code == 0, judged.err
    assert "report: run/report.html" in judged.out
    assert "test rows are right" in page.read_text(encoding="utf-8")
    before = page.read_text(encoding="utf-8")
    page.unlink()
    assert call("report", "run").code == 0
    assert page.read_text(encoding="utf-8") == before
    both = call("report", "run", "run", "--out", "both.html")
    assert both.code == 0, both.err
    assert "side by side" in Path("both.html").read_text(encoding="utf-8")


def test_no_report(call: Call, tree_run: Path) -> None:
    assert not (tree_run / "report.html").exists()
    refused(call("report", tree_run, "--out", "x.html"), "--out")
    refused(call("report", "nowhere"), "config.yaml")

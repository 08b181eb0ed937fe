"""The live view: curves as bars, numbers in words, alarms above the bar."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from metapl.utils.live import Live, numbers, sparkline


def test_sparklines_go_from_the_smallest_to_the_largest() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([]) == ""
    long = sparkline([float(k) for k in range(1000)])
    assert len(long) == 24
    assert long == "".join(sorted(long))
    assert (long[0], long[-1]) == ("▁", "█")


def text_of(item: object) -> str:
    console = Console(file=io.StringIO(), width=100)
    console.print(item)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_numbers_have_words_and_the_best_validation_figure() -> None:
    text = text_of(numbers({"loss": [2.0, 1.0], "validation_accuracy": [0.5, 0.75, 0.7], "class_shift": [0.1]}))
    assert "validation rows right" in text
    assert "70.0 %" in text
    assert "best 75.0 %" in text
    assert "class_shift" not in text


def test_notes_are_texts_and_stand_above_the_bar() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    with Live(console) as live:
        live.note("[bold]x[/bold] is a class")
        live.note("alarm at step 3: they disagree")
        live.note("guard: the linear baseline is returned")
        live.note("guard: the mean of mpl and the linear baseline is returned")
        live.update(3, 10, {"loss": 1.0})
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[bold]x[/bold] is a class" in out
    bold = "\x1b[1;33m"
    for text, stands_out in (("alarm at", True), ("guard: the linear", True), ("guard: the mean", False)):
        assert (f"{bold}{text}" in out) == stands_out
    assert "3/10" in out


@pytest.mark.parametrize("columns", [30, 200])
def test_any_width_will_do(columns: int) -> None:
    console = Console(file=io.StringIO(), width=columns, force_terminal=True)
    with Live(console) as live:
        for k in range(50):
            live.update(k + 1, 50, {"loss": 1 / (k + 1), "mask_rate": k / 50})
    assert "50/50" in console.file.getvalue()  # type: ignore[attr-defined]

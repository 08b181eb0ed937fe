"""The live view of a training on a terminal: a bar, and below it each number with its curve so far."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 24  # characters of a curve
ROWS = 7  # numbers shown at most
SHARES = {"mask_rate", "validation_accuracy", "agreement"}
WORDS = {
    "validation_accuracy": "validation rows right",
    "loss": "loss",
    "supervised": "loss on labelled rows",
    "unlabeled": "loss on unlabelled rows",
    "uda": "consistency loss",
    "student": "student's loss",
    "feedback": "feedback",
    "finetune": "loss while fine-tuning",
    "mask_rate": "pseudo labels that count",
    "agreement": "both name the same class",
}


def sparkline(values: list[float], width: int = WIDTH) -> str:
    """Return the values as a row of bars from their smallest to their largest, at most ``width`` of them, evenly
    taken.
    """
    if len(values) > width:
        values = [values[round(k * (len(values) - 1) / (width - 1))] for k in range(width)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    if high - low <= 1e-12:
        return BARS[3] * len(values)
    return "".join(BARS[min(len(BARS) - 1, int(len(BARS) * (value - low) / (high - low)))] for value in values)


class _Bars(Bar):
    """The bar, and the numbers below it; on a narrow terminal they would squeeze it away if they stood beside it."""

    curves: Mapping[str, list[float]] = {}

    def get_renderables(self) -> Iterator[RenderableType]:
        yield self.make_tasks_table(self.tasks)
        yield numbers(self.curves)


def numbers(curves: Mapping[str, list[float]]) -> Table:
    """Return a table of the numbers that ``WORDS`` has words for: name, last value, curve, and the best validation
    figure.
    """
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(style="dim", no_wrap=True)
    shown = [name for name in WORDS if curves.get(name)][:ROWS]
    for name in shown:
        values = curves[name]
        last = f"{100 * values[-1]:.1f} %" if name in SHARES else f"{values[-1]:#.3g}"
        best = f"best {100 * max(values):.1f} %" if name == "validation_accuracy" and len(values) > 1 else ""
        table.add_row(WORDS[name], last, f"[cyan]{sparkline(values)}[/cyan]", best)
    return table


class Live:
    """A ``utils.progress.Progress`` for terminals."""

    def __init__(self, console: Console | None = None) -> None:
        columns = (
            BarColumn(24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self.bar = _Bars(*columns, console=console or Console(stderr=True))
        self.task = self.bar.add_task("", total=None)
        self.curves: dict[str, list[float]] = {}

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        self.bar.stop()

    def note(self, text: str) -> None:
        """Print a sentence above the bar; an alarm stands out."""
        baselines = (f"guard: the {name} baseline" for name in ("supervised", "linear", "forest"))
        alarm = text.startswith(("alarm", *baselines))
        shown = f"[bold yellow]{escape(text)}[/bold yellow]" if alarm else escape(text)
        self.bar.console.print(shown, highlight=False, soft_wrap=True)

    def status(self, text: str) -> None:
        """Print a line on how far the work is."""
        self.note(text)

    def update(self, step: int, total: int, values: Mapping[str, float]) -> None:
        """Show ``step`` of ``total`` and the values that were read out."""
        for name, value in values.items():
            self.curves.setdefault(name, []).append(float(value))
        self.bar.curves = self.curves
        self.bar.update(self.task, completed=step, total=total)

"""Progress of a training: a live line on a terminal, one plain line per interval elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

Values = Mapping[str, float]
SHOWN = 6  # values on a plain line
ORDER = ("loss", "supervised", "unlabeled", "uda", "student", "feedback", "finetune")
LAST = ("mask_rate", "validation_accuracy")


class Progress(Protocol):
    """Receives the progress of the loop."""

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None: ...

    def note(self, text: str) -> None:
        """Show a sentence that the user should see, also where progress is not shown."""
        ...

    def status(self, text: str) -> None:
        """Show a line on how far the work is."""
        ...

    def update(self, step: int, total: int, values: Values) -> None:
        """Show that ``step`` of ``total`` steps are done; ``values`` are the last that were logged."""
        ...


def silent(text: str) -> None:
    """Print nothing."""


class Silent:
    """Shows nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: TracebackType | None) -> None:
        return None

    def note(self, text: str) -> None:
        return None

    def status(self, text: str) -> None:
        self.note(text)

    def update(self, step: int, total: int, values: Values) -> None:
        return None


class Notes(Silent):
    """Shows notes, which a user should see in any case, and no progress."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        return None


class Plain(Silent):
    """One line per ``interval`` seconds: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None, interval: float = 10.0) -> None:
        self.stream, self.interval = stream or sys.stderr, interval
        self.start, self.first, self.last = time.monotonic(), 0, 0.0

    def note(self, text: str) -> None:
        print(text, file=self.stream, flush=True)

    def update(self, step: int, total: int, values: Values) -> None:
        now = time.monotonic()
        if not self.last:
            self.first, self.start, self.last = step, now, now
        elif now - self.last >= self.interval or step == total:
            self.last = now
            left = (now - self.start) / max(1, step - self.first) * (total - step)
            shown = "  ".join(f"{k} {v:.4g}" for k, v in chosen(values).items())
            print(f"step {step}/{total}  {shown}  {clock(left)} left", file=self.stream, flush=True)


def make_progress(quiet: bool = False) -> Progress:
    """Return a live view on a terminal, plain lines elsewhere, notes alone if ``quiet``."""
    if quiet:
        return Notes()
    if not sys.stderr.isatty():
        return Plain()
    from metapl.utils.live import Live

    return Live()


def chosen(values: Values) -> dict[str, float]:
    """Return the values that are shown on one line, in a fixed order."""
    names = [k for k in ORDER if k in values][:SHOWN] + [k for k in LAST if k in values]
    return {k: values[k] for k in names}


def clock(seconds: float) -> str:
    """Return 1:02:03 or 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

"""What a source is asked for: what the functions of SOURCES take besides the reference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metapl.data.images.store import Known
from metapl.data.options import SourceOptions
from metapl.data.ref import DataRef
from metapl.types import Levels, ModelInput, Source


def silent(text: str) -> None:
    """Say nothing."""


@dataclass(frozen=True)
class Request:
    """How a source is to be opened.

    Attributes:
        options: how rows are read.
        like: new rows: what a trained model asks of them, so that nothing is learnt from them; None: training rows.
        known: what a finished run knows of its images, so that they need not be decoded again.
        progress: called with a line on how far the opening is.
        levels: of images, as the training that is gone on with had them; None: those of the training rows.
    """

    options: SourceOptions
    like: ModelInput | None = None
    known: Known | None = None
    progress: Callable[[str], None] = silent
    levels: Levels | None = None


Opener = Callable[[DataRef, Request], Source]

"""The request to open a source: the second argument of the functions in SOURCES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from metapl.data.images.store import Known
from metapl.data.options import SourceOptions
from metapl.data.ref import DataRef
from metapl.types import Levels, ModelInput, Source
from metapl.utils.progress import silent


@dataclass(frozen=True)
class Request:
    """How a source is to be opened.

    Attributes:
        options: how rows are read.
        like: new rows: the input of a trained model, so that nothing is learnt from them; None: training rows.
        known: the facts that a finished run stored of its images, so that they need not be decoded again.
        progress: called with progress messages.
        levels: of images, as stored with the run that is continued; None: those of the training rows.
    """

    options: SourceOptions
    like: ModelInput | None = None
    known: Known | None = None
    progress: Callable[[str], None] = silent
    levels: Levels | None = None


Opener = Callable[[DataRef, Request], Source]

"""What a source may offer beyond ``types.Source``, read in one place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import Tensor

from metapl.types import NO_LEVELS, Levels, Resize, Source


def _nothing_held() -> Tensor | None:
    return None


@dataclass(frozen=True)
class Traits:
    """Optional attributes of a source; each default holds where the source has no attribute of that name.

    Attributes:
        lazy: whether reading a row costs time (it is decoded when it is needed).
        prefetch: steps whose rows are read ahead in the background, where ``lazy``.
        resize, white, resized, levels: images: as in ``Preprocessing``.
        encoder: the frozen encoder whose features stand for the rows.
        store: images: what holds the files (``images.store.ImageStore``).
        held: gives all rows but test rows in one CPU tensor, row k of it being row k of the source; or None.
        texts: texts as they were written, one per row, for people to read; () where they are not at hand.
        inner: the source of images or texts whose features these rows are.
        uncorrected: the source before labels of a file were laid over its own.
        corrections: these labels: class name by id, "" for none.
        widths: as in ``ModelInput``.
    """

    lazy: bool = False
    prefetch: int = 0
    resize: Resize = "cover"
    white: int = 0
    resized: bool = False
    levels: Levels = NO_LEVELS
    encoder: Any = None
    store: Any = None
    held: Callable[[], Tensor | None] = _nothing_held
    texts: Sequence[str] = ()
    inner: Any = None
    uncorrected: Any = None
    corrections: Mapping[str, str] | None = None
    widths: tuple[int, ...] = ()


def traits(source: Source) -> Traits:
    """Return the optional attributes of ``source``, with defaults for those that it lacks."""
    found: dict[str, Any] = {f.name: getattr(source, f.name, f.default) for f in fields(Traits)}
    return Traits(**{**found, "held": found["held"] or _nothing_held})

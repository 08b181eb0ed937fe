"""Optional attributes of a source beyond ``types.Source``, read in one place."""

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
    """Optional attributes of a source; a default stands for a missing attribute.

    Attributes:
        lazy: whether reading a row costs time (it is decoded when it is needed).
        prefetch: if ``lazy``, the number of steps whose rows are read ahead in the background.
        resize, white, resized, levels: images: as in ``Preprocessing``.
        encoder: the frozen encoder that made the rows.
        store: images: the ``images.store.ImageStore`` of the files.
        held: returns all rows except test rows in one CPU tensor (row k is row k of the source), or None.
        texts: the original texts, one per row, for people to read; or ().
        inner: the source of images or texts that these rows are features of.
        uncorrected: the source before corrections of its labels.
        corrections: class name by id; "": no label.
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

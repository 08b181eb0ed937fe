"""Read new rows in memory for a trained model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from metapl.data.memory.kinds import guess_kind
from metapl.data.modalities import modality_of
from metapl.errors import UserError
from metapl.types import Preprocessing
from metapl.utils.warnings import warn


def rows_for(X: Any, preprocessing: Preprocessing, name: str = "X", tell: Callable[[str], None] = warn) -> Tensor:
    """Return raw rows [n, ...] of new data, read as ``from_arrays`` reads them; nothing is fitted on them.

    Args:
        X: what ``from_arrays`` takes for X. The columns of a DataFrame (or of a mapping) are found by name, in any
            order, and further ones are passed over; a category without training rows counts as missing. Float images
            are on the scale of the training's float images; without such, on 0..1 if they stay within it. If the
            training resized its images, these are resized in the same way.
        preprocessing: the model's own (``Predictor.preprocessing``).
        name: the name of ``X`` in messages.
        tell: called with notes on likely mistakes; by default a ``UserWarning``.

    Raises:
        UserError: data of another kind or shape, a missing column, or a value that cannot be read.
    """
    kind, modality = preprocessing.kind, modality_of(preprocessing.kind)
    if modality.has_form and (given := guess_kind(X)) != kind:
        what = f"the model was trained on {modality.rows}, and this is {modality_of(given).rows}"
        raise UserError(what, f"Give {modality.rows} of the shape {list(preprocessing.shape)} per row.", name)
    rows = modality.read_new(X, preprocessing, name, tell)
    if tuple(rows.shape[1:]) != preprocessing.shape:
        what = f"its rows have the shape {list(rows.shape[1:])}, the model was trained on {list(preprocessing.shape)}"
        names = [column.name for column in preprocessing.columns]
        shown = ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
        raise UserError(what, f"Give the columns {shown} alone." if names else "Give rows of that shape.", name)
    return rows

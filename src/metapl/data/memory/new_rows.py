"""New rows in memory, as a trained model wants them."""

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
    """Raw rows [n, ...] of new data, the way ``from_arrays`` reads them, with nothing fitted on them.

    Args:
        X: what ``from_arrays`` takes for X. The columns of a DataFrame (or of a mapping) are found by name, in any
            order, and further ones are passed over; a category that training did not hold counts as missing. Images
            of floats are on the scale of the training's floats; where it had none, 0..1 if they stay within it. Where
            the training brought images to one size, images of other sizes are brought to it in the same way.
        preprocessing: the model's own (``Predictor.preprocessing``).
        name: what messages call ``X``.
        tell: called with what looks like a mistake; by default a ``UserWarning``.

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

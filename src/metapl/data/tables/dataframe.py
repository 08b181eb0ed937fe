"""DataFrames, and mappings of columns, as rows: checked, and encoded by the same column rules as files."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.data.tables.columns import Decision, decide, encode_column
from metapl.data.tables.doubts import is_mixed, mixed
from metapl.data.tables.readers.frame import MARKERS, POINT, Texts, decimal_comma, grouped, meant, parsed
from metapl.data.tables.readers.remarks import ColumnReport
from metapl.errors import UserError, nearest
from metapl.types import Array, Column

Table = dict[str, Array]  # 1-D, of one length: float64, NaN = missing; or object, text, None = missing
_NAMED = "name the columns to use, this one among them: features of from_arrays, or source.table.features"
_NUMBERS = "Turn it into numbers (days since a date, say), or leave it out."


def is_frame(X: Any) -> bool:
    """Return whether ``X`` has named columns: a DataFrame of any library, or a mapping of columns."""
    return isinstance(X, Mapping) or (hasattr(X, "columns") and hasattr(X, "__getitem__") and len(X.shape) == 2)


def is_missing(value: Any) -> bool:
    """Return whether a value is None, NaN or pandas' mark of a missing value."""
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(value, float | np.floating) and bool(np.isnan(value))


def column_names(X: Any) -> list[str]:
    """Return the names of a DataFrame's or a mapping's columns."""
    return [str(name) for name in (X if isinstance(X, Mapping) else X.columns)]


def read_frame(X: Any, where: str, only: Collection[str] | None = None) -> Table:
    """Return the columns of a DataFrame or a mapping as a ``Table``.

    Args:
        only: the columns to read; if one of them is missing, all are read, so that the error can offer others.

    Raises:
        UserError: no rows, columns of different lengths, two of one name, or a column of dates or of mixed kinds.
    """
    names = column_names(X)
    twice = [name for k, name in enumerate(names) if name in names[:k]]
    if twice:
        raise UserError(f"two columns are named '{twice[0]}'", "Rename one.", where)
    keys = list(X) if isinstance(X, Mapping) else list(X.columns)
    missing, table = only is not None and not set(only) <= set(names), dict[str, Array]()
    for name, key in zip(names, keys):
        if only is None or name in only:
            table[name] = read_column(X[key], f"{where}: column '{name}'")
        elif missing:  # read if possible: the error about the missing column offers it
            with suppress(UserError):
                table[name] = read_column(X[key], where)
    lengths = {len(values) for values in table.values()}
    if not lengths or lengths == {0}:
        raise UserError("it has no rows or no columns", "Give rows.", where)
    if len(lengths) > 1:
        raise UserError(f"its columns have different lengths ({sorted(lengths)})", "Give one value per row.", where)
    return table


def read_column(values: Any, where: str) -> Array:
    """Return one column: numbers as float64 with NaN; texts, categories and True/False as objects, text or None.

    Raises:
        UserError: dates, several values per row, or numbers mixed with text.
    """
    array = as_array(values)
    if array.ndim != 1:
        raise UserError(f"its shape is {array.shape}", "Give one value per row.", where)
    if array.dtype.kind in "iuf":
        return array.astype(np.float64)
    if array.dtype.kind in "mM":
        raise UserError("it holds dates or times", _NUMBERS, where)
    if array.dtype.kind not in "bUSO":
        raise UserError(f"its values are {array.dtype}", "Give numbers or text.", where)
    listed = [None if is_missing(value) else value for value in array.tolist()]
    kinds = {type(value) for value in listed if value is not None}
    if kinds <= {bool, np.bool_} and kinds:
        return _objects([None if value is None else str(bool(value)) for value in listed])
    if all(_is_number(kind) for kind in kinds):
        return np.array([np.nan if value is None else float(value) for value in listed], dtype=np.float64)
    if all(issubclass(kind, str | bytes) for kind in kinds):
        return _objects([v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for v in listed])
    raise _mixed(listed, where)


def as_array(values: Any) -> Array:
    """Return a series, tensor, list or array as a NumPy array; pandas' missing values become NaN or None."""
    if isinstance(values, Tensor):
        return _of_tensor(values)
    if isinstance(values, np.ma.MaskedArray):
        filled: Array = values.data.astype(object)
        filled[np.ma.getmaskarray(values)] = None
        return filled
    dtype = getattr(values, "dtype", None)
    if isinstance(values, np.ndarray) or dtype is None or not hasattr(values, "isna"):
        return _objects(values) if isinstance(values, list | tuple) else np.asarray(values)
    kind = getattr(dtype, "kind", "O")  # a pandas series or index
    if kind in "mM":  # only the kind matters: a column of dates is refused
        return np.zeros(len(values), dtype=f"{kind}8[ns]")
    if isinstance(dtype, np.dtype) and kind != "O":
        return np.asarray(values)
    if kind in "iuf":
        return np.asarray(values.to_numpy(dtype="float64", na_value=np.nan))
    found: Array = np.array(values, dtype=object)
    found[np.asarray(values.isna())] = None
    return found


def categorical(X: Any) -> frozenset[str]:
    """Return the columns of a DataFrame whose type is categorical; these are always kept."""
    if isinstance(X, Mapping):
        return frozenset(str(name) for name, values in X.items() if _is_categorical(values))
    return frozenset(str(name) for name in X.columns if _is_categorical(X[name]))


def _is_categorical(values: Any) -> bool:
    return str(getattr(values, "dtype", "")).lower().startswith(("category", "categorical", "enum"))  # pandas, polars


def fit_columns(
    parts: Sequence[Table], where: Sequence[str], notes: list[str], keep: Collection[str] = ()
) -> tuple[Column, ...]:
    """Return the columns of the first part, in its order, with the sorted levels of all parts.

    The rules of ``columns.decide`` leave columns out, unless they are in ``keep``. Notes on these, and on likely
    mistakes, are appended to ``notes``.

    Raises:
        UserError: a part lacks a column; a column holds numbers in one part and text in another, or numbers written
            as texts that are not read; or no column is left.
    """
    fitted, left_out = list[Column](), dict[str, Decision]()
    for name in parts[0]:
        decision, texts = _fit_column(name, parts, where, name in keep)
        reason = decision.reason
        if decision.column is not None:
            fitted.append(decision.column)
            notes += [f"column '{name}' {reason}: to leave it out, drop it"] if reason else []
        else:
            left_out[name] = decision
            keeping = "to keep it as a category: astype('category')" if texts else f"to keep it, {_NAMED}"
            notes.append(f"column '{name}' {reason} and is left out ({keeping})")
    if not fitted:
        name = next(iter(left_out))
        what = f"no column is left for the classifier to see: '{name}' {left_out[name].reason}"
        if parts[0][name].dtype == object:
            raise UserError(what, f"To train on it as text, pass the column itself: {where[0]}['{name}'].", where[0])
        raise UserError(what, f"Give other columns, too, or {_NAMED}.", where[0])
    return tuple(fitted)


def _fit_column(name: str, parts: Sequence[Table], where: Sequence[str], keep: bool) -> tuple[Decision, bool]:
    """Return the decision on a column, and whether it holds texts."""
    levels, texts, numbers = set[str](), 0, ""
    for part, place in zip(parts, where):
        values = column_of(part, name, place)
        if values.dtype == object:
            own = [value for value in values.tolist() if value is not None]
            levels.update(own)
            texts += len(own)
        elif not np.isnan(values).all():
            numbers = numbers or place
    if levels and numbers:
        what = f"column '{name}' is numbers in {numbers} and text elsewhere"
        raise UserError(what, "Bring it to one kind.", where[0])
    if not levels and not numbers:  # an empty column stays, since test rows may hold values
        return Decision(Column(name)), False
    if levels and not keep:
        _check_written(name, levels, where[0])
    values_of = [] if levels else [part[name] for part in parts]
    return decide(name, sorted(levels), texts, values_of, keep), bool(levels)


def _check_written(name: str, levels: Collection[str], where: str) -> None:
    """Refuse numbers in a form that Python does not read: 3,5 or 1.234,5.

    Raises:
        UserError: every value is a number, and some have that form.
    """
    filled = [level for level in levels if level.strip() not in MARKERS]
    if not all(map(meant, filled)):
        others = sorted(level for level in filled if parsed(level, POINT) is None)
        if is_mixed(len(filled) - len(others), len(others), len(filled) - len(others), len(others)):
            raise mixed(name, others[0], len(others), len(filled), where, setting=False)
        return
    odd = sorted(level for level in levels if parsed(level, POINT) is None and (decimal_comma(level) or grouped(level)))
    if odd:
        what = f"column '{name}' holds the text '{odd[0]}' and others that are numbers with a comma"
        remedy = "Turn them into numbers (pandas.read_csv(..., decimal=','), or str.replace), or astype('category')."
        raise UserError(what, remedy, where)


def encode_frame(table: Table, columns: Sequence[Column], where: str) -> tuple[Tensor, list[str]]:
    """Return float32 [N, len(columns)], and a line for each column whose categories are all unknown to the model.

    The columns go by name, in the order of ``columns``; others in ``table`` are passed over.

    Raises:
        UserError: a column is missing, a text where numbers belong, or a number that is infinite as float32.
    """
    rows, report = len(next(iter(table.values()), ())), ColumnReport()
    encoded = np.empty((rows, len(columns)), dtype=np.float32)
    for k, column in enumerate(columns):
        values = _file_values(column_of(table, column.name, where))
        encoded[:, k] = encode_column(column, values, lambda row: f"{where}, row {row}", report, typed=True)
    return torch.from_numpy(encoded), report.lost(rows)


def _file_values(values: Array) -> Array | Texts:
    """Return a column as the readers of files have it; the code of a missing text is -1."""
    if values.dtype != object:
        return values
    index: dict[str | None, int] = {None: -1}
    codes = np.array([index.setdefault(value, len(index) - 1) for value in values.tolist()], dtype=np.int32)
    return Texts(codes, tuple(value for value in index if value is not None))


def column_of(table: Table, name: str, where: str) -> Array:
    """Return the column of that name.

    Raises:
        UserError: there is none.
    """
    if name not in table:
        raise UserError(f"there is no column '{name}'", nearest(name, table), where)
    return table[name]


def _of_tensor(values: Tensor) -> Array:
    tensor = values.detach().cpu()
    array: Array = (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()
    return array


def _objects(values: Sequence[Any]) -> Array:
    """A 1-D object array, whatever the values are."""
    made: Array = np.empty(len(values), dtype=object)
    for k, value in enumerate(values):
        made[k] = value.item() if isinstance(value, Tensor | np.generic) and not value.ndim else value
    return made


def _is_number(kind: type) -> bool:
    return issubclass(kind, int | float | np.number | np.bool_) or kind.__name__ == "Decimal"


def _mixed(listed: Sequence[Any], where: str) -> UserError:
    """Return the error that names the first value that does not belong."""
    if any(hasattr(value, "isoformat") or type(value).__name__ == "timedelta" for value in listed):
        return UserError("it holds dates or times", _NUMBERS, where)
    strange = [(k, v) for k, v in enumerate(listed) if v is not None and not isinstance(v, str | bytes)]
    odd = [(k, v) for k, v in strange if not _is_number(type(v))]
    if odd:
        row, value = odd[0]
        return UserError(f"row {row} holds a {type(value).__name__}", "Give one number or text per row.", where)
    text = next(k for k, v in enumerate(listed) if isinstance(v, str | bytes))
    what = f"row {strange[0][0]} is the number {strange[0][1]}, row {text} the text {listed[text]!r}"
    return UserError(
        what, "Bring the column to one kind (astype(str), or numbers with None for what is missing).", where
    )

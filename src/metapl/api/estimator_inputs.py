"""What the scikit-learn estimator is made of: rows and labels as scikit-learn's users hold them, and folds."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.exceptions import DataConversionWarning
from sklearn.model_selection import StratifiedKFold
from sklearn.utils import validation
from sklearn.utils.multiclass import check_classification_targets

from metapl.errors import UserError
from metapl.utils.warnings import warn

if TYPE_CHECKING:  # PyTorch is imported when a training begins
    from metapl.types import Array


def check_rows(estimator: Any, X: Any, *, reset: bool, named: bool = False) -> Any:
    """Return ``X`` by scikit-learn's rules; missing values may stay.

    Texts and DataFrames with columns that are not numbers are returned unchanged, and with ``named`` (the model has
    categories) any DataFrame; all else becomes an array. With ``reset`` the estimator stores number and names of the
    features; without it they are compared.

    Raises:
        ValueError: infinite values, no rows, or not the rows that were fitted.
        TypeError: sparse rows, or values that are not numbers.
    """
    from metapl.data.tables.dataframe import is_frame
    from metapl.data.texts.read import is_texts

    if is_texts(X):
        return X
    if hasattr(X, "toarray") and hasattr(X, "nnz"):
        remedy = "Give X.toarray(), or reduce its columns first (TruncatedSVD in scikit-learn, say)."
        raise UserError("sparse data are not read", remedy, "X")
    if _is_column_of_texts(X):
        raise UserError(f"it holds texts in a second dimension, {np.shape(X)}", "Give a list of texts: X[:, 0].", "X")
    if is_frame(X) and (named or not all_numbers(X)):
        _check_names(estimator, X, reset)
        return X
    dtype = getattr(X, "dtype", None)
    _check_finite(X)
    kind = "numeric" if getattr(dtype, "kind", "") in ("u", "i", "f") else (np.float64, np.float32)
    return _validate(estimator, X, reset=reset, dtype=kind, allow_nd=True)


def _is_column_of_texts(X: Any) -> bool:
    array = np.asarray(X) if isinstance(X, np.ndarray | list) and np.ndim(X) == 2 else None
    return array is not None and array.size > 0 and array.shape[1] == 1 and isinstance(array[0, 0], str)


def _check_finite(X: Any) -> None:
    """Refuse infinite values by row and column; NaN says that a value is missing.

    Raises:
        UserError: a value is infinite.
    """
    array = X.to_numpy() if hasattr(X, "to_numpy") else X
    if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.ndim == 2:
        bad = np.argwhere(np.isinf(array))
        if len(bad):
            row, column = bad[0].tolist()
            name = f"'{X.columns[column]}'" if hasattr(X, "columns") else column
            raise UserError(f"row {row}, column {name} is infinite (inf)", "Fill or remove such values.", "X")


def in_order(X: Any, names: Sequence[str]) -> Any:
    """Return a DataFrame with its columns in the training's order ``names``; anything else as it is.

    scikit-learn compares names that are text; columns called by whole numbers would go by their position.

    Raises:
        UserError: a column is missing.
    """
    columns = list(getattr(X, "columns", ()))
    own = [str(name) for name in columns]
    if not names or own == list(names) or len(set(own)) < len(own) or all(isinstance(c, str) for c in columns):
        return X
    if not hasattr(X, "iloc") or len(own) != len(names):
        return X
    for name in names:
        if name not in own:
            raise UserError(f"there is no column '{name}'", f"Its columns are {', '.join(own[:8])}.", "X")
    return X.iloc[:, [own.index(name) for name in names]]


def warn_of_no_pool(codes: Array, X_unlabeled: Any, method: str) -> None:
    """Warn if all codes [N] are labels: a LabelEncoder, for example, may have replaced the mark of rows without one."""
    if X_unlabeled is None and method != "supervised" and (codes >= 0).all():
        warn(
            "every row of y has a label, so the same rows also serve without theirs; if a label says that a row has "
            "none, name it with unlabeled_marker"
        )


def all_numbers(X: Any) -> bool:
    """Return whether every column of a DataFrame holds numbers by its type."""
    kinds = [getattr(dtype, "kind", "O") for dtype in getattr(X, "dtypes", ["O"])]
    return all(kind in "uif" for kind in kinds)


def numbered(frames: Sequence[Any]) -> bool:
    """Return whether DataFrames of numbers certainly have a column of row ids; their columns then go by name."""
    from metapl.data.tables.dataframe import column_names, read_frame
    from metapl.data.tables.digits import offset_of
    from metapl.data.tables.id_columns import numbers_rows

    names = column_names(frames[0]) if frames else []
    if len(set(names)) < len(names) or not all(map(len, frames)):
        return False  # two columns of one name go by their position
    if not names or any(column_names(part) != names for part in frames):
        return False
    tables = [read_frame(part, "X") for part in frames]
    columns = {name: [table[name] for table in tables] for name in names}
    return any(numbers_rows(name, own)[1] or offset_of(np.concatenate(own)) for name, own in columns.items())


def holds_long_numbers(rows: Any) -> bool:
    """Return whether a column of an array needs its offset, which is known by the column's name."""
    from metapl.data.tables.digits import offset_of

    fits = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype != np.float32
    return fits and any(offset_of(rows[:, k].astype(np.float64)) for k in range(rows.shape[1]))


def named_columns(rows: Any, names: Sequence[str]) -> Any:
    """Return the columns of an array [n, len(names)] by name; anything else as it is."""
    fits = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.shape[1] == len(names)
    return dict(zip(names, rows.T, strict=True)) if fits else rows


def check_left_out(X: Any, names: Sequence[str], used: Sequence[str]) -> None:
    """Refuse an array that lacks columns of the training, ``names``.

    Raises:
        UserError: it has another number of columns, and training left some out.
    """
    from metapl.data.tables.dataframe import is_frame

    shape: tuple[int, ...] = getattr(X, "shape", ())
    out = [name for name in names if name not in used]
    if is_frame(X) or len(shape) != 2 or shape[1] == len(names) or not out:
        return
    left = ", ".join(f"'{name}'" for name in out[:5]) + (", ..." if len(out) > 5 else "")
    what = f"it has {shape[1]} columns, X had {len(names)} in training, {left} among them, left out there"
    raise UserError(what, "Give a DataFrame, or an array with all the columns of the training in their order.", "X")


def _validate(estimator: Any, X: Any, **options: Any) -> Array:
    if hasattr(validation, "validate_data"):
        checked: Array = validation.validate_data(estimator, X, ensure_all_finite="allow-nan", **options)
        return checked
    old: Array = estimator._validate_data(X, force_all_finite="allow-nan", **options)  # scikit-learn 1.5
    return old


def _check_names(estimator: Any, X: Any, reset: bool) -> None:
    if hasattr(validation, "_check_feature_names"):
        validation._check_feature_names(estimator, X, reset=reset)
        validation._check_n_features(estimator, X, reset=reset)
    else:  # scikit-learn 1.5
        estimator._check_feature_names(X, reset=reset)
        estimator._check_n_features(X, reset=reset)


def read_targets(y: Any, marker: Any) -> tuple[Array, Array]:
    """Return class numbers [N] int64 (-1: no label) and the sorted classes in the type of the labels.

    Args:
        y: labels; None, NaN, NA and "" mark a row without one, and so does ``marker`` unless it is None.

    Raises:
        UserError: no label, labels of mixed kinds, of one class only, or whole numbers that are a quantity.
        ValueError: not one label per row, or labels that cannot be classes (numbers with fractions, say).
    """
    from metapl.data.tables.dataframe import is_missing
    from metapl.data.tables.labels import check_classes

    array, missing = find_missing(y, marker)
    given = _one_kind(array[~missing])
    if given.dtype.kind == "f" and getattr(getattr(y, "dtype", None), "kind", "f") in "iu":
        given = given.astype(np.int64)  # pandas' whole numbers with gaps
    if given.dtype.kind == "f" and np.isinf(given).any():
        raise UserError("a label is infinite", "Labels are whole numbers, text, or True and False.", "y")
    if given.dtype.kind in "iu":
        order = [str(value) for value in np.unique(given).tolist()]
        check_classes(order, len(given), bool((np.diff(given) == 1).all()), True)
    check_classification_targets(given)
    classes, numbers = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        hint = "Label rows of another class."
        if any(not is_missing(value) and _is(value, marker) for value in array.tolist()):
            hint = f"{marker!r} marks rows without a label: if it is a class, set unlabeled_marker=None. {hint}"
        raise UserError(f"there is only one class among the labels ({classes.tolist()[0]!r})", hint, "y")
    codes = np.full(len(array), -1, dtype=np.int64)
    codes[~missing] = numbers
    return codes, classes


def find_missing(y: Any, marker: Any) -> tuple[Array, Array]:
    """Return the labels as an array [N], and which rows have none, [N] bool.

    Raises:
        ValueError: y is None or has two dimensions.
    """
    from metapl.data.tables.dataframe import as_array, is_missing

    if y is None:
        raise ValueError("SemiSupervisedClassifier requires y to be passed, but the target y is None.")
    array = np.asarray(y) if isinstance(y, list | tuple) and any(np.ndim(row) for row in y[:1]) else as_array(y)
    if array.ndim == 2 and array.shape[1] == 1:
        text = (
            "A column-vector y was passed when a 1d array was expected. Please change the shape of y to (n_samples,)."
        )
        warnings.warn(text, DataConversionWarning, stacklevel=3)
        array = array.ravel()
    if (
        array.ndim == 2
        and array.dtype.kind in "buif"
        and (np.sort(array, 1)[:, :-1] == 0).all()
        and (array.max(1) == 1).all()
    ):
        what = f"it has the shape {array.shape}, one-hot"
        raise UserError(what, "Give class numbers, y should be a 1d array: y.argmax(axis=1).", "y")
    if array.ndim != 1:
        raise ValueError(f"y should be a 1d array, got an array of shape {array.shape} instead.")
    if array.dtype.kind in "UO" and marker == -1 and any(isinstance(v, str) and v == "-1" for v in array.tolist()):
        what = "the text '-1', which NumPy makes of -1 beside text, is not a label"
        raise UserError(what, "Build y with dtype=object and mark rows without a label by None or -1.", "y")
    gone = [is_missing(value) or _is(value, "") or _is(value, marker) for value in array.tolist()]
    return array, np.array(gone, dtype=bool)


def _is(value: Any, marker: Any) -> bool:
    """Return whether ``value`` equals ``marker`` and is of its kind: True is not 1."""
    alike = all(isinstance(value, kind) == isinstance(marker, kind) for kind in (str, bool | np.bool_))
    return marker is not None and alike and bool(value == marker)


def _one_kind(labels: Array) -> Array:
    """Return the labels of an object array in the type that they all have; text stays ``object``."""
    if not len(labels):
        raise UserError("there are no labelled rows", "Label at least one row of each class.", "y")
    if labels.dtype != object:
        return labels
    values = labels.tolist()
    for kinds, dtype in ((str, object), (bool | np.bool_, bool), (int | np.integer, int), (float | np.floating, float)):
        if all(isinstance(value, kinds) for value in values):
            return np.array(values, dtype=dtype)
    if all(isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in values):
        return np.array(values, dtype=float)
    names = sorted({type(value).__name__ for value in values})
    raise UserError(f"Unknown label type: the labels are of several kinds ({', '.join(names)})", "Use one kind.", "y")


def agreement(truth: Array, predicted: Array) -> Array:
    """Return [n] bool: where a label equals the predicted one; labels keep their type, so that no two become one.

    Raises:
        UserError: labels of several kinds, or text and classes that are not text, or the reverse.
        ValueError: labels that cannot be classes (numbers with fractions, say).
    """
    given = _one_kind(truth)
    check_classification_targets(given)
    kinds = ["text" if array.dtype.kind in "OUS" else "no text" for array in (given, predicted)]
    if kinds[0] != kinds[1]:
        what = f"the labels are {kinds[0]} ({given.tolist()[0]!r}), the classes {kinds[1]} ({predicted.tolist()[0]!r})"
        raise UserError(what, "Give labels of the type of the training.", "y")
    return np.array([a == b for a, b in zip(given.tolist(), predicted.tolist())], dtype=bool)


class LabeledKFold:
    """Stratified folds over the labelled rows; every row without a label belongs to every training part.

    For ``cross_val_score`` and ``GridSearchCV`` on a ``y`` that marks rows without a label, with any scorer: only
    labelled rows are scored, and the pool stays whole.

    Args:
        n_splits: folds; at most the number of labels of the rarest class.
        shuffle, random_state: as in ``StratifiedKFold``.
        unlabeled_marker: as in ``SemiSupervisedClassifier``.
    """

    def __init__(
        self, n_splits: int = 5, *, shuffle: bool = False, random_state: Any = None, unlabeled_marker: Any = -1
    ) -> None:
        self.n_splits, self.shuffle, self.random_state = n_splits, shuffle, random_state
        self.unlabeled_marker = unlabeled_marker

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of folds."""
        return self.n_splits

    def split(self, X: Any, y: Any, groups: Any = None) -> Iterator[tuple[Array, Array]]:
        """Yield the row numbers [n] to train on and [m] to score, fold by fold.

        Raises:
            ValueError: a class has fewer labels than there are folds, or too few labels in all.
        """
        codes, classes = read_targets(y, self.unlabeled_marker)
        labeled, pool = np.flatnonzero(codes >= 0), np.flatnonzero(codes < 0)
        counts = np.bincount(codes[labeled])
        rarest = int(counts.min())
        if rarest < self.n_splits:
            what = f"{self.n_splits} folds need as many labels of each class, '{classes[counts.argmin()]}' has {rarest}"
            remedy = f"Label more rows of it, or take n_splits={rarest}." if rarest > 1 else "Label more rows of it."
            raise UserError(what, remedy, "y")
        folds = StratifiedKFold(self.n_splits, shuffle=self.shuffle, random_state=self.random_state)
        for taught, scored in folds.split(labeled, codes[labeled]):
            yield np.sort(np.concatenate([labeled[taught], pool])), labeled[scored]

    def __repr__(self) -> str:
        return f"LabeledKFold(n_splits={self.n_splits}, shuffle={self.shuffle}, random_state={self.random_state})"

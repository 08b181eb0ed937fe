"""A scikit-learn classifier that learns from labelled and unlabelled rows.

Torch is imported by the first ``fit`` or ``load``, not by this file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from metapl.api.estimator_inputs import (
    agreement,
    all_numbers,
    check_left_out,
    check_rows,
    find_missing,
    holds_long_numbers,
    in_order,
    named_columns,
    numbered,
    read_targets,
    warn_of_no_pool,
)
from metapl.errors import UserError
from metapl.utils.files import write_json
from metapl.utils.progress import Progress, Silent, Values, make_progress

if TYPE_CHECKING:
    from torch import nn

    from metapl.config.settings import RunConfig
    from metapl.models import Factory
    from metapl.training.result import PseudoLabeledPool, Result
    from metapl.types import Array

CARD = "estimator.json"


class SemiSupervisedClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Meta Pseudo Labels, or any other of this package's methods, on data that are partly labelled.

    Numbers are standardised inside, missing values and columns of text or categories (in a DataFrame) are taken as
    they are. Rows may also be images [N, H, W], [N, H, W, C], [N, C, H, W] or a list of texts.

    Parameters
    ----------
    method : str, default="mpl"
        A name in ``metapl.METHODS``; "supervised" learns from the labelled rows alone.
    model : str, nn.Module or callable, default="auto"
        A name in ``metapl.MODELS``, a network (of which copies are trained), or ``f(shape=..., num_classes=...)``.
    steps : int, default=None
        Updates. None: 300 for tables and texts, 1000 for images.
    minutes : float, default=None
        As many steps as fit into so many minutes, in place of ``steps``.
    batch_labeled, batch_unlabeled : int, default=32, 128
        Rows per step.
    lr : float, default=None
        Peak learning rate. None: 0.05 with SGD; texts' own network takes AdamW and 0.01.
    threshold : float or str, default="auto"
        Least confidence of a pseudo label that counts. "auto": the method's own.
    validation : "auto", "none", float or int, default="auto"
        Labelled rows that judge and do not teach: a fifth, none, a share, or a number per class.
    guard : "off", "warn" or "return", default="return"
        "return": tables give the mean of the method's network, a linear model and a random forest; texts the mean of
        the network and a linear model; images the better one of the network and supervised training, for twice the
        work. "warn": the network, and ``notes_`` says what would be better. "off": the network alone.
    unlabeled_marker : default=-1
        What marks a row without a label in ``y``, beside None, NaN, NA and "", which always do. None: nothing else.
    random_state : int, RandomState or None, default=None
        Of the weights, the batches and the views. An int gives the same classifier again, on a CPU bit for bit.
    device : str, default="auto"
        "auto" (CUDA where there is any), "cpu", "cuda", "cuda:N" or "mps".
    options : dict, default=None
        Any other setting by its key, such as ``{"optim.weight_decay": 0.001, "mpl.feedback": "sampled"}``. It beats
        what is said above.
    verbose : int, default=0
        1 shows what the command line shows.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels that occur, sorted.
    n_features_in_ : int
        Number of features; ``feature_names_in_`` : their names, where ``X`` is a DataFrame with names of text.
    transduction_ : ndarray of shape (n_samples,)
        For every row of ``X`` its label, or where it has none the predicted one.
    pseudo_labels_ : PseudoLabeledPool
        ``index``, ``labels`` and ``probabilities`` of the rows without a label, those of ``X_unlabeled`` last.
    history_ : list of dict
        The logged numbers.
    notes_ : list of str
        What a user should know about the run, the guard's verdict among it.
    result_ : metapl.Result
        The run itself, with its data; not kept by pickle, ``copy.deepcopy`` and ``save``.
    """

    def __init__(
        self,
        method: str = "mpl",
        *,
        model: Any = "auto",
        steps: int | None = None,
        minutes: float | None = None,
        batch_labeled: int = 32,
        batch_unlabeled: int = 128,
        lr: float | None = None,
        threshold: float | str = "auto",
        validation: str | float | int = "auto",
        guard: str = "return",
        unlabeled_marker: Any = -1,
        random_state: Any = None,
        device: str = "auto",
        options: Mapping[str, Any] | None = None,
        verbose: int = 0,
    ) -> None:
        self.method = method
        self.model = model
        self.steps = steps
        self.minutes = minutes
        self.batch_labeled = batch_labeled
        self.batch_unlabeled = batch_unlabeled
        self.lr = lr
        self.threshold = threshold
        self.validation = validation
        self.guard = guard
        self.unlabeled_marker = unlabeled_marker
        self.random_state = random_state
        self.device = device
        self.options = options
        self.verbose = verbose

    def fit(self, X: Any, y: Any, X_unlabeled: Any = None) -> Self:
        """Train on the labelled rows of ``X``, and on all rows without their labels.

        Args:
            X: rows; y: one label per row, ``unlabeled_marker``, None, NaN, NA or "" for none. Where every
                row has a label, the same rows also serve without theirs.
            X_unlabeled: more rows without labels.

        Raises:
            ValueError: data or settings that cannot make a run, or a loss that is no longer finite.
        """
        from metapl.data.embedded import for_encoder
        from metapl.data.memory.arrays import check_order, from_arrays
        from metapl.data.tables.dataframe import is_frame
        from metapl.runs.recorder import Recorder
        from metapl.training.loop import start

        check_order(X, y, "y")
        config, network = self._config()
        features = config.source.table.named("features")
        frames = [part for part in (X, X_unlabeled) if is_frame(part)]
        named = bool(features) or not all(map(all_numbers, frames)) or (is_frame(X) and numbered(frames))
        rows = check_rows(self, X, reset=True, named=named)
        codes, classes = read_targets(y, self.unlabeled_marker)
        check_consistent_length(rows, codes)
        warn_of_no_pool(codes, X_unlabeled, self.method)
        self._columns = [str(name) for name in getattr(X, "columns", ())]
        self._names = [str(name) for name in getattr(rows, "columns", ())]
        more = None if X_unlabeled is None else check_rows(self, X_unlabeled, reset=False, named=named)
        if self._names and all_numbers(rows):  # arrays go by position
            more = named_columns(more, self._names)
        if holds_long_numbers(rows):
            self._names = self._names or [str(k) for k in range(rows.shape[1])]
            rows, more = named_columns(rows, self._names), named_columns(more, self._names)
        suited = for_encoder(config.source)
        source = from_arrays(
            rows,
            codes,
            X_unlabeled=more,
            class_names=[str(value) for value in classes.tolist()],
            **suited.arguments,
            features=features,
        )
        noted = _Noted(make_progress() if self.verbose else Silent())
        result = start(config, lambda _: Recorder(), source, noted, network=network, require_unlabeled=False)
        self.classes_, self.notes_ = classes, noted.notes
        self._learn(result, codes)
        return self

    def _learn(self, result: Result, codes: Array) -> None:
        self.result_, self.predictor_, self.history_ = result, result.predictor, result.history
        self.model_name_ = result.summary["model"]
        found = result.pseudo_labels()
        pseudo: PseudoLabeledPool = replace(found, labels=self.classes_[found.probabilities.argmax(1)])
        transduction = self.classes_[codes]
        inside = pseudo.index < len(codes)
        transduction[pseudo.index[inside]] = pseudo.labels[inside]
        self.pseudo_labels_, self.transduction_ = pseudo, transduction

    def _config(self) -> tuple[RunConfig, Factory | None]:
        """Return the run's settings, and the factory of networks that were given as objects."""
        from metapl.config.settings import make_config
        from metapl.models import as_factory, given_name

        named = isinstance(self.model, str)
        seed = self.random_state
        if not isinstance(seed, int | np.integer):
            seed = check_random_state(seed).randint(2**31 - 1)
        given = {
            "method": self.method,
            "model": self.model if named else given_name(self.model),
            "steps": self.steps,
            "minutes": self.minutes,
            "seed": int(seed),
            "device": self.device,
            "batch.labeled": self.batch_labeled,
            "batch.unlabeled": self.batch_unlabeled,
            "optim.lr": self.lr,
            "split.test": 0.0,
            "split.validation": self.validation,
            "guard.mode": self.guard,
        }
        if self.threshold != "auto":
            given[_threshold_key(self.method)] = self.threshold
        config = make_config("arrays", options={**given, **(self.options or {})})
        return config, None if named else as_factory(self.model)

    def predict_proba(self, X: Any) -> Array:
        """Return the probabilities of the classes, [n, n_classes], in the order of ``classes_``.

        Raises:
            ValueError: not the kind of rows that were fitted.
        """
        from metapl.data.memory.new_rows import rows_for

        check_is_fitted(self)
        takes = self.predictor_.takes
        X = in_order(X, getattr(self, "_columns", []))
        names = getattr(self, "_names", []) if takes.columns else []
        check_left_out(X, names, [column.name for column in takes.columns])
        given = check_rows(self, X, reset=False, named=bool(takes.columns))
        if not any(column.levels for column in takes.columns):  # an array goes by position, and cannot name levels
            given = named_columns(given, names)
        rows = rows_for(given, takes)
        p: Array = self.predictor_.probabilities(rows).numpy().astype(np.float64)
        total: Array = p.sum(1, keepdims=True)
        return p / total

    def predict(self, X: Any) -> Array:
        """Return the most probable class of each row; see ``predict_proba``."""
        chosen = self.predict_proba(X).argmax(1)
        named: Array = self.classes_[chosen]
        return named

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy on the rows that have a label. A label that is not among the classes counts as a miss.

        Raises:
            ValueError: no row has a label, or the labels are not of the kind of the classes.
        """
        array, missing = find_missing(y, self.unlabeled_marker)
        keep = np.flatnonzero(~missing)
        predicted = self.predict(X)
        check_consistent_length(predicted, array)
        if not len(keep):
            raise UserError("no row has a label to score by", "Give labelled rows.", "y")
        weights = None if sample_weight is None else np.asarray(sample_weight)[keep]
        right = agreement(array[keep], predicted[keep])
        return float(accuracy_score(np.ones(len(right)), right, sample_weight=weights))

    def save(self, folder: str | Path) -> Path:
        """Write the fitted classifier into ``folder``, new or empty: weights as safetensors, all else as JSON.

        Raises:
            UserError: ``folder`` holds something or cannot be made.
            NotFittedError: it was not fitted.
        """
        from metapl.runs.folder import new_folder
        from metapl.runs.model_folder import save_model

        check_is_fitted(self)
        folder = new_folder(Path(folder))
        save_model(folder / "model", self.predictor_, self.model_name_, {"method": self.method})
        names = getattr(self, "feature_names_in_", None)
        card = {
            "params": {k: v for k, v in self.get_params(deep=False).items() if _is_plain(v)},
            "classes": {"dtype": self.classes_.dtype.str, "values": self.classes_.tolist()},
            "n_features_in": getattr(self, "n_features_in_", None),
            "feature_names_in": None if names is None else names.tolist(),
            "names": self._names,
            "columns": self._columns,
        }
        write_json(folder / CARD, card)
        return folder

    @classmethod
    def load(
        cls,
        folder: str | Path,
        *,
        device: str = "cpu",
        network: nn.Module | Factory | None = None,
        trust_code: bool = False,
    ) -> Self:
        """Read a classifier that ``save`` wrote, ready to predict.

        Args:
            network: the ``nn.Module`` or factory that was given as ``model``, if it was not a name.
            trust_code: whether a network that the folder names as ``package.module:function`` may be imported.

        Raises:
            UserError: a file is missing or damaged, or the folder names code that is not trusted.
        """
        from metapl.runs.model_folder import load_model

        try:
            card = json.loads((Path(folder).expanduser() / CARD).read_text(encoding="utf-8"))
            classifier = cls(**card["params"])
            classifier._names = [str(name) for name in card.get("names", [])]
            classifier._columns = [str(name) for name in card.get("columns", [])]
            classifier.classes_ = np.array(card["classes"]["values"], dtype=np.dtype(card["classes"]["dtype"]))
            if card["n_features_in"] is not None:
                classifier.n_features_in_ = int(card["n_features_in"])
            if card["feature_names_in"] is not None:
                classifier.feature_names_in_ = np.array(card["feature_names_in"], dtype=object)
        except (OSError, ValueError, KeyError, TypeError) as error:
            what = f"there is no saved classifier here ({error})"
            raise UserError(what, "Give a folder that save wrote.", str(folder)) from error
        classifier.predictor_ = load_model(folder, device, network=network, trust_code=trust_code)
        if len(classifier.predictor_.class_names) != len(classifier.classes_):
            raise UserError("classes and network do not fit each other", "Save it again.", str(folder))
        return classifier

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "predictor_")

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        state.pop("result_", None)  # it holds the data
        return state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.three_d_array = True
        return tags


class _Noted(Silent):
    """Keeps the notes and hands everything on."""

    def __init__(self, inner: Progress) -> None:
        self.inner, self.notes = inner, list[str]()

    def __enter__(self) -> Self:
        self.inner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.inner.__exit__(*error)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.inner.note(text)

    def update(self, step: int, total: int, values: Values) -> None:
        self.inner.update(step, total, values)


def _threshold_key(method: str) -> str:
    """Return the key of the method's setting whose name ends with "threshold".

    Raises:
        UserError: it has none.
    """
    from metapl.methods import method_class

    names = [f.name for f in fields(method_class(method).Config) if f.name.endswith("threshold")]
    if not names:
        raise UserError(f"method '{method}' has no threshold", "Leave threshold='auto'.", "threshold")
    return f"{method}.{names[0]}"


def _is_plain(value: Any) -> bool:
    """Return whether JSON brings it back as it is."""
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False

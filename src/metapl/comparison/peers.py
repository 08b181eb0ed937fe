"""Classifiers with scikit-learn's interface as rows of a comparison: the same rows, splits and features.

    sklearn:LogisticRegression              a classifier of scikit-learn, by its class
    sklearn:RandomForest                    the same without the ending "Classifier"
    sklearn:SelfTraining                    SelfTrainingClassifier over a LogisticRegression
    sklearn:LabelSpreading:n_neighbors=5    with settings; + between several
    package.module:Class                    any class with fit and predict

A peer is fitted on the labelled rows. One that learns from unlabelled rows gets those too, with the label -1: the
classifiers of ``sklearn.semi_supervised``, and a class that says ``takes_unlabeled = True``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from metapl.config.settings import RunConfig
from metapl.config.values import convert, read_text
from metapl.data.batches.preprocess import fit_preprocessing
from metapl.data.batches.views import ViewConfig
from metapl.data.modalities import make_views
from metapl.errors import UserError, nearest
from metapl.inference.evaluate import judge
from metapl.methods import imported_class
from metapl.models.fitted.tfidf import TfIdf
from metapl.types import Array, Preprocessing, Source, Split
from metapl.utils.names import split_name

SKLEARN = "sklearn"
PLAIN_VALUE = str | int | float | bool | None  # what a setting of a peer may be
CARRIER = "linear"  # the method whose config carries data, split and seed of a peer
SHORT = {"SelfTraining": "SelfTrainingClassifier"}
# Only where scikit-learn's own default does not fit rows of many columns, or is missing.
DEFAULTS: dict[str, dict[str, Any]] = {
    "LabelSpreading": {"kernel": "knn", "n_neighbors": 7},
    "LabelPropagation": {"kernel": "knn", "n_neighbors": 7},
    "LogisticRegression": {"max_iter": 1000},
}
CHUNK = 4096  # rows encoded at a time
MOST_DENSE = 2**28  # numbers of a sparse matrix that is spread out for a peer that takes no sparse rows


@dataclass(frozen=True)
class Peer:
    """One classifier of a comparison.

    Attributes:
        name: ``sklearn:Class`` or ``package.module:Class``, as written.
        settings: (name, value) of the arguments of its class.
    """

    name: str
    settings: tuple[tuple[str, Any], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "settings": dict(self.settings)}

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> Peer:
        """Return the peer that ``to_dict`` stored."""
        return cls(str(stored["name"]), tuple(dict(stored["settings"]).items()))


def find_peer(name: str) -> Any | None:
    """Return the class that ``name`` means; None where it is not a classifier with scikit-learn's interface.

    Raises:
        UserError: scikit-learn has no such classifier.
    """
    package, cls = split_name(name)
    if package == SKLEARN:
        return _sklearn_class(cls)
    classifier = imported_class(name)
    peer = hasattr(classifier, "fit") and hasattr(classifier, "predict") and not hasattr(classifier, "step")
    return classifier if peer else None


def _sklearn_class(name: str) -> Any:
    from sklearn.utils import all_estimators

    known = dict(all_estimators(type_filter="classifier"))
    for wanted in (SHORT.get(name, name), f"{name}Classifier"):
        if wanted in known:
            return known[wanted]
    raise UserError(f"scikit-learn has no classifier '{name}'", nearest(name, known), "--methods")


def make_peer(name: str, pairs: list[str]) -> Peer:
    """Return the peer ``name`` with settings from ``key=value`` texts, after it was built once.

    Raises:
        UserError: a setting that is not ``key=value``, or that the class does not take.
    """
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or not value:
            raise UserError(f"'{pair}' is not a setting", f"Write {name}:key=value, and + between several.", name)
        settings[key] = convert(read_text(value, None, key), PLAIN_VALUE, key, name)
    peer = Peer(name, tuple(settings.items()))
    build(peer, 0)
    return peer


def build(peer: Peer, seed: int) -> Any:
    """Return a fresh classifier; ``seed`` is its ``random_state`` where it takes one.

    Raises:
        UserError: its class does not take the settings.
    """
    cls = find_peer(peer.name)
    if cls is None:
        raise UserError(
            f"{peer.name} has no fit and predict", "Give a class with scikit-learn's interface.", "--methods"
        )
    settings = {**DEFAULTS.get(cls.__name__, {}), **dict(peer.settings)}
    try:
        if cls.__name__ == "SelfTrainingClassifier" and "estimator" not in settings:
            from sklearn.linear_model import LogisticRegression

            classifier = cls(LogisticRegression(**DEFAULTS["LogisticRegression"]), **settings)
        else:
            classifier = cls(**settings)
        if "random_state" not in settings and "random_state" in getattr(classifier, "get_params", dict)():
            classifier.set_params(random_state=seed)
    except (TypeError, ValueError) as error:
        raise UserError(f"{peer.name} cannot be built ({error})", "Check its settings.", "--methods") from error
    return classifier


def takes_unlabeled(classifier: Any) -> bool:
    """Return whether a classifier wants the unlabelled rows too, with the label -1."""
    given = getattr(classifier, "takes_unlabeled", None)
    return type(classifier).__module__.startswith("sklearn.semi_supervised") if given is None else bool(given)


class Features:
    """Rows as metapl's own ``linear`` gets them: tables standardised and one-hot, texts as TF-IDF, images as pixels.

    Args:
        source: the rows.
        split: mean, spread and terms are those of its labelled and unlabelled rows.
    """

    def __init__(self, source: Source, split: Split) -> None:
        self.source = source
        training = np.union1d(split.labeled, split.unlabeled)
        self.preprocessing: Preprocessing = fit_preprocessing(source, training)
        self._plain = make_views(ViewConfig(), self.preprocessing).plain
        self._terms: TfIdf | None = None
        if self.preprocessing.tokens is not None:
            self._terms = TfIdf(self.preprocessing.tokens, len(source.class_names))
            pool = np.setdiff1d(split.unlabeled, split.labeled)
            chunks = (source.rows(pool[start : start + CHUNK]) for start in range(0, len(pool), CHUNK))
            self._terms.fit_terms(source.rows(split.labeled), chunks)

    def __call__(self, index: Array) -> Any:
        """Return float32 [n, D], or a sparse matrix for texts, of the rows at ``index``."""
        if self._terms is not None:
            return self._terms.features(self.source.rows(index))
        parts = [self._plain(self.source.rows(index[k : k + CHUNK])) for k in range(0, len(index), CHUNK)]
        return torch.cat(parts).flatten(1).numpy() if parts else np.zeros((0, 1), dtype=np.float32)


def run_peer(peer: Peer, config: RunConfig, source: Source, split: Split) -> dict[str, Any]:
    """Fit the peer and judge it on the test rows; return the figures of the run.

    Raises:
        UserError: it cannot be built, fitted or asked, or no test row can be read.
    """
    labeled, test = source.readable(split.labeled), source.readable(split.test)
    if not len(test):
        raise UserError("no test row can be read", "See the notes of metapl check.", source.name)
    features, classifier = Features(source, split), build(peer, config.seed)
    y = source.labels[labeled].astype(np.int64)
    rows, known = features(labeled), y
    if takes_unlabeled(classifier):
        pool = source.readable(np.setdiff1d(split.unlabeled, split.labeled))
        rows, known = features(np.concatenate([labeled, pool])), np.concatenate([y, np.full(len(pool), -1)])
    began = time.monotonic()
    try:
        classifier.fit(_taken(classifier, rows), known)
        seconds = time.monotonic() - began
        answers = _probabilities(classifier, _taken(classifier, features(test)), len(source.class_names))
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(
            f"{peer.name} failed ({' '.join(str(error).split())[:200]})",
            "Leave it out, or change its settings.",
            peer.name,
        ) from error
    truth = torch.from_numpy(source.labels[test].astype(np.int64))
    return {"seconds": round(seconds, 3), **judge(torch.from_numpy(answers), truth, source.class_names)}


def _taken(classifier: Any, rows: Any) -> Any:
    """Return the rows as the classifier takes them: not sparse where its tags say so."""
    from sklearn.utils import get_tags

    if not hasattr(rows, "toarray"):
        return rows
    try:
        sparse = bool(get_tags(classifier).input_tags.sparse)
    except (AttributeError, TypeError):  # a class of one's own without tags
        sparse = False
    if sparse:
        return rows
    if rows.shape[0] * rows.shape[1] > MOST_DENSE:
        raise ValueError(f"it takes no sparse rows, and {rows.shape[0]} texts of {rows.shape[1]} terms are too many")
    return rows.toarray()


def _probabilities(classifier: Any, rows: Any, classes: int) -> Array:
    """Return [n, C] float32; 1 for the named class where the classifier gives no probabilities."""
    p = np.zeros((rows.shape[0], classes), dtype=np.float32)
    if hasattr(classifier, "predict_proba"):
        p[:, np.asarray(classifier.classes_, dtype=np.int64)] = np.nan_to_num(classifier.predict_proba(rows))
    else:
        p[np.arange(len(p)), np.asarray(classifier.predict(rows), dtype=np.int64)] = 1.0
    return p

"""Meta Pseudo Labels: classifiers from few labels and many unlabelled rows.

The names below are the public ones; each is loaded when it is first used, so that ``import metapl`` stays quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from metapl._version import __version__ as __version__
from metapl.errors import UserError as UserError

if TYPE_CHECKING:
    from metapl import diagnostics as diagnostics
    from metapl.check import Check as Check
    from metapl.check import check as check
    from metapl.compare import Comparison as Comparison
    from metapl.compare import compare as compare
    from metapl.config import RunConfig as RunConfig
    from metapl.config import make_config as make_config
    from metapl.data.arrays import from_arrays as from_arrays
    from metapl.data.datasets import from_dataset as from_dataset
    from metapl.data.semi import SemiSupervisedDataset as SemiSupervisedDataset
    from metapl.data.split import SplitConfig as SplitConfig
    from metapl.data.split import make_split as make_split
    from metapl.embed import embed as embed
    from metapl.embed import open_source as open_source
    from metapl.estimator import SemiSupervisedClassifier as SemiSupervisedClassifier
    from metapl.estimator_parts import LabeledKFold as LabeledKFold
    from metapl.evaluate import evaluate as evaluate
    from metapl.fit import fit as fit
    from metapl.methods import METHODS as METHODS
    from metapl.models import MLP as MLP
    from metapl.models import MODELS as MODELS
    from metapl.models import ConvNet as ConvNet
    from metapl.models import SmallCNN as SmallCNN
    from metapl.models import WideResNet as WideResNet
    from metapl.predict import Predictions as Predictions
    from metapl.predict import predict_folder as predict_folder
    from metapl.predict import predict_source as predict_source
    from metapl.pseudo_labels import filter_pseudo_labels as filter_pseudo_labels
    from metapl.pseudo_labels import generate_pseudo_labels as generate_pseudo_labels
    from metapl.result import Result as Result
    from metapl.saved import Predictor as Predictor
    from metapl.saved import load_model as load_model
    from metapl.train import Stopped as Stopped
    from metapl.train import resume as resume
    from metapl.train import train as train
    from metapl.tuning import Tuning as Tuning
    from metapl.tuning import tune as tune
    from metapl.tutorial import train_mpl as train_mpl

_HOME = {
    "METHODS": "metapl.methods",
    "LabeledKFold": "metapl.estimator_parts",
    "MLP": "metapl.models",
    "MODELS": "metapl.models",
    "Check": "metapl.check",
    "Comparison": "metapl.compare",
    "ConvNet": "metapl.models",
    "Predictions": "metapl.predict",
    "Predictor": "metapl.saved",
    "Result": "metapl.result",
    "RunConfig": "metapl.config",
    "SemiSupervisedClassifier": "metapl.estimator",
    "SemiSupervisedDataset": "metapl.data.semi",
    "SmallCNN": "metapl.models",
    "SplitConfig": "metapl.data.split",
    "Stopped": "metapl.train",
    "Tuning": "metapl.tuning",
    "WideResNet": "metapl.models",
    "check": "metapl.check",
    "compare": "metapl.compare",
    "embed": "metapl.embed",
    "evaluate": "metapl.evaluate",
    "filter_pseudo_labels": "metapl.pseudo_labels",
    "fit": "metapl.fit",
    "from_arrays": "metapl.data.arrays",
    "from_dataset": "metapl.data.datasets",
    "generate_pseudo_labels": "metapl.pseudo_labels",
    "load_model": "metapl.saved",
    "make_config": "metapl.config",
    "make_split": "metapl.data.split",
    "open_source": "metapl.embed",
    "predict_folder": "metapl.predict",
    "predict_source": "metapl.predict",
    "resume": "metapl.train",
    "train": "metapl.train",
    "train_mpl": "metapl.tutorial",
    "tune": "metapl.tuning",
}
_MODULES = ("diagnostics",)

__all__ = [  # noqa: PLE0604, RUF100 (built from the table above)
    "UserError",
    "__version__",
    *_HOME,
    *_MODULES,
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"metapl.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'metapl' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps ``metapl.train``, ``metapl.fit``, ``metapl.evaluate`` and ``metapl.compare`` functions.

    These files have the names of the functions in them. Whoever imports such a file makes Python set the module as an
    attribute of the package, over the function; that one assignment is passed over. The module itself stays within
    reach: ``from metapl.train import ...`` and ``importlib.import_module("metapl.train")``.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

"""Meta Pseudo Labels: classifiers from few labels and many unlabelled rows.

The names below are the public ones; each is loaded when it is first used, so that ``import metapl`` stays quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from metapl._version import __version__ as __version__
from metapl.errors import UserError as UserError

if TYPE_CHECKING:
    from metapl import diagnostics as diagnostics
    from metapl.api.data import open_source as open_source
    from metapl.api.estimator import SemiSupervisedClassifier as SemiSupervisedClassifier
    from metapl.api.estimator_inputs import LabeledKFold as LabeledKFold
    from metapl.api.fit import fit as fit
    from metapl.api.tutorial import train_mpl as train_mpl
    from metapl.checks import Check as Check
    from metapl.checks import check as check
    from metapl.comparison import Comparison as Comparison
    from metapl.comparison import compare as compare
    from metapl.config.settings import RunConfig as RunConfig
    from metapl.config.settings import make_config as make_config
    from metapl.data.batches.split import SplitConfig as SplitConfig
    from metapl.data.batches.split import make_split as make_split
    from metapl.data.embedded import embed as embed
    from metapl.data.memory.arrays import from_arrays as from_arrays
    from metapl.data.memory.datasets import from_dataset as from_dataset
    from metapl.data.memory.semi_supervised import SemiSupervisedDataset as SemiSupervisedDataset
    from metapl.data.modalities import register_modality as register_modality
    from metapl.data.modality import Modality as Modality
    from metapl.inference.evaluate import evaluate as evaluate
    from metapl.inference.labels import label_batch as label_batch
    from metapl.inference.predict import Predictions as Predictions
    from metapl.inference.predict import predict_folder as predict_folder
    from metapl.inference.predict import predict_source as predict_source
    from metapl.methods import METHODS as METHODS
    from metapl.models import MLP as MLP
    from metapl.models import MODELS as MODELS
    from metapl.models import ConvNet as ConvNet
    from metapl.models import SmallCNN as SmallCNN
    from metapl.models import WideResNet as WideResNet
    from metapl.pseudo_labels import filter_pseudo_labels as filter_pseudo_labels
    from metapl.pseudo_labels import generate_pseudo_labels as generate_pseudo_labels
    from metapl.report.write import write_report as write_report
    from metapl.runs.model_folder import Predictor as Predictor
    from metapl.runs.model_folder import load_model as load_model
    from metapl.training.loop import Stopped as Stopped
    from metapl.training.loop import resume as resume
    from metapl.training.loop import train as train
    from metapl.training.result import Result as Result
    from metapl.tuning import Tuning as Tuning
    from metapl.tuning import tune as tune

_HOME = {
    "METHODS": "metapl.methods",
    "LabeledKFold": "metapl.api.estimator_inputs",
    "MLP": "metapl.models",
    "MODELS": "metapl.models",
    "Check": "metapl.checks",
    "Comparison": "metapl.comparison",
    "ConvNet": "metapl.models",
    "Modality": "metapl.data.modality",
    "Predictions": "metapl.inference.predict",
    "Predictor": "metapl.runs.model_folder",
    "Result": "metapl.training.result",
    "RunConfig": "metapl.config.settings",
    "SemiSupervisedClassifier": "metapl.api.estimator",
    "SemiSupervisedDataset": "metapl.data.memory.semi_supervised",
    "SmallCNN": "metapl.models",
    "SplitConfig": "metapl.data.batches.split",
    "Stopped": "metapl.training.loop",
    "Tuning": "metapl.tuning",
    "WideResNet": "metapl.models",
    "check": "metapl.checks",
    "compare": "metapl.comparison",
    "embed": "metapl.data.embedded",
    "evaluate": "metapl.inference.evaluate",
    "filter_pseudo_labels": "metapl.pseudo_labels",
    "fit": "metapl.api.fit",
    "from_arrays": "metapl.data.memory.arrays",
    "from_dataset": "metapl.data.memory.datasets",
    "generate_pseudo_labels": "metapl.pseudo_labels",
    "label_batch": "metapl.inference.labels",
    "load_model": "metapl.runs.model_folder",
    "make_config": "metapl.config.settings",
    "make_split": "metapl.data.batches.split",
    "open_source": "metapl.api.data",
    "predict_folder": "metapl.inference.predict",
    "predict_source": "metapl.inference.predict",
    "register_modality": "metapl.data.modalities",
    "resume": "metapl.training.loop",
    "train": "metapl.training.loop",
    "train_mpl": "metapl.api.tutorial",
    "tune": "metapl.tuning",
    "write_report": "metapl.report.write",
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

"""scikit-learn's own checks of an estimator, all of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sklearn.utils.estimator_checks import check_classifiers_classes, parametrize_with_checks

from metapl import SemiSupervisedClassifier

# Few steps: the checks fit some two hundred times.
QUICK: dict[str, Any] = {"steps": 12, "batch_labeled": 16, "batch_unlabeled": 16, "lr": 0.1, "device": "cpu"}
QUICK |= {"validation": "none", "guard": "off"}
MINUS_ONE = "its last part has the classes -1 and 1, and -1 marks rows without a label"


@parametrize_with_checks(
    [SemiSupervisedClassifier(**QUICK)],
    expected_failed_checks=lambda estimator: {"check_classifiers_classes": MINUS_ONE},
)
@pytest.mark.filterwarnings("ignore:every row of y has a label:UserWarning")
def test_check(estimator: SemiSupervisedClassifier, check: Callable[..., None]) -> None:
    check(estimator)


@pytest.mark.filterwarnings("ignore:every row of y has a label:UserWarning")
def test_where_minus_one_is_a_class() -> None:
    """The one check that fails above, with a marker that leaves -1 to the classes."""
    check_classifiers_classes("SemiSupervisedClassifier", SemiSupervisedClassifier(unlabeled_marker=None, **QUICK))

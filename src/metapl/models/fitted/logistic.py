"""One linear layer that is fitted instead of trained: multinomial logistic regression, by scikit-learn.

L1  minimise  trust * sum_i CE(y_i, W f(x_i) + b) + |W|^2 / 2, by L-BFGS
    f: a row's values, or TF-IDF (``models.fitted.tfidf``)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metapl.models.mlp import MLP

MOST_ITERATIONS = 1000
ABSENT = 20.0  # how far below the lowest bias a class without a labelled row is put


def fit_logistic(features: Any, y: Tensor, num_classes: int, trust: float) -> tuple[Tensor, Tensor]:
    """Fit L1 and return weights [C, D] and biases [C], float32 on the CPU.

    Args:
        features: [n, D] numpy array or sparse matrix.
        y: [n] class numbers of at least two classes.
        num_classes: C; a class without a row gets weights of zero and a low bias.
        trust: scikit-learn's ``C``: how much the rows count against the size of the weights.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(C=trust, max_iter=MOST_ITERATIONS).fit(features, y.cpu().numpy())
    weight, bias = fitted.coef_, fitted.intercept_
    if len(weight) == 1:  # two classes have one score, for the second: opposite halves give the same probabilities
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    weights, biases = np.zeros((num_classes, weight.shape[1])), np.full(num_classes, bias.min() - ABSENT)
    weights[fitted.classes_], biases[fitted.classes_] = weight, bias
    return torch.from_numpy(weights).float(), torch.from_numpy(biases).float()


class LinearNetwork(MLP):
    """One linear layer over a row's values. It can be trained like any network, or fitted by L1.

    Args:
        shape: one row's shape; anything but a vector is flattened.
        num_classes: C.
    """

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__(shape, num_classes, hidden=())
        self.num_classes = num_classes

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, pool: Iterable[Tensor], trust: float) -> None:
        """Fit the layer to labelled rows x [n, *shape] and classes y [n]; the pool is not looked at."""
        weight, bias = fit_logistic(x.flatten(1).double().cpu().numpy(), y, self.num_classes, trust)
        self.load_state_dict({"layers.1.weight": weight, "layers.1.bias": bias})

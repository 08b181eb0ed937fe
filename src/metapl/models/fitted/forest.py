"""A random forest as a network: fitted by scikit-learn, stored as tensors, asked without scikit-learn.

A row goes down each tree: to the right where its value of the node's feature is above the threshold. The answer is the
mean of the class shares in the leaves that it ends in, with one tree more that gives every class the same share:

    p = (sum_t share_t + 1 / C) / (trees + 1)         logits = log p
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

TREES = 100  # scikit-learn's own default
MOST_LEAVES = 1000  # of a tree: keeps the forest of a large table within some megabytes


class Forest(nn.Module):
    """See the module's text. Without ``fit`` it gives every class the same share.

    The nodes of all trees stand one after another, each before its children; a leaf is its own child.

    Args:
        shape: one row's shape; anything but a vector is flattened.
        num_classes: C.

    Attributes:
        root: [trees] int64, the number of each tree's first node.
        child: [nodes, 2] int64, the nodes to the left and to the right.
        feature: [nodes] int64; threshold: [nodes] float32; share: [nodes, C] float32.
        depth: edges from a root to the furthest leaf.
    """

    root: Tensor
    child: Tensor
    feature: Tensor
    threshold: Tensor
    share: Tensor

    def __init__(self, shape: Sequence[int], num_classes: int) -> None:
        super().__init__()
        self.width, self.num_classes, self.depth = math.prod(shape), num_classes, 0
        self._set_size(1, 1)

    def _set_size(self, trees: int, nodes: int) -> None:
        """Make room for so many trees and nodes; every node is a leaf that says nothing."""
        self.register_buffer("root", torch.zeros(trees, dtype=torch.int64))
        self.register_buffer("child", torch.arange(nodes)[:, None].repeat(1, 2))
        self.register_buffer("feature", torch.zeros(nodes, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(nodes))
        self.register_buffer("share", torch.full((nodes, self.num_classes), 1 / self.num_classes))

    @torch.no_grad()
    def fit(self, x: Tensor, y: Tensor, pool: Iterable[Tensor], trust: float) -> None:
        """Grow the trees on labelled rows x [n, *shape] and classes y [n], drawn by torch's own generator.

        ``pool`` and ``trust`` are not used: trees have no weights to keep small.
        """
        from sklearn.ensemble import RandomForestClassifier

        seed, leaves = int(torch.randint(2**31 - 1, ())), MOST_LEAVES if len(x) > MOST_LEAVES else None
        grown = RandomForestClassifier(TREES, max_leaf_nodes=leaves, random_state=seed)
        grown.fit(x.flatten(1).float().cpu().numpy(), y.cpu().numpy())
        trees = [one.tree_ for one in grown.estimators_]
        starts = np.cumsum([0, *(tree.node_count for tree in trees)])
        device = self.root.device
        self._set_size(len(trees), int(starts[-1]))
        self.root.copy_(torch.from_numpy(starts[:-1]))
        for start, tree in zip(starts, trees, strict=False):
            part = slice(int(start), int(start) + tree.node_count)
            inner = tree.children_left >= 0
            children = np.stack([tree.children_left, tree.children_right], 1) + start
            self.child[part][inner] = torch.from_numpy(children[inner])
            self.feature[part] = torch.from_numpy(np.where(inner, tree.feature, 0))
            self.threshold[part] = torch.from_numpy(_rounded_down(tree.threshold))
            held = torch.zeros(tree.node_count, self.num_classes)
            held[:, grown.classes_] = torch.from_numpy(tree.value[:, 0]).float()
            self.share[part] = held / held.sum(1, keepdim=True)
        self.depth = self._find_depth()
        self.to(device)

    def _find_depth(self) -> int:
        """Return how often a row must step down until it stands in a leaf of every tree."""
        depth, level = 0, self.root
        while len(level := level[self.child[level, 0] != level]):
            level, depth = torch.unique(self.child[level]), depth + 1
        return depth

    def forward(self, x: Tensor) -> Tensor:
        """Return logits [B, C] of x [B, *shape]."""
        x = x.flatten(1).float()
        node = self.root.expand(x.shape[0], -1)
        for _ in range(self.depth):
            right = x.gather(1, self.feature[node]) > self.threshold[node]
            left_child, right_child = self.child[node].unbind(-1)
            node = torch.where(right, right_child, left_child)
        trees = self.root.shape[0]
        return torch.log((self.share[node].sum(1) + 1 / self.num_classes) / (trees + 1))

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *args: Any) -> None:
        """Take as many trees and nodes as were stored: their number is known by the fitted rows alone.

        Raises:
            ValueError: a node leads out of the forest or back, or asks for a feature that the rows do not have.
        """
        root, child, feature = (state_dict.get(f"{prefix}{name}") for name in ("root", "child", "feature"))
        stored = root is not None and child is not None and feature is not None
        if stored:
            self._set_size(len(root), len(child))
            down = (child >= self.child) & (child < len(child))  # a child stands behind its parent
            known = (feature >= 0) & (feature < self.width)
            if not (down.all() and known.all() and ((root >= 0) & (root < len(child))).all()):
                raise ValueError("the forest's nodes do not fit")
        super()._load_from_state_dict(state_dict, prefix, *args)
        if stored:
            self.depth = self._find_depth()


def _rounded_down(threshold: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the largest float32 not above each float64: the same values are above it, since rows are float32."""
    near = threshold.astype(np.float32)
    return np.where(near > threshold, np.nextafter(near, np.float32(-np.inf)), near)

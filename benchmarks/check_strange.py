"""How often ``metapl check`` calls a clean pool strange, and how often it sees a foreign part; prints a table.

    python benchmarks/check_strange.py digits
    python benchmarks/check_strange.py fashion FOLDER_OF_IDX_FILES

Each seed draws other labels and another pool of up to 1500 unlabelled rows; the foreign part is 15 % of the whole pool.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from metapl import open_source
from metapl.checks.outliers import Strange, find_strange
from metapl.checks.reading import read_rows
from metapl.data.memory.source import MemorySource

SEEDS, POOL, FOREIGN = 20, 1500, 265


def patches(count: int, side: int) -> torch.Tensor:
    """Grey pieces of two photographs."""
    draw, made = np.random.default_rng(1), []
    photos = load_sample_images().images
    for _ in range(count):
        photo, top, left = photos[draw.integers(2)], draw.integers(427 - side), draw.integers(640 - side)
        made.append(photo[top : top + side, left : left + side].mean(axis=2))
    return torch.from_numpy(np.stack(made).astype(np.uint8)).unsqueeze(1)


def judged(data: torch.Tensor, labels: np.ndarray, per_class: int, foreign: torch.Tensor, seed: int) -> Strange:
    draw = np.random.default_rng(seed)
    kept = np.concatenate([draw.permutation(np.flatnonzero(labels == c))[:per_class] for c in range(labels.max() + 1)])
    pool = draw.permutation(np.setdiff1d(np.arange(len(labels)), kept))[:POOL]
    rows = torch.cat([data[kept], data[pool], foreign])
    given = np.concatenate([labels[kept], -np.ones(len(rows) - len(kept), dtype=np.int64)])
    names = tuple(str(k) for k in range(labels.max() + 1))
    result = find_strange(read_rows(MemorySource("x", "image", rows, given, names), lambda done, total: None))
    assert result is not None
    return result


def main(name: str, folder: str = "") -> None:
    source = open_source("digits" if name == "digits" else f"idx:{folder}")
    train = np.flatnonzero(~source.is_test)[:20_000]
    data, labels = source.rows(train), source.labels[train]
    foreign = {"clean": data[:0], "patches": patches(FOREIGN, data.shape[2]), "inverted": 255 - data[:FOREIGN]}
    for per_class in (2, 5, 10, 40):
        for kind, rows in foreign.items():
            made = [judged(data, labels, per_class, rows, seed) for seed in range(SEEDS)]
            shares = [m.share for m in made]
            print(
                f"{name} {per_class}/class {kind}: strange in {sum(m.some for m in made)}, apart in "
                f"{sum(m.apart for m in made)} of {SEEDS}; share {np.mean(shares):.3f} (up to {max(shares):.3f}), "
                f"limit {made[0].expected:.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main(*sys.argv[1:])

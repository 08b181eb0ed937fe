"""Several processes compute what one does: every method, the feedback included."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import divided_rows
from metapl.hardware.divided import divide
from methods_table import ROWS, tensors

NAMES = tuple(row.name for row in ROWS)


def differences(one: dict[str, Any], several: dict[str, Any], weights_alone: bool) -> dict[str, float]:
    """Return the largest difference of each row's tensors, as a share of the tensor's largest number or of 1."""
    assert one.keys() == several.keys()
    found = {}
    for name in one:
        a, b = tensors(one[name]), tensors(several[name])
        assert a.keys() == b.keys()
        keys = [key for key in a if a[key].numel() and ("/model/" in key or not weights_alone)]
        pairs = [(a[key].double(), b[key].double()) for key in keys]
        found[name] = max(float((x - y).abs().max() / x.abs().max().clamp_min(1)) for x, y in pairs)
    return found


def compare(
    processes: int, dtype: str, steps: int, names: tuple[str, ...], folder: Path, weights_alone: bool = False
) -> dict[str, float]:
    divided_rows.launch(processes, str(folder / "found.pt"), dtype, str(steps), *names)
    several = torch.load(folder / "found.pt")
    return differences(divided_rows.train(names, getattr(torch, dtype), steps), several, weights_alone)


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    found = compare(2, "float64", 6, ("mpl-exact", "self_mpl-sampled"), tmp_path)
    assert max(found.values()) < 1e-12, found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_method_computes_the_same(processes: int, tmp_path: Path) -> None:
    found = compare(processes, "float64", 20, NAMES, tmp_path, weights_alone=True)
    assert max(found.values()) < 1e-12, {name: gap for name, gap in found.items() if gap >= 1e-12}


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_in_float32_they_differ_by_rounding(processes: int, tmp_path: Path) -> None:
    """As if each first weight were nudged by one rounding: the median is 3e-7 then, and the largest 2e-5."""
    found = compare(processes, "float32", 20, NAMES, tmp_path, weights_alone=True)
    assert max(found.values()) < 1e-4, found
    assert statistics.median(found.values()) < 2e-6, found
    assert sum(gap < 1e-5 for gap in found.values()) >= 0.9 * len(found), found


def test_one_process_runs_the_network_itself() -> None:
    model = nn.Linear(3, 2)
    assert divide(model) is model
    assert "forward" not in vars(model)

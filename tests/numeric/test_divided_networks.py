"""Several processes compute what one does: every method, the feedback included."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import divided_rows
from metapl.models.divided import divide
from methods_table import ROWS, tensors

NAMES = tuple(row.name for row in ROWS)


def differences(one: dict[str, object], several: dict[str, object]) -> dict[str, float]:
    """Return the largest difference of each row's reports and states, relative to the number where that is above 1."""
    assert one.keys() == several.keys()
    found = {}
    for name in one:
        a, b = tensors(one[name]), tensors(several[name])
        assert a.keys() == b.keys()
        pairs = [(a[key].double(), b[key].double()) for key in a if a[key].numel()]
        found[name] = max(float(((x - y).abs() / x.abs().clamp_min(1)).max()) for x, y in pairs)
    return found


def compare(processes: int, dtype: str, steps: int, names: tuple[str, ...], folder: Path) -> dict[str, float]:
    divided_rows.launch(processes, str(folder / "found.pt"), dtype, str(steps), *names)
    several = torch.load(folder / "found.pt")
    return differences(divided_rows.train(names, getattr(torch, dtype), steps), several)


def test_two_processes_compute_what_one_does(tmp_path: Path) -> None:
    found = compare(2, "float64", 6, ("mpl-exact", "self_mpl-sampled"), tmp_path)
    assert max(found.values()) < 1e-12, found


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bound"), [("float64", 1e-12), ("float32", 1e-6)])
@pytest.mark.parametrize("processes", [2, 4])
def test_every_method_computes_the_same(processes: int, dtype: str, bound: float, tmp_path: Path) -> None:
    found = compare(processes, dtype, 20, NAMES, tmp_path)
    assert max(found.values()) < bound, {name: gap for name, gap in found.items() if gap >= bound}


def test_one_process_runs_the_network_itself() -> None:
    model = nn.Linear(3, 2)
    assert divide(model) is model
    assert "forward" not in vars(model)

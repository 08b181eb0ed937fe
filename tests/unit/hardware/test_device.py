"""The seed of a step."""

from __future__ import annotations

import random

import pytest
import torch

from metapl.hardware.device import peak_memory, seed_step


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_a_step_draws_as_after_torchs_own_seed(seed: int) -> None:
    drawn = []
    for start in (lambda: torch.manual_seed(seed), lambda: seed_step(seed, torch.device("cpu"))):
        torch.rand(random.randrange(1, 9))  # what was drawn before does not matter
        start()
        drawn.append((torch.rand(5), torch.randperm(9), torch.randn(3)))
    assert all(torch.equal(*pair) for pair in zip(*drawn))


def test_peak_memory_is_in_bytes_and_only_grows() -> None:
    before = peak_memory(torch.device("cpu"))
    block = torch.ones(before // 4)  # four bytes each: as much as the process has held so far
    assert peak_memory(torch.device("cpu")) > before + before // 4
    del block
    assert peak_memory(torch.device("cpu")) > before + before // 4

"""The number of rows handled at a time, so that memory does not grow with the size of a row."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rows_at_once(shape: Sequence[int], most: int, values: int) -> int:
    """Return ``most``, or fewer rows where these would hold more than ``values`` numbers; at least one."""
    return max(1, min(most, values // max(1, math.prod(shape))))

"""Two sides of the guard's comparison on the same rows.

G5  interval of the difference of two paired shares: Newcombe (1998), method 10; it is reported and decides nothing
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from metapl.inference.evaluate import wilson


@dataclass(frozen=True)
class Pair:
    """Two sides and the rows on which they differ.

    Attributes:
        first, second: names of the sides.
        wins, losses: judged rows on which only the first, only the second side is right.
        both: judged rows on which both are right.
        rows: judged rows in all.
        credit: rows that prior knowledge adds to the wins.
    """

    first: str
    second: str
    wins: int
    losses: int
    both: int
    rows: int
    credit: float = 0.0

    @property
    def score(self) -> float:
        """Return a score above 0 if the first side is to be chosen (G3)."""
        return self.wins - self.losses + self.credit

    @property
    def difference(self) -> float:
        """Return the accuracy of the first minus that of the second."""
        return (self.wins - self.losses) / self.rows

    @property
    def interval(self) -> tuple[float, float]:
        """Return the 95 % interval of the difference (G5)."""
        return paired_interval(self.wins, self.losses, self.both, self.rows)


def paired_interval(wins: int, losses: int, both: int, count: int) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two shares of the same ``count`` rows (G5).

    Args:
        wins, losses: rows on which only the first, only the second side is right.
        both: rows on which both are.
    """
    neither, first, second = count - wins - losses - both, both + wins, both + losses
    (low1, high1), (low2, high2) = wilson(first, count), wilson(second, count)
    p1, p2 = first / count, second / count
    product = first * (count - first) * second * (count - second)
    surplus = float(both * neither - wins * losses)
    if surplus > 0:
        surplus = max(0.0, surplus - count / 2)
    phi = surplus / math.sqrt(product) if product else 0.0
    down, up = (p1 - low1, high2 - p2), (high1 - p1, p2 - low2)
    low, high = (math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b)) for a, b in (down, up))
    return p1 - p2 - low, p1 - p2 + high

"""How often does the guard keep a result of images, given the true difference and the number of judged rows? Simulated.

    python benchmarks/guard_rule.py

Rows are independent; a tenth of them fall to each side alone (``--only`` / 2), plus the true difference to the better
one. Prints Markdown: in each cell the share of 20,000 draws in which the method is kept, in percent, where the pool has
the labelled rows' class shares and, in brackets, where it has others. The last two columns are largest expected losses
of accuracy, in points: over true differences below 0, how often a worse result is kept times how much worse it is; and
over those above 0, how often a better result is given away times how much better it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from metapl.training.guard import CREDIT, CREDIT_OTHER_SHARES, Pair

ROWS = (10, 20, 40, 100)
POINTS = (-20, -10, -5, -2, 0, 2, 5, 10, 15, 20, 25, 30)
DRAWS = 20_000
Rule = Callable[[int, int], float]


def rule(wins: int, losses: int) -> float:
    """The guard's, where the pool has the labelled rows' class shares."""
    return float(Pair("method", "baseline", wins, losses, 0, wins + losses, CREDIT).score > 0)


def rule_other_shares(wins: int, losses: int) -> float:
    """The guard's, where the pool has other class shares."""
    return float(Pair("method", "baseline", wins, losses, 0, wins + losses, CREDIT_OTHER_SHARES).score > 0)


def kept(decide: Rule, rows: int, points: float, only: float, draw: np.random.Generator) -> float:
    """Share of the draws in which the method is kept."""
    wins, losses = (only / 2 + max(0.0, side * points / 100) for side in (1, -1))
    drawn = draw.multinomial(rows, [wins, losses, 1 - wins - losses], DRAWS)[:, :2]
    pairs, counts = np.unique(drawn, axis=0, return_counts=True)
    return float(np.dot(counts, [decide(int(w), int(n)) for w, n in pairs])) / DRAWS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=float, default=0.2, help="share of rows on which one side alone is right")
    only = parser.parse_args().only
    draw: Any = np.random.default_rng(0)
    print(f"| judged rows | {' | '.join(f'{p:+d}' for p in POINTS)} | a worse one kept | a better one given away |")
    print("|---" * (len(POINTS) + 3) + "|")
    for rows in ROWS:
        cells = []
        for points in POINTS:
            own, other = (100 * kept(r, rows, points, only, draw) for r in (rule, rule_other_shares))
            cells.append(f"{own:.0f} ({other:.0f})")
        worse = [max(p * kept(r, rows, -p, only, draw) for p in range(1, 25)) for r in (rule, rule_other_shares)]
        better = [max(p * (1 - kept(r, rows, p, only, draw)) for p in range(1, 25)) for r in (rule, rule_other_shares)]
        cells += [f"{worse[0]:.1f} ({worse[1]:.1f})", f"{better[0]:.1f} ({better[1]:.1f})"]
        print(f"| {rows} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

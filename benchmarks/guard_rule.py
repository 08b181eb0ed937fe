"""How often does the guard keep a result, given the true difference and the number of judged rows? Simulated.

    python benchmarks/guard_rule.py

Rows are independent; a tenth of them fall to each side alone (``--only`` / 2), plus the true difference to the better
one. Prints Markdown: in each cell the share of 20,000 draws in which the method is kept, in percent, by the guard's
rule and, in brackets, by more right rows alone. The last column is the largest expected loss of accuracy, in points,
over all true differences below 0: how often a worse result is kept times how much worse it is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np

from metapl.training.guard import Answers, Evidence, better

ROWS = (10, 20, 40, 100)
POINTS = (-20, -10, -5, -2, 0, 2, 5, 10, 15, 20, 25, 30)
DRAWS = 20_000
Rule = Callable[[int, int], float]


def rule(wins: int, losses: int) -> float:
    """The guard's; a tie in every row goes either way by the log loss."""
    if not wins + losses:
        return 0.5
    method = np.repeat([True, False], [wins, losses])
    p = np.full(wins + losses, 0.5)
    return float(better(Evidence(Answers(p, method), Answers(p, ~method))))


def more(wins: int, losses: int) -> float:
    """Whoever is right more often; ties go either way."""
    return 0.5 if wins == losses else float(wins > losses)


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
    print(f"| judged rows | {' | '.join(f'{p:+d}' for p in POINTS)} | largest expected loss |")
    print("|---" * (len(POINTS) + 2) + "|")
    for rows in ROWS:
        cells = []
        for points in POINTS:
            own, plain = (100 * kept(r, rows, points, only, draw) for r in (rule, more))
            cells.append(f"{own:.0f} ({plain:.0f})")
        losses = [max(p * kept(r, rows, -p, only, draw) for p in range(1, 25)) for r in (rule, more)]
        print(f"| {rows} | {' | '.join(cells)} | {losses[0]:.2f} ({losses[1]:.2f}) |")


if __name__ == "__main__":
    main()

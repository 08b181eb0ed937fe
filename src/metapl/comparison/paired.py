"""The statistics of paired runs: intervals, p-values, and how many seeds a question needs.

Two methods are compared on the same seeds: the same labels, weights, batches and test rows. What counts is the
difference seed by seed, d_1 ... d_n, whose spread is mostly far below that of either method.

S1  mean d +- t(0.975, n - 1) * sd(d) / sqrt(n)                          (95 % interval, Student 1908)
S2  p = 2 P(T_{n-1} > |mean d| sqrt(n) / sd(d)), Holm's step-down over a family of tests (Holm 1979)
S3  n = ((z(0.975) + z(0.8)) sd(d) / delta)^2 + z(0.975)^2 / 2, rounded up: seeds at which a two-sided 5 % test sees
    a true difference delta in four of five comparisons (Guenther 1981); never fewer than 2
S4  for a method i and m opponents b, d_b = i minus b:
        theta_i - max_b theta_b >= min_b (mean d_b - t(0.975, n - 1)       * sd(d_b) / sqrt(n))
        theta_i - max_b theta_b <= min_b (mean d_b + t(1 - 0.025/m, n - 1) * sd(d_b) / sqrt(n))
    each misses in at most 2.5 % of comparisons, whichever opponent is the best in truth. Below it is enough that the
    bound of the best one holds, since the least of all is not above it (intersection-union, Berger 1982); above all m
    must hold (Bonferroni). A t interval against the one with the highest mean would not do: that mean is the highest
    also by luck. For m = 1 this is S1. p is twice the level at which the interval begins to include 0.

Differences that are all the same have no S1 and no S2. Accuracies on n test rows are multiples of 1/n, so a few equal
differences are common (+5, +5, +5 on 20 rows) and do not mean that a further seed would give the same: their sd of 0
says how coarse the scale is, not how sure the mean. No floor for the sd is put in its place: the right one depends on
how many rows the two methods judge differently, which accuracies do not tell.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtri, stdtr, stdtrit

LEVEL = 0.95
POWER = 0.8
EQUAL = 1e-9  # values in percent that differ by less are the same: rounding of the arithmetic


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds.

    ``low``, ``high`` and ``p`` (of a true mean of 0) are None for one seed and for equal values; ``sd`` is None for one
    seed and 0 for equal values.
    """

    n: int
    mean: float
    sd: float | None = None
    low: float | None = None
    high: float | None = None
    p: float | None = None


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean, interval and p (S1 and S2) of ``values``, one per seed.

    Raises:
        ValueError: no values.
    """
    n, mean = len(values), statistics.fmean(values)
    if n == 1:
        return Estimate(1, mean)
    if max(values) - min(values) < EQUAL:
        return Estimate(n, mean, 0.0)
    sd = statistics.stdev(values)
    half = float(stdtrit(n - 1, (1 + LEVEL) / 2)) * sd / math.sqrt(n)
    return Estimate(n, mean, sd, mean - half, mean + half, _p(mean, sd, n))


def _p(mean: float, sd: float, n: int) -> float:
    return float(2 * stdtr(n - 1, -abs(mean) * math.sqrt(n) / sd))


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Estimate | None:
    """Return ours minus theirs over the seeds that both have; None if they share no seed."""
    seeds = sorted(ours.keys() & theirs.keys())
    return estimate([ours[s] - theirs[s] for s in seeds]) if seeds else None


def against_best(ours: Mapping[int, float], opponents: Sequence[Mapping[int, float]]) -> Estimate:
    """Return ours minus the best of ``opponents``, all over the same seeds (S4).

    ``mean`` and ``sd`` are those of the difference to the opponent with the highest mean. Without an interval to every
    opponent it is None.

    Raises:
        ValueError: no opponents, or no seeds.
    """
    estimates = [estimate([ours[s] - theirs[s] for s in ours]) for theirs in opponents]
    nearest = min(estimates, key=lambda e: e.mean)
    spread = [e.sd / math.sqrt(e.n) for e in estimates if e.sd]
    if len(spread) < len(estimates):
        return Estimate(nearest.n, nearest.mean, nearest.sd)
    free, m = nearest.n - 1, len(estimates)
    below, above = (float(stdtrit(free, 1 - (1 - LEVEL) / 2 / k)) for k in (1, m))
    low = min(e.mean - below * se for e, se in zip(estimates, spread))
    high = min(e.mean + above * se for e, se in zip(estimates, spread))
    t = min(e.mean / se for e, se in zip(estimates, spread))
    p = 2 * min(float(stdtr(free, -t)), m * float(stdtr(free, t)))
    return Estimate(nearest.n, nearest.mean, nearest.sd, low, high, min(1.0, p))


def seeds_needed(sd: float, delta: float = 1.0) -> int:
    """Return the seeds that show a difference of ``delta`` (S3); ``sd``: of paired differences, in the same unit."""
    z, power = float(ndtri((1 + LEVEL) / 2)), float(ndtri(POWER))
    return max(2, math.ceil(((z + power) * sd / delta) ** 2 + z * z / 2))


def holm(p: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values in the order given: below 0.05 is significant among all of them together."""
    order = sorted(range(len(p)), key=lambda k: p[k])
    adjusted, highest = [0.0] * len(p), 0.0
    for rank, k in enumerate(order):
        highest = max(highest, min(1.0, (len(p) - rank) * p[k]))
        adjusted[k] = highest
    return adjusted

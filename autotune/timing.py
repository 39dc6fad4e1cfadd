"""Ratios of timings that were taken side by side, and how sure they are."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ratio(NamedTuple):
    """The median of paired ratios.

    Attributes:
        n: Pairs.
        median: Of the ratios.
        low: End of the interval.
        high: End of the interval.
        confidence: That each end is on its side of the true median, at least.
    """

    n: int
    median: float
    low: float
    high: float
    confidence: float


def median_ratio(ratios: Sequence[float], *, side: float = 0.975) -> Ratio:
    """The median of `ratios` with an interval from order statistics.

    Nothing is assumed of the noise but that pairs are independent: k of n ratios lie below their
    true median with binomial probability. The ends are the extremes where n is too small for
    `side`, and `confidence` says what they give.

    Args:
        ratios: One per pair of timings, at least one.
        side: Confidence wanted of each end.
    """
    n, ordered = len(ratios), sorted(ratios)
    rank, below = 0, 0.5**n
    while rank + 1 < n // 2 and below + math.comb(n, rank + 1) * 0.5**n <= 1 - side:
        rank += 1
        below += math.comb(n, rank) * 0.5**n
    median = statistics.median(ordered)
    return Ratio(n, median, ordered[rank], ordered[n - 1 - rank], 1 - below)


def noise_floor(ratios: Sequence[float]) -> float:
    """Half-width of the interval of a configuration's ratio to itself, as a fraction."""
    ratio = median_ratio(ratios)
    return max(abs(math.log(ratio.low)), abs(math.log(ratio.high)))

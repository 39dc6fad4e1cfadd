"""Several tests with one error: each has a share of it, and what passes hands its own on.

The fallback procedure of Wiens and Dmitrienko (Journal of Biopharmaceutical Statistics 15, 2005).
Hypotheses are tested in an order that is fixed before: each at its share of the error, plus the
level of the one before it if that was rejected. The probability of rejecting any true one is at
most the sum of the shares. With the whole error at the first it is the fixed sequence, where one
failure ends it all; with shares, what comes behind a failure still has a chance.
"""

from __future__ import annotations


def shares_of(count: int, *, all_to_first: bool) -> list[float]:
    """Shares for `count` tests, which sum to 1: half for the first, or all of it."""
    if all_to_first or count == 1:
        return [1.0] + [0.0] * (count - 1)
    return [0.5] + [0.5 / (count - 1)] * (count - 1)


def level_of(share: float, alpha: float, before: float) -> float:
    """The level of a test.

    Args:
        share: Of the error.
        alpha: The error of all.
        before: Level of the test before it if that passed, else 0.
    """
    return share * alpha + before

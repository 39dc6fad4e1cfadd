"""Stop decoding with a configuration as soon as it is clearly too lossy."""

from __future__ import annotations

from typing import Final

# Share of acceptable configurations that a race may drop.
ALPHA: Final = 0.1
# Fractions of the largest stake: their average wins within a factor of five what the best would.
_STAKES: Final = (0.05, 0.1, 0.25, 0.5, 0.9)


class Race:
    """A betting e-process against "the candidate's loss is at most `margin`".

    Each prompt is a fair or losing bet if that is true, so the capital exceeds 1 / alpha with
    probability alpha at most, whenever one looks (Ville's inequality). A repeated sign test at
    the same alpha drops 23 % of equally good candidates, this 3 %.

    Args:
        margin: Loss, as difference of shares of right answers, that is acceptable.
        alpha: Bound on the probability that an acceptable candidate is dropped.

    Attributes:
        n: Prompts seen.
        losses: Prompts that only the reference answered right.
        wins: Prompts that only the candidate answered right.
    """

    def __init__(self, margin: float, *, alpha: float = ALPHA) -> None:
        self.margin = margin
        self.alpha = alpha
        self.n = self.losses = self.wins = 0
        largest = 1 / (1 + margin)  # at which one win would lose everything
        self._stakes = [stake * largest for stake in _STAKES]
        self._capital = [1.0] * len(_STAKES)
        self._peak = 1.0

    def update(self, reference: bool, candidate: bool) -> None:
        """Take up whether each of the two answered the next prompt right."""
        loss = int(reference) - int(candidate)
        self.n += 1
        self.losses += loss > 0
        self.wins += loss < 0
        self._capital = [
            capital * (1 + stake * (loss - self.margin))
            for capital, stake in zip(self._capital, self._stakes, strict=True)
        ]
        self._peak = max(self._peak, sum(self._capital) / len(self._capital))

    @property
    def lost(self) -> bool:
        """Whether the candidate is to be dropped."""
        return self._peak >= 1 / self.alpha

    @property
    def loss(self) -> float:
        """Share of right answers lost so far."""
        return (self.losses - self.wins) / self.n if self.n else 0.0

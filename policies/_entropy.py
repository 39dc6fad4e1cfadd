"""Entropy of a prediction, for the oracles."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from dllmc.policies.rows import Prediction


def entropy_of(row: Prediction) -> float:
    """In nats: with the tail mass s of the largest logit, log(1 + s) plus the mean distance."""
    best = int(row.logits.argmax())
    distance = row.logits[best] - np.delete(row.logits, best)
    weights = np.exp(-distance)
    tail = float(weights.sum())
    # A token without any probability may be infinitely far.
    spread = float((weights[weights > 0] * distance[weights > 0]).sum())
    return math.log1p(tail) + spread / (1 + tail)
